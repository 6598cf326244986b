"""A steady picture where rain was: what the network made of a pixel, and what it made of it a frame before and after.

What stood behind a streak is the network's guess, a fresh one in each frame; guesses of neighbouring frames agree about
the scene and differ in their errors. So where rain was taken out, and only there, a pixel becomes the middle of its own
guess and its two neighbours'. Where nothing was taken out nothing is changed; and what neighbours say about places
without rain tells whether they can be believed about those with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.motion import Luma, Motion, MotionEstimator, Picture, align, flow_luma, motion
from vderain.restore.parallel import Timed, neighbourhoods, ordered_map, untimed
from vderain.restore.temporal import Derained, Flows

FULL_LEVELS = 6.0  # a pixel changed by this much, of 255, is the median altogether; one changed less, in proportion
SPREAD_PX = 3  # over which the change is averaged: the foot of a streak is as doubtful as its middle
OUTLIER_LEVELS = 4.0  # the mean of three is the best guess while errors are small; it follows none further than this
UNTOUCHED_LEVELS = 2.0  # below this no rain was taken out: neighbours that differ there are out of place
AROUND_PX = 31  # over which they are judged by that
BELIEVED_LEVELS, REFUSED_LEVELS = 3.0, 6.0  # mean difference there: neighbours count fully below, not at all above
BEFORE, AFTER = 1, 2  # places of the nearest neighbours in a window's `sources` and `motions`


@dataclass(frozen=True, slots=True)
class Shown:
    """A derained frame as its neighbours will see it.

    Attributes:
        item: the frame.
        rgb: (H, W, 3) uint8, without its rain.
        small: luma that flow is computed on, where motion is looked for again.
        back: flows between this and the frame before, where motion is looked for again and both are of one scene.
    """

    item: Derained
    rgb: Picture
    small: Luma | None = None
    back: Flows | None = None


def steady(derained: Iterable[Derained], again: bool, workers: int, timed: Timed = untimed) -> Iterator[Derained]:
    """Steadies every frame by its derained neighbours.

    Args:
        derained: in order, with the motions of their windows unless `again`.
        again: look for motion again, between derained frames: rain no longer hides it. Costs two flows a frame.
        workers: threads.
        timed: counts the time.
    """

    def shown(item: Derained) -> Shown:
        rgb = item.rgb
        return Shown(item, rgb, flow_luma(rgb, rainy=False) if again else None)

    seen = ordered_map(timed("steady", shown), derained, workers)
    if again:
        seen = ordered_map(timed("flow", _linked), neighbourhoods(seen, 1), workers)
    return ordered_map(timed("steady", _steadied), neighbourhoods(seen, 1), workers)


def _linked(around: tuple[Shown | None, ...]) -> Shown:
    """With the flows to the frame before it."""
    before, centre, _ = around
    assert centre is not None
    if before is None or not _meet(before, centre) or before.small is None or centre.small is None:
        return centre
    estimator = MotionEstimator()
    flows = estimator.flow(centre.small, before.small), estimator.flow(before.small, centre.small)
    return replace(centre, back=flows)


def _meet(before: Shown, after: Shown) -> bool:
    """Whether two successive frames are of one scene, and either has rain to be steadied."""
    one_scene = before.item.window.number in after.item.window.sources
    return one_scene and max(before.item.presence, after.item.presence) > 0


def _steadied(around: tuple[Shown | None, ...]) -> Derained:
    before, centre, after = around
    assert centre is not None
    item = centre.item
    fields = _fields(before, centre, after) if item.presence > 0 else None
    if before is None or after is None or fields is None:
        return item
    first, second = align(centre.rgb, before.rgb, fields[0]), align(centre.rgb, after.rgb, fields[1])
    median = np.asarray(cv2.max(cv2.min(first, second), cv2.min(cv2.max(first, second), centre.rgb)), np.uint8)
    removed = np.abs(item.residual).max(axis=2).astype(np.float32) * np.float32(255)
    share = np.clip(cv2.blur(removed, (SPREAD_PX, SPREAD_PX)) * np.float32(1 / FULL_LEVELS), 0, 1)
    share *= _belief(np.asarray(cv2.absdiff(median, centre.rgb), np.uint8), removed) * np.float32(item.presence / 255)
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


def _fields(before: Shown | None, centre: Shown, after: Shown | None) -> tuple[Motion, Motion] | None:
    """Motion to the frames before and after; None where a scene begins or ends."""
    if before is None or after is None:
        return None
    window = centre.item.window
    if before.small is None or centre.small is None or after.small is None:  # the motions of the window serve
        if window.sources[BEFORE] != window.number - 1 or window.sources[AFTER] != window.number + 1:
            return None
        to_before, to_after = window.motions[BEFORE], window.motions[AFTER]
        return (to_before, to_after) if to_before and to_after else None
    if centre.back is None or after.back is None:
        return None
    there, back = after.back
    return motion(centre.small, before.small, *centre.back), motion(centre.small, after.small, back, there)
