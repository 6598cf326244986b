"""Finds out whether a clip lies on its side: rain falls downwards, and the network learned it so.

A frame's pixels that are brighter than in the frame before and the frame after are rain, or something that moved. Rain
makes long thin shapes of one direction in every frame; what moves does not. So a clip is turned only if in each of its
first frames nearly all such shapes lie down.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.media.frame import Frame
from vderain.restore.frames import Luma

FRAMES, FRAMES_MIN = 26, 6  # that are looked at; fewer of them where they are large
HELD_BYTES = 256 * 2**20
LINES_PX = 360  # of the shorter side
BRIGHTER_LEVELS = 2.0
COHERENT = 0.6  # of the structure tensor (Bigun and Granlund, ICCV 1987): 0 for a dot, 1 for a line
NEAR_DEGREES = 30  # a streak this near to the vertical stands, this near to the horizontal lies
# Of the energy of elongated shapes, how much stands in the worst frame: rain lying on its side up to .10, upright rain
# from .90 on. Dry clips are anywhere; but of their energy at most .40 is elongated (one of .68 stands in some frames),
# that of rain from .64 on.
STANDING_MAX, ELONGATED_MIN, MEAN_MIN_LEVELS = 0.15, 0.5, 0.05


def quarters_to_upright(frames: Iterator[Frame], rotation_quarters: int) -> tuple[Iterator[Frame], int]:
    """Look at the first frames of a clip.

    Args:
        frames: of the clip, in order.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing them.

    Returns:
        The same frames, and the quarter turns counter-clockwise after which rain falls downwards, or upwards: those of
        the player, and one more where the clip lies on its side.
    """
    first = list(islice(frames, 1))
    held = sum(plane.nbytes for frame in first for plane in frame.planes)
    count = max(FRAMES_MIN, min(FRAMES, HELD_BYTES // max(held, 1)))
    looked_at = [*first, *islice(frames, count - len(first))]
    lies = lies_on_its_side(_small_luma(frame, rotation_quarters) for frame in looked_at)
    return chain(looked_at, frames), rotation_quarters + lies


def _small_luma(frame: Frame, rotation_quarters: int) -> Luma:
    plane = np.rot90(frame.planes[0], rotation_quarters)
    luma = (plane >> (frame.colour.depth_bits - 8)).astype(np.uint8)
    scale = min(1.0, LINES_PX / min(luma.shape))
    size = tuple(max(1, round(side * scale)) for side in luma.shape[::-1])
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)


def lies_on_its_side(lumas: Iterable[Luma]) -> bool:
    """Whether the streaks of rain in successive frames are horizontal.

    Args:
        lumas: (h, w) uint8 each, of one size.
    """
    frames = [luma.astype(np.float32) for luma in lumas]
    if len({frame.shape for frame in frames}) != 1 or len(frames) < FRAMES_MIN:
        return False
    shapes = [_standing(*frames[i - 1 : i + 2]) for i in range(1, len(frames) - 1)]
    standing, elongated, mean = np.array(shapes).T
    return bool(
        standing.max() < STANDING_MAX and np.median(elongated) > ELONGATED_MIN and np.median(mean) > MEAN_MIN_LEVELS
    )


def _standing(before: NDArray[np.float32], now: NDArray[np.float32], after: NDArray[np.float32]) -> list[float]:
    """What is brighter in a frame than before and after: see `STANDING_MAX`.

    Returns:
        How much of the elongated part stands, how much of it all is elongated, and its mean over the frame in levels.
    """
    brighter = np.maximum(now - np.maximum(before, after) - np.float32(BRIGHTER_LEVELS), 0)  # (h, w)
    smooth = cv2.GaussianBlur(brighter, (0, 0), 1)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), 3) for product in (gx * gx, gy * gy, gx * gy))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + np.float32(1e-3))
    across = np.abs(np.degrees(np.arctan2(2 * xy, xx - yy) / 2))  # direction of the gradient, 0 for an upright streak
    streaks = brighter * (coherence > COHERENT)
    upright = float(streaks[across < NEAR_DEGREES].sum())
    lying = float(streaks[across > 90 - NEAR_DEGREES].sum())
    total = upright + lying
    return [upright / total if total else 1.0, total / max(float(brighter.sum()), 1e-6), float(brighter.mean())]
