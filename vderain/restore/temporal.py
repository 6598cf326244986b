"""Evidence from neighbouring frames: frames enter, windows of aligned neighbours leave; and a gate without a network.

Flow is computed once for each pair of frames and serves both directions, the network's window and the gate.
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
THUMBNAIL_PX = (32, 18)

Temporal = Literal["off", "light", "strong", "only"]
TEMPORAL_MODES: tuple[Temporal, ...] = ("off", "light", "strong", "only")


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame as the evidence stages see it.

    Attributes:
        frame: the decoded frame.
        rgb: (H, W, 3) uint8.
        small: (h, w) uint8 luma that flow is computed on.
    """

    frame: Frame
    rgb: Picture
    small: Luma


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


@dataclass(frozen=True, slots=True)
class Window:
    """A centre frame and what its neighbours say about it.

    Attributes:
        sight: the centre.
        number: of the centre in the clip, from 0.
        sources: which frames stand in the four neighbour places; the centre's own number where there is none.
        motions: from the centre to each of them; None for the centre itself.
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
        """Without the aligned pictures: what is left to know once the network has seen them."""
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
    sight = look(frame, turns)
    height_px, width_px = sight.rgb.shape[:2]
    aligned = np.broadcast_to(sight.rgb, (WINDOW, height_px, width_px, 3))
    trust = np.full((height_px, width_px), 255, np.uint8)
    return Window(sight, 0, (0,) * 4, (None,) * 4, aligned, trust)


def windows(frames: Iterable[Frame], workers: int, turns: int = 0, timed: Timed = untimed) -> Iterator[Window]:
    """Every frame with its two neighbours on each side, aligned to it; none from across a scene cut.

    Where a clip or a scene begins or ends, the neighbours on the other side stand in for the missing ones.
    """
    sights = ordered_map(timed("colour", partial(look, turns=turns)), frames, workers)
    linked = ordered_map(timed("flow", _linked), _numbered(sights), workers)
    return ordered_map(timed("align", _window), neighbourhoods(linked, RADIUS), workers)


def _numbered(sights: Iterator[Sight]) -> Iterator[tuple[int, tuple[Sight, Sight | None, Sight | None]]]:
    """Each sight with its number and the up to two before it in its scene."""
    before: list[Sight] = []
    for number, sight in enumerate(sights):
        if before and is_cut(before[-1].small, sight.small):
            before = []
        yield number, (sight, before[-1] if before else None, before[-2] if len(before) > 1 else None)
        before = [*before[-1:], sight]


def is_cut(previous: Luma, current: Luma) -> bool:
    """Whether a new scene begins between two frames. Sizes may differ: then it does."""
    if previous.shape != current.shape:
        return True
    first, second = (cv2.resize(x, THUMBNAIL_PX, interpolation=cv2.INTER_AREA) for x in (previous, current))
    return float(cv2.absdiff(first, second).mean()) > CUT_LEVELS


def _linked(item: tuple[int, tuple[Sight, Sight | None, Sight | None]]) -> Linked:
    """Flows from a frame to those before it, both ways."""
    number, (sight, once, twice) = item
    estimator = MotionEstimator()  # DIS keeps buffers between calls: one a thread at a time

    def flows(other: Sight | None) -> Flows | None:
        if other is None:
            return None
        return estimator.flow(sight.small, other.small), estimator.flow(other.small, sight.small)

    return Linked(sight, number, (flows(once), flows(twice)))


def _window(around: tuple[Linked | None, ...]) -> Window:
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
    return Window(sight, centre.number, tuple(sources), tuple(motions), stacked, full)


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
class Gate:
    """When a pixel is taken for rain by its neighbours alone. Levels are of 255.

    Attributes:
        threshold, ramp: brighter than the median by this much it begins to be replaced, by this much more it is.
        spread: neighbours that disagree by this much are no evidence; by twice this much, none at all.
        caution_dry, caution_rainy: how many times the darkening around a pixel its brightening must exceed.
        dry, rainy: asymmetry of a region that is taken for dry, or for rainy.
    """

    threshold: float = 4.0
    ramp: float = 6.0
    spread: float = 20.0
    caution_dry: float = 3.0
    caution_rainy: float = 0.3
    dry: float = 0.1
    rainy: float = 0.3


REGION_PX = 129  # over which asymmetry is judged
AROUND_PX = 9  # over which darkening is judged
FLOOR_LEVELS = 0.02  # below this mean excess a region has no asymmetry


def asymmetry(excess: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """How one-sided the differences to the neighbours are around each pixel, -1..1: rain only brightens.

    Misalignment, noise and moving things make a pixel darker than its neighbours as often as brighter; rain makes it
    brighter (Garg & Nayar 2007). Near 0 a region is dry.

    Args:
        excess: (H, W) luma minus the median of the aligned window, in levels.
        threshold: differences below it do not count, in levels.
    """
    size = (REGION_PX, REGION_PX)
    brighter = cv2.blur(np.maximum(excess - threshold, 0), size)
    darker = cv2.blur(np.maximum(-excess - threshold, 0), size)
    return np.asarray((brighter - darker) / (brighter + darker + FLOOR_LEVELS), dtype=np.float32)


def gated_median(aligned: NDArray[np.uint8], gate: Gate) -> NDArray[np.float32]:
    """What the gate adds to the centre: towards the temporal median where a pixel is rain by all tests, else nothing.

    Args:
        aligned: (5, H, W, 3) uint8, the centre in the middle.
        gate: when a pixel is rain.

    Returns:
        (H, W, 3) in 0..1 units, zero where nothing is done.
    """
    centre = aligned[RADIUS]
    neighbours = [aligned[i] for i in range(WINDOW) if i != RADIUS]
    median = _median([centre, *neighbours])
    excess = _luma(centre).astype(np.float32) - _luma(median)
    a, b, c, d = (_luma(x) for x in neighbours)
    second_low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    second_high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    spread = cv2.absdiff(second_high, second_low).astype(np.float32)
    darkening = cv2.blur(cv2.dilate(np.maximum(-excess, 0), np.ones((5, 5), np.uint8)), (AROUND_PX, AROUND_PX))
    rainy = np.clip((asymmetry(excess, gate.threshold) - gate.dry) / (gate.rainy - gate.dry), 0, 1)
    caution = gate.caution_dry + (gate.caution_rainy - gate.caution_dry) * rainy
    share = np.clip((excess - gate.threshold - caution * darkening) / gate.ramp, 0, 1)
    share *= np.clip(2 - spread / gate.spread, 0, 1)
    towards = median.astype(np.float32) - centre
    return np.asarray(towards * (share / 255)[..., None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Derained:
    """A window and what is to be added to its centre.

    Attributes:
        window: what was looked at.
        residual: (H, W, 3) in 0..1 units.
        presence: of rain, from 0, dry, to 1, as the guard judged it: whatever is added later is scaled by it.
    """

    window: Window
    residual: NDArray[np.float32]
    presence: float = 1.0

    @property
    def rgb(self) -> Picture:
        """(H, W, 3) uint8, the centre with the residual added."""
        return np.asarray(np.clip(self.window.sight.rgb + self.residual * 255 + 0.5, 0, 255), dtype=np.uint8)


def unchanged(window: Window) -> Derained:
    """What `--temporal only` hands to the gate: frames as they are."""
    return Derained(window.spent(), np.zeros(window.sight.rgb.shape, np.float32))


def smooth(derained: Iterable[Derained], gate: Gate, workers: int, timed: Timed = untimed) -> Iterator[Derained]:
    """Lets the gate take out what is left, by the derained neighbours along the motion that is known already."""
    shown = ((item, item.rgb) for item in derained)
    return ordered_map(timed("gate", partial(_gated, gate=gate)), neighbourhoods(shown, RADIUS), workers)


def _gated(around: tuple[tuple[Derained, Picture] | None, ...], gate: Gate) -> Derained:
    middle = around[RADIUS]
    assert middle is not None
    item, rgb = middle
    if item.presence == 0:
        return item
    pictures = {entry[0].window.number: entry[1] for entry in around if entry}
    window = item.window
    before2, before1, after1, after2 = (
        align(rgb, pictures[source], field) if field else rgb
        for source, field in zip(window.sources, window.motions, strict=True)
    )
    added = gated_median(np.stack([before2, before1, rgb, after1, after2]), gate)
    return replace(item, residual=item.residual + added * np.float32(item.presence))


GATES: dict[Temporal, Gate | None] = {"off": None, "light": None, "strong": Gate(), "only": Gate()}


def _luma(rgb: Picture) -> Luma:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _median(pictures: list[Picture]) -> Picture:
    """Median of five, by the comparisons of a selection network: a sort of every pixel is ten times slower."""
    a, b, c, d, e = pictures
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), dtype=np.uint8)
