"""CycleGAN: unpaired training of two generators, rain to clear and clear to rain, against two discriminators.

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017: least-squares
adversarial losses, cycle and identity losses, pools of earlier images.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from vderain.model.patchgan import PatchGAN
from vderain.model.unet import UNet
from vderain.rain.streaks import draw_light, draw_style, rain_onto, streak_opacity
from vderain.train.config import Data, DiscriminatorSettings
from vderain.train.data.images import ImageIndex, ScanReport, enlarged, index_images, random_crop
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import Scenes
from vderain.train.losses import least_squares
from vderain.train.torchvision_import import require_torchvision
from vderain.train.trainer import Batch, Losses, Trainer

BETAS = (0.5, 0.999)  # of Adam, as in the CycleGAN paper


class UnpairedCrops(Dataset[tuple[Tensor, ...]]):
    """Random crops of rainy and of clear images, mirrored half of the time.

    Args:
        rain: rainy images.
        clear: clear images, any number of them.
        crop_px: side of a crop; smaller images are enlarged.
        seed: of the run.
        data: section of the recipe.
        rendered: also render rain onto the clear crop, for a supervised loss.
    """

    def __init__(
        self, rain: ImageIndex, clear: ImageIndex, crop_px: int, seed: int, *, data: Data, rendered: bool
    ) -> None:
        self.rain, self.clear = rain, clear
        self.crop_px, self.seed, self.data, self.rendered = crop_px, seed, data, rendered

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """(3, s, s) uint8 each: rainy, clear, and with `rendered` the clear crop with rain on it."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 3, index))
        rain, clear = (self._crop(images, rng) for images in (self.rain, self.clear))
        if not self.rendered:
            return rain, clear
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        style = draw_style(generator, share_any_direction=self.data.share_any_direction)
        opacity = streak_opacity(style, self.crop_px, self.crop_px, generator)
        rainy = rain_onto(clear.unsqueeze(0).float() / 255, opacity, draw_light(generator))[0]
        return rain, clear, (rainy * 255 + 0.5).byte()

    def _crop(self, images: ImageIndex, rng: np.random.Generator) -> Tensor:
        picture = enlarged(images.picture(int(rng.integers(len(images.pictures)))), self.crop_px)
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)  # (3, H, W)
        return random_crop(pixels, self.crop_px, self.data.colour_jitter, rng)


class DiscriminatorPair:
    """A clear and a rainy discriminator.

    Args:
        trainer: receives their networks, their optimiser and their image pools.
        settings: of the recipe.
    """

    def __init__(self, trainer: Trainer, settings: DiscriminatorSettings) -> None:
        self.trainer, self.pool_size = trainer, settings.pool
        self.clear, self.rain = (PatchGAN(settings.layers, settings.width, settings.spectral) for _ in range(2))
        trainer.add_network("discriminator_clear", self.clear)
        trainer.add_network("discriminator_rain", self.rain)
        trainer.add_optimiser("discriminators", [self.clear, self.rain], BETAS)
        side_px = trainer.recipe.optimiser.crop_px
        for name in ("pool_clear", "pool_rain"):
            trainer.tensors[name] = torch.empty(0, 3, side_px, side_px, device=trainer.device)

    def freeze(self, frozen: bool) -> None:
        """Freeze their weights while a generator learns from them, or unfreeze them."""
        for discriminator in (self.clear, self.rain):
            discriminator.requires_grad_(not frozen)

    def generator_loss(self, clear: Tensor, rain: Tensor) -> Tensor:
        """Adversarial loss of the generators, a scalar.

        Args:
            clear: (B, 3, H, W) in 0..1, derained images.
            rain: (B, 3, H, W) in 0..1, images with generated rain.
        """
        return least_squares(self.clear(clear), True) + least_squares(self.rain(rain), True)

    def step(self, real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]) -> float:
        """Update the weights of both once.

        Args:
            real: clear and rainy images, (B, 3, H, W) each in 0..1.
            generated: derained images and images with generated rain, likewise.

        Returns:
            The loss.
        """
        self.freeze(False)
        rng = self.trainer.iteration_rng()
        shown = [
            self.pooled(name, images.detach(), rng) for name, images in zip(("clear", "rain"), generated, strict=True)
        ]
        with self.trainer.placement.autocast():
            losses = [_loss(*each) for each in zip((self.clear, self.rain), real, shown, strict=True)]
            loss = torch.stack(losses).sum()
        self.trainer.optimiser_step("discriminators", loss)
        return loss.item()

    def pooled(self, kind: str, generated: Tensor, rng: torch.Generator) -> Tensor:
        """Replace half of the generated images by earlier ones (Shrivastava et al., CVPR 2017).

        All processes keep the same pool: each passes the whole batch through it and takes its share.

        Args:
            kind: "clear" or "rain".
            generated: (B, 3, H, W).
            rng: random number generator, in the same state in all processes.

        Returns:
            (B, 3, H, W).
        """
        tensors, name, group = self.trainer.tensors, f"pool_{kind}", self.trainer.group
        shown = []
        for image in group.all_gather(generated):
            pool = tensors[name]
            if len(pool) < self.pool_size:
                tensors[name] = torch.cat([pool, image.unsqueeze(0)])
            elif len(pool) and float(torch.rand((), generator=rng)) < 0.5:
                place = int(torch.randint(len(pool), (), generator=rng))
                image, pool[place] = pool[place].clone(), image
            shown.append(image)
        return torch.stack(list(group.shard(shown)))


def _loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    on_real = least_squares(discriminator(real), True)
    return (on_real + least_squares(discriminator(generated), False)) / 2


class CycleGAN(Trainer):
    """Trains ``generator`` (rain to clear) and ``rain_generator`` (clear to rain)."""

    def build(self) -> None:
        """Add networks and optimisers; see `Trainer.build`."""
        assert self.recipe.cyclegan is not None
        self.settings = self.recipe.cyclegan
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
