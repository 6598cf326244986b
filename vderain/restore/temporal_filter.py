"""Motion-compensated temporal median over the pixels that the network changed.

What stood behind a streak is the network's guess, a new one in each frame. Guesses of neighbouring frames agree about
the scene and differ in their errors. So where rain was removed, a pixel becomes the middle of its own value and those
of the frame before and after; where a shot begins or ends, of the next two frames on the other side. Where no rain was
removed nothing changes, and the neighbours' differences there tell how far they can be trusted beside it.

Luma alone is filtered, and all three colours change by the same. A filter of RGB takes more than twice as long, and
gains a hundredth of a decibel.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import FlowEstimator, align_plane, consistent_flow, flow_luma
from vderain.restore.frames import RADIUS, ConsistentFlow, FlowPair, Luma, Restoration, luma_of
from vderain.runtime.threads import ordered_map, sliding_window, stage

FULL_LEVELS = 6.0  # a pixel changed by this much, of 255, is filtered fully; one changed less, in proportion
SPREAD_PX = 3  # over which the change is averaged: the edge of a streak is as uncertain as its middle
OUTLIER_LEVELS = 4.0  # the mean of three is best while errors are small; it moves no further than this from the median
UNTOUCHED_LEVELS = 2.0  # below this no rain was removed: neighbours that differ there are misaligned
NEAR_PX = 31  # side of the square over which those differences are averaged
TRUSTED_LEVELS, REJECTED_LEVELS = 3.0, 6.0  # mean difference there: neighbours count fully below, not at all above


def filter_over_time(restorations: Iterable[Restoration], recompute_flow: bool, workers: int) -> Iterator[Restoration]:
    """Filter every frame along the motion of its restored neighbours.

    Args:
        restorations: in order; with the flows of their windows unless `recompute_flow`.
        recompute_flow: compute flow again between restored frames, where rain no longer hides motion. Costs two flows
            a frame.
        workers: number of threads.
    """
    frames = ordered_map(partial(_restored, with_luma=recompute_flow), restorations, workers)
    if recompute_flow:
        frames = ordered_map(_add_flow, sliding_window(frames, 1), workers)
    return ordered_map(_filter, sliding_window(frames, RADIUS), workers)


@dataclass(frozen=True, slots=True)
class _Restored:
    """A restoration with what its neighbours need of it.

    Attributes:
        item: the restoration.
        plane: (H, W) uint8, its luma without rain.
        luma: (h, w) uint8 for flow; None where flow is not computed again.
        flows_to_previous: flow to and from the frame before; None where not computed, or across a cut.
    """

    item: Restoration
    plane: Luma
    luma: Luma | None = None
    flows_to_previous: FlowPair | None = None


@stage("temporal_filter")
def _restored(item: Restoration, with_luma: bool) -> _Restored:
    rgb = item.restored_rgb
    return _Restored(item, luma_of(rgb), flow_luma(rgb, rainy=False) if with_luma else None)


@stage("flow")
def _add_flow(around: tuple[_Restored | None, ...]) -> _Restored:
    """Compute the flows between a frame and the one before it, where either is rainy."""
    before, centre, _ = around
    assert centre is not None
    if before is None or before.luma is None or centre.luma is None or before.item.shot != centre.item.shot:
        return centre
    if max(before.item.rain_score, centre.item.rain_score) <= 0:
        return centre
    estimator = FlowEstimator()
    flows = estimator.flow(centre.luma, before.luma), estimator.flow(before.luma, centre.luma)
    return replace(centre, flows_to_previous=flows)


@stage("temporal_filter")
def _filter(around: tuple[_Restored | None, ...]) -> Restoration:
    """Filter the frame in the middle of a sliding window."""
    centre = around[RADIUS]
    assert centre is not None
    item = centre.item
    neighbours = _nearest_neighbours(around) if item.rain_score > 0 else []
    flows = [_flow_between(centre, neighbour) for neighbour in neighbours]
    aligned = [
        align_plane(centre.plane, other.plane, flow)[0] for other, flow in zip(neighbours, flows, strict=True) if flow
    ]
    if len(aligned) < 2:
        return item
    first, second = aligned  # (H, W) each
    median = np.asarray(cv2.max(cv2.min(first, second), cv2.min(cv2.max(first, second), centre.plane)), np.uint8)
    removed = np.abs(item.residual).max(axis=2).astype(np.float32) * np.float32(255)  # (H, W), in levels
    share = np.clip(cv2.blur(removed, (SPREAD_PX, SPREAD_PX)) * np.float32(1 / FULL_LEVELS), 0, 1)  # (H, W)
    trust = _neighbour_trust(np.asarray(cv2.absdiff(median, centre.plane), np.uint8), removed)
    share *= trust * np.float32(item.rain_score / 255)
    change = _change_to_middle(first, second, centre.plane, median)  # (H, W), in levels
    change *= share
    return replace(item, residual=item.residual + change[..., None].astype(np.float16))


def _change_to_middle(first: Luma, second: Luma, centre: Luma, median: Luma) -> NDArray[np.float32]:
    """From the centre to halfway between the median of the three frames and their mean.

    Computed in 16 bits and in place where possible.

    Args:
        first: (H, W) uint8, luma of an aligned neighbour.
        second: (H, W) uint8, of the other one.
        centre: (H, W) uint8, of the frame.
        median: (H, W) uint8, of the three.

    Returns:
        (H, W) float32, in levels of 255.
    """
    total = cv2.add(cv2.add(first, second, dtype=cv2.CV_16S), centre, dtype=cv2.CV_16S)
    change = np.asarray(cv2.addWeighted(total, 1 / 3, median, -1, 0, dtype=cv2.CV_32F), np.float32)
    np.clip(change, -OUTLIER_LEVELS, OUTLIER_LEVELS, out=change)
    change *= np.float32(0.5)
    change += cv2.subtract(median, centre, dtype=cv2.CV_16S)
    return change


def _neighbour_trust(difference: Luma, removed: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far neighbours can be trusted, by their difference to the centre beside the removed rain.

    Args:
        difference: (H, W) uint8, between the median and the centre.
        removed: (H, W) levels of rain that were removed.

    Returns:
        (H, W) float32, 0 to 1.
    """
    untouched = (removed < UNTOUCHED_LEVELS).astype(np.float32)
    size = (NEAR_PX, NEAR_PX)
    total = cv2.blur(difference * untouched, size)
    mean = total / (cv2.blur(untouched, size) + np.float32(1e-3))  # (H, W), over untouched pixels
    trust = (np.float32(REJECTED_LEVELS) - mean) / np.float32(REJECTED_LEVELS - TRUSTED_LEVELS)
    return np.asarray(np.clip(trust, 0, 1), np.float32)


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
    later = other if number > item.number else centre
    if abs(number - item.number) > 1:
        estimator = FlowEstimator()
        forward, backward = estimator.flow(centre.luma, other.luma), estimator.flow(other.luma, centre.luma)
    elif later.flows_to_previous is None:
        return None
    else:
        forward, backward = later.flows_to_previous if later is centre else later.flows_to_previous[::-1]
    return consistent_flow(centre.luma, other.luma, forward, backward)
