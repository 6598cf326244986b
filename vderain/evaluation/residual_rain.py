"""Measures residual rain without ground truth, from a frame and its aligned neighbours.

Rain is brighter than what it hides and moves on within a frame (Garg & Nayar, "Vision and rain", IJCV 2007). Noise,
misalignment and moving objects make a pixel darker than its neighbours as often as brighter, so the two are subtracted.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.frames import RADIUS

FAINT_LEVELS = 4.0  # smaller differences are noise; not shared with the temporal filter that it measures


def residual_rain_levels(aligned: NDArray[np.uint8]) -> float:
    """Measure the rain in the centre frame of a window.

    The measure is mean(max(e - 4, 0)) - mean(max(-e - 4, 0)), where e is luma minus the temporal median.

    Args:
        aligned: (5, H, W, 3) uint8 RGB, the centre frame in the middle. Where flow to a neighbour is unreliable, the
            neighbour holds the pixels of the centre, so that nothing is counted there.

    Returns:
        Mean over the frame, in levels of 255. About 0 in dry weather; negative where dark ghosts come and go.
    """
    lumas = np.stack([np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in aligned])
    median = np.partition(lumas, RADIUS, axis=0)[RADIUS]
    excess = lumas[RADIUS].astype(np.float32) - median
    brighter, darker = np.maximum(excess - FAINT_LEVELS, 0), np.maximum(-excess - FAINT_LEVELS, 0)
    return float(brighter.mean(dtype=np.float64) - darker.mean(dtype=np.float64))
