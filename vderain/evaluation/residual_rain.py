"""How much rain is left where nobody knows the truth: a picture among its aligned neighbours enters, levels leave.

Rain is brighter than what it hides and is somewhere else a frame later (Garg & Nayar, "Vision and rain", IJCV 2007).
Noise, misalignment and moving things make a pixel darker than its neighbours as often as brighter, so the one is
counted against the other.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.window import RADIUS

FAINT_LEVELS = 4.0  # smaller differences are noise; a constant of its own, lest tuning the gate move its measure


def residual_rain_levels(aligned: NDArray[np.uint8]) -> float:
    """Rain in the centre of a window: mean(max(e - 4, 0)) - mean(max(-e - 4, 0)), e its luma less the window's median.

    Args:
        aligned: (5, H, W, 3) uint8 RGB, the centre in the middle and, where a neighbour is not to be believed, in the
            neighbour's place: there nothing is counted.

    Returns:
        Mean over the picture, in levels of 255. About 0 in dry weather; below 0 where dark ghosts come and go.
    """
    lumas = np.stack([np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in aligned])
    median = np.partition(lumas, RADIUS, axis=0)[RADIUS]
    excess = lumas[RADIUS].astype(np.float32) - median
    brighter, darker = np.maximum(excess - FAINT_LEVELS, 0), np.maximum(-excess - FAINT_LEVELS, 0)
    return float(brighter.mean(dtype=np.float64) - darker.mean(dtype=np.float64))
