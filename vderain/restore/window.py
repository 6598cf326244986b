"""Aligns each frame's neighbours to it by optical flow.

Flow is computed once for each pair of frames and serves both directions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.media.frame import Frame
from vderain.restore.flow import FlowEstimator, align, consistent_flow
from vderain.restore.frames import RADIUS, WINDOW, AlignedWindow, ConsistentFlow, FlowPair, Picture, PreparedFrame
from vderain.restore.prepare import prepare_frame, prepare_frames
from vderain.runtime.profiling import stage
from vderain.runtime.threads import ordered_map, sliding_window

OFFSETS = (-2, -1, 1, 2)  # of the four neighbours, in frames


def windows(
    frames: Iterable[Frame], workers: int, rotation_quarters: int = 0, keep_flows: bool = True
) -> Iterator[AlignedWindow]:
    """Prepare and align decoded frames.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
        rotation_quarters: see `prepare_frames`.
        keep_flows: see `align_windows`.
    """
    return align_windows(prepare_frames(frames, workers, rotation_quarters), workers, keep_flows)


def align_windows(frames: Iterable[PreparedFrame], workers: int, keep_flows: bool = True) -> Iterator[AlignedWindow]:
    """Align the two neighbours on each side of every frame to it; neighbours of another shot are not used.

    Where a shot begins or ends, the neighbours on the other side stand in for the missing ones.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
        keep_flows: keep the flows in the windows, for a temporal filter that does not compute its own.
    """
    with_flow = ordered_map(_add_flow, _with_previous(frames), workers)
    return ordered_map(partial(_align, keep_flows=keep_flows), sliding_window(with_flow, RADIUS), workers)


def single_frame(frame: Frame) -> AlignedWindow:
    """The window of a decoded frame without neighbours."""
    return single_frame_window(prepare_frame(frame))


def single_frame_window(frame: PreparedFrame) -> AlignedWindow:
    """The window of a frame without neighbours: the frame itself in all five places."""
    aligned, confidence = repeat_frame(frame.rgb)
    return AlignedWindow(frame, (frame.number,) * 4, (None,) * 4, aligned, confidence)


def repeat_frame(rgb: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pixels of a window without neighbours.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (5, H, W, 3) uint8, a read-only view of `rgb`, and (H, W) uint8, full confidence.
    """
    return np.broadcast_to(rgb, (WINDOW, *rgb.shape)), np.full(rgb.shape[:2], 255, np.uint8)


_T = TypeVar("_T", np.uint8, np.float32)


def median_of_five(arrays: list[NDArray[_T]]) -> NDArray[_T]:
    """Element-wise median of five arrays of one shape.

    Uses the comparisons of a selection network; sorting every pixel is ten times slower.
    """
    a, b, c, d, e = arrays
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), dtype=e.dtype)


_WithPrevious = tuple[PreparedFrame, PreparedFrame | None, PreparedFrame | None]


def _with_previous(frames: Iterable[PreparedFrame]) -> Iterator[_WithPrevious]:
    """Each frame with the up to two frames before it in its shot, the nearest first."""
    previous: list[PreparedFrame] = []
    for frame in frames:
        if previous and previous[-1].shot != frame.shot:
            previous = []
        yield frame, previous[-1] if previous else None, previous[-2] if len(previous) > 1 else None
        previous = [*previous[-1:], frame]


@stage("flow")
def _add_flow(frames: _WithPrevious) -> PreparedFrame:
    """Compute the flows between a frame and those before it, in both directions."""
    frame, one_before, two_before = frames
    estimator = FlowEstimator()  # DIS keeps buffers between calls, so each call in a thread needs its own

    def flows(other: PreparedFrame | None) -> FlowPair | None:
        if other is None:
            return None
        return estimator.flow(frame.luma, other.luma), estimator.flow(other.luma, frame.luma)

    return replace(frame, flows_to_previous=(flows(one_before), flows(two_before)))


@stage("align")
def _align(around: tuple[PreparedFrame | None, ...], keep_flows: bool) -> AlignedWindow:
    """Align the neighbours of the frame in the middle of a sliding window."""
    centre = around[RADIUS]
    assert centre is not None
    flow_by_offset = {offset: _flow_to_neighbour(around, offset) for offset in OFFSETS}
    sources: list[int] = []
    flows: list[ConsistentFlow | None] = []
    aligned: list[Picture] = []
    confidence = np.zeros(centre.luma.shape, np.float32)  # (h, w)
    for offset in OFFSETS:
        used = offset if flow_by_offset[offset] else -offset
        flow, neighbour = flow_by_offset[used], around[RADIUS + used]
        sources.append(centre.number + used if flow else centre.number)
        flows.append(flow)
        aligned.append(align(centre.rgb, neighbour.rgb, flow) if flow and neighbour else centre.rgb)  # (H, W, 3)
        confidence += (flow.confidence if flow else np.uint8(255)) / np.float32(len(OFFSETS))
    full_size = cv2.resize(confidence, centre.rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)  # (H, W)
    return AlignedWindow(
        centre=replace(centre, flows_to_previous=(None, None)),  # not needed any more, and large
        sources=tuple(sources),
        flows_to_neighbours=tuple(flows) if keep_flows else (),
        aligned=np.stack([*aligned[:RADIUS], centre.rgb, *aligned[RADIUS:]]),  # (5, H, W, 3)
        confidence=full_size.astype(np.uint8),
    )


def _flow_to_neighbour(around: tuple[PreparedFrame | None, ...], offset: int) -> ConsistentFlow | None:
    """Flow from the centre to the frame `offset` later; None where there is none in this shot."""
    centre, neighbour = around[RADIUS], around[RADIUS + offset]
    if centre is None or neighbour is None:
        return None
    later = centre if offset < 0 else neighbour
    flows = later.flows_to_previous[abs(offset) - 1]
    if flows is None:
        return None
    forward, backward = flows if offset < 0 else flows[::-1]
    return consistent_flow(centre.luma, neighbour.luma, forward, backward)
