"""How steady a clip is: two successive pictures enter, the error that is left once motion is undone leaves.

E_warp: Lai et al., "Learning blind video temporal consistency", ECCV 2018, with DIS flow in place of a network's.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.evaluation.footage import Picture
from vderain.restore.flow import CONSISTENCY_FLOOR_PX2, CONSISTENCY_SLOPE, FlowEstimator

SCALE = 1e3  # E_warp is given in thousandths


@dataclass(frozen=True, slots=True)
class FlowPath:
    """Where the pixels of a picture are in the next one.

    Attributes:
        to_px: (H, W, 2) float32, x and y there.
        seen: (H, W) whether flow there and flow back agree: the others are hidden there, or lost.
    """

    to_px: NDArray[np.float32]
    seen: NDArray[np.bool_]


def optical_flow(now: Picture, after: Picture) -> FlowPath:
    """Follow the pixels of a picture into the next one."""
    grey, grey_after = (np.asarray(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), np.uint8) for x in (now, after))
    estimator = FlowEstimator()  # it keeps buffers between calls: one a thread at a time
    there, back = estimator.flow(grey, grey_after), estimator.flow(grey_after, grey)
    x, y = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
    to_px = np.dstack([x, y]) + there
    returned = _laid(back, to_px)
    gap = ((there + returned) ** 2).sum(2)
    allowed = CONSISTENCY_SLOPE * ((there**2).sum(2) + (returned**2).sum(2)) + CONSISTENCY_FLOOR_PX2
    return FlowPath(to_px, gap < allowed)


def warp_error(now: Picture, after: Picture, along: FlowPath) -> float | None:
    """E_warp x 1e3: mean squared difference, in 0..1, to the next picture laid onto this one.

    Returns:
        None where no pixel is seen in both.
    """
    if not along.seen.any():
        return None
    laid = _laid(after, along.to_px).astype(np.float64)
    return float((((laid - now) / 255) ** 2)[along.seen].mean() * SCALE)


def _laid(values: NDArray[Any], to_px: NDArray[np.float32]) -> NDArray[Any]:
    return np.asarray(cv2.remap(values, to_px[..., 0], to_px[..., 1], cv2.INTER_LINEAR))
