"""A steady picture where rain was: what the network made of a pixel, and what it made of it a frame before and after.

What stood behind a streak is the network's guess, a fresh one in each frame; guesses of neighbouring frames agree about
the scene and differ in their errors. So where rain was taken out, and only there, a pixel becomes the middle of its own
guess and its two neighbours'; where a shot begins or ends, of its own and the next two on the other side. Where nothing
was taken out nothing is changed; and what neighbours say about places without rain tells whether they can be believed
about those with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import ConsistentFlow, FlowEstimator, Luma, Picture, align, consistent_flow, flow_luma
from vderain.restore.window import RADIUS, Flows, Restoration
from vderain.runtime.threads import Timed, ordered_map, sliding_window, untimed

FULL_LEVELS = 6.0  # a pixel changed by this much, of 255, is the median altogether; one changed less, in proportion
SPREAD_PX = 3  # over which the change is averaged: the foot of a streak is as doubtful as its middle
OUTLIER_LEVELS = 4.0  # the mean of three is the best guess while errors are small; it follows none further than this
UNTOUCHED_LEVELS = 2.0  # below this no rain was taken out: neighbours that differ there are out of place
AROUND_PX = 31  # over which they are judged by that
BELIEVED_LEVELS, REFUSED_LEVELS = 3.0, 6.0  # mean difference there: neighbours count fully below, not at all above


@dataclass(frozen=True, slots=True)
class FilterFrame:
    """A derained frame as its neighbours will see it.

    Attributes:
        item: the frame.
        rgb: (H, W, 3) uint8, without its rain.
        small: luma that flow is computed on, where motion is looked for again.
        back: flows between this and the frame before, where motion is looked for again and both are of one shot.
    """

    item: Restoration
    rgb: Picture
    small: Luma | None = None
    back: Flows | None = None

    @property
    def shot(self) -> int:
        return self.item.window.prepared.shot


def filter_over_time(
    derained: Iterable[Restoration], again: bool, workers: int, timed: Timed = untimed
) -> Iterator[Restoration]:
    """Steadies every frame by its derained neighbours.

    Args:
        derained: in order, with the motions of their windows unless `again`.
        again: look for motion again, between derained frames: rain no longer hides it. Costs two flows a frame.
        workers: threads.
        timed: counts the time.
    """

    def shown(item: Restoration) -> FilterFrame:
        rgb = item.rgb
        return FilterFrame(item, rgb, flow_luma(rgb, rainy=False) if again else None)

    seen = ordered_map(timed("steady", shown), derained, workers)
    if again:
        seen = ordered_map(timed("flow", _linked), sliding_window(seen, 1), workers)
    return ordered_map(timed("steady", _filtered), sliding_window(seen, RADIUS), workers)


def _linked(around: tuple[FilterFrame | None, ...]) -> FilterFrame:
    """With the flows to the frame before it."""
    before, centre, _ = around
    assert centre is not None
    if before is None or not _meet(before, centre) or before.small is None or centre.small is None:
        return centre
    estimator = FlowEstimator()
    flows = estimator.flow(centre.small, before.small), estimator.flow(before.small, centre.small)
    return replace(centre, back=flows)


def _meet(before: FilterFrame, after: FilterFrame) -> bool:
    """Whether two successive frames are of one shot, and either has rain to be steadied."""
    return before.shot == after.shot and max(before.item.rain_score, after.item.rain_score) > 0


def _filtered(around: tuple[FilterFrame | None, ...]) -> Restoration:
    centre = around[RADIUS]
    assert centre is not None
    item = centre.item
    others = _nearest(around) if item.rain_score > 0 else []
    fields = [_motion(centre, other) for other in others]
    aligned = [align(centre.rgb, other.rgb, field) for other, field in zip(others, fields, strict=True) if field]
    if len(aligned) < 2:
        return item
    first, second = aligned
    median = np.asarray(cv2.max(cv2.min(first, second), cv2.min(cv2.max(first, second), centre.rgb)), np.uint8)
    removed = np.abs(item.residual).max(axis=2).astype(np.float32) * np.float32(255)
    share = np.clip(cv2.blur(removed, (SPREAD_PX, SPREAD_PX)) * np.float32(1 / FULL_LEVELS), 0, 1)
    share *= _belief(np.asarray(cv2.absdiff(median, centre.rgb), np.uint8), removed) * np.float32(item.rain_score / 255)
    changed = _towards_middle(first, second, centre.rgb, median)
    changed *= share[..., None]
    changed += item.residual
    return replace(item, residual=changed.astype(np.float16))


def _towards_middle(first: Picture, second: Picture, centre: Picture, median: Picture) -> NDArray[np.float32]:
    """(H, W, 3) float32 levels, from the centre to halfway between the median of the three and their mean.

    In 16 bits and in place as far as that goes: these are the largest arrays of their stage.
    """
    total = cv2.add(cv2.add(first, second, dtype=cv2.CV_16S), centre, dtype=cv2.CV_16S)
    change = np.asarray(cv2.addWeighted(total, 1 / 3, median, -1, 0, dtype=cv2.CV_32F), np.float32)
    np.clip(change, -OUTLIER_LEVELS, OUTLIER_LEVELS, out=change)
    change *= np.float32(0.5)
    change += cv2.subtract(median, centre, dtype=cv2.CV_16S)
    return change


def _belief(difference: Picture, removed: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W), 0..1: how far neighbours are believed that differ by so much, beside the rain that was taken out."""
    untouched = (removed < UNTOUCHED_LEVELS).astype(np.float32)
    size = (AROUND_PX, AROUND_PX)
    there = cv2.blur(cv2.cvtColor(difference, cv2.COLOR_RGB2GRAY) * untouched, size)
    level = there / (cv2.blur(untouched, size) + np.float32(1e-3))
    belief = (np.float32(REFUSED_LEVELS) - level) / np.float32(REFUSED_LEVELS - BELIEVED_LEVELS)
    return np.asarray(np.clip(belief, 0, 1), np.float32)


def _nearest(around: tuple[FilterFrame | None, ...]) -> list[FilterFrame]:
    """The frames before and after; the next two on one side where the shot ends on the other, if it has so many."""
    centre = around[RADIUS]
    before, after = (
        [other for other in side if other and centre and other.shot == centre.shot]
        for side in (around[RADIUS - 1 :: -1], around[RADIUS + 1 :])
    )
    return [before[0], after[0]] if before and after else (before or after)


def _motion(centre: FilterFrame, other: FilterFrame) -> ConsistentFlow | None:
    """From a frame to another of its shot, at most two away."""
    window, number = centre.item.window, other.item.window.number
    if centre.small is None or other.small is None:  # the motions of the window serve
        return window.flows_to_neighbours[window.sources.index(number)] if number in window.sources else None
    later = other if number > window.number else centre
    if abs(number - window.number) > 1:
        estimator = FlowEstimator()
        there, back = estimator.flow(centre.small, other.small), estimator.flow(other.small, centre.small)
    elif later.back is None:
        return None
    else:
        there, back = later.back if later is centre else later.back[::-1]
    return consistent_flow(centre.small, other.small, there, back)
