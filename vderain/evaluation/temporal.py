"""Measures over time: the warping error between successive frames, and residual rain beside aligned neighbours."""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import CONSISTENCY_FLOOR_PX2, CONSISTENCY_SLOPE, FlowEstimator
from vderain.restore.frames import RADIUS, Picture

FAINT_LEVELS = 4.0  # smaller differences are noise; not shared with the temporal filter that it measures
SCALE = 1e3  # E_warp is reported in thousandths

Value = TypeVar("Value", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class FlowMap:
    """Where the pixels of a frame are in the next one.

    Attributes:
        to_px: (H, W, 2) float32, absolute x and y in the next frame.
        visible: (H, W) bool, whether forward and backward flow agree; False where a pixel is occluded or flow fails.
    """

    to_px: NDArray[np.float32]
    visible: NDArray[np.bool_]


def optical_flow(now: Picture, after: Picture) -> FlowMap:
    """Estimate where the pixels of a frame are in the next one.

    Forward-backward consistency: Sundaram, Brox & Keutzer, ECCV 2010.
    """
    grey, grey_after = (np.asarray(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), np.uint8) for x in (now, after))
    estimator = FlowEstimator()  # keeps buffers between calls, so it must not be shared between threads
    forward, backward = estimator.flow(grey, grey_after), estimator.flow(grey_after, grey)
    x, y = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
    to_px = np.dstack([x, y]) + forward
    returned = _warp(backward, to_px)
    gap = ((forward + returned) ** 2).sum(2)
    allowed = CONSISTENCY_SLOPE * ((forward**2).sum(2) + (returned**2).sum(2)) + CONSISTENCY_FLOOR_PX2
    return FlowMap(to_px, gap < allowed)


def warp_error(now: Picture, after: Picture, flow: FlowMap) -> float | None:
    """Compute the warping error E_warp: mean squared difference between a frame and the next one warped onto it.

    Lai et al., "Learning blind video temporal consistency", ECCV 2018, with DIS flow instead of a network's.

    Args:
        now: (H, W, 3) uint8 RGB.
        after: the next frame, of the same shape.
        flow: from ``now`` to ``after``; may be estimated on other frames of the same scene.

    Returns:
        The error of values in 0..1, times 1e3; None where no pixel is visible in both frames.
    """
    if not flow.visible.any():
        return None
    warped = _warp(after, flow.to_px).astype(np.float64)
    return float((((warped - now) / 255) ** 2)[flow.visible].mean() * SCALE)


def _warp(values: NDArray[Value], to_px: NDArray[np.float32]) -> NDArray[Value]:
    return np.asarray(cv2.remap(values, to_px[..., 0], to_px[..., 1], cv2.INTER_LINEAR), values.dtype)


def residual_rain_levels(aligned: NDArray[np.uint8]) -> float:
    """Measure the rain left in the centre frame of a window, without ground truth.

    Rain is brighter than what it hides and moves on within a frame (Garg & Nayar, "Vision and rain", IJCV 2007). Noise
    and errors of alignment make a pixel darker than its neighbours as often as brighter, so the two are subtracted:
    mean(max(e - 4, 0)) - mean(max(-e - 4, 0)), where e is luma minus the temporal median.

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
