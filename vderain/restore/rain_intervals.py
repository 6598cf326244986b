"""Samples a video once a second and splits it into rainy and dry intervals, with hysteresis.

A wet road stays wet, and a wiper clears the glass for a second. So an interval does not end at one dry sample, and
does not begin at a faint one: between the two thresholds it continues as it was.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, pairwise

import numpy as np

from vderain.media.frame import Frame
from vderain.restore.frames import WINDOW, Restoration
from vderain.restore.rain_detection import LightByTile, removed_light, score_rain, score_thin_rain
from vderain.runtime.threads import sliding_window

SAMPLE_INTERVAL_S = 1.0
SAMPLE_FRAMES = WINDOW + 2  # in a sample; the residuals of the three in the middle are averaged
NEIGHBOUR_SAMPLES = 2  # before and after, with which a sample is averaged to detect thin rain
BEGINS, ENDS = 0.5, 0.1  # rain score from which on a rainy interval begins, and up to which it may end
DRY_SAMPLES = 3  # in a row that end a rainy interval

Restore = Callable[[Iterable[Frame]], Iterator[Restoration]]


@dataclass(frozen=True, slots=True)
class Sample:
    """The rain score at one place of a clip.

    Attributes:
        number: of the frame, from 0.
        time_s: its timestamp.
        rain_score: 0 to 1, of streaks (`score_rain`) or of raindrops on the glass, whichever is higher.
    """

    number: int
    time_s: float
    rain_score: float


@dataclass(frozen=True, slots=True)
class RainInterval:
    """A rainy or dry part of a clip.

    Attributes:
        first: number of its first frame; it ends where the next interval begins.
        begin_s: timestamp of that frame.
        rainy: whether it rains.
        rain_score: mean over its samples.
    """

    first: int
    begin_s: float
    rainy: bool
    rain_score: float


def scan(frames: Iterable[Frame], restore: Restore) -> list[Sample]:
    """Sample a clip every `SAMPLE_INTERVAL_S`, with seven frames, three of which pass the network.

    Args:
        frames: of the whole clip, in order.
        restore: the stages up to the network.
    """
    samples: list[_RawSample] = []
    pending: list[Frame] = []
    next_s: float | None = None
    for number, frame in enumerate(frames):
        time_s = float(frame.pts * frame.time_base)
        if next_s is not None and time_s < next_s and not pending:
            continue
        pending.append(frame)
        if len(pending) == SAMPLE_FRAMES:
            samples.append(_sample(pending, number, restore))
            pending, next_s = [], samples[-1].time_s + SAMPLE_INTERVAL_S
    if pending:  # the end of the clip, or a clip shorter than a sample
        samples.append(_sample(pending, number, restore))
    return [_score(around) for around in sliding_window(samples, NEIGHBOUR_SAMPLES)]


def rain_intervals(samples: list[Sample]) -> list[RainInterval]:
    """Split a clip into rainy and dry intervals.

    A rainy interval begins at the sample before the first rainy one, so that no rainy frame is missed, and ends at the
    first dry sample after the last one that was not dry.

    Args:
        samples: what `scan` returned.

    Returns:
        Intervals that alternate and cover the clip; empty where there are no samples.
    """
    rainy = _apply_hysteresis([sample.rain_score for sample in samples])
    widened = [*(now or after for now, after in pairwise(rainy)), *rainy[-1:]]
    found: list[RainInterval] = []
    for is_rain, group in groupby(zip(samples, widened, strict=True), key=lambda pair: pair[1]):
        inside = [sample for sample, _ in group]
        first, begin_s = (inside[0].number, inside[0].time_s) if found else (0, min(0.0, inside[0].time_s))
        rain_score = sum(sample.rain_score for sample in inside) / len(inside)
        found.append(RainInterval(first=first, begin_s=begin_s, rainy=is_rain, rain_score=rain_score))
    return found


def is_rainy(intervals: list[RainInterval], number: int) -> bool:
    """Whether frame `number` is in a rainy interval."""
    begun = [interval for interval in intervals if interval.first <= number]
    return bool(begun) and begun[-1].rainy


def dry_frames(intervals: list[RainInterval]) -> list[range]:
    """The numbers of the frames of dry intervals; the last one has no end."""
    ends = [interval.first for interval in intervals[1:]] + [sys.maxsize]
    return [range(dry.first, end) for dry, end in zip(intervals, ends, strict=False) if not dry.rainy]


def by_interval(
    frames: Iterable[Frame], intervals: list[RainInterval], first: int = 0
) -> Iterator[tuple[bool, int, Iterator[Frame]]]:
    """Group frames by interval.

    Args:
        frames: of the clip, in order, from frame number `first` on.
        intervals: of the clip.
        first: number of the first frame.

    Returns:
        For each interval, whether it is rainy, the number of its first frame here, and its frames; each group has to be
        used up before the next.
    """
    numbered = enumerate(frames, first)
    for rainy, group in groupby(numbered, key=lambda pair: is_rainy(intervals, pair[0])):
        begins, frame = next(group)
        yield rainy, begins, chain([frame], (later for _, later in group))  # noqa: B031


@dataclass(frozen=True, slots=True)
class _RawSample:
    """A sample before its neighbours are considered, with the light removed from each tile."""

    number: int
    time_s: float
    rain_score: float
    removed_light: LightByTile


def _sample(frames: list[Frame], last: int, restore: Restore) -> _RawSample:
    """Take one sample from successive frames.

    Args:
        frames: up to `SAMPLE_FRAMES`.
        last: number of the last of them.
        restore: see `scan`.
    """
    middle = len(frames) // 2
    first = max(0, middle - 1)
    restored = list(islice(restore(frames), first, middle + 2))
    light = [removed_light(item.residual) for item in restored]
    centre = middle - first
    return _RawSample(
        number=last - len(frames) + 1 + middle,
        time_s=float(frames[middle].pts * frames[middle].time_base),
        rain_score=max(score_rain([light[centre]]), restored[centre].raindrop_score),
        removed_light=np.asarray(np.mean(light, axis=0), np.float32),  # (6, 8)
    )


def _score(around: tuple[_RawSample | None, ...]) -> Sample:
    """The sample's own score; where it is low, the score of thin rain over all neighbours with a low score."""
    sample = around[NEIGHBOUR_SAMPLES]
    assert sample is not None
    low = [other.removed_light for other in around if other and other.rain_score < BEGINS]
    thin = score_thin_rain(low) if sample.rain_score < BEGINS else 0.0
    return Sample(sample.number, sample.time_s, max(sample.rain_score, thin))


def _apply_hysteresis(rain_scores: list[float]) -> list[bool]:
    rainy, dry_samples, states = False, 0, []
    for rain_score in rain_scores:
        dry_samples = dry_samples + 1 if rain_score <= ENDS else 0
        rainy = rain_score >= BEGINS or (rainy and dry_samples < DRY_SAMPLES)
        states.append(rainy)
    return states
