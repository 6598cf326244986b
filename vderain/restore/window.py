"""Evidence from neighbouring frames: frames enter, windows of aligned neighbours leave.

Flow is computed once for each pair of frames and serves both directions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.media.colour import to_rgb8
from vderain.media.frame import Frame
from vderain.restore.flow import ConsistentFlow, FlowEstimator, Luma, Picture, align, consistent_flow, flow_luma
from vderain.runtime.threads import Timed, ordered_map, sliding_window, untimed

RADIUS = 2
WINDOW = 2 * RADIUS + 1
OFFSETS = (-2, -1, 1, 2)
CUT_LEVELS = 28.0  # mean difference of two thumbnails, in luma levels, that no camera motion makes
UNLIKE_LEVELS, UNLIKE = 12.0, 0.45  # or of their median place, where they correlate no better than strangers do
THUMBNAIL_PX = (32, 18)

Temporal = Literal["off", "light", "strong", "only"]
TEMPORAL_MODES: tuple[Temporal, ...] = ("off", "light", "strong", "only")


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A frame as the evidence stages see it.

    Attributes:
        frame: the decoded frame.
        rgb: (H, W, 3) uint8, without drops on the windshield where a wiper took them off.
        small: (h, w) uint8 luma that flow is computed on.
        raindrop_residual: (h, w, 3) half floats in 0..1 units, what raindrop removal added, not yet enlarged; or None.
        raindrop_score: how sure it was of drops on the glass, 0 to 1.
        shot: number of the shot that it is in, from the first frame looked at.
        is_still_image: whether it is all of that shot: a picture that is no clip.
    """

    frame: Frame
    rgb: Picture
    small: Luma
    raindrop_residual: "Residual | None" = None
    raindrop_score: float = 0.0
    shot: int = 0
    is_still_image: bool = False


@dataclass(frozen=True, slots=True)
class FrameWithFlow:
    """A sight, its number, and the flows between it and the frames before it.

    Attributes:
        back: for one and two frames before, (from this to that, from that to this), or None across a cut or the start.
    """

    prepared: PreparedFrame
    number: int
    back: tuple["Flows | None", "Flows | None"]


Flows = tuple[NDArray[np.float32], NDArray[np.float32]]
Residual = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class AlignedWindow:
    """A centre frame and what its neighbours say about it.

    Attributes:
        prepared: the centre.
        number: of the centre in the clip, from 0.
        sources: which frames stand in the four neighbour places; the centre's own number where there is none.
        flows_to_neighbours: from the centre to each of them; None for the centre itself. Empty where not kept.
        aligned: (5, H, W, 3) uint8, in time order, the centre in the middle.
        confidence: (H, W) uint8, mean trust of the four neighbours.
    """

    prepared: PreparedFrame
    number: int
    sources: tuple[int, ...]
    flows_to_neighbours: tuple[ConsistentFlow | None, ...]
    aligned: NDArray[np.uint8]
    confidence: NDArray[np.uint8]

    def without_pixels(self) -> "AlignedWindow":
        """Without the aligned pictures: what is left to know once they have been seen."""
        nothing = np.empty(0, np.uint8)
        return replace(self, aligned=nothing, confidence=nothing)


def prepare_frame(frame: Frame, turns: int = 0) -> PreparedFrame:
    """A frame as RGB, turned upright: rain falls down, and so the network learned it.

    Args:
        frame: as decoded.
        turns: quarter turns counter-clockwise that a player makes before showing it.
    """
    rgb = np.ascontiguousarray(np.rot90(to_rgb8(frame), turns))
    return PreparedFrame(frame, rgb, flow_luma(rgb))


def single_frame(frame: Frame, turns: int = 0) -> AlignedWindow:
    """A frame without neighbours: itself five times over."""
    return single_frame_window(prepare_frame(frame, turns))


def single_frame_window(prepared: PreparedFrame) -> AlignedWindow:
    """The same of what is seen of it already."""
    height_px, width_px = prepared.rgb.shape[:2]
    aligned = np.broadcast_to(prepared.rgb, (WINDOW, height_px, width_px, 3))
    confidence = np.full((height_px, width_px), 255, np.uint8)
    return AlignedWindow(prepared, 0, (0,) * 4, (None,) * 4, aligned, confidence)


def prepare_frames(
    frames: Iterable[Frame], workers: int, turns: int = 0, timed: Timed = untimed
) -> Iterator[PreparedFrame]:
    """Every frame as the evidence stages see it; see `windows` for the arguments."""
    return _in_shots(ordered_map(timed("colour", partial(prepare_frame, turns=turns)), frames, workers))


def _in_shots(seen: Iterable[PreparedFrame]) -> Iterator[PreparedFrame]:
    """Each sight with its shot. Whether it is alone there shows when the next one is seen."""
    shot, begins = 0, True
    held: PreparedFrame | None = None
    for prepared in seen:
        if held is not None:
            ends = held.rgb.shape != prepared.rgb.shape or is_cut(held.small, prepared.small)
            yield replace(held, shot=shot, is_still_image=begins and ends)
            shot, begins = shot + ends, ends
        held = prepared
    if held is not None:
        yield replace(held, shot=shot, is_still_image=begins)


