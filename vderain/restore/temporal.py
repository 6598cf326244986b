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

from vderain.restore.motion import Luma, Motion, MotionEstimator, Picture, align, flow_luma, motion
from vderain.restore.parallel import Timed, neighbourhoods, ordered_map, untimed
from vderain.video.colour import to_rgb8
from vderain.video.frame import Frame

RADIUS = 2
WINDOW = 2 * RADIUS + 1
OFFSETS = (-2, -1, 1, 2)
CUT_LEVELS = 28.0  # mean difference of two thumbnails, in luma levels, that no camera motion makes
UNLIKE_LEVELS, UNLIKE = 12.0, 0.45  # or of their median place, where they correlate no better than strangers do
THUMBNAIL_PX = (32, 18)

Temporal = Literal["off", "light", "strong", "only"]
TEMPORAL_MODES: tuple[Temporal, ...] = ("off", "light", "strong", "only")


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame as the evidence stages see it.

    Attributes:
        frame: the decoded frame.
        rgb: (H, W, 3) uint8, without drops on the windshield where a wiper took them off.
        small: (h, w) uint8 luma that flow is computed on.
        wiped: (h, w, 3) half floats in 0..1 units, what the wiper added, before `wiper.enlarged`; None for nothing.
        wet: how sure it was of drops on the glass, 0 to 1.
        shot: number of the shot that it is in, from the first frame looked at.
        lone: whether it is all of that shot: a picture that is no clip.
    """

    frame: Frame
    rgb: Picture
    small: Luma
    wiped: "Residual | None" = None
    wet: float = 0.0
    shot: int = 0
    lone: bool = False


@dataclass(frozen=True, slots=True)
class Linked:
    """A sight, its number, and the flows between it and the frames before it.

    Attributes:
        back: for one and two frames before, (from this to that, from that to this), or None across a cut or the start.
    """

    sight: Sight
    number: int
    back: tuple["Flows | None", "Flows | None"]


Flows = tuple[NDArray[np.float32], NDArray[np.float32]]
Residual = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Window:
    """A centre frame and what its neighbours say about it.

    Attributes:
        sight: the centre.
        number: of the centre in the clip, from 0.
        sources: which frames stand in the four neighbour places; the centre's own number where there is none.
        motions: from the centre to each of them; None for the centre itself. Empty where nobody will ask again.
        aligned: (5, H, W, 3) uint8, in time order, the centre in the middle.
        trust: (H, W) uint8, mean trust of the four neighbours.
    """

    sight: Sight
    number: int
    sources: tuple[int, ...]
    motions: tuple[Motion | None, ...]
    aligned: NDArray[np.uint8]
    trust: NDArray[np.uint8]

    def spent(self) -> "Window":
        """Without the aligned pictures: what is left to know once they have been seen."""
        nothing = np.empty(0, np.uint8)
        return replace(self, aligned=nothing, trust=nothing)


def look(frame: Frame, turns: int = 0) -> Sight:
    """A frame as RGB, turned upright: rain falls down, and so the network learned it.

    Args:
        frame: as decoded.
        turns: quarter turns counter-clockwise that a player makes before showing it.
    """
    rgb = np.ascontiguousarray(np.rot90(to_rgb8(frame), turns))
    return Sight(frame, rgb, flow_luma(rgb))


def alone(frame: Frame, turns: int = 0) -> Window:
    """A frame without neighbours: itself five times over."""
    return still(look(frame, turns))


def still(sight: Sight) -> Window:
    """The same of what is seen of it already."""
    height_px, width_px = sight.rgb.shape[:2]
    aligned = np.broadcast_to(sight.rgb, (WINDOW, height_px, width_px, 3))
    trust = np.full((height_px, width_px), 255, np.uint8)
    return Window(sight, 0, (0,) * 4, (None,) * 4, aligned, trust)


def sights(frames: Iterable[Frame], workers: int, turns: int = 0, timed: Timed = untimed) -> Iterator[Sight]:
    """Every frame as the evidence stages see it; see `windows` for the arguments."""
    return _in_shots(ordered_map(timed("colour", partial(look, turns=turns)), frames, workers))


def _in_shots(seen: Iterable[Sight]) -> Iterator[Sight]:
    """Each sight with its shot. Whether it is alone there shows when the next one is seen."""
    shot, begins = 0, True
    held: Sight | None = None
    for sight in seen:
        if held is not None:
            ends = held.rgb.shape != sight.rgb.shape or is_cut(held.small, sight.small)
            yield replace(held, shot=shot, lone=begins and ends)
            shot, begins = shot + ends, ends
        held = sight
    if held is not None:
        yield replace(held, shot=shot, lone=begins)


def windows(
    frames: Iterable[Frame], workers: int, turns: int = 0, timed: Timed = untimed, keep_motions: bool = True
) -> Iterator[Window]:
    """`windows_of` the sights of frames.

    Args:
        frames: of one clip.
        workers: threads.
        turns: see `look`.
        timed: counts the time.
        keep_motions: for `steady`, which aligns once more.
    """
    return windows_of(sights(frames, workers, turns, timed), workers, timed, keep_motions)


def windows_of(
    seen: Iterable[Sight], workers: int, timed: Timed = untimed, keep_motions: bool = True
) -> Iterator[Window]:
    """Every frame with its two neighbours on each side, aligned to it; none from another shot.

    Where a shot begins or ends, the neighbours on the other side stand in for the missing ones.

    Args:
        seen: of one clip.
        workers: threads.
        timed: counts the time.
        keep_motions: for `steady`, which aligns once more.
    """
    linked = ordered_map(timed("flow", _linked), _numbered(seen), workers)
    aligned = partial(_window, keep_motions=keep_motions)
    return ordered_map(timed("align", aligned), neighbourhoods(linked, RADIUS), workers)


def _numbered(seen: Iterable[Sight]) -> Iterator[tuple[int, tuple[Sight, Sight | None, Sight | None]]]:
    """Each sight with its number and the up to two before it in its shot."""
    before: list[Sight] = []
    for number, sight in enumerate(seen):
        if before and before[-1].shot != sight.shot:
            before = []
        yield number, (sight, before[-1] if before else None, before[-2] if len(before) > 1 else None)
        before = [*before[-1:], sight]


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


def _linked(item: tuple[int, tuple[Sight, Sight | None, Sight | None]]) -> Linked:
    """Flows from a frame to those before it, both ways."""
    number, (sight, once, twice) = item
    estimator = MotionEstimator()  # DIS keeps buffers between calls: one a thread at a time

    def flows(other: Sight | None) -> Flows | None:
        if other is None:
            return None
        return estimator.flow(sight.small, other.small), estimator.flow(other.small, sight.small)

    return Linked(sight, number, (flows(once), flows(twice)))


def _window(around: tuple[Linked | None, ...], keep_motions: bool) -> Window:
    centre = around[RADIUS]
    assert centre is not None
    sight = centre.sight
    found = {offset: _motion(around, offset) for offset in OFFSETS}
    sources, motions, aligned = [], [], [sight.rgb]
    trust = np.zeros(sight.small.shape, np.float32)
    for offset in OFFSETS:
        used = offset if found[offset] else -offset
        field, neighbour = found[used], around[RADIUS + used]
        sources.append(centre.number + used if field else centre.number)
        motions.append(field)
        aligned.append(align(sight.rgb, neighbour.sight.rgb, field) if field and neighbour else sight.rgb)
        trust += (field.trust if field else np.uint8(255)) / np.float32(4)
    _, before2, before1, after1, after2 = aligned
    full = cv2.resize(trust, sight.rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    stacked = np.stack([before2, before1, sight.rgb, after1, after2])
    return Window(sight, centre.number, tuple(sources), tuple(motions) if keep_motions else (), stacked, full)


def _motion(around: tuple[Linked | None, ...], offset: int) -> Motion | None:
    """From the centre to the neighbour `offset` frames later, or None where there is none in this scene."""
    centre, neighbour = around[RADIUS], around[RADIUS + offset]
    if centre is None or neighbour is None:
        return None
    later = centre if offset < 0 else neighbour
    flows = later.back[abs(offset) - 1]
    if flows is None:
        return None
    forward, backward = flows if offset < 0 else flows[::-1]
    return motion(centre.sight.small, neighbour.sight.small, forward, backward)


@dataclass(frozen=True, slots=True)
class Derained:
    """A window and what is to be added to its centre.

    Attributes:
        window: what was looked at.
        residual: (H, W, 3) half floats in 0..1 units: finer than a twelve-bit code wherever it is below a quarter.
        presence: of rain, from 0, dry, to 1, as the guard judged it: whatever is added later is scaled by it.
    """

    window: Window
    residual: Residual
    presence: float = 1.0

    @property
    def rgb(self) -> Picture:
        """(H, W, 3) uint8, the centre with the residual added."""
        change = self.residual.astype(np.float32) * 255
        return np.asarray(cv2.add(self.window.sight.rgb, change, dtype=cv2.CV_8U), dtype=np.uint8)  # rounds, clips
