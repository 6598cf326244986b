"""Rain by its neighbours alone, without a network: what every network must beat.

Rain is brighter than what it hides and is somewhere else a frame later (Garg & Nayar, IJCV 2007): a pixel brighter than
the median of its aligned neighbours is rain, unless the neighbours disagree or the region darkens as often.
"""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import Luma, Picture
from vderain.restore.window import RADIUS, WINDOW, AlignedWindow, Restoration

T = TypeVar("T", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class MedianGate:
    """When a pixel is taken for rain by its neighbours alone. Levels are of 255.

    Attributes:
        threshold, ramp: brighter than the median by this much it begins to be replaced, by this much more it is.
        spread: neighbours that disagree by this much are no evidence; by twice this much, none at all.
        caution_dry, caution_rainy: how many times the darkening around a pixel its brightening must exceed.
        dry, rainy: asymmetry of a region that is taken for dry, or for rainy.
    """

    threshold: float = 4.0
    ramp: float = 6.0
    spread: float = 20.0
    caution_dry: float = 3.0
    caution_rainy: float = 0.3
    dry: float = 0.1
    rainy: float = 0.3


REGION_PX = 129  # over which asymmetry is judged
AROUND_PX = 9  # over which darkening is judged
FLOOR_LEVELS = 0.02  # below this mean excess a region has no asymmetry


def brightening_bias(excess: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """How one-sided the differences to the neighbours are around each pixel, -1..1: rain only brightens.

    Misalignment, noise and moving things make a pixel darker than its neighbours as often as brighter; rain makes it
    brighter (Garg & Nayar 2007). Near 0 a region is dry.

    Args:
        excess: (H, W) luma minus the median of the aligned window, in levels.
        threshold: differences below it do not count, in levels.
    """
    size = (REGION_PX, REGION_PX)
    brighter = cv2.blur(np.maximum(excess - threshold, 0), size)
    darker = cv2.blur(np.maximum(-excess - threshold, 0), size)
    return np.asarray((brighter - darker) / (brighter + darker + FLOOR_LEVELS), dtype=np.float32)


def gated_median(aligned: NDArray[np.uint8], gate: MedianGate) -> NDArray[np.float32]:
    """What the gate adds to the centre: towards the temporal median where a pixel is rain by all tests, else nothing.

    Args:
        aligned: (5, H, W, 3) uint8, the centre in the middle.
        gate: when a pixel is rain.

    Returns:
        (H, W, 3) in 0..1 units, zero where nothing is done.
    """
    centre = aligned[RADIUS]
    neighbours = [aligned[i] for i in range(WINDOW) if i != RADIUS]
    median = median_of_five([centre, *neighbours])
    excess = _luma(centre).astype(np.float32) - _luma(median)
    a, b, c, d = (_luma(x) for x in neighbours)
    second_low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    second_high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    spread = cv2.absdiff(second_high, second_low).astype(np.float32)
    darkening = cv2.blur(cv2.dilate(np.maximum(-excess, 0), np.ones((5, 5), np.uint8)), (AROUND_PX, AROUND_PX))
    rainy = np.clip((brightening_bias(excess, gate.threshold) - gate.dry) / (gate.rainy - gate.dry), 0, 1)
    caution = gate.caution_dry + (gate.caution_rainy - gate.caution_dry) * rainy
    share = np.clip((excess - gate.threshold - caution * darkening) / gate.ramp, 0, 1)
    share *= np.clip(2 - spread / gate.spread, 0, 1)
    towards = median.astype(np.float32) - centre
    return np.asarray(towards * (share / 255)[..., None], dtype=np.float32)


def restore_by_median(window: AlignedWindow, gate: MedianGate) -> Restoration:
    """What `--temporal only` does: the gate over frames as they came."""
    return Restoration(window.without_pixels(), gated_median(window.aligned, gate).astype(np.float16))


def _luma(rgb: Picture) -> Luma:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def median_of_five(pictures: list[NDArray[T]]) -> NDArray[T]:
    """Median of five arrays of one shape.

    By the comparisons of a selection network: a sort of every pixel is ten times slower.
    """
    a, b, c, d, e = pictures
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), dtype=e.dtype)
