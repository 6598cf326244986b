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
from vderain.train.losses import least_squares
from vderain.train.trainer import Batch, Losses, Trainer, finite, numbered
from vderain.train.unpaired import Unpaired

BETAS = (0.5, 0.999)


class CycleGAN(Trainer):
    """Two generators, ``generator`` and ``rain_maker``, and a critic of what each of them makes."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        super().__init__(recipe, out)
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

    def batches(self) -> Iterator[Batch]:
        recipe, count = self.recipe, self.recipe.optimiser.batch
        data = recipe.data
        examples = Unpaired(
            data.rain, data.photos, recipe.optimiser.crop_px, recipe.run.seed, self.settings.rendered > 0
        )
        stream = numbered(examples, self.iteration * count, data.workers)
        while True:
            columns = zip(*(next(stream) for _ in range(count)), strict=True)
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
        value = finite(loss)
        self._move("generators", loss)
        for critic in (self.critic_clear, self.critic_rain):
            critic.requires_grad_(True)
        chance = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + self.iteration)
        made = self._pooled("pool_clear", derained.detach(), chance), self._pooled("pool_rain", rained.detach(), chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.optimiser.bf16):
            judged = torch.stack([
                (least_squares(critic(real), True) + least_squares(critic(fake), False)) / 2
                for critic, real, fake in zip((self.critic_clear, self.critic_rain), (clear, rain), made, strict=True)
            ]).sum()  # fmt: skip
        self._move("critics", judged)
        return {"loss": value} | {name: part.item() for name, part in parts.items()} | {"critics": judged.item()}

    def _move(self, optimiser: str, loss: Tensor) -> None:
        adam = self.optimisers[optimiser]
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()

    def _through(self, generator: nn.Module, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 and a little beyond: clamping would stop the gradient."""
        residual: Tensor = generator(pictures)
        return pictures + residual.float()

    def _pooled(self, name: str, made: Tensor, chance: torch.Generator) -> Tensor:
        """What the critic is shown: half of the time a picture made earlier (Shrivastava et al., CVPR 2017)."""
        shown = []
        for picture in made:
            pool = self.tensors[name]
            if len(pool) < self.settings.pool:
                self.tensors[name] = torch.cat([pool, picture.unsqueeze(0)])
            elif len(pool) and float(torch.rand((), generator=chance)) < 0.5:
                place = int(torch.randint(len(pool), (), generator=chance))
                picture, pool[place] = pool[place].clone(), picture
            shown.append(picture)
        return torch.stack(shown)
