"""Rain removal without a network, by a gated temporal median: ``--temporal only`` and the baseline for networks.

Rain is brighter than what it hides and is somewhere else one frame later (Garg & Nayar, "Vision and rain", IJCV 2007).
So a pixel brighter than the median of its aligned neighbours is rain, unless the neighbours disagree or the region
darkens as often as it brightens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.frames import RADIUS, WINDOW, AlignedWindow, Restoration, luma_of, median_of_five
from vderain.runtime.threads import ordered_map, stage


@dataclass(frozen=True, slots=True)
class MedianGate:
    """Thresholds of the gated median, in levels of 255.

    Attributes:
        threshold: a pixel brighter than the median by more than this begins to be replaced.
        ramp: levels above the threshold at which it is replaced fully.
        spread: neighbours that differ by more than this count less, and not at all at twice this.
        caution_dry: in a dry region, how many times the local darkening the brightening must exceed.
        caution_rainy: the same in a rainy region.
        dry: brightening bias up to which a region counts as dry.
        rainy: brightening bias from which on a region counts as rainy.
    """

    threshold: float = 4.0
    ramp: float = 6.0
    spread: float = 20.0
    caution_dry: float = 3.0
    caution_rainy: float = 0.3
    dry: float = 0.1
    rainy: float = 0.3


REGION_PX = 129  # side of the region over which the brightening bias is measured
NEAR_PX = 9  # side of the square over which darkening is measured
FLOOR_LEVELS = 0.02  # keeps the bias of a region without differences near 0


def restore_by_median(windows: Iterable[AlignedWindow], workers: int) -> Iterator[Restoration]:
    """Restore every window's centre by the gated median.

    Args:
        windows: in order.
        workers: number of threads.
    """
    return ordered_map(restore_window, windows, workers)


@stage("median_baseline")
def restore_window(window: AlignedWindow) -> Restoration:
    """Restore one window's centre by the gated median, with the default gate."""
    return Restoration.of_window(window, gated_median(window.aligned, MedianGate()).astype(np.float16))


def gated_median(aligned: NDArray[np.uint8], gate: MedianGate) -> NDArray[np.float32]:
    """The residual from the centre to the temporal median, where a pixel is rain by all tests.

    Args:
        aligned: (5, H, W, 3) uint8, the centre in the middle.
        gate: thresholds.

    Returns:
        (H, W, 3) float32 in 0..1 units, zero where the pixel is not rain.
    """
    centre = aligned[RADIUS]  # (H, W, 3)
    neighbours = [aligned[i] for i in range(WINDOW) if i != RADIUS]
    median = median_of_five([centre, *neighbours])  # (H, W, 3)
    excess = luma_of(centre).astype(np.float32) - luma_of(median)  # (H, W)
    a, b, c, d = (luma_of(x) for x in neighbours)
    second_low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    second_high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    spread = cv2.absdiff(second_high, second_low).astype(np.float32)  # (H, W)
    darkening = cv2.blur(cv2.dilate(np.maximum(-excess, 0), np.ones((5, 5), np.uint8)), (NEAR_PX, NEAR_PX))
    rainy = np.clip((brightening_bias(excess, gate.threshold) - gate.dry) / (gate.rainy - gate.dry), 0, 1)
    caution = gate.caution_dry + (gate.caution_rainy - gate.caution_dry) * rainy
    share = np.clip((excess - gate.threshold - caution * darkening) / gate.ramp, 0, 1)
    share *= np.clip(2 - spread / gate.spread, 0, 1)
    to_median = median.astype(np.float32) - centre  # (H, W, 3)
    return np.asarray(to_median * (share / 255)[..., None], dtype=np.float32)


def brightening_bias(excess: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """How one-sided the differences to the neighbours are around each pixel.

    Misalignment, noise and moving objects make a pixel darker than its neighbours as often as brighter; rain only
    brightens (Garg & Nayar 2007). Near 0 a region is dry.

    Args:
        excess: (H, W) luma minus the median of the aligned window, in levels.
        threshold: differences below it do not count, in levels.

    Returns:
        (H, W) float32, -1 (only darkening) to 1 (only brightening).
    """
    size = (REGION_PX, REGION_PX)
    brighter = cv2.blur(np.maximum(excess - threshold, 0), size)
    darker = cv2.blur(np.maximum(-excess - threshold, 0), size)
    return np.asarray((brighter - darker) / (brighter + darker + FLOOR_LEVELS), dtype=np.float32)