def windows(
    frames: Iterable[Frame], workers: int, turns: int = 0, timed: Timed = untimed, keep_flows: bool = True
) -> Iterator[AlignedWindow]:
    """`windows_of` the sights of frames.

    Args:
        frames: of one clip.
        workers: threads.
        turns: see `look`.
        timed: counts the time.
        keep_flows: for `steady`, which aligns once more.
    """
    return align_windows(prepare_frames(frames, workers, turns, timed), workers, timed, keep_flows)


def align_windows(
    seen: Iterable[PreparedFrame], workers: int, timed: Timed = untimed, keep_flows: bool = True
) -> Iterator[AlignedWindow]:
    """Every frame with its two neighbours on each side, aligned to it; none from another shot.

    Where a shot begins or ends, the neighbours on the other side stand in for the missing ones.

    Args:
        seen: of one clip.
        workers: threads.
        timed: counts the time.
        keep_flows: for `steady`, which aligns once more.
    """
    linked = ordered_map(timed("flow", _add_flow), _numbered(seen), workers)
    aligned = partial(_window, keep_flows=keep_flows)
    return ordered_map(timed("align", aligned), sliding_window(linked, RADIUS), workers)


def _numbered(
    seen: Iterable[PreparedFrame],
) -> Iterator[tuple[int, tuple[PreparedFrame, PreparedFrame | None, PreparedFrame | None]]]:
    """Each sight with its number and the up to two before it in its shot."""
    before: list[PreparedFrame] = []
    for number, prepared in enumerate(seen):
        if before and before[-1].shot != prepared.shot:
            before = []
        yield number, (prepared, before[-1] if before else None, before[-2] if len(before) > 1 else None)
        before = [*before[-1:], prepared]


def is_cut(previous: Luma, current: Luma) -> bool:
    """Whether a new shot begins between two frames of one size."""
    first, second = (cv2.resize(x, THUMBNAIL_PX, interpolation=cv2.INTER_AREA) for x in (previous, current))
    difference = cv2.absdiff(first, second)
    unlike = float(np.median(difference)) > UNLIKE_LEVELS and _correlation(first, second) < UNLIKE
    return unlike or float(difference.mean()) > CUT_LEVELS


def _correlation(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Of two thumbnails, -1 to 1; nearly flat ones correlate with nothing."""
    a, b = (part.astype(np.float32) - np.float32(part.mean()) for part in (first, second))
    return float((a * b).mean() / ((a.std() + 2) * (b.std() + 2)))


def _add_flow(item: tuple[int, tuple[PreparedFrame, PreparedFrame | None, PreparedFrame | None]]) -> FrameWithFlow:
    """Flows from a frame to those before it, both ways."""
    number, (prepared, once, twice) = item
    estimator = FlowEstimator()  # DIS keeps buffers between calls: one a thread at a time

    def flows(other: PreparedFrame | None) -> Flows | None:
        if other is None:
            return None
        return estimator.flow(prepared.small, other.small), estimator.flow(other.small, prepared.small)

    return FrameWithFlow(prepared, number, (flows(once), flows(twice)))


def _window(around: tuple[FrameWithFlow | None, ...], keep_flows: bool) -> AlignedWindow:
    centre = around[RADIUS]
    assert centre is not None
    prepared = centre.prepared
    found = {offset: _motion(around, offset) for offset in OFFSETS}
    sources, flows_to_neighbours, aligned = [], [], [prepared.rgb]
    confidence = np.zeros(prepared.small.shape, np.float32)
    for offset in OFFSETS:
        used = offset if found[offset] else -offset
        field, neighbour = found[used], around[RADIUS + used]
        sources.append(centre.number + used if field else centre.number)
        flows_to_neighbours.append(field)
        aligned.append(align(prepared.rgb, neighbour.prepared.rgb, field) if field and neighbour else prepared.rgb)
        confidence += (field.confidence if field else np.uint8(255)) / np.float32(4)
    _, before2, before1, after1, after2 = aligned
    full = cv2.resize(confidence, prepared.rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    stacked = np.stack([before2, before1, prepared.rgb, after1, after2])
    return AlignedWindow(
        prepared, centre.number, tuple(sources), tuple(flows_to_neighbours) if keep_flows else (), stacked, full
    )


def _motion(around: tuple[FrameWithFlow | None, ...], offset: int) -> ConsistentFlow | None:
    """From the centre to the neighbour `offset` frames later, or None where there is none in this scene."""
    centre, neighbour = around[RADIUS], around[RADIUS + offset]
    if centre is None or neighbour is None:
        return None
    later = centre if offset < 0 else neighbour
    flows = later.back[abs(offset) - 1]
    if flows is None:
        return None
    forward, backward = flows if offset < 0 else flows[::-1]
    return consistent_flow(centre.prepared.small, neighbour.prepared.small, forward, backward)


@dataclass(frozen=True, slots=True)
class Restoration:
    """A window and what is to be added to its centre.

    Attributes:
        window: what was looked at.
        residual: (H, W, 3) half floats in 0..1 units: finer than a twelve-bit code wherever it is below a quarter.
        rain_score: of rain, from 0, dry, to 1, as the guard judged it: whatever is added later is scaled by it.
    """

    window: AlignedWindow
    residual: Residual
    rain_score: float = 1.0

    @property
    def rgb(self) -> Picture:
        """(H, W, 3) uint8, the centre with the residual added."""
        change = self.residual.astype(np.float32) * 255
        return np.asarray(cv2.add(self.window.prepared.rgb, change, dtype=cv2.CV_8U), dtype=np.uint8)  # rounds, clips
