"""The generator for the windshield: it sees drops, the motion behind them, and whom to believe there.

Three small U-Nets. The first tells how far a pixel is covered by drops. The second corrects the optical flow there: it
works on cells of `CELL_PX`, from the flow around. The third chooses between the frame without drops, as the raindrop
generator leaves it, the colours around a drop, and what the memory shows: the same place before and after it was behind
the drop (`vderain.restore.glass`). It also takes away what is left of a drop: a pattern that stays where it is in the
picture while the scene moves.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.model.unet import DIFFERENCE_GAIN, UNet, UNetConfig, blurred

CELL_PX = 8  # side of a cell of the flow network
COVER_IN, FLOW_IN, FLOW_OUT = 12, 14, 6
NEAR_PX = 9  # a pixel this near to a drop, in all, may be changed
COVERED_FROM, COVERED_FULLY = 0.1, 0.4  # cover from which it is changed at all, and in full
LOG_VARIANCE = math.log(1e4)  # of levels squared, of a pixel that nothing is remembered of


class Remembered(NamedTuple):
    """What the memory shows of a frame.

    Attributes:
        change: (B, 3, H, W), difference to the frame without drops, in 0..1 units.
        variance: (B, 1, H, W) in levels squared.
    """

    change: Tensor
    variance: Tensor


class FixedPattern(NamedTuple):
    """What stays where it is in frames without drops, while the scene moves.

    Attributes:
        fine: (B, 3, H, W), the mean over the frames around, less its surroundings, in 0..1 units.
        coarse: (B, 3, H, W), those surroundings, less wider ones.
        deviation: (B, 1, H, W) in 0..1, the standard deviation of luma over the same frames.
        speed_px: (B, 2, H, W), motion of the scene to the next frame: at a pixel, and in most of the frame.
    """

    fine: Tensor
    coarse: Tensor
    deviation: Tensor
    speed_px: Tensor


class GlassUNet(UNet):
    """The networks of the windshield. Its own layers choose; `cover` sees drops, and `flow` the motion behind them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        finest = config.glass
        self.cover = UNet(_maps(config, (finest, 2 * finest, 4 * finest, 6 * finest), 2), (COVER_IN, 1))
        self.flow = UNet(_maps(config, (2 * finest, 4 * finest, 6 * finest), 1), (FLOW_IN, FLOW_OUT))

    def covered(self, rgb: Tensor, residual: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """How far pixels are covered by drops, as logits, (B, 1, H, W).

        Args:
            rgb: (B, 3, H, W) in 0..1.
            residual: (B, 3, H, W), of the raindrop generator.
            mean: (B, 1, H, W) in 0..1, luma over the frames around: what stays on the glass stays in it.
            deviation: (B, 1, H, W), the standard deviation of the same.
        """
        parts = (
            rgb - 0.5, DIFFERENCE_GAIN * _detail(rgb), DIFFERENCE_GAIN * residual,
            mean - 0.5, DIFFERENCE_GAIN * _detail(mean), DIFFERENCE_GAIN * deviation,
        )  # fmt: skip
        return self.cover.of_maps(*parts)

    def completed(
        self, measured: Tensor, filled: Tensor, trust: Tensor, cover: Tensor, wiped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Optical flow to the frame before and to the next one, in cells of `CELL_PX`.

        Args:
            measured: (B, 4, h, w), both flows in pixels of the frame.
            filled: (B, 4, h, w), the same, filled in behind drops from around them.
            trust: (B, 2, h, w) in 0..1, in the measured flows.
            cover: (B, 1, h, w) in 0..1.
            wiped: (B, 3, h, w) in 0..1, the frame without drops.

        Returns:
            (B, 4, h, w) in pixels, and the logarithm of their mean absolute error in pixels, (B, 2, h, w).
        """
        cells = measured / CELL_PX, filled / CELL_PX, trust, cover, wiped - 0.5
        change, log_error = torch.split(self.flow.of_maps(*cells), [4, 2], 1)
        return filled + CELL_PX * change, log_error

    def chosen(
        self,
        rgb: Tensor,
        residual: Tensor,
        cover: Tensor,
        around: Tensor,
        before: Remembered,
        after: Remembered,
        pattern: FixedPattern,
    ) -> Tensor:
        """The change of a frame without drops, by what is trusted of the memory: (B, 3, H, W).

        Args:
            rgb: (B, 3, H, W) in 0..1, the frame.
            residual: (B, 3, H, W), of the raindrop generator: added to the frame, it is the frame without drops.
            cover: (B, 1, H, W) in 0..1.
            around: (B, 3, H, W), difference of the colours around drops to the frame without drops.
            before: the memory of earlier frames.
            after: the memory of later frames.
            pattern: what stays in the picture.
        """
        candidates = before.change, after.change, around
        gap = (before.change - after.change).abs().mean(1, keepdim=True)
        variances = (torch.log(m.variance) * (1 / LOG_VARIANCE) for m in (before, after))
        fixed = pattern.fine, pattern.coarse, pattern.deviation
        differences = (DIFFERENCE_GAIN * x for x in (residual, *candidates, gap, *fixed))
        speeds = torch.log1p(pattern.speed_px) / 2
        raw = self.of_maps(rgb - 0.5, *differences, *variances, cover, speeds)
        to_before, to_after, to_around, to_fine, to_coarse, detail = torch.split(raw, [1, 1, 1, 1, 1, 3], 1)
        remembered = to_before * before.change + to_after * after.change + to_around * around
        rows = F.max_pool2d(cover, (NEAR_PX, 1), 1, (NEAR_PX // 2, 0))  # one side after the other is four times as fast
        near = F.max_pool2d(rows, (1, NEAR_PX), 1, (0, NEAR_PX // 2))
        behind = ((near - COVERED_FROM) / (COVERED_FULLY - COVERED_FROM)).clamp(0, 1)
        return behind * (remembered - to_fine * pattern.fine - to_coarse * pattern.coarse + detail)


def _maps(config: UNetConfig, widths: tuple[int, ...], stem: int) -> UNetConfig:
    return UNetConfig(window=1, widths=widths, stem=stem, slope=config.slope)


def _detail(x: Tensor) -> Tensor:
    return x - blurred(blurred(x, -1), -2)


def pooled(x: Tensor) -> Tensor:
    """(B, C, H, W) to cells, (B, C, ceil(H / 8), ceil(W / 8))."""
    return F.avg_pool2d(x, CELL_PX, ceil_mode=True, count_include_pad=False)
