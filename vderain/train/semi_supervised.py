"""Semi-supervised training: rendered rain with ground truth, and real rain without.

After a warm-up on rendered pairs a second generator, the rain generator, refines rendered rain until a discriminator
takes it for real (Shrivastava et al., "Learning from simulated and unsupervised images through adversarial training",
CVPR 2017). It adds a bounded grey layer to clear frames. The generator removes it again: half a cycle, with known
ground truth. On real rain the generator is trained by losses that need no ground truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from vderain.errors import UsageError
from vderain.evaluation.footage import frame_of
from vderain.model.unet import UNet, UNetConfig
from vderain.rain.streaks import draw_light, rain_onto
from vderain.restore.frames import WINDOW, AlignedWindow, Picture
from vderain.restore.median_baseline import MedianGate, gated_median
from vderain.restore.window import single_frame, windows
from vderain.train.config import Data
from vderain.train.cyclegan import BETAS, DiscriminatorPair
from vderain.train.data.scenes import CENTRE, Scenes, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker, mirrored, rain_cuts
from vderain.train.losses import charbonnier, colourfulness, grey_layer, rain_mask, warping_loss
from vderain.train.supervised import Supervised, centre_of
from vderain.train.trainer import Batch, Losses

PARTS = (
    "rendered", "half_cycle", "self_regularisation", "cycle", "adversarial", "identity", "mask", "grey", "temporal",
    "pseudo_label", "bright", "transplanted",
)  # fmt: skip
GENERATED = "half_cycle", "self_regularisation", "cycle", "adversarial"  # parts that need the rain generator
FRAMES = WINDOW + 1  # of two consecutive windows
STRENGTHS = 0.6, 1.8  # of transplanted rain: what is left of a streak was removed too weakly
NEXT = 2  # index of the frame after the centre among the neighbours of a window


@dataclass(frozen=True, slots=True)
class RealWindow:
    """One example of real rain; tensors are uint8 unless another type is given.

    Attributes:
        rainy: (2, 5, 3, S, S) RGB, two windows with consecutive centres.
        confidence: (2, 1, S, S) confidence in their alignment.
        pseudo: (3, S, S) RGB, pseudo label of the first centre.
        pseudo_confidence: (1, S, S) confidence in it.
        flow: (2, S, S) float32, optical flow in pixels from the first centre to the second.
        flow_confidence: (1, S, S) confidence in the flow.
        rain: (5, S, S) opacity of rendered streaks.
    """

    rainy: Tensor
    confidence: Tensor
    pseudo: Tensor
    pseudo_confidence: Tensor
    flow: Tensor
    flow_confidence: Tensor
    rain: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "RealWindow":
        """An uninitialised window of the right shapes and types."""

        def part(*channels: int, dtype: torch.dtype = torch.uint8) -> Tensor:
            return torch.empty((*channels, side_px, side_px), dtype=dtype)

        return cls(
            part(2, WINDOW, 3), part(2, 1), part(3), part(1), part(2, dtype=torch.float32), part(1), part(WINDOW)
        )

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop; mirroring also reverses the horizontal flow.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.

        Returns:
            The attributes, cut; the windows as (2, 15, s, s).
        """
        parts = (
            self.rainy.flatten(1, 2),
            self.confidence,
            self.pseudo,
            self.pseudo_confidence,
            self.flow,
            self.flow_confidence,
            self.rain,
        )
        cut = [mirrored(part[..., rows, columns], flip) for part in parts]
        if flip:
            cut[4] = cut[4] * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
        return tuple(cut)


