"""Optical flow between frames, its confidence, and alignment along it.

Rain is somewhere else one frame later, so aligned neighbours are the evidence against it. A misaligned neighbour is
false evidence, so every flow has a confidence.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.frames import ConsistentFlow, FlowPair, Luma, Picture, luma_of

FLOW_SIDE_MAX_PX = 960  # larger frames are halved again, which bounds the cost of flow up to 8K
MEDIAN_PX = 3  # removes thin streaks before flow can follow them; a wider one would remove lamp posts too
CONSISTENCY_SLOPE = 0.01  # Sundaram et al., "Dense point trajectories by GPU-accelerated large displacement optical
CONSISTENCY_FLOOR_PX2 = 0.5  # flow", ECCV 2010, eq. 5: |f + b|^2 < .01 (|f|^2 + |b|^2) + .5
OUTSIDE_PX = 1e3  # a displacement that never agrees with the backward flow
# Luma difference along the flow: full confidence below the first, none above the second. Broad streaks pass.
PHOTOMETRIC_FULL, PHOTOMETRIC_NONE = 60.0, 110.0


def flow_luma(rgb: Picture, rainy: bool = True) -> Luma:
    """The image that flow is computed on: luma at half size (a quarter above 1920 px and so on), median-filtered.

    Args:
        rgb: (H, W, 3) uint8.
        rainy: filter streaks out; without a filter, flow follows finer detail.

    Returns:
        (h, w) uint8 with h and w at least 1.
    """
    luma = luma_of(rgb)
    height_px, width_px = luma.shape
    factor = 2
    while max(height_px, width_px) / factor > FLOW_SIDE_MAX_PX:
        factor *= 2
    size = (max(1, width_px // factor), max(1, height_px // factor))
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.medianBlur(small, MEDIAN_PX) if rainy else small, dtype=np.uint8)


class FlowEstimator:
    """Dense optical flow (DIS: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016)."""

    SIDE_MIN_PX = 16  # below this DIS has no pyramid to work on

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, source: Luma, target: Luma) -> NDArray[np.float32]:
        """Flow from one image to another.

        Args:
            source: (h, w) uint8.
            target: (h, w) uint8.

        Returns:
            (h, w, 2) float32, x and y displacement in pixels: source(x) corresponds to target(x + flow). Zero for
            images smaller than `SIDE_MIN_PX`.
        """
        if min(source.shape) < self.SIDE_MIN_PX:
            return np.zeros((*source.shape, 2), np.float32)
        return np.asarray(self._dis.calc(source, target, None), np.float32)  # type: ignore[call-overload]

    def both_ways(self, source: Luma, target: Luma) -> FlowPair:
        """Flow from one image to another and back, with confidences; see `consistent_flow`.

        Args:
            source: (h, w) uint8.
            target: (h, w) uint8.
        """
        forward, backward = self.flow(source, target), self.flow(target, source)
        there = consistent_flow(source, target, forward, backward)
        return there, consistent_flow(target, source, backward, forward)


def consistent_flow(
    centre: Luma, neighbour: Luma, forward: NDArray[np.float32], backward: NDArray[np.float32]
) -> ConsistentFlow:
    """Compute the confidence of a flow from its backward flow and from the images.

    Args:
        centre: (h, w) uint8 luma.
        neighbour: (h, w) uint8 luma.
        forward: (h, w, 2) float32, flow from centre to neighbour.
        backward: (h, w, 2) float32, flow from neighbour to centre.

    Returns:
        The forward flow; its confidence is high where forward and backward flow agree (no occlusion; Sundaram et al.,
        ECCV 2010, eq. 5) and where the neighbour looks like the centre along the flow.
    """
    where = sampling_places(forward)  # (h, w, 2)
    returned = sampled(backward, where, cv2.BORDER_CONSTANT, OUTSIDE_PX)
    gap = _squared_length(forward + returned)  # (h, w), squared pixels
    allowed = CONSISTENCY_SLOPE * (_squared_length(forward) + _squared_length(returned)) + CONSISTENCY_FLOOR_PX2
    found = sampled(neighbour, where, cv2.BORDER_REPLICATE)
    difference = cv2.blur(cv2.absdiff(centre, found).astype(np.float32), (5, 5))
    confidence = np.clip((PHOTOMETRIC_NONE - difference) / (PHOTOMETRIC_NONE - PHOTOMETRIC_FULL), 0, 1)  # (h, w)
    confidence[gap > allowed] = 0
    smooth = cv2.blur(cv2.erode(confidence, np.ones((3, 3))), (3, 3))
    return ConsistentFlow(forward, (smooth * 255 + 0.5).astype(np.uint8))


def _squared_length(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) from (h, w, 2); NumPy's sum over so short an axis takes ten times as long."""
    return np.asarray(flow[..., 0] ** 2 + flow[..., 1] ** 2, np.float32)


