"""Semi-supervised training: rendered rain with ground truth, and real rain without.

After a warm-up on rendered pairs a second generator, the rain generator, refines rendered rain until a discriminator
takes it for real (Shrivastava et al., "Learning from simulated and unsupervised images through adversarial training",
CVPR 2017). It adds a bounded grey layer to clear frames. The generator removes it again: half a cycle, with known
ground truth. On real rain the generator is trained by losses that need no ground truth.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.errors import UsageError
from vderain.model.unet import UNet, UNetConfig
from vderain.rain.composite import draw_light, rain_onto
from vderain.runtime.device import DevicePlacement
from vderain.train.config import Recipe
from vderain.train.data.real_rain import RealRain, RealWindow
from vderain.train.data.scenes import WINDOW, Scenes, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker
from vderain.train.discriminators import BETAS, DiscriminatorPair
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup
from vderain.train.losses import charbonnier, colourfulness, grey_layer, rain_mask, warping_loss
from vderain.train.supervised import Supervised, centre_of
from vderain.train.trainer import Batch, Losses

PARTS = (
    "rendered", "half_cycle", "self_regularisation", "cycle", "adversarial", "identity", "mask", "grey", "temporal",
    "pseudo_label",
)  # fmt: skip


class SemiSupervised(Supervised):
    """Trains ``generator`` (rain to clear) and ``rain_generator`` (rendered rain to realistic rain)."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        group: ProcessGroup = SINGLE_PROCESS,
        placement: DevicePlacement | None = None,
    ) -> None:
        super().__init__(recipe, out, group, placement)
        assert recipe.semi_supervised is not None
        self.settings = settings = recipe.semi_supervised
        if settings.real % group.size:
            raise UsageError(
                f"{settings.real} crops of real rain cannot be shared evenly by {group.size} processes.",
                "Set semi_supervised.real to a multiple of their number.",
            )
        model = recipe.model
        config = UNetConfig(1, model.widths, model.stem, model.paths, model.slope)
        self.rain_generator = self.add_network("rain_generator", UNet(config))
        self.add_optimiser("rain_generator_adam", [self.rain_generator], BETAS)
        self.discriminators = DiscriminatorPair(self, settings)

    def load_data(self) -> Scenes:
        """Load clear and rainy scenes; see `Trainer.load_data`."""
        held = super().load_data()
        data = self.recipe.data
        side_px = data.side_px + 2 * data.border_px
        rainy = load_scenes(data.rain, data.rain, side_px, kind="rainy", key="data.rain")
        self.rainy = RealRain(rainy, data, self.recipe.run.seed)
        return held

    def batches(self) -> Iterator[Batch]:
        """The batches of `Supervised`, followed by crops of `RealWindow`."""
        recipe, data, seed = self.recipe, self.recipe.data, self.recipe.run.seed
        crop_px = recipe.optimiser.crop_px
        rendered = self.pools(WindowMaker(self.scenes, data, seed), TrainingWindow, data.fresh)
        real = self.pools(self.rainy, RealWindow, self.settings.fresh)
        for pairs, rainy in zip(rendered, real, strict=True):
            rng = self.iteration_rng()
            yield (
                *pairs.batch(recipe.optimiser.batch, crop_px, rng, self.group),
                *rainy.batch(self.settings.real, crop_px, rng, self.group),
            )

    def losses(self, *batch: Tensor) -> Losses:
        """Update all four networks; see `Trainer.losses`. Parts with weight 0 are 0 in what is returned."""
        rainy, confidence, clear, dry = batch[:4]
        real = RealWindow(*batch[4:])  # with a batch dimension in front; its windows are (B, 2, 15, s, s)
        restored = self.restored(rainy, confidence)
        parts = {"rendered": self.loss_to_truth(restored, centre_of(rainy), clear, dry)}
        known = clear[: len(real.rainy)]
        generated = None
        if self.iteration >= self.settings.warmup:
            self.discriminators.freeze(True)
            generated, unsupervised = self._real_rain_losses(known, real)
            parts |= unsupervised
        weights = self.settings.model_dump()
        parts = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        self.check_finite(loss)
        self.optimiser_step("adam", loss)
        discriminator_loss = 0.0
        if generated is not None:
            self.optimiser_step("rain_generator_adam")
            discriminator_loss = self.discriminators.step((known, centre_of(real.rainy[:, 0])), generated)
        values = {name: parts[name].item() if name in parts else 0.0 for name in PARTS}
        return {"loss": loss.item()} | values | {"discriminators": discriminator_loss}

    def _real_rain_losses(self, clear: Tensor, real: RealWindow) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Derained and generated rainy images, (B, 3, H, W) each, and all losses but the supervised one."""
        parts = self._losses_on_clear(clear)
        derained, on_real = self._losses_on_real(real)
        rained, half = self._half_cycle(clear, real)
        parts |= on_real | half
        with self.placement.autocast():
            parts["adversarial"] = self.discriminators.generator_loss(derained, rained)
        return (derained, rained), parts

    def _losses_on_clear(self, clear: Tensor) -> dict[str, Tensor]:
        """The generator must leave clear images, (B, 3, H, W), as they are."""
        still = clear.repeat(1, WINDOW, 1, 1)
        residual = self.restored(still, torch.ones_like(clear[:, :1])) - clear
        return {"identity": residual.abs().mean(), "mask": rain_mask(residual).mean()}

    def _losses_on_real(self, real: RealWindow) -> tuple[Tensor, dict[str, Tensor]]:
        """Derained real rain, (B, 3, H, W), and the losses on it that need no ground truth."""
        both = self.restored(real.rainy.flatten(0, 1), real.confidence.flatten(0, 1))
        now, after = both[::2], both[1::2]
        rain = centre_of(real.rainy[:, 0])
        removed = rain - now
        back = self._add_rain(now, now + removed.mean(1, keepdim=True))
        to_label = now - real.pseudo
        epsilon = self.recipe.optimiser.epsilon
        return now, {
            "grey": colourfulness(removed),
            "temporal": warping_loss(now, after, real.flow, real.flow_confidence),
            "pseudo_label": charbonnier(to_label, epsilon, real.pseudo_confidence).mean(),
            "cycle": F.l1_loss(back, rain),
        }

    def _half_cycle(self, clear: Tensor, real: RealWindow) -> tuple[Tensor, dict[str, Tensor]]:
        """Rain on five copies of a clear image, and its removal.

        Returns:
            The centre image with generated rain, (B, 3, H, W), and the losses.
        """
        rng = self.iteration_rng()
        lights = self.group.shard([draw_light(rng) for _ in range(self.settings.real)])
        still = clear.unsqueeze(1).expand(-1, WINDOW, -1, -1, -1)  # (B, 5, 3, H, W)
        pairs = zip(still, real.rain, lights, strict=True)
        rendered = torch.stack([rain_onto(frames, opacity, light) for frames, opacity, light in pairs]).flatten(0, 1)
        rained = self._add_rain(still.flatten(0, 1), rendered)  # (B * 5, 3, H, W)
        window = rained.view(len(clear), WINDOW * 3, *rained.shape[-2:])
        centre = centre_of(window)
        # Detached: the rain generator is not rewarded for rain that is easy to remove.
        back = self.restored(window.detach(), torch.ones_like(clear[:, :1]))
        dry = torch.zeros(len(clear), dtype=torch.bool, device=clear.device)
        return centre, {
            "half_cycle": self.loss_to_truth(back, centre.detach(), clear, dry),
            "self_regularisation": F.l1_loss(rained, rendered),
        }

    def _add_rain(self, clear: Tensor, rendered: Tensor) -> Tensor:
        """Clear images, (B, 3, H, W), with a grey layer of rain that starts as the rendered one."""
        with self.placement.autocast():
            residual = self.rain_generator(rendered)
        return clear + grey_layer(rendered - clear + residual.float(), self.settings.layer_max)
