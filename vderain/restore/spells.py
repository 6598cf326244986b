"""When it rains: looks at a clip from time to time enter, spells of rain and of dry weather leave.

A wet road stays wet and a wiper clears the glass for a second, so a spell does not end at one dry look, and does not
begin at a faint one: between the two thresholds it goes on as it was.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import numpy as np
from numpy.typing import NDArray

from vderain.restore.derain import Derainer
from vderain.restore.guard import darkening, rain_presence, thin_rain_presence
from vderain.restore.parallel import neighbourhoods
from vderain.restore.temporal import RADIUS, WINDOW, sights, windows_of
from vderain.restore.wiper import Wiper
from vderain.video.frame import Frame

LOOK_S = 1.0  # between two looks
LOOK_FRAMES = WINDOW + 2  # in a look: what the network would take out of the three in the middle is averaged
AROUND_LOOKS = 2  # before and after, with which a look is taken together to see thin rain
BEGINS, ENDS = 0.5, 0.1  # presence of rain from which on a spell begins, and up to which it may end
DRY_LOOKS = 3  # in a row that end a spell of rain


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one place of a clip.

    Attributes:
        number: of the frame, from 0.
        time_s: its instant.
        presence: of rain, 0 to 1: of streaks, see `guard.rain_presence`, or of drops on the glass, see `wiper`.
    """

    number: int
    time_s: float
    presence: float


@dataclass(frozen=True, slots=True)
class Spell:
    """A stretch of one kind of weather.

    Attributes:
        first: number of its first frame; it ends where the next one begins.
        begin_s: instant of that frame.
        rainy: whether it rains.
        presence: of rain, mean over the looks in it.
    """

    first: int
    begin_s: float
    rainy: bool
    presence: float


def survey(frames: Iterable[Frame], derainer: Derainer, wiper: Wiper | None, turns: int = 0) -> list[Look]:
    """Looks at a clip once in `LOOK_S`, with seven frames, and the network for three of them.

    Args:
        frames: of the whole clip.
        derainer: whose residual tells rain.
        wiper: tells drops on the glass, where those are looked for.
        turns: see `temporal.look`.
    """
    seen: list[_Seen] = []
    together: list[Frame] = []
    next_s: float | None = None
    for number, frame in enumerate(frames):
        time_s = float(frame.pts * frame.time_base)
        if next_s is not None and time_s < next_s and not together:
            continue
        together.append(frame)
        if len(together) == LOOK_FRAMES:
            seen.append(_look(together, number, derainer, wiper, turns))
            together, next_s = [], seen[-1].time_s + LOOK_S
    if together:  # the end of the clip, or a clip shorter than a look
        seen.append(_look(together, number, derainer, wiper, turns))
    return [_judged(around) for around in neighbourhoods(seen, AROUND_LOOKS)]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found: how far it is rain by itself, and the darkening of each tile."""

    number: int
    time_s: float
    presence: float
    darkening: NDArray[np.float32]


def _look(frames: list[Frame], last: int, derainer: Derainer, wiper: Wiper | None, turns: int) -> _Seen:
    middle = len(frames) // 2
    seen = sights(frames, 1, turns)
    seen = wiper(seen, 1, radius=RADIUS) if wiper else seen
    first = max(0, middle - 1)
    derained = list(derainer(islice(windows_of(seen, 1), first, middle + 2)))
    tiles = [darkening(item.residual) for item in derained]
    frame, at = frames[middle], middle - first
    presence = max(rain_presence([tiles[at]]), derained[at].window.sight.wet)
    time_s = float(frame.pts * frame.time_base)
    return _Seen(last - len(frames) + 1 + middle, time_s, presence, np.asarray(np.mean(tiles, axis=0), np.float32))


def _judged(around: tuple[_Seen | None, ...]) -> Look:
    """By itself; where that says nothing, with those around it that say nothing either."""
    seen = around[AROUND_LOOKS]
    assert seen is not None
    silent = [other.darkening for other in around if other and other.presence < BEGINS]
    thin = thin_rain_presence(silent) if seen.presence < BEGINS else 0.0
    return Look(seen.number, seen.time_s, max(seen.presence, thin))


def spells(looks: list[Look]) -> list[Spell]:
    """The weather by hysteresis.

    A spell of rain begins at the last look before the one that saw it, so that its first drops are not missed, and
    ends at the first dry look after the last that was not.
    """
    rainy = _by_hysteresis([look.presence for look in looks])
    wide = [*(now or after for now, after in pairwise(rainy)), *rainy[-1:]]
    found: list[Spell] = []
    for is_rainy, group in groupby(zip(looks, wide, strict=True), key=lambda pair: pair[1]):
        inside = [look for look, _ in group]
        first, begin_s = (inside[0].number, inside[0].time_s) if found else (0, min(0.0, inside[0].time_s))
        found.append(Spell(first, begin_s, is_rainy, sum(look.presence for look in inside) / len(inside)))
    return found


def _by_hysteresis(presences: list[float]) -> list[bool]:
    rainy, dry_looks, states = False, 0, []
    for presence in presences:
        dry_looks = dry_looks + 1 if presence <= ENDS else 0
        rainy = presence >= BEGINS or (rainy and dry_looks < DRY_LOOKS)
        states.append(rainy)
    return states


def is_rainy(found: list[Spell], number: int) -> bool:
    """Whether frame `number` is in a spell of rain."""
    begun = [spell for spell in found if spell.first <= number]
    return bool(begun) and begun[-1].rainy


def by_spell(frames: Iterable[Frame], found: list[Spell], first: int = 0) -> Iterator[tuple[bool, Iterator[Frame]]]:
    """Frames in order, together as long as the weather lasts: whether it rains, and the frames.

    Args:
        frames: of the clip, from frame number `first` on.
        found: the clip's weather.
        first: see above.
    """
    numbered = enumerate(frames, first)
    for rainy, group in groupby(numbered, key=lambda pair: is_rainy(found, pair[0])):
        yield rainy, (frame for _, frame in group)
