"""CycleGAN: unpaired training of two generators, rain to clear and clear to rain, against two discriminators.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017: least-squares
adversarial losses, cycle and identity losses, pools of earlier images.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model.unet import UNet
from vderain.runtime.device import DevicePlacement
from vderain.train.config import Recipe
from vderain.train.data.images import ScanReport
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import Scenes
from vderain.train.data.unpaired import UnpairedCrops, enlarged, index_images
from vderain.train.discriminators import BETAS, DiscriminatorPair
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup
from vderain.train.torchvision_import import require_torchvision
from vderain.train.trainer import Batch, Losses, Trainer


class CycleGAN(Trainer):
    """Trains ``generator`` (rain to clear) and ``rain_generator`` (clear to rain)."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        group: ProcessGroup = SINGLE_PROCESS,
        placement: DevicePlacement | None = None,
    ) -> None:
        super().__init__(recipe, out, group, placement)
        assert recipe.cyclegan is not None
        self.settings = recipe.cyclegan
        self.generator = self.networks["generator"]
        self.rain_generator = self.add_network("rain_generator", UNet(self.config))
        self.add_optimiser("generators", [self.generator, self.rain_generator], BETAS)
        self.discriminators = DiscriminatorPair(self, self.settings)

    def load_data(self) -> Scenes:
        """Index both folders; see `Trainer.load_data`."""
        require_torchvision("training with [cyclegan]")
        data, crop_px, report = self.recipe.data, self.recipe.optimiser.crop_px, ScanReport()
        self.rain = index_images([data.rain], crop_px, report, kind="rainy", key="data.rain")
        clear = index_images([data.photos, data.clips], crop_px, report, kind="clear", key="data.photos")
        report.log()
        self.clear, held = clear.split(self.recipe.held_share)
        side_px = data.side_px + 2 * data.border_px
        chosen = range(min(len(held.pictures), self.recipe.validation.windows))
        return Scenes([enlarged(held.picture(number), side_px) for number in chosen], [])

    def batches(self) -> Iterator[Batch]:
        """(B, 3, s, s) in 0..1 each: rainy, clear, and with `cyclegan.rendered` the clear crops with rendered rain."""
        recipe, count = self.recipe, self.recipe.optimiser.batch
        examples = UnpairedCrops(
            self.rain, self.clear, recipe.optimiser.crop_px, recipe.run.seed,
            data=recipe.data, rendered=self.settings.rendered > 0,
        )  # fmt: skip
        loader = ExampleLoader(examples, self.iteration * count, recipe.data.workers, self.group)
        self.loaders.append(loader)
        while True:
            parts = zip(*(next(loader) for _ in range(count // self.group.size)), strict=True)
            yield tuple(torch.stack(part).float() / 255 for part in parts)

    def losses(self, *batch: Tensor) -> Losses:
        """Update all four networks; see `Trainer.losses`."""
        rain, clear = batch[:2]
        self.discriminators.freeze(True)
        with self.placement.autocast():
            derained = self._apply(self.generator, rain)
            rained = self._apply(self.rain_generator, clear)
            parts = self._generator_losses(batch, derained, rained)
        settings = self.settings
        weights = {
            "adversarial": 1.0,
            "cycle": settings.cycle,
            "identity": settings.cycle * settings.identity,
            "rendered": settings.rendered,
        }
        parts = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        self.check_finite(loss)
        self.optimiser_step("generators", loss)
        discriminator_loss = self.discriminators.step((clear, rain), (derained, rained))
        values = {name: part.item() for name, part in parts.items()}
        return {"loss": loss.item()} | values | {"discriminators": discriminator_loss}

    def _generator_losses(self, batch: Batch, derained: Tensor, rained: Tensor) -> dict[str, Tensor]:
        rain, clear = batch[:2]
        to_clear, to_rain = self.generator, self.rain_generator
        parts = {
            "adversarial": self.discriminators.generator_loss(derained, rained),
            "cycle": F.l1_loss(self._apply(to_rain, derained), rain) + F.l1_loss(self._apply(to_clear, rained), clear),
            "identity": F.l1_loss(self._apply(to_clear, clear), clear) + F.l1_loss(self._apply(to_rain, rain), rain),
        }
        if self.settings.rendered:
            parts["rendered"] = F.l1_loss(self._apply(to_clear, batch[2]), clear)
        return parts

    def _apply(self, generator: nn.Module, images: Tensor) -> Tensor:
        """(B, 3, H, W) to the same, not clamped to 0..1, which would stop the gradient."""
        residual: Tensor = generator(images)
        return images + residual.float()
