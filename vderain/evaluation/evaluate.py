"""The job: clips before and after, with the truth or without it, enter; a report leaves. No clip is held in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import TypeVar

from vderain.errors import InputError
from vderain.evaluation.footage import RATE, Footage, Picture, zip_frames
from vderain.evaluation.quality import Quality, over_frames, quality
from vderain.evaluation.residual_rain import residual_rain_levels
from vderain.evaluation.warping_error import optical_flow, warp_error
from vderain.media.frame import Colour, Frame
from vderain.restore.window import AlignedWindow, windows
from vderain.runtime.device import cores
from vderain.runtime.threads import ordered_map, sliding_window

RGB8 = Colour("rgb", full_range=True)
TRUTH = 2  # place of the clear clip among those compared

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Flicker:
    """Unsteadiness along the motion of the clear clip.

    Attributes:
        warp: E_warp x 1e3.
        ratio: to the same of the clear clip: above 1 is flicker, far below 1 is blur. None where that has none.
    """

    warp: float
    ratio: float | None


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Two clips held against the truth.

    Attributes:
        frames: compared.
        quality_in, quality_out: nearness to the truth before and after.
        flicker_in, flicker_out: None for pictures that are no clip.
        quality_clear: how near the clear clip stays to itself when it is derained; None where that was not asked.
    """

    frames: int
    quality_in: Quality
    quality_out: Quality
    flicker_in: Flicker | None
    flicker_out: Flicker | None
    quality_clear: Quality | None


@dataclass(frozen=True, slots=True)
class Traces:
    """What can be said of a clip without the truth.

    Attributes:
        warp: E_warp x 1e3 along the clip's own motion; None where no motion was found.
        residual_rain_levels: rain left over; see `leftover`.
    """

    warp: float | None
    residual_rain_levels: float


@dataclass(frozen=True, slots=True)
class UnpairedScores:
    """Two clips without a truth to hold them against."""

    frames: int
    traces_in: Traces
    traces_out: Traces


Report = PairedScores | UnpairedScores
Note = Callable[[int], None]


def evaluate_against_truth(
    rain: Footage, out: Footage, clear: Footage, harmless: Footage | None = None, note: Note = lambda frames: None
) -> PairedScores:
    """Hold a clip, before and after, against the truth.

    Args:
        rain: before.
        out: after.
        clear: the truth.
        harmless: the truth, itself derained.
        note: is told how many frames are done.

    Raises:
        InputError: something cannot be read, or the clips do not go together.
    """
    clips = [rain, out, clear, *([harmless] if harmless else [])]
    around = sliding_window(zip_frames(clips), 1)
    pairs = ((now, None if rain.single else after) for _, now, after in around if now)
    judged = _counted(ordered_map(_judged, pairs, cores()), note)
    qualities, warps = zip(*judged, strict=True)
    before, after, *kept = (over_frames(frames) for frames in zip(*qualities, strict=True))
    known = [frame for frame in warps if frame]
    warp_in, warp_out, warp_clear = map(fmean, zip(*known, strict=True)) if known else (None, None, None)
    return PairedScores(
        len(qualities), before, after, _flicker(warp_in, warp_clear), _flicker(warp_out, warp_clear),
        kept[0] if kept else None,
    )  # fmt: skip


def evaluate_without_truth(rain: Footage, out: Footage, note: Note = lambda frames: None) -> UnpairedScores:
    """Look at a clip, before and after, without the truth.

    Raises:
        InputError: something cannot be read, the clips do not go together, or they are single pictures.
    """
    clips = map(windows_of, _apart(zip_frames([rain, out])))
    pairs = ((now, later) for _, now, later in sliding_window(zip(*clips, strict=True), 1) if now)
    traces = list(_counted(ordered_map(_traced, pairs, cores()), note))
    if len(traces) < 2:
        raise InputError(f"{rain.path} is one picture: rain shows itself by moving.", "Give a clip, or the truth.")
    traces_in, traces_out = (_over_frames(list(side)) for side in zip(*traces, strict=True))
    return UnpairedScores(len(traces), traces_in, traces_out)


def _judged(
    pair: tuple[tuple[Picture, ...], tuple[Picture, ...] | None],
) -> tuple[list[Quality], tuple[float, ...] | None]:
    """Quality of all but the truth, which is third; E_warp of the clips before, after and clear."""
    now, after = pair
    truth = now[TRUTH]
    qualities = [quality(picture, truth) for i, picture in enumerate(now) if i != TRUTH]
    if after is None:
        return qualities, None
    along = optical_flow(truth, after[TRUTH])
    warps = [warp_error(a, b, along) for a, b in zip(now[: TRUTH + 1], after, strict=False)]
    known = tuple(warp for warp in warps if warp is not None)
    return qualities, known or None


def _traced(pair: tuple[tuple[AlignedWindow, ...], tuple[AlignedWindow, ...] | None]) -> list[Traces]:
    now, later = pair
    afters = later or (None,) * len(now)
    return [Traces(_own_warp(a, b), residual_rain_levels(a.aligned)) for a, b in zip(now, afters, strict=True)]


def _own_warp(now: AlignedWindow, after: AlignedWindow | None) -> float | None:
    if after is None:
        return None
    return warp_error(now.prepared.rgb, after.prepared.rgb, optical_flow(now.prepared.rgb, after.prepared.rgb))


def _over_frames(frames: list[Traces]) -> Traces:
    warps = [frame.warp for frame in frames if frame.warp is not None]
    return Traces(fmean(warps) if warps else None, fmean(frame.residual_rain_levels for frame in frames))


def _apart(pairs: Iterator[tuple[Picture, ...]]) -> tuple[Iterator[Picture], Iterator[Picture]]:
    """The first of each pair, and the second of each; `itertools.tee` would hold 57 of them in memory."""
    waiting: tuple[deque[Picture], deque[Picture]] = deque(), deque()

    def side(own: deque[Picture]) -> Iterator[Picture]:
        while True:
            if not own:
                pair = next(pairs, None)
                if pair is None:
                    return
                for queue, picture in zip(waiting, pair, strict=True):
                    queue.append(picture)
            yield own.popleft()

    return side(waiting[0]), side(waiting[1])


def windows_of(pictures: Iterable[Picture]) -> Iterator[AlignedWindow]:
    """The pictures of a clip, each with its aligned neighbours."""
    return windows(map(frame_of, pictures, count()), cores(), keep_flows=False)


def frame_of(picture: Picture, number: int = 0) -> Frame:
    return Frame((picture[..., 0], picture[..., 1], picture[..., 2]), RGB8, number, 1, 1 / RATE)


def _flicker(warp: float | None, clear: float | None) -> Flicker | None:
    return None if warp is None or clear is None else Flicker(warp, warp / clear if clear else None)


def _counted(items: Iterable[T], note: Note) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        note(number)
        yield item