class RealRain(Dataset[RealWindow]):
    """Makes window of real rain number i, for any i.

    Args:
        scenes: rainy photographs and clips.
        data: section of the recipe.
        seed: of the run.
        single: frames of clips are seen one by one, as photographs are.
    """

    def __init__(self, scenes: Scenes, data: Data, seed: int, single: bool = False) -> None:
        self.data, self.seed, self.single = data, seed, single
        self.clips = [clip for clip in scenes.clips if single or len(clip) >= FRAMES]
        self.photos = scenes.photos
        self.side_px = data.side_px + 2 * data.border_px

    def __getitem__(self, index: int) -> RealWindow:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 4, index))
        which = int(rng.integers(len(self.clips) + len(self.photos)))
        if which < len(self.clips) and self.single:
            clip = self.clips[which]
            first = second = self._still(clip[rng.integers(len(clip))], rng)
        elif which < len(self.clips):
            first, second = self._moving(self.clips[which], rng)
        else:
            first = second = self._still(self.photos[which - len(self.clips)], rng)
        flow, flow_confidence = _flow_to_next(first, second)
        pseudo, pseudo_confidence = _pseudo_label(first)
        share = self.data.share_any_direction
        rain = rain_cuts(self.seed, index, self.side_px, WINDOW, rng, share_any_direction=share)
        inner = slice(self.data.border_px, self.data.border_px + self.data.side_px)

        def tensor(pictures: NDArray[np.generic]) -> Tensor:  # (..., S, S)
            return torch.from_numpy(np.ascontiguousarray(pictures[..., inner, inner]))

        return RealWindow(
            tensor(np.stack([np.moveaxis(w.aligned, -1, 1) for w in (first, second)])),
            tensor(np.stack([w.confidence[None] for w in (first, second)])),
            tensor(np.moveaxis(pseudo, -1, 0)), tensor(pseudo_confidence[None]),
            tensor(np.moveaxis(flow, -1, 0)), tensor(flow_confidence[None]), tensor(rain),
        )  # fmt: skip

    def _moving(self, clip: NDArray[np.uint8], rng: np.random.Generator) -> tuple[AlignedWindow, AlignedWindow]:
        start = int(rng.integers(len(clip) - FRAMES + 1))
        rows, columns = self._place(clip.shape[1:3], rng)
        pictures = clip[start : start + FRAMES, rows, columns]
        around = list(windows(map(frame_of, pictures, range(FRAMES)), 1))
        return around[CENTRE], around[CENTRE + 1]

    def _still(self, photo: Picture, rng: np.random.Generator) -> AlignedWindow:
        rows, columns = self._place(photo.shape[:2], rng)
        return single_frame(frame_of(photo[rows, columns]))

    def _place(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
        """Draw rows and columns to cut. Real rain is not resized, which would make streaks thinner."""
        top, left = (int(rng.integers(side - self.side_px + 1)) for side in shape)
        return slice(top, top + self.side_px), slice(left, left + self.side_px)


def _flow_to_next(first: AlignedWindow, second: AlignedWindow) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Optical flow from one centre to the next, (S, S, 2) in pixels, and its confidence, (S, S), 0 at a scene cut."""
    shape = first.confidence.shape
    flow_field = first.flows_to_neighbours[NEXT]
    if flow_field is None or first.sources[NEXT] != second.centre.number:
        return np.zeros((*shape, 2), np.float32), np.zeros(shape, np.uint8)
    scale = np.array([shape[1] / flow_field.flow.shape[1], shape[0] / flow_field.flow.shape[0]], np.float32)
    flow = cv2.resize(flow_field.flow * scale, shape[::-1], interpolation=cv2.INTER_LINEAR)
    confidence = cv2.resize(flow_field.confidence, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(flow, np.float32), np.asarray(confidence, np.uint8)


def _pseudo_label(window: AlignedWindow) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Gated median of a window, (S, S, 3), and the confidence in it, (S, S), 0 if there are no neighbours."""
    change = gated_median(np.ascontiguousarray(window.aligned), MedianGate()) * np.float32(255)
    pseudo = np.asarray(cv2.add(window.centre.rgb, change, dtype=cv2.CV_8U), np.uint8)
    isolated = all(source == window.centre.number for source in window.sources)
    return pseudo, np.zeros_like(window.confidence) if isolated else window.confidence


class SemiSupervised(Supervised):
    """Trains ``generator`` (rain to clear) and ``rain_generator`` (rendered rain to realistic rain)."""

    def build(self) -> None:
        """Add networks and optimisers; see `Trainer.build`."""
        super().build()
        assert self.recipe.semi_supervised is not None
        self.settings = settings = self.recipe.semi_supervised
        self.single = self.recipe.model.window == 1
        self.generates = any(getattr(settings, name) for name in GENERATED)
        if settings.real % self.group.size:
            raise UsageError(
                f"{settings.real} crops of real rain cannot be shared evenly by {self.group.size} processes.",
                "Set semi_supervised.real to a multiple of their number.",
            )
        model = self.recipe.model
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
        self.rainy = RealRain(rainy, data, self.recipe.run.seed, self.single)
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

    def _real_rain_losses(
        self, clear: Tensor, real: RealWindow
    ) -> tuple[tuple[Tensor, Tensor] | None, dict[str, Tensor]]:
        """Losses beside the supervised one, and derained and generated rainy images, (B, 3, H, W), if there are any."""
        parts = self._losses_on_clear(clear)
        derained, on_real = self._losses_on_real(real)
        parts |= on_real
        if self.settings.transplanted:
            parts["transplanted"] = self._transplanted(clear, real)
        if not self.generates:
            return None, parts
        rained, half = self._half_cycle(clear, real)
        parts |= half
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
        rain = centre_of(real.rainy[:, 0])
        parts = {}
        if self.single:
            now = self.restored(real.rainy[:, 0], real.confidence[:, 0])
        else:
            both = self.restored(real.rainy.flatten(0, 1), real.confidence.flatten(0, 1))
            now, after = both[::2], both[1::2]
            label = charbonnier(now - real.pseudo, self.recipe.optimiser.epsilon, real.pseudo_confidence)
            parts["temporal"] = warping_loss(now, after, real.flow, real.flow_confidence)
            parts["pseudo_label"] = label.mean()
        removed = rain - now
        if self.generates:
            back = self._add_rain(now, now + removed.mean(1, keepdim=True))
            parts["cycle"] = F.l1_loss(back, rain)
        return now, parts | {"grey": colourfulness(removed), "bright": F.relu(-removed).mean()}

    def _half_cycle(self, clear: Tensor, real: RealWindow) -> tuple[Tensor, dict[str, Tensor]]:
        """Rain on copies of a clear image, one for each frame of a window, and its removal.

        Returns:
            The centre image with generated rain, (B, 3, H, W), and the losses.
        """
        rng = self.iteration_rng()
        lights = self.group.shard([draw_light(rng) for _ in range(self.settings.real)])
        count = 1 if self.single else WINDOW
        still = clear.unsqueeze(1).expand(-1, count, -1, -1, -1)  # (B, T, 3, H, W)
        pairs = zip(still, real.rain[:, :count], lights, strict=True)
        rendered = torch.stack([rain_onto(frames, opacity, light) for frames, opacity, light in pairs]).flatten(0, 1)
        rained = self._add_rain(still.flatten(0, 1), rendered)  # (B * T, 3, H, W)
        window = rained.view(still.shape).expand(-1, WINDOW, -1, -1, -1).flatten(1, 2)  # (B, 15, H, W)
        # Detached: the rain generator is not rewarded for rain that is easy to remove.
        return centre_of(window), {
            "half_cycle": self._loss_on_rained(window.detach(), clear),
            "self_regularisation": F.l1_loss(rained, rendered),
        }

    def _transplanted(self, clear: Tensor, real: RealWindow) -> Tensor:
        """Loss on clear images, (B, 3, H, W), that carry the light which the averaged generator removes from real rain.

        A mean teacher (Tarvainen & Valpola, NeurIPS 2017) that gives away its residual, not its result: what lies
        behind the rain is known, because it is the clear image. Varied in strength, so that weaker and bolder rain than
        it finds is learned too.
        """
        rng = self.iteration_rng()
        low, high = STRENGTHS
        drawn = torch.rand(self.settings.real, 1, 1, 1, generator=rng) * (high - low) + low
        strength = torch.stack(list(self.group.shard(list(drawn)))).to(clear)
        with torch.no_grad():
            rain = real.rainy[:, 0]
            removed = centre_of(rain) - self.restored(rain, real.confidence[:, 0], self.mean)
        layer = strength * removed.mean(1, keepdim=True).clamp(min=0)
        rained = (clear + layer).clamp(max=1)
        return self._loss_on_rained(rained.repeat(1, WINDOW, 1, 1), clear)

    def _loss_on_rained(self, window: Tensor, clear: Tensor) -> Tensor:
        """Supervised loss on windows, (B, 15, H, W), whose centre is a clear image, (B, 3, H, W), with rain on it."""
        dry = torch.zeros(len(clear), dtype=torch.bool, device=clear.device)
        restored = self.restored(window, torch.ones_like(clear[:, :1]))
        return self.loss_to_truth(restored, centre_of(window), clear, dry)

    def _add_rain(self, clear: Tensor, rendered: Tensor) -> Tensor:
        """Clear images, (B, 3, H, W), with a grey layer of rain that starts as the rendered one."""
        with self.placement.autocast():
            residual = self.rain_generator(rendered)
        return clear + grey_layer(rendered - clear + residual.float(), self.settings.layer_max)
