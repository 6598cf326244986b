"""Measures what became of edges: those of the ground truth that were lost, and new ones where it is smooth.

Made for lettering, without reading it: a letter is legible by its edges, and hatching or scribbles are edges where
there were none.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SMOOTHING_PX = 1.0  # sigma: noise and 8x8 blocks of compression are not edges
EDGE_LEVELS_PX = 8.0  # gradient of an edge, in levels of 255 per pixel
SMOOTH_LEVELS_PX = 4.0  # gradients below it are no edge of the truth, however faint
CLEARANCE_PX = 2  # a pixel is smooth if none nearer than this has a gradient
SHIFT_PX = 1  # by which an edge may have moved
KEPT = 0.5  # share of its gradient that an edge needs to count as kept

Values = NDArray[np.float64]  # (H, W), in levels of 255


@dataclass(frozen=True, slots=True)
class EdgeScores:
    """Edges of an image against those of the ground truth.

    Attributes:
        kept: share of the true edges that are kept, 0..1; 1 if there are none.
        new: share of the truth's smooth pixels on which there is an edge, 0..1; 0 if there are none.
        score: both as one number, 0..1: kept edges, twice, in proportion to true, kept and new ones (Dice, or F1).
    """

    kept: float
    new: float
    score: float


def edge_scores(luma: Values, truth: Values, where: NDArray[np.bool_] | None = None) -> EdgeScores:
    """Compare the edges of an image with those of the ground truth.

    Args:
        luma: (H, W) in levels.
        truth: of the same shape.
        where: (H, W), the part that counts; everything if not given.
    """
    found, true = _gradient(luma), _gradient(truth)
    strength = np.hypot(*true)
    counted = np.ones(truth.shape, bool) if where is None else where
    edge = (strength >= EDGE_LEVELS_PX) & counted
    smooth = (_highest(strength, CLEARANCE_PX) < SMOOTH_LEVELS_PX) & counted
    new = smooth & (np.hypot(*found) >= EDGE_LEVELS_PX)
    kept = edge & (_along(found, true, strength) >= KEPT)
    edges, kept_px, new_px = int(edge.sum()), int(kept.sum()), int(new.sum())
    return EdgeScores(
        kept=kept_px / edges if edges else 1.0,
        new=new_px / max(1, int(smooth.sum())),
        score=2 * kept_px / total if (total := edges + kept_px + new_px) else 1.0,
    )


def _gradient(luma: Values) -> tuple[Values, Values]:
    """Gradient in levels per pixel, x and y, (H, W) each."""
    smoothed = cv2.GaussianBlur(luma, (0, 0), SMOOTHING_PX)
    x, y = (cv2.Scharr(smoothed, cv2.CV_64F, *order, scale=1 / 32) for order in ((1, 0), (0, 1)))
    return np.asarray(x), np.asarray(y)


def _along(found: tuple[Values, Values], true: tuple[Values, Values], strength: Values) -> Values:
    """Largest part of the true gradient that is found within `SHIFT_PX`, in its direction: 1 for all of it."""
    padded = [np.pad(part, SHIFT_PX, mode="edge") for part in found]
    height_px, width_px = strength.shape
    best = np.full(strength.shape, -np.inf)
    for top in range(2 * SHIFT_PX + 1):
        for left in range(2 * SHIFT_PX + 1):
            x, y = (part[top : top + height_px, left : left + width_px] for part in padded)
            best = np.maximum(best, x * true[0] + y * true[1])
    return np.asarray(best / np.maximum(strength, EDGE_LEVELS_PX / 2) ** 2)


def _highest(values: Values, radius_px: int) -> Values:
    """Largest value within a square of 2 `radius_px` + 1 pixels a side."""
    return np.asarray(cv2.dilate(values, np.ones((2 * radius_px + 1,) * 2, np.uint8)), np.float64)
