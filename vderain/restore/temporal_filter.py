"""Motion-compensated filter over the pixels that the network changed.

What stood behind a streak is the network's guess, a new one in each frame. Guesses of neighbouring frames agree about
the scene and differ in their errors. So where rain was removed, a pixel becomes the mean of its own value and those of
the frame before and after along the motion, each weighted by the inverse of its variance, as in one step of a Kalman
filter; where a shot begins or ends, the next two frames on the other side are used. The variance of a value grows with
the rain that was removed there; that of a neighbour also with its differences from the frame beside the rain, where
both should agree. Where no rain was removed nothing changes.

Where nothing moves, the median of up to thirteen frames counts as well. It holds neither streaks that the network left
nor scars where it took too much, since neither is in half of the frames.

Luma alone is filtered, and all three colours change by the same. A filter of RGB takes more than twice as long, and
gains a hundredth of a decibel.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import FlowEstimator, Warp, flow_luma
from vderain.restore.frames import RADIUS, ConsistentFlow, FlowPair, Luma, Restoration, luma_of, to_float16, to_float32
from vderain.runtime.threads import ordered_map, sliding_window, stage

# The error of a restored pixel against the rain that was removed there, in levels of 255: standard deviations measured
# on rain rendered onto training clips are 1 to 2 where hardly anything was removed, 5 at 6 levels, 8 at 24, 12 at 90.
# Errors that neighbouring frames share do not count here, hence slightly other numbers.
DEVIATION_LEVELS, DEVIATION_SHARE = 1.0, 0.5
HEAVY_LEVELS, HEAVY_SHARE = 4.0, 0.2  # more than some 13 levels of rain hide the scene anyway
SCENE_LEVELS = 1.5  # standard deviation of the change of light and noise from frame to frame
NEAR_PX = 7  # at half size: side of the square over which differences beside the rain are averaged
UNTOUCHED_LEVELS = 2.0  # below this no rain was removed: neighbours that differ there are misaligned, or noisy
IGNORED_LEVELS, MISMATCH_SHARE = 1.0, 2.5  # mean difference there: what it adds to a neighbour's standard deviation
# Where a frame hardly moves, flow cannot be far off, and where even its calmest tenth differs, all of it is noisy. So
# most of a difference is noise there, as far as noise goes.
SLOW_PX, FAST_PX = 0.2, 1.5
CALMEST_PERCENT, CLEAN_LEVELS, NOISY_LEVELS = 10, 1.0, 1.8
NOISE_SHARE, NOISE_MAX_LEVELS = 0.7, 8.0
TOUCHED_PX, FULL_LEVELS = 3, 1.0  # a pixel is filtered fully where the mean removed around it is this much
# Where nothing moves:
STILL_RADIUS = 6  # frames on each side whose median is taken
STILL_PX, MOVING_PX = 0.2, 0.6  # motion from frame to frame up to which all counts as still, and from which on nothing
# Mean motion of a tile in most of a frame. Flow errs by more than that in a pixel, but not in the mean: a fixed camera
# stays below .04, and a pan of a tenth of a pixel moves a whole pixel while the median is taken.
FIXED_PX, PANNING_PX, TILES = 0.08, 0.12, 4
STILL_MIN_SHARE = 0.01  # of a frame: less of it is not worth the time
STILL_LEVELS, STILL_FULL_LEVELS = 0.5, 0.3  # standard deviation of the median; what FULL_LEVELS is there
# Nearly all of what looks still is still, so the differences from the median of its calmest nine tenths are noise.
STILL_PERCENT, STILL_NOISE_MAX_LEVELS = 90, 4.0
STILL_MISMATCH_SHARE = 5.0  # MISMATCH_SHARE of the median


def filter_over_time(restorations: Iterable[Restoration], recompute_flow: bool, workers: int) -> Iterator[Restoration]:
    """Filter every frame along the motion of its restored neighbours.

    Args:
        restorations: in order; with the flows of their windows unless `recompute_flow`.
        recompute_flow: compute flow again between restored frames, where rain no longer hides motion. Costs two flows
            a frame.
        workers: number of threads.
    """
    planes = ordered_map(partial(_planes, with_luma=recompute_flow), restorations, workers)
    frames = ordered_map(_restored, _with_surroundings(planes), workers)
    if recompute_flow:
        frames = ordered_map(_add_flow, sliding_window(frames, 1), workers)
    return ordered_map(_filter, sliding_window(frames, RADIUS), workers)


@dataclass(frozen=True, slots=True)
class _Planes:
    """A restoration that waits for the frames after it, without what can be computed later: several wait.

    Attributes:
        item: the restoration.
        plane: (H, W) uint8, its luma without rain.
        luma: (h, w) uint8 for flow; None where flow is not computed again.
        surroundings: `plane` of the frames of its shot from `STILL_RADIUS` before it to as many after it.
    """

    item: Restoration
    plane: Luma
    luma: Luma | None
    surroundings: tuple[Luma, ...] = ()


@dataclass(frozen=True, slots=True)
class _Restored:
    """A restoration with what its neighbours need of it.

    Attributes:
        item: the restoration.
        plane: (H, W) uint8, its luma without rain.
        removed: (H, W) float32, rain that was removed, in levels.
        deviation: (H, W) float32, standard deviation of `plane`, in levels.
        luma: (h, w) uint8 for flow; None where flow is not computed again.
        surroundings: see `_Planes`.
        flows_to_previous: flow to and from the frame before, without rain; None where not computed, or across a cut.
    """

    item: Restoration
    plane: Luma
    removed: NDArray[np.float32]
    deviation: NDArray[np.float32]
    luma: Luma | None
    surroundings: tuple[Luma, ...]
    flows_to_previous: FlowPair | None = None


@stage("temporal_filter")
def _planes(item: Restoration, with_luma: bool) -> _Planes:
    rgb = item.restored_rgb
    return _Planes(item, luma_of(rgb), flow_luma(rgb, rainy=False) if with_luma else None)


@stage("temporal_filter")
def _restored(frame: _Planes) -> _Restored:
    item = frame.item
    removed = np.abs(to_float32(item.residual)).max(axis=2) * np.float32(255)
    heavy = np.float32(HEAVY_LEVELS) + np.float32(HEAVY_SHARE) * removed
    deviation = np.float32(DEVIATION_LEVELS) + np.minimum(np.float32(DEVIATION_SHARE) * removed, heavy)
    return _Restored(item, frame.plane, removed, deviation, frame.luma, frame.surroundings)


@stage("flow")
def _add_flow(around: tuple[_Restored | None, ...]) -> _Restored:
    """Compute the flows between a frame and the one before it, where either is rainy."""
    before, centre, _ = around
    assert centre is not None
    if before is None or before.luma is None or centre.luma is None or before.item.shot != centre.item.shot:
        return centre
    if max(before.item.rain_score, centre.item.rain_score) <= 0:
        return centre
    return replace(centre, flows_to_previous=FlowEstimator().both_ways(centre.luma, before.luma))


def _with_surroundings(frames: Iterable[_Planes]) -> Iterator[_Planes]:
    """Add the surroundings of each frame; of those before it, only their luma is held."""
    waiting: deque[_Planes] = deque()
    planes: deque[tuple[int, Luma]] = deque()  # shot and luma, from `STILL_RADIUS` before the first that waits
    for count, frame in enumerate(chain(frames, repeat(None, STILL_RADIUS))):
        if frame:
            waiting.append(frame)
            planes.append((frame.item.shot, frame.plane))
        if count < STILL_RADIUS or not waiting:
            continue
        centre = waiting.popleft()
        shot = centre.item.shot
        yield replace(centre, surroundings=tuple(plane for other, plane in planes if other == shot))
        if count >= 2 * STILL_RADIUS:
            planes.popleft()


@stage("temporal_filter")
def _filter(around: tuple[_Restored | None, ...]) -> Restoration:
    """Filter the frame in the middle of a sliding window."""
    centre = around[RADIUS]
    assert centre is not None
    item = centre.item
    neighbours = _nearest_neighbours(around) if item.rain_score > 0 else []
    flows = [flow for neighbour in neighbours if (flow := _flow_between(centre, neighbour))]
    if not flows or len(flows) < len(neighbours):
        return item
    weight = 1 / centre.deviation**2  # (H, W), of the frame, then of all
    change = np.zeros_like(weight)  # weighted sum, in levels
    touched = cv2.blur(centre.removed, (TOUCHED_PX, TOUCHED_PX)) * np.float32(1 / FULL_LEVELS)
    for neighbour, flow in zip(neighbours, flows, strict=True):
        difference, trust = _compare(centre, neighbour, flow)
        change += trust * difference
        weight += trust
    still = _still_share(flows)  # (h, w), at half size
    if np.count_nonzero(still) > STILL_MIN_SHARE * still.size:
        difference, trust = _compare_with_median(centre, still)
        change += trust * difference
        weight += trust
        touched *= 1 + _enlarged(still, centre) * np.float32(FULL_LEVELS / STILL_FULL_LEVELS - 1)
    change /= weight
    change *= np.minimum(touched, 1) * np.float32(item.rain_score / 255)
    return replace(item, residual=to_float16(to_float32(item.residual) + change[..., None]))


def _compare(centre: _Restored, neighbour: _Restored, flow: ConsistentFlow) -> tuple[NDArray[np.float32], ...]:
    """What a neighbour says about each pixel of a frame.

    Args:
        centre: the frame.
        neighbour: another one of its shot.
        flow: from the frame to the neighbour.

    Returns:
        The difference of the neighbour's luma from the frame's, in levels, and its weight, the inverse of its variance:
        (H, W) float32 each.
    """
    warp = Warp(flow, centre.plane.shape)
    difference = cv2.subtract(warp(neighbour.plane, cv2.INTER_CUBIC), centre.plane, dtype=cv2.CV_32F)
    variance = warp(neighbour.deviation) ** 2
    mismatch = _mismatch(np.abs(difference), centre.removed)  # (h, w), at half size
    excess = mismatch - np.float32(IGNORED_LEVELS)
    excess -= _noise_share(flow, mismatch) * np.minimum(excess, np.float32(NOISE_MAX_LEVELS))
    added = (np.float32(MISMATCH_SHARE) * np.maximum(excess, 0)) ** 2 + np.float32(SCENE_LEVELS**2)
    variance += _enlarged(added, centre)
    return np.asarray(difference, np.float32), warp.confidence / variance


def _compare_with_median(centre: _Restored, still: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """What the median over time of a frame's surroundings says about each of its pixels.

    Args:
        centre: the frame.
        still: (h, w) `_still_share`.

    Returns:
        As `_compare`. Where a part looks still and differs nevertheless, as a lamp that goes on, it has no weight.
    """
    difference = cv2.subtract(_median(centre.surroundings), centre.plane, dtype=cv2.CV_32F)
    mismatch = _mismatch(np.abs(difference), centre.removed)  # (h, w), at half size
    noise = np.clip(np.percentile(mismatch[still > 0], STILL_PERCENT), IGNORED_LEVELS, STILL_NOISE_MAX_LEVELS)
    excess = np.maximum(mismatch - np.float32(noise), 0)
    variance = (np.float32(STILL_MISMATCH_SHARE) * excess) ** 2 + np.float32(STILL_LEVELS**2)
    return np.asarray(difference, np.float32), _enlarged(still / variance, centre)


def _still_share(flows: list[ConsistentFlow]) -> NDArray[np.float32]:
    """Where nothing moves: (h, w) float32, 1 there and 0 where something moves, or is about to come.

    Args:
        flows: from a frame to its neighbours.
    """
    fastest_px = np.maximum.reduce([_speed_px(flow) for flow in flows])
    share = np.clip((MOVING_PX - fastest_px) / np.float32(MOVING_PX - STILL_PX), 0, 1)
    apart = cv2.erode(share, np.ones((NEAR_PX, NEAR_PX)))
    still = np.asarray(cv2.blur(apart, (NEAR_PX, NEAR_PX)), np.float32)
    panned_px = max(_panned_px(flow, still) for flow in flows)
    return still * np.float32(np.clip((PANNING_PX - panned_px) / (PANNING_PX - FIXED_PX), 0, 1))


def _panned_px(flow: ConsistentFlow, still: NDArray[np.float32]) -> float:
    """Mean motion of what looks still, the median of tiles, in pixels of a frame of twice the size."""
    x, y = flow.flow[..., 0] * still, flow.flow[..., 1] * still
    totals = [cv2.resize(part, (TILES, TILES), interpolation=cv2.INTER_AREA) for part in (x, y, still)]
    return float(2 * np.median(np.hypot(totals[0], totals[1]) / np.maximum(totals[2], np.float32(0.01))))


def _speed_px(flow: ConsistentFlow) -> NDArray[np.float32]:
    """(h, w) float32, speed averaged nearby, in pixels of a frame of twice the size."""
    return np.asarray(2 * cv2.blur(cv2.magnitude(flow.flow[..., 0], flow.flow[..., 1]), (NEAR_PX, NEAR_PX)), np.float32)


def _median(planes: Sequence[Luma]) -> Luma:
    """The median over time; of an even number, without the last.

    Forgets the least and the greatest of a little more than half, again and again, since neither is the median of all.
    Sorting every pixel takes ten times as long.
    """
    count = len(planes) - (len(planes) + 1) % 2
    waiting = list(planes[:count])
    held: list[NDArray[Any]] = [waiting.pop() for _ in range(min(count, count // 2 + 2))]
    while len(held) > 1:
        for i in range(len(held) - 1):  # the greatest to the end
            held[i], held[i + 1] = cv2.min(held[i], held[i + 1]), cv2.max(held[i], held[i + 1])
        for i in range(len(held) - 2, 0, -1):  # the least to the front
            held[i - 1], held[i] = cv2.min(held[i - 1], held[i]), cv2.max(held[i - 1], held[i])
        held = held[1:-1] + ([waiting.pop()] if waiting else [])
    return np.asarray(held[0], np.uint8)


def _enlarged(values: NDArray[np.float32], frame: _Restored) -> NDArray[np.float32]:
    """Values for each pixel, (H, W) float32, from (h, w)."""
    return np.asarray(cv2.resize(values, frame.plane.shape[::-1]), np.float32)


def _mismatch(difference: NDArray[np.float32], removed: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean difference of a neighbour around each pixel, where no rain was removed.

    Args:
        difference: (H, W) absolute differences.
        removed: (H, W) levels of rain that were removed.

    Returns:
        (h, w) float32, at half size.
    """
    untouched = (removed < UNTOUCHED_LEVELS).astype(np.float32)
    size = tuple(max(1, side // 2) for side in removed.shape[::-1])
    near = NEAR_PX, NEAR_PX
    total = cv2.blur(cv2.resize(difference * untouched, size, interpolation=cv2.INTER_AREA), near)
    share = cv2.blur(cv2.resize(untouched, size, interpolation=cv2.INTER_AREA), near)
    return np.asarray(total / (share + np.float32(1e-3)), np.float32)


def _noise_share(flow: ConsistentFlow, mismatch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of a small mismatch that is put down to noise: (h, w) float32.

    Args:
        flow: from the frame to the neighbour.
        mismatch: (h, w) levels, at half size.
    """
    still = np.clip((FAST_PX - _speed_px(flow)) / np.float32(FAST_PX - SLOW_PX), 0, 1)
    calmest = float(np.percentile(mismatch[::4, ::4], CALMEST_PERCENT))
    noisy = np.clip((calmest - CLEAN_LEVELS) / (NOISY_LEVELS - CLEAN_LEVELS), 0, 1)
    share = np.float32(NOISE_SHARE) * np.maximum(still, np.float32(noisy))
    return np.asarray(cv2.resize(share, mismatch.shape[::-1]), np.float32)


def _nearest_neighbours(around: tuple[_Restored | None, ...]) -> list[_Restored]:
    """The frames before and after; the next two on one side where the shot ends on the other."""
    centre = around[RADIUS]
    before, after = (
        [other for other in side if other and centre and other.item.shot == centre.item.shot]
        for side in (around[RADIUS - 1 :: -1], around[RADIUS + 1 :])
    )
    return [before[0], after[0]] if before and after else (before or after)


def _flow_between(centre: _Restored, other: _Restored) -> ConsistentFlow | None:
    """Flow from a frame to another of its shot, at most two frames away."""
    item, number = centre.item, other.item.number
    if centre.luma is None or other.luma is None:  # use the flows of the window
        return item.flows_to_neighbours[item.sources.index(number)] if number in item.sources else None
    if abs(number - item.number) > 1:
        return FlowEstimator().both_ways(centre.luma, other.luma)[0]
    later = other if number > item.number else centre
    if later.flows_to_previous is None:
        return None
    to_previous, from_previous = later.flows_to_previous
    return to_previous if later is centre else from_previous
