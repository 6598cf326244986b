"""Where each pixel of a frame was in its neighbours, and whether that can be believed.

Frames enter as RGB and as the small, median-filtered luma that flow is computed on; motion fields and aligned
neighbours leave. Rain is where it was not a frame ago, so aligned neighbours are the evidence against it; a misaligned
neighbour is false evidence, so every field carries its trust.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Luma = NDArray[np.uint8]  # (h, w), at flow size

FLOW_SIDE_MAX_PX = 960  # longer pictures are halved again: flow cost stays bounded up to 8K
MEDIAN_PX = 3  # takes thin streaks out before the flow can follow them; more would take lamp posts out too
CONSISTENCY_SLOPE = 0.01  # Sundaram et al., "Dense point trajectories by GPU-accelerated large displacement optical
CONSISTENCY_FLOOR_PX2 = 0.5  # flow", ECCV 2010, eq. 5: |f + b|^2 < .01 (|f|^2 + |b|^2) + .5
OUTSIDE_PX = 1e3  # a displacement no way back agrees with
PHOTOMETRIC_FULL, PHOTOMETRIC_NONE = 60.0, 110.0  # luma levels: full trust below, none above; broad streaks pass


@dataclass(frozen=True, slots=True)
class ConsistentFlow:
    """From one frame to another.

    Attributes:
        flow: (h, w, 2) float32, x and y displacement in flow-size pixels.
        confidence: (h, w) uint8, 0 (not to be believed) to 255.
    """

    flow: NDArray[np.float32]
    confidence: NDArray[np.uint8]


def flow_luma(rgb: Picture, rainy: bool = True) -> Luma:
    """The picture that flow is computed on: luma at half size (a quarter above 1920 px and so on), median-filtered.

    Args:
        rgb: (H, W, 3) uint8.
        rainy: whether streaks have to be filtered out; without them, flow follows finer things.

    Returns:
        (h, w) uint8 with h and w at least 1.
    """
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    height_px, width_px = luma.shape
    factor = 2
    while max(height_px, width_px) / factor > FLOW_SIDE_MAX_PX:
        factor *= 2
    size = (max(1, width_px // factor), max(1, height_px // factor))
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.medianBlur(small, MEDIAN_PX) if rainy else small, dtype=np.uint8)


class FlowEstimator:
    """Dense flow between two small lumas.

    DIS: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
    """

    SIDE_MIN_PX = 16  # below this DIS has no pyramid to work on

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, source: Luma, target: Luma) -> NDArray[np.float32]:
        """Displacements (h, w, 2): source(x) is found at target(x + flow); zero for pictures too small to move."""
        if min(source.shape) < self.SIDE_MIN_PX:
            return np.zeros((*source.shape, 2), np.float32)
        return np.asarray(self._dis.calc(source, target, None), np.float32)  # type: ignore[call-overload]


def consistent_flow(
    centre: Luma, neighbour: Luma, forward: NDArray[np.float32], backward: NDArray[np.float32]
) -> ConsistentFlow:
    """Join both directions of a flow into a field that knows where it can be believed.

    Args:
        centre: (h, w) small luma.
        neighbour: (h, w) small luma.
        forward: (h, w, 2) flow from centre to neighbour.
        backward: (h, w, 2) flow from neighbour to centre.

    Returns:
        The forward flow, trusted where the way there and back ends near its start (no occlusion) and where the
        neighbour found there looks like the centre.
    """
    where = forward + _grid(centre.shape)
    returned = _sample(backward, where, cv2.BORDER_CONSTANT, OUTSIDE_PX)
    gap = ((forward + returned) ** 2).sum(2)
    allowed = CONSISTENCY_SLOPE * ((forward**2).sum(2) + (returned**2).sum(2)) + CONSISTENCY_FLOOR_PX2
    found = _sample(neighbour, where, cv2.BORDER_REPLICATE)
    difference = cv2.blur(cv2.absdiff(centre, found).astype(np.float32), (5, 5))
    believed = np.clip((PHOTOMETRIC_NONE - difference) / (PHOTOMETRIC_NONE - PHOTOMETRIC_FULL), 0, 1)
    believed[gap > allowed] = 0
    return ConsistentFlow(
        forward, (cv2.blur(cv2.erode(believed, np.ones((3, 3))), (3, 3)) * 255 + 0.5).astype(np.uint8)
    )


def align(centre: Picture, neighbour: Picture, field: ConsistentFlow) -> Picture:
    """The neighbour as seen from the centre; the centre itself where the motion is not to be believed.

    Args:
        centre: (H, W, 3) uint8.
        neighbour: (H, W, 3) uint8.
        field: from centre to neighbour, at flow size.

    Returns:
        (H, W, 3) uint8.
    """
    height_px, width_px = centre.shape[:2]
    h, w = field.confidence.shape
    scale = np.array([width_px / w, height_px / h], np.float32)
    flow = cv2.resize(field.flow * scale, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    where = np.add(flow, _grid((height_px, width_px)), dtype=np.float32)
    warped = _sample(neighbour, where, cv2.BORDER_REPLICATE, how=cv2.INTER_CUBIC)  # linear would blur what it lends
    small = field.confidence.astype(np.float32) * np.float32(1 / 255)
    confidence = cv2.resize(small, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.blendLinear(warped, centre, confidence, 1 - confidence), dtype=np.uint8)


def _sample(
    picture: NDArray[Any], where: NDArray[np.float32], border: int, outside: float = 0.0, how: int = cv2.INTER_LINEAR
) -> NDArray[Any]:
    """The picture at fractional places: (h, w, 2) of x and y."""
    no_second_map = None  # the stubs want an array, and OpenCV 5 reads past the end of an empty one
    return np.asarray(cv2.remap(picture, where, no_second_map, how, None, border, outside))  # type: ignore[call-overload]


@lru_cache(maxsize=8)
def _grid(shape: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w, 2) of x, y coordinates; kept, since every frame of a clip asks for the same two sizes."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.dstack([x, y])