class Warp:
    """Samples images along a flow.

    Args:
        flow: from a frame to another one, at flow size.
        shape: (H, W) of the frames.

    Attributes:
        confidence: (H, W) float32, 0 to 1, of the flow.
    """

    def __init__(self, flow: ConsistentFlow, shape: tuple[int, ...]) -> None:
        self._where = sampling_places(_enlarged(flow, shape))
        small = flow.confidence.astype(np.float32) * np.float32(1 / 255)
        full = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        self.confidence = np.asarray(full, np.float32)

    def __call__(self, image: NDArray[Any], interpolation: int = cv2.INTER_LINEAR) -> NDArray[Any]:
        """An image of the other frame, as seen from the first one.

        Args:
            image: (H, W) or (H, W, C).
            interpolation: OpenCV's; linear interpolation blurs a picture, and does no harm to a smooth map.
        """
        return sampled(image, self._where, cv2.BORDER_REPLICATE, interpolation=interpolation)


def align(centre: Picture, neighbour: Picture, flow: ConsistentFlow) -> Picture:
    """Warp a neighbour onto the centre; blends to the centre itself where the confidence is low.

    Args:
        centre: (H, W, 3) uint8.
        neighbour: (H, W, 3) uint8.
        flow: from centre to neighbour, at flow size.

    Returns:
        (H, W, 3) uint8.
    """
    warp = Warp(flow, centre.shape[:2])
    warped = warp(neighbour, cv2.INTER_CUBIC)
    return np.asarray(cv2.blendLinear(warped, centre, warp.confidence, 1 - warp.confidence), dtype=np.uint8)


def full_size(flow: ConsistentFlow, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Enlarge a flow and its confidence to the size of a frame.

    Args:
        flow: at flow size.
        shape: (H, W).

    Returns:
        (H, W, 2) float32 in pixels of the frame, and (H, W) uint8.
    """
    confidence = cv2.resize(flow.confidence, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return _enlarged(flow, shape), np.asarray(confidence, np.uint8)


def _enlarged(flow: ConsistentFlow, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(H, W, 2) flow in pixels of a frame of (H, W)."""
    h, w = flow.confidence.shape
    scale = np.array([shape[1] / w, shape[0] / h], np.float32)
    return np.asarray(cv2.resize(flow.flow * scale, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def composed(first: ConsistentFlow, second: ConsistentFlow) -> ConsistentFlow:
    """The flow from one frame to the next but one.

    Args:
        first: from the frame to the next.
        second: from that one onward, of the same size.
    """
    where = sampling_places(first.flow)
    flow = first.flow + sampled(second.flow, where, cv2.BORDER_REPLICATE)
    onward = sampled(second.confidence, where, cv2.BORDER_REPLICATE).astype(np.float32)
    confidence = first.confidence * onward * np.float32(1 / 255)
    return ConsistentFlow(flow, (confidence + np.float32(0.5)).astype(np.uint8))


def align_plane(centre: Luma, neighbour: Luma, flow: ConsistentFlow) -> tuple[Luma, NDArray[np.uint8]]:
    """Warp a neighbour's luma onto the centre's; blends to the centre's where the confidence is low.

    Args:
        centre: (H, W) uint8.
        neighbour: (H, W) uint8.
        flow: from centre to neighbour, at flow size.

    Returns:
        The luma and the confidence of the alignment, (H, W) uint8 each.
    """
    enlarged, confidence = full_size(flow, centre.shape)
    warped = sampled(neighbour, sampling_places(enlarged), cv2.BORDER_REPLICATE, interpolation=cv2.INTER_CUBIC)
    weight = confidence.astype(np.float32) * np.float32(1 / 255)
    return np.asarray(cv2.blendLinear(warped, centre, weight, 1 - weight), np.uint8), confidence


def sampled(
    image: NDArray[Any],
    where: NDArray[np.float32],
    border: int,
    outside: float = 0.0,
    interpolation: int = cv2.INTER_LINEAR,
) -> NDArray[Any]:
    """The image at fractional positions: (h, w, 2) of x and y."""
    no_second_map = None  # the stubs want an array, and OpenCV 5 reads past the end of an empty one
    return np.asarray(cv2.remap(image, where, no_second_map, interpolation, None, border, outside))  # type: ignore[call-overload]


def sampling_places(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """The positions, (h, w, 2) of x and y, that a flow of that shape points to."""
    return np.add(flow, _grid_px((flow.shape[0], flow.shape[1])), dtype=np.float32)


@lru_cache(maxsize=8)
def _grid_px(shape: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w, 2) of x, y coordinates; cached, since every frame of a clip needs the same two sizes."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    return np.dstack([x, y])
