"""Prepares decoded frames, numbers shots, and aligns each frame's neighbours to it by optical flow.

Flow is computed once for each pair of successive frames, in both directions. To the frame before that it is composed of
two: a third of the time, and a tenth of a decibel less on most clips.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from vderain.media.colour import to_rgb8
from vderain.media.frame import Frame
from vderain.restore.flow import FlowEstimator, align, composed, flow_luma
from vderain.restore.frames import (
    RADIUS,
    AlignedWindow,
    ConsistentFlow,
    Picture,
    PreparedFrame,
    repeat_frame,
)
from vderain.restore.scene_state import is_cut
from vderain.runtime.threads import ordered_map, sliding_window, stage

OFFSETS = (-2, -1, 1, 2)  # of the four neighbours, in frames
HALVED_LINES = 720  # of the shorter side; streaks in smaller frames are too thin to be seen at half the size


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


def prepare_frames(
    frames: Iterable[Frame], workers: int, rotation_quarters: int = 0, first: int = 0, half_size: bool = False
) -> Iterator[PreparedFrame]:
    """Prepare a stream of frames.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing the frames.
        first: number of the first frame.
        half_size: downscale large frames.
    """
    prepare = partial(prepare_frame, rotation_quarters=rotation_quarters, half_size=half_size)
    prepared = ordered_map(prepare, frames, workers)
    return _number_shots(prepared, first)


@stage("prepare")
def prepare_frame(frame: Frame, rotation_quarters: int = 0, half_size: bool = False) -> PreparedFrame:
    """Convert one frame to RGB and turn it upright: the network learned that rain falls down.

    Args:
        frame: as decoded.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing it.
        half_size: downscale it by two, if it has `HALVED_LINES` or more.
    """
    rgb = np.ascontiguousarray(np.rot90(to_rgb8(frame), rotation_quarters))
    if half_size and min(rgb.shape[:2]) >= HALVED_LINES:
        size = rgb.shape[1] // 2, rgb.shape[0] // 2
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return PreparedFrame(frame, rgb, flow_luma(rgb))


def _number_shots(frames: Iterable[PreparedFrame], first: int) -> Iterator[PreparedFrame]:
    """Add numbers and shots. Whether a frame is a still image shows when the next one arrives."""
    shot, is_first = 0, True
    previous: PreparedFrame | None = None
    for number, current in enumerate(frames, first):
        if previous is not None:
            is_last = previous.rgb.shape != current.rgb.shape or is_cut(previous.luma, current.luma)
            yield replace(previous, shot=shot, is_still_image=is_first and is_last)
            shot, is_first = shot + is_last, is_last
        previous = replace(current, number=number)
    if previous is not None:
        yield replace(previous, shot=shot, is_still_image=is_first)


def align_windows(frames: Iterable[PreparedFrame], workers: int, keep_flows: bool = True) -> Iterator[AlignedWindow]:
    """Align the two neighbours on each side of every frame to it; neighbours of another shot are not used.

    Where a shot begins or ends, the neighbours on the other side stand in for the missing ones.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
        keep_flows: keep the flows in the windows, for a temporal filter that does not compute its own.
    """
    with_flow = sliding_window(add_flows(frames, workers), RADIUS)
    return ordered_map(partial(_align, keep_flows=keep_flows), with_flow, workers)


def single_frame(frame: Frame) -> AlignedWindow:
    """The window of a decoded frame without neighbours."""
    return single_frame_window(prepare_frame(frame))


def single_frame_window(frame: PreparedFrame) -> AlignedWindow:
    """The window of a frame without neighbours: the frame itself in all five places."""
    aligned, confidence = repeat_frame(frame.rgb)
    return AlignedWindow(frame, (frame.number,) * 4, (None,) * 4, aligned, confidence)


def add_flows(frames: Iterable[PreparedFrame], workers: int) -> Iterator[PreparedFrame]:
    """Compute `PreparedFrame.flows_to_previous`.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
    """
    return ordered_map(_add_flow, _with_previous(frames), workers)


def _with_previous(frames: Iterable[PreparedFrame]) -> Iterator[tuple[PreparedFrame, PreparedFrame | None]]:
    """Each frame with the one before it in its shot."""
    previous: PreparedFrame | None = None
    for frame in frames:
        yield frame, previous if previous is not None and previous.shot == frame.shot else None
        previous = frame


@stage("flow")
def _add_flow(frames: tuple[PreparedFrame, PreparedFrame | None]) -> PreparedFrame:
    """Compute the flows between a frame and the one before it, in both directions."""
    frame, previous = frames
    if previous is None:
        return frame
    estimator = FlowEstimator()  # DIS keeps buffers between calls, so each call in a thread needs its own
    return replace(frame, flows_to_previous=estimator.both_ways(frame.luma, previous.luma))


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
        centre=replace(centre, flows_to_previous=None),  # not needed any more, and large
        sources=tuple(sources),
        flows_to_neighbours=tuple(flows) if keep_flows else (),
        aligned=np.stack([*aligned[:RADIUS], centre.rgb, *aligned[RADIUS:]]),  # (5, H, W, 3)
        confidence=full_size.astype(np.uint8),
    )


def _flow_to_neighbour(around: tuple[PreparedFrame | None, ...], offset: int) -> ConsistentFlow | None:
    """Flow from the centre to the frame `offset` later, from frame to frame; None where there is none in this shot."""
    step = 1 if offset > 0 else -1
    flow: ConsistentFlow | None = None
    for place in range(RADIUS, RADIUS + offset, step):
        later = around[max(place, place + step)]
        if later is None or later.flows_to_previous is None:
            return None
        to_previous, from_previous = later.flows_to_previous
        onward = from_previous if step > 0 else to_previous
        flow = onward if flow is None else composed(flow, onward)
    return flow
