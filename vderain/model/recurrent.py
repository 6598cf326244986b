"""The recurrent generator: a U-Net with a memory that is carried from frame to frame along the motion.

The memory has two parts. The image memory is an estimate of the scene's luma with a variance for each pixel: a Kalman
filter, whose gain the network corrects. The feature state is that of a selective state-space model (`SelectiveState`).
Both are warped along the optical flow before each step, so that a cell keeps following its place in the scene.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model.memory import Carried, Evidence, Memory, SelectiveState, Step
from vderain.model.motion import Motion, sample, sampling_grid
from vderain.model.unet import (
    DIFFERENCE_GAIN,
    UNet,
    UNetConfig,
    blurred,
    convolution_dtype,
    fill_channels,
    median_of_five,
    pad_to_multiple,
    unit,
)

LEVELS = 255.0
VARIANCE_NONE = 1e4  # levels squared, of a pixel that nothing is remembered of
VARIANCE_MIN = 1e-2
UNTOUCHED_LEVELS = 1.5  # a pixel changed by less is mostly its own; one not changed at all stays as it is, to the bit
DRY_LEVELS = 2.0  # below this no rain was removed: where the memory differs there, it is off
MISMATCH_LEVELS = 1.5  # mean difference there that noise and compression explain
MISMATCH_STEP_PX, MISMATCH_CELLS = 4, 9  # it is averaged over this many cells of so many pixels
MISMATCH_PRIOR = 0.05  # share of untouched pixels, below which the difference there says little
LUMA_WEIGHTS = 0.299, 0.587, 0.114  # ITU-R BT.601


class RecurrentUNet(UNet):
    """Predicts the luma of a frame without rain from the frame, the next two, and a memory of those before.

    It estimates the change of luma as ``gate * (median - luma) + gate' * (memory - luma) + detail``, where the median
    is that of the frame, its three neighbours and the memory. The Kalman filter weights the estimate against the memory
    by their variances. Chroma is not changed: rain has almost none of its own (Garg & Nayar, IJCV 2007).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        with torch.no_grad():  # colours are in 0..255, all other inputs about 1
            self.stem.weight[:, : 3 * config.stem**2] /= LEVELS
        self.recurrence = SelectiveState(config.widths[1], config.state)
        self.log_process = nn.Parameter(torch.tensor(math.log(1.5)))  # levels a frame: interpolation and lighting
        self.log_mismatch = nn.Parameter(torch.tensor(0.0))  # levels of error for one of excess mismatch
        self.log_floor = nn.Parameter(torch.tensor(math.log(0.5)))  # levels, the error of a pixel that had no rain
        self.log_share = nn.Parameter(torch.tensor(math.log(0.15)))  # error of a pixel that had, as a share of it

    def step(self, rgb: Tensor, luma: Tensor, evidence: Evidence) -> Step:
        """Restore one frame.

        Args:
            rgb: (B, 3, H, W), uint8 or floats in 0..1.
            luma: (B, 1, H, W), its luma, likewise.
            evidence: aligned to the frame.
        """
        height_px, width_px = luma.shape[-2:]
        y = unit(luma)  # (B, 1, H, W)
        neighbours, confidences = _both_sides(evidence)
        memory, previous, following, second = neighbours
        median = median_of_five(memory, previous, y, following, second)
        differences = torch.cat([*neighbours, median], 1) - y  # (B, 5, H, W)
        inputs = pad_to_multiple(
            self._inputs(rgb, y, differences, confidences, evidence.variance), self.config.stride_px
        )
        frozen = not self.stem.weight.requires_grad
        raw, features = self._run(inputs.detach() if frozen else inputs, evidence.features)
        gate, gate_memory, detail, gain_bias = torch.split(raw[..., :height_px, :width_px], 1, 1)  # (B, 1, H, W) each
        to_memory, to_median = evidence.memory - y, differences[:, 4:]
        change = torch.addcmul(torch.addcmul(detail, gate, to_median), gate_memory, to_memory)
        removed = change.abs() * LEVELS
        error = (removed * self.log_share.exp()) ** 2 + self.log_floor.exp() ** 2  # levels squared
        prior = (evidence.variance + self._mismatch(to_memory, removed)) * torch.exp(gain_bias)
        gain = prior / (prior + error)
        innovation = gain * (change - to_memory)
        corrected = to_memory + innovation
        variance = torch.addcmul(prior, gain, prior, value=-1)
        carried = Memory(y + corrected, variance.clamp(VARIANCE_MIN, VARIANCE_NONE), features)
        return Step(_touched(change) * corrected, change, innovation, prior, carried)

    def smoothed(
        self, luma: Tensor, now: Step, after: Step, correction: Tensor, motion: Motion
    ) -> tuple[Tensor, Tensor]:
        """Correct a frame's result by what later frames showed (Rauch, Tung & Striebel, AIAA Journal 3(8), 1965).

        Args:
            luma: (B, 1, H, W) of the frame, in 0..1.
            now: its result.
            after: that of the next frame.
            correction: (B, 1, H, W) by which the image memory of the next frame changed: its innovation, and what
                frames after that one corrected.
            motion: from the frame to the next one.

        Returns:
            The change of the frame's luma, and the correction for the frame before, (B, 1, H, W) each.
        """
        places, confidence = motion.full_size(luma)
        prior = torch.maximum(sample(after.prior, places), now.memory.variance)
        share = confidence * now.memory.variance / prior
        correction = share * sample(correction, places, "bicubic")
        return _touched(now.estimate) * (now.memory.luma - luma + correction), now.innovation + correction

    def _mismatch(self, to_memory: Tensor, removed: Tensor) -> Tensor:
        """(B, 1, H, W) variance, in levels squared, by how far the memory is off beside the rain.

        Args:
            to_memory: (B, 1, H, W) difference of the memory to the frame, in 0..1 units.
            removed: (B, 1, H, W) levels of rain that the network removed.
        """
        untouched = (removed < DRY_LEVELS).to(removed.dtype)
        both = torch.cat([to_memory.abs() * LEVELS * untouched, untouched], 1)
        coarse = F.avg_pool2d(both, MISMATCH_STEP_PX, ceil_mode=True)
        total, share = torch.split(F.avg_pool2d(coarse, MISMATCH_CELLS, 1, MISMATCH_CELLS // 2), 1, 1)
        mean = (total + MISMATCH_PRIOR * MISMATCH_LEVELS) / (share + MISMATCH_PRIOR)
        excess = self.log_mismatch.exp() * F.relu(mean - MISMATCH_LEVELS)
        return F.interpolate(excess**2, removed.shape[-2:], mode="bilinear", align_corners=False)

    def _inputs(
        self, rgb: Tensor, y: Tensor, differences: Tensor, confidences: tuple[Tensor, Tensor], variance: Tensor
    ) -> Tensor:
        """(B, 12, H, W) input channels.

        Convolutions may run in bf16: it holds bytes exactly, and differences are scaled up.
        """
        parts = (
            rgb if rgb.dtype == torch.uint8 else rgb * LEVELS,
            DIFFERENCE_GAIN * (y - blurred(blurred(y, -1), -2)),
            DIFFERENCE_GAIN * differences,
            *confidences,
            torch.log(variance) * (1 / math.log(VARIANCE_NONE)),
        )
        batch, _, height_px, width_px = y.shape
        shape = (batch, self.config.channels_in, height_px, width_px)
        dtype = convolution_dtype(y, self.stem.weight)
        x = torch.empty(shape, dtype=dtype, device=y.device, memory_format=torch.channels_last)
        return fill_channels(x, parts)

    def _run(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The U-Net with the recurrence behind its second level.

        Args:
            x: (B, 12, H', W') padded input channels.
            features: (B, S, h, w), the carried feature state.

        Returns:
            (B, 4, H', W') and (B, S, h, w), both float32.
        """
        scale = self.config.scale
        if scale > 1:
            x = F.avg_pool2d(x, scale)
        x = self._stem(x)
        skips = []
        for level, (block, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            x = block(x)
            if level == 1:
                x, features = self.recurrence(x, features)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        if len(self.down) == 1:
            x, features = self.recurrence(x, features)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(up(x), skips.pop())
        out = F.pixel_shuffle(self.head(x), self.config.stem).contiguous().float()
        if scale > 1:
            out = F.interpolate(out, scale_factor=scale, mode="bilinear", align_corners=False)
        return out, features

    @property
    def _cell_px(self) -> int:
        """Side of a cell of the feature state."""
        return 2 * self.config.stem * self.config.scale

    def feature_shape(self, height_px: int, width_px: int) -> tuple[int, int, int]:
        """Channels, height and width of the feature state of a frame."""
        stride_px = self.config.stride_px
        padded = (-(-side // stride_px) * stride_px for side in (height_px, width_px))
        h, w = (side // self._cell_px for side in padded)
        return self.config.state, h, w

    def no_evidence(self, luma: Tensor) -> Evidence:
        """The evidence of a frame without neighbours.

        Args:
            luma: (B, 1, H, W), uint8 or floats in 0..1.
        """
        y = unit(luma)
        nothing = torch.zeros_like(y)
        features = y.new_zeros((len(y), *self.feature_shape(*y.shape[-2:])))
        following = y.expand(-1, 2, -1, -1)
        return Evidence(y, torch.full_like(y, VARIANCE_NONE), y, nothing, following, nothing, features)

    def carried(self, memory: Memory, previous: Tensor, luma: Tensor, motion: Motion) -> Carried:
        """Warp the memory and the frame before to a frame.

        Args:
            memory: of the frame before.
            previous: (B, 1, H, W) luma of the frame before, in 0..1.
            luma: (B, 1, H, W) of the frame, in 0..1.
            motion: from the frame to the one before.
        """
        places, confidence = motion.full_size(luma)
        both = sample(torch.cat([memory.luma, previous], 1), places, "bicubic")
        remembered, before = torch.split(torch.lerp(luma, both, confidence), 1, 1)
        variance = torch.lerp(torch.full_like(luma, VARIANCE_NONE), sample(memory.variance, places), confidence)
        variance = (variance + self.log_process.exp() ** 2).clamp(max=VARIANCE_NONE)
        features = self._carried_features(memory.features, motion)
        return Carried(remembered, variance, before, confidence, features)

    def _carried_features(self, features: Tensor, motion: Motion) -> Tensor:
        """Warp the feature state; beyond the frame, where it was padded, the flow at its edge goes on."""
        cell_px, cells = self._cell_px, (features.shape[-2], features.shape[-1])
        (step_x, step_y), (h, w) = motion.step_px, motion.flow_px.shape[-2:]
        right = max(0, round(cells[1] * cell_px / step_x) - w)
        bottom = max(0, round(cells[0] * cell_px / step_y) - h)
        padded = (F.pad(x, (0, right, 0, bottom), mode="replicate") for x in (motion.flow_px, motion.confidence))
        flow_px, trust = (F.adaptive_avg_pool2d(x, cells) for x in padded)
        return trust * sample(features, sampling_grid(flow_px / cell_px, cells))


def _both_sides(evidence: Evidence) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The four neighbours and the confidences of both sides, as the network sees them.

    At the ends of a shot one side stands in for the other. A frame without any neighbours, whose evidence is the frame
    itself, is aligned perfectly.

    Returns:
        Memory, previous frame and next two, (B, 1, H, W) each; confidence before and after, (B, 1, H, W) each.
    """
    following = unit(evidence.following)
    sides = (evidence.memory, unit(evidence.previous)), (following[:, 1:], following[:, :1])
    trusts = unit(evidence.confidence), unit(evidence.following_confidence)
    has_before, has_after = (trust.amax((1, 2, 3), keepdim=True) > 0 for trust in trusts)
    memory, previous = (torch.where(has_before | ~has_after, *pair) for pair in zip(*sides, strict=True))
    second, first = (torch.where(has_after | ~has_before, b, a) for a, b in zip(*sides, strict=True))
    neither = ~(has_before | has_after)
    before = torch.where(has_before, trusts[0], torch.where(neither, 1.0, trusts[1]))
    after = torch.where(has_after, trusts[1], torch.where(neither, 1.0, trusts[0]))
    return (memory, previous, first, second), (before, after)


def _touched(estimate: Tensor) -> Tensor:
    """Share of the change that a pixel takes, 0..1: pixels that the network leaves alone stay as they are."""
    return (estimate.abs() * (LEVELS / UNTOUCHED_LEVELS)).clamp(max=1)


def from_window(window: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Convert the weights of a generator with a window of five frames, so that it starts with what that one knows.

    The memory takes the place of the frame two before. Differences of colour channels become one difference of luma.

    Args:
        window: weights of a `UNet` with the same widths.
        config: of the recurrent generator.

    Returns:
        Weights of a `RecurrentUNet` by name, without those that the other has not.
    """
    cells = config.stem**2
    stem = window["stem.weight"].unflatten(1, (-1, cells))  # type: ignore[no-untyped-call]  # (w0, 22, s*s, 3, 3)
    groups = [part.sum(1, keepdim=True) for part in torch.split(stem[:, 3:21], 3, 1)]  # detail, -2, -1, 1, 2, median
    detail, before2, before1, after1, after2, median = groups
    trust = stem[:, 21:] / 2
    centre = stem[:, :3]
    bias = window["stem.bias"] - 0.5 * centre.sum((1, 2, 3, 4))  # the other sees values in -.5..0.5, this one in 0..255
    parts = [centre / LEVELS, detail, before2, before1, after1, after2, median, trust, trust, torch.zeros_like(trust)]
    head = {}
    luma = torch.tensor(LUMA_WEIGHTS).view(3, *(1,) * (window["head.weight"].ndim))
    for name in ("head.weight", "head.bias"):
        gate, *rgb = window[name].unflatten(0, (4, cells))  # type: ignore[no-untyped-call]
        grey = (luma.view(3, *(1,) * gate.ndim) * torch.stack(rgb)).sum(0)
        head[name] = torch.cat([gate, torch.zeros_like(gate), grey, torch.zeros_like(gate)])
    return window | head | {"stem.weight": torch.cat(parts, 1).flatten(1, 2), "stem.bias": bias}
