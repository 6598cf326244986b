"""CycleGAN: rainy and clear pictures that show nothing in common enter, a generator from rain to clear leaves.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017: two generators
and two discriminators, least-squares adversarial losses, cycle and identity losses, a pool of earlier pictures.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model.unet import UNet
from vderain.train.config import Recipe
from vderain.train.data.images import ScanReport
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import Scenes
from vderain.train.data.unpaired import Unpaired, enlarged, index_images
from vderain.train.discriminators import BETAS, DiscriminatorPair
from vderain.train.distributed import ALONE, ProcessGroup
from vderain.train.trainer import Batch, Losses, Trainer


class CycleGAN(Trainer):
    """Two generators, ``generator`` and ``rain_maker``, and a critic of what each of them makes."""

    def __init__(self, recipe: Recipe, out: Path, ranks: ProcessGroup = ALONE) -> None:
        super().__init__(recipe, out, ranks)
        assert recipe.cyclegan is not None
        self.settings = settings = recipe.cyclegan
        self.generator, self.rain_maker = self.networks["generator"], UNet(self.config)
        self.networks["rain_maker"] = self.rain_maker
        self.optimises("generators", [self.generator, self.rain_maker], BETAS)
        self.critics = DiscriminatorPair(self, settings.layers, settings.width, settings.spectral, settings.pool)

    def material(self) -> Scenes:
        data, crop_px, survey = self.recipe.data, self.recipe.optimiser.crop_px, ScanReport()
        self.rain = index_images("rainy", "data.rain", [data.rain], crop_px, survey)
        clear = index_images("clear", "data.photos", [data.photos, data.clips], crop_px, survey)
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
        feed = ExampleLoader(examples, self.iteration * count, recipe.data.workers, self.ranks)
        self.feeds.append(feed)
        while True:
            columns = zip(*(next(feed) for _ in range(count // self.ranks.count)), strict=True)
            yield tuple(torch.stack(column).float() / 255 for column in columns)

    def losses(self, *batch: Tensor) -> Losses:
        rain, clear = batch[:2]
        settings = self.settings
        self.critics.freeze(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            derained, rained = self._through(self.generator, rain), self._through(self.rain_maker, clear)
            parts = {
                "adversarial": self.critics.generator_loss(derained, rained),
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
        self.move("generators", loss)
        judged = self.critics.learn((clear, rain), (derained, rained))
        return {"loss": loss.item()} | {name: part.item() for name, part in parts.items()} | {"critics": judged}

    def _through(self, generator: nn.Module, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 and a little beyond: clamping would stop the gradient."""
        residual: Tensor = generator(pictures)
        return pictures + residual.float()
