"""Scores a derained clip with or without ground truth; frames are streamed, so memory does not grow with length."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import TypeVar

from vderain.errors import InputError
from vderain.evaluation.footage import Footage, frame_of, zip_frames
from vderain.evaluation.quality import Quality, over_frames, quality
from vderain.evaluation.temporal import optical_flow, residual_rain_levels, warp_error
from vderain.restore.frames import AlignedWindow, Picture
from vderain.restore.window import windows
from vderain.runtime.device import cores
from vderain.runtime.threads import ordered_map, sliding_window

TRUTH = 2  # index of the ground truth among the clips compared

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TemporalStability:
    """How much a clip flickers along the motion of the ground truth.

    Attributes:
        warp: warping error E_warp x 1e3.
        ratio: `warp` divided by that of the ground truth: above 1 is flicker, far below 1 is blur. None where the
            ground truth has none.
    """

    warp: float
    ratio: float | None


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Scores of a clip before and after deraining, against ground truth.

    Attributes:
        frames: number of frames compared.
        quality_in, quality_out: quality before and after.
        stability_in, stability_out: temporal stability before and after; None for unrelated images.
        quality_clear: quality of the ground truth after it was derained itself; None where that was not asked for.
    """

    frames: int
    quality_in: Quality
    quality_out: Quality
    stability_in: TemporalStability | None
    stability_out: TemporalStability | None
    quality_clear: Quality | None


@dataclass(frozen=True, slots=True)
class NoReferenceScores:
    """Scores of a frame or a clip without ground truth.

    Attributes:
        warp: E_warp x 1e3 along the clip's own motion; None where no motion was found.
        residual_rain_levels: rain that is left, in levels of 255; see `residual_rain_levels`.
    """

    warp: float | None
    residual_rain_levels: float


@dataclass(frozen=True, slots=True)
class UnpairedScores:
    """Scores of a clip before and after deraining, without ground truth."""

    frames: int
    scores_in: NoReferenceScores
    scores_out: NoReferenceScores


Report = PairedScores | UnpairedScores
OnProgress = Callable[[int], None]  # called with the number of frames done


def evaluate_against_truth(
    rain: Footage,
    out: Footage,
    clear: Footage,
    derained_clear: Footage | None = None,
    on_progress: OnProgress = lambda frames: None,
) -> PairedScores:
    """Score a clip before and after deraining against ground truth.

    Args:
        rain: the rainy clip.
        out: the derained clip.
        clear: the ground truth.
        derained_clear: the ground truth after it was derained, to measure unwanted changes.
        on_progress: called after each frame with the number of frames done.

    Raises:
        InputError: a clip cannot be read, or the clips differ in length or size.
    """
    clips = [rain, out, clear, *([derained_clear] if derained_clear else [])]
    triples = sliding_window(zip_frames(clips), 1)
    pairs = ((now, None if rain.single else after) for _, now, after in triples if now)
    scores = _counted(ordered_map(_score_frame, pairs, cores()), on_progress)
    qualities, warps = zip(*scores, strict=True)
    before, after, *kept = (over_frames(frames) for frames in zip(*qualities, strict=True))
    known = [frame for frame in warps if frame]
    warp_in, warp_out, warp_clear = map(fmean, zip(*known, strict=True)) if known else (None, None, None)
    return PairedScores(
        frames=len(qualities),
        quality_in=before,
        quality_out=after,
        stability_in=_stability(warp_in, warp_clear),
        stability_out=_stability(warp_out, warp_clear),
        quality_clear=kept[0] if kept else None,
    )


def evaluate_without_truth(
    rain: Footage, out: Footage, on_progress: OnProgress = lambda frames: None
) -> UnpairedScores:
    """Score a clip before and after deraining without ground truth.

    Args:
        rain: the rainy clip.
        out: the derained clip.
        on_progress: called after each frame with the number of frames done.

    Raises:
        InputError: a clip cannot be read, the clips differ in length or size, or there is one frame only.
    """
    clips = map(windows_of, _unzip(zip_frames([rain, out])))
    pairs = ((now, after) for _, now, after in sliding_window(zip(*clips, strict=True), 1) if now)
    scores = list(_counted(ordered_map(_score_windows, pairs, cores()), on_progress))
    if len(scores) < 2:
        raise InputError(f"{rain.path} is one picture: rain shows itself by moving.", "Give a clip, or the truth.")
    scores_in, scores_out = (_mean(list(side)) for side in zip(*scores, strict=True))
    return UnpairedScores(len(scores), scores_in, scores_out)


def _score_frame(
    pair: tuple[tuple[Picture, ...], tuple[Picture, ...] | None],
) -> tuple[list[Quality], tuple[float, ...] | None]:
    """Quality of all clips but the ground truth; E_warp before, after and of the ground truth."""
    now, after = pair
    truth = now[TRUTH]
    qualities = [quality(picture, truth) for i, picture in enumerate(now) if i != TRUTH]
    if after is None:
        return qualities, None
    flow = optical_flow(truth, after[TRUTH])
    warps = [warp_error(a, b, flow) for a, b in zip(now[: TRUTH + 1], after, strict=False)]
    known = tuple(warp for warp in warps if warp is not None)
    return qualities, known or None


def _score_windows(
    pair: tuple[tuple[AlignedWindow, ...], tuple[AlignedWindow, ...] | None],
) -> list[NoReferenceScores]:
    """Scores of the same frame of each clip; ``pair`` holds its windows and those of the next frame, if any."""
    now, after = pair
    following = after or (None,) * len(now)
    return [
        NoReferenceScores(_own_warp_error(a, b), residual_rain_levels(a.aligned))
        for a, b in zip(now, following, strict=True)
    ]


def _own_warp_error(now: AlignedWindow, after: AlignedWindow | None) -> float | None:
    if after is None:
        return None
    return warp_error(now.centre.rgb, after.centre.rgb, optical_flow(now.centre.rgb, after.centre.rgb))


def _mean(frames: list[NoReferenceScores]) -> NoReferenceScores:
    warps = [frame.warp for frame in frames if frame.warp is not None]
    return NoReferenceScores(fmean(warps) if warps else None, fmean(frame.residual_rain_levels for frame in frames))


def _unzip(pairs: Iterator[tuple[Picture, ...]]) -> tuple[Iterator[Picture], Iterator[Picture]]:
    """Split an iterator of pairs into two; `itertools.tee` would hold 57 pairs in memory."""
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
    """Yield each frame of a clip with its aligned neighbours."""
    return windows(map(frame_of, pictures, count()), cores(), keep_flows=False)


def _stability(warp: float | None, clear: float | None) -> TemporalStability | None:
    return None if warp is None or clear is None else TemporalStability(warp, warp / clear if clear else None)


def _counted(items: Iterable[T], on_progress: OnProgress) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        on_progress(number)
        yield item
