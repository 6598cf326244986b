"""When it rains: looks at a clip from time to time enter, spells of rain and of dry weather leave.

A wet road stays wet and a wiper clears the glass for a second, so a spell does not end at one dry look, and does not
begin at a faint one: between the two thresholds it goes on as it was.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import numpy as np
from numpy.typing import NDArray

from vderain.media.frame import Frame
from vderain.restore.inference import NetworkRunner
from vderain.restore.rain_detection import removed_light, score_rain, score_thin_rain
from vderain.restore.raindrops import RaindropRemover
from vderain.restore.window import RADIUS, WINDOW, align_windows, prepare_frames
from vderain.runtime.threads import sliding_window

SAMPLE_INTERVAL_S = 1.0  # between two looks
SAMPLE_FRAMES = WINDOW + 2  # in a look: what the network would take out of the three in the middle is averaged
NEIGHBOUR_SAMPLES = 2  # before and after, with which a look is taken together to see thin rain
BEGINS, ENDS = 0.5, 0.1  # presence of rain from which on a spell begins, and up to which it may end
DRY_SAMPLES = 3  # in a row that end a spell of rain


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one place of a clip.

    Attributes:
        number: of the frame, from 0.
        time_s: its instant.
        rain_score: of rain, 0 to 1: of streaks, see `guard.rain_presence`, or of drops on the glass, see `wiper`.
    """

    number: int
    time_s: float
    rain_score: float


@dataclass(frozen=True, slots=True)
class RainInterval:
    """A stretch of one kind of weather.

    Attributes:
        first: number of its first frame; it ends where the next one begins.
        begin_s: instant of that frame.
        rainy: whether it rains.
        rain_score: of rain, mean over the looks in it.
    """

    first: int
    begin_s: float
    rainy: bool
    rain_score: float


def scan(
    frames: Iterable[Frame], network: NetworkRunner, raindrop_remover: RaindropRemover | None, turns: int = 0
) -> list[Sample]:
    """Looks at a clip once in `LOOK_S`, with seven frames, and the network for three of them.

    Args:
        frames: of the whole clip.
        network: whose residual tells rain.
        raindrop_remover: tells drops on the glass, where those are looked for.
        turns: see `temporal.look`.
    """
    seen: list[_RawSample] = []
    together: list[Frame] = []
    next_s: float | None = None
    for number, frame in enumerate(frames):
        time_s = float(frame.pts * frame.time_base)
        if next_s is not None and time_s < next_s and not together:
            continue
        together.append(frame)
        if len(together) == SAMPLE_FRAMES:
            seen.append(_sample(together, number, network, raindrop_remover, turns))
            together, next_s = [], seen[-1].time_s + SAMPLE_INTERVAL_S
    if together:  # the end of the clip, or a clip shorter than a look
        seen.append(_sample(together, number, network, raindrop_remover, turns))
    return [_judged(around) for around in sliding_window(seen, NEIGHBOUR_SAMPLES)]


@dataclass(frozen=True, slots=True)
class _RawSample:
    """What one look found: how far it is rain by itself, and the darkening of each tile."""

    number: int
    time_s: float
    rain_score: float
    removed_light: NDArray[np.float32]


def _sample(
    frames: list[Frame], last: int, network: NetworkRunner, raindrop_remover: RaindropRemover | None, turns: int
) -> _RawSample:
    middle = len(frames) // 2
    seen = prepare_frames(frames, 1, turns)
    seen = raindrop_remover(seen, 1, radius=RADIUS) if raindrop_remover else seen
    first = max(0, middle - 1)
    derained = list(network(islice(align_windows(seen, 1), first, middle + 2)))
    tiles = [removed_light(item.residual) for item in derained]
    frame, at = frames[middle], middle - first
    rain_score = max(score_rain([tiles[at]]), derained[at].window.prepared.raindrop_score)
    time_s = float(frame.pts * frame.time_base)
    return _RawSample(
        last - len(frames) + 1 + middle, time_s, rain_score, np.asarray(np.mean(tiles, axis=0), np.float32)
    )


def _judged(around: tuple[_RawSample | None, ...]) -> Sample:
    """By itself; where that says nothing, with those around it that say nothing either."""
    seen = around[NEIGHBOUR_SAMPLES]
    assert seen is not None
    silent = [other.removed_light for other in around if other and other.rain_score < BEGINS]
    thin = score_thin_rain(silent) if seen.rain_score < BEGINS else 0.0
    return Sample(seen.number, seen.time_s, max(seen.rain_score, thin))


def rain_intervals(looks: list[Sample]) -> list[RainInterval]:
    """The weather by hysteresis.

    A spell of rain begins at the last look before the one that saw it, so that its first drops are not missed, and
    ends at the first dry look after the last that was not.
    """
    rainy = _by_hysteresis([look.rain_score for look in looks])
    wide = [*(now or after for now, after in pairwise(rainy)), *rainy[-1:]]
    found: list[RainInterval] = []
    for is_rainy, group in groupby(zip(looks, wide, strict=True), key=lambda pair: pair[1]):
        inside = [look for look, _ in group]
        first, begin_s = (inside[0].number, inside[0].time_s) if found else (0, min(0.0, inside[0].time_s))
        found.append(RainInterval(first, begin_s, is_rainy, sum(look.rain_score for look in inside) / len(inside)))
    return found


def _by_hysteresis(presences: list[float]) -> list[bool]:
    rainy, dry_looks, states = False, 0, []
    for rain_score in presences:
        dry_looks = dry_looks + 1 if rain_score <= ENDS else 0
        rainy = rain_score >= BEGINS or (rainy and dry_looks < DRY_SAMPLES)
        states.append(rainy)
    return states


def is_rainy(found: list[RainInterval], number: int) -> bool:
    """Whether frame `number` is in a spell of rain."""
    begun = [interval for interval in found if interval.first <= number]
    return bool(begun) and begun[-1].rainy


def by_interval(
    frames: Iterable[Frame], found: list[RainInterval], first: int = 0
) -> Iterator[tuple[bool, Iterator[Frame]]]:
    """Frames in order, together as long as the weather lasts: whether it rains, and the frames.

    Args:
        frames: of the clip, from frame number `first` on.
        found: the clip's weather.
        first: see above.
    """
    numbered = enumerate(frames, first)
    for rainy, group in groupby(numbered, key=lambda pair: is_rainy(found, pair[0])):
        yield rainy, (frame for _, frame in group)
