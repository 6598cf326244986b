"""CycleGAN: rainy and clear pictures that show nothing in common enter, a generator from rain to clear leaves.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017: two generators
and two discriminators, least-squares adversarial losses, cycle and identity losses, a pool of earlier pictures.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model.patchgan import PatchGAN
from vderain.model.unet import UNet
from vderain.train.config import Recipe
from vderain.train.feed import Feed
from vderain.train.losses import least_squares
from vderain.train.material import Survey
from vderain.train.ranks import ALONE, Ranks
from vderain.train.scenes import Scenes
from vderain.train.trainer import Batch, Losses, Trainer
from vderain.train.unpaired import Unpaired, enlarged, hang

BETAS = (0.5, 0.999)


class CycleGAN(Trainer):
    """Two generators, ``generator`` and ``rain_maker``, and a critic of what each of them makes."""

    def __init__(self, recipe: Recipe, out: Path, ranks: Ranks = ALONE) -> None:
        super().__init__(recipe, out, ranks)
        assert recipe.cyclegan is not None
        self.settings = settings = recipe.cyclegan
        self.generator, self.rain_maker = self.networks["generator"], UNet(self.config)
        critics = [PatchGAN(settings.layers, settings.width, settings.spectral) for _ in range(2)]
        self.critic_clear, self.critic_rain = critics
        self.networks |= {"rain_maker": self.rain_maker, "critic_clear": critics[0], "critic_rain": critics[1]}
        for name, pair in (("generators", (self.generator, self.rain_maker)), ("critics", critics)):
            parameters = [parameter for network in pair for parameter in network.parameters()]
            self.optimisers[name] = torch.optim.Adam(parameters, lr=recipe.optimiser.rate, betas=BETAS)
        side_px = recipe.optimiser.crop_px
        self.tensors |= {name: torch.empty(0, 3, side_px, side_px) for name in ("pool_clear", "pool_rain")}

    def material(self) -> Scenes:
        data, crop_px, survey = self.recipe.data, self.recipe.optimiser.crop_px, Survey()
        self.rain = hang("rainy", "data.rain", [data.rain], crop_px, survey)
        clear = hang("clear", "data.photos", [data.photos, data.clips], crop_px, survey)
        survey.tell()
        self.clear, held = clear.split(self.recipe.held_share)
        side_px = data.side_px + 2 * data.border_px
        chosen = range(min(len(held.pictures), self.recipe.validation.windows))
        return Scenes([enlarged(held.picture(number), side_px) for number in chosen], [])

    def batches(self) -> Iterator[Batch]:
        """(B, 3, s, s) rainy, (B, 3, s, s) clear, and where it is asked for the clear ones with rendered rain."""
        recipe, count = self.recipe, self.recipe.optimiser.batch
        examples = Unpaired(
            self.rain, self.clear, recipe.optimiser.crop_px, recipe.run.seed, self.settings.rendered > 0
        )
        self.feed = feed = Feed(examples, self.iteration * count, recipe.data.workers, self.ranks)
        while True:
            columns = zip(*(next(feed) for _ in range(count // self.ranks.count)), strict=True)
            yield tuple(torch.stack(column).float() / 255 for column in columns)

    def losses(self, *batch: Tensor) -> Losses:
        rain, clear = batch[:2]
        settings = self.settings
        for critic in (self.critic_clear, self.critic_rain):
            critic.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optimiser.bf16):
            derained, rained = self._through(self.generator, rain), self._through(self.rain_maker, clear)
            parts = {
                "adversarial": least_squares(self.critic_clear(derained), True)
                + least_squares(self.critic_rain(rained), True),
                "cycle": F.l1_loss(self._through(self.rain_maker, derained), rain)
                + F.l1_loss(self._through(self.generator, rained), clear),
                "identity": F.l1_loss(self._through(self.generator, clear), clear)
                + F.l1_loss(self._through(self.rain_maker, rain), rain),
            }
            if settings.rendered:
                parts["rendered"] = F.l1_loss(self._through(self.generator, batch[2]), clear)
        weights = {
            "adversarial": 1.0, "cycle": settings.cycle, "identity": settings.cycle * settings.identity,
            "rendered": settings.rendered,
        }  # fmt: skip
        parts = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        self.finite(loss)
        self._move("generators", loss, (self.generator, self.rain_maker))
        for critic in (self.critic_clear, self.critic_rain):
            critic.requires_grad_(True)
        chance = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + self.iteration)
        made = self._pooled("pool_clear", derained.detach(), chance), self._pooled("pool_rain", rained.detach(), chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optimiser.bf16):
            judged = torch.stack([
                (least_squares(critic(real), True) + least_squares(critic(fake), False)) / 2
                for critic, real, fake in zip((self.critic_clear, self.critic_rain), (clear, rain), made, strict=True)
            ]).sum()  # fmt: skip
        self._move("critics", judged, (self.critic_clear, self.critic_rain))
        return {"loss": loss.item()} | {name: part.item() for name, part in parts.items()} | {"critics": judged.item()}

    def _move(self, optimiser: str, loss: Tensor, networks: tuple[nn.Module, ...]) -> None:
        adam = self.optimisers[optimiser]
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(networks)
        adam.step()

    def _through(self, generator: nn.Module, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 and a little beyond: clamping would stop the gradient."""
        residual: Tensor = generator(pictures)
        return pictures + residual.float()

    def _pooled(self, name: str, made: Tensor, chance: torch.Generator) -> Tensor:
        """What the critic is shown: half of the time a picture made earlier (Shrivastava et al., CVPR 2017).

        The pool is that of all processes: each sees the whole batch go through it and takes its share.
        """
        shown = []
        for picture in self.ranks.gathered(made):
            pool = self.tensors[name]
            if len(pool) < self.settings.pool:
                self.tensors[name] = torch.cat([pool, picture.unsqueeze(0)])
            elif len(pool) and float(torch.rand((), generator=chance)) < 0.5:
                place = int(torch.randint(len(pool), (), generator=chance))
                picture, pool[place] = pool[place].clone(), picture
            shown.append(picture)
        return torch.stack(list(self.ranks.share(shown)))
