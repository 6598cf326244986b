"""Judges rain and wet glass as states of a scene: over seconds, with ramps, and with a short look-ahead.

Rain lasts for minutes, but what a network finds of it differs from frame to frame. So the level that decides is a mean
over the last frames and the next four, and the state follows it by at most a tenth a frame. A flash of light does not
end a scene. The memory is finite: frames made again from a joint equal those of an uninterrupted run.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from statistics import fmean, median

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.runtime.threads import sliding_window

AHEAD = 4  # frames after a frame that are judged with it
BACK = 20  # frames before it
RAMP = 11  # frames over which the judgement is averaged: the state changes by at most 1/11 a frame
FLASH_FRAMES = 4  # a brighter or darker picture of fewer frames is a flash, not a shot
MEMORY = BACK + RAMP + FLASH_FRAMES  # frames on each side that a state depends on
CAUTION = 0.5  # by how much thresholds are raised where a shot has begun just now, as a share
LIMIT, LIMIT_FLOOR_LEVELS = 1.3, 0.03  # a frame changes by at most this much, as a multiple of its neighbours' median
THUMBNAIL_PX = (32, 18)
# A cut: the mean difference of two thumbnails exceeds what camera motion makes, in luma levels; or their median
# difference is large and they correlate no better than unrelated images do.
CUT_MEAN_LEVELS = 28.0
CUT_MEDIAN_LEVELS, CUT_CORRELATION = 12.0, 0.45

Luma = NDArray[np.uint8]  # (h, w)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one frame tells about its scene.

    Attributes:
        shot: index of its shot.
        is_still_image: whether it is the only frame of its shot.
        thumbnail: (h, w) uint8, from `thumbnail_of`.
        level: what is compared with the thresholds, such as the light that was removed.
        change_levels: mean absolute change of the frame, in whole levels of 255.
    """

    shot: int
    is_still_image: bool
    thumbnail: Luma
    level: float
    change_levels: float


@dataclass(frozen=True, slots=True)
class State:
    """The state of a scene at one frame.

    Attributes:
        strength: 0 (dry) to 1; for an unrelated image, 1.
        limit: factor of at most 1 that keeps the change of the frame near that of its neighbours.
        is_still_image: whether the frame is an unrelated image, which has to be judged by itself.
    """

    strength: float
    limit: float
    is_still_image: bool


def thumbnail_of(luma: Luma) -> Luma:
    """A thumbnail in which a scene cut shows.

    Args:
        luma: (H, W) uint8.
    """
    return np.asarray(cv2.resize(luma, THUMBNAIL_PX, interpolation=cv2.INTER_AREA), np.uint8)


def scene_states(observations: Iterable[Observation], dry: float, full: float) -> Iterator[State]:
    """The state of the scene at each frame; reads `AHEAD` + `FLASH_FRAMES` frames ahead.

    Args:
        observations: of successive frames.
        dry: mean level up to which the strength is 0.
        full: mean level from which on it is 1.
    """
    size = BACK + 1 + AHEAD
    recent: deque[_Placed | None] = deque([None] * size, maxlen=size)
    scores: deque[float] = deque(maxlen=RAMP)
    scene = -1
    for count, placed in enumerate(chain(_place(observations), repeat(None, AHEAD))):
        recent.append(placed)
        now = recent[BACK]
        if count < AHEAD or now is None:
            continue
        levels = [other.level for other in recent if other and other.scene == now.scene]
        caution = 1 + CAUTION * max(0.0, 1 - len(levels) / (BACK + 1))
        score = min(1.0, max(0.0, (fmean(levels) / caution - dry) / (full - dry)))
        if now.scene != scene:
            scene = now.scene
            scores.extend([score] * RAMP)  # a shot begins in its state
        scores.append(score)
        yield State(1.0 if now.is_still_image else fmean(scores), now.limit, now.is_still_image)


@dataclass(frozen=True, slots=True)
class _Placed:
    """The level of a frame, without what stands out, and its scene: a shot with the flashes in it."""

    scene: int
    level: float
    limit: float
    is_still_image: bool


def _place(observations: Iterable[Observation]) -> Iterator[_Placed]:
    scene, previous_shot = 0, None
    for around in sliding_window(observations, FLASH_FRAMES):
        before, now, after = around[:FLASH_FRAMES], around[FLASH_FRAMES], around[FLASH_FRAMES + 1 :]
        assert now is not None
        if previous_shot not in (None, now.shot):
            scene += not _same_scene(before, (now, *after[:-1]))
        previous_shot = now.shot
        still = now.is_still_image and not _same_scene(before, after)
        flash = now.is_still_image and not still
        neighbours = [other for other in (*before, *after) if other and (flash or other.shot == now.shot)]
        limit = 1.0 if still else _limit(now, neighbours)
        yield _Placed(scene, now.level * limit, limit, still)


def _same_scene(before: tuple[Observation | None, ...], after: tuple[Observation | None, ...]) -> bool:
    """Whether a shot goes on after what looks like a cut; unrelated images never make a shot."""
    first, second = ([other for other in side if other and not other.is_still_image] for side in (before, after))
    return any(not is_cut(one.thumbnail, other.thumbnail) for one in first for other in second)


def _limit(now: Observation, neighbours: list[Observation]) -> float:
    """The factor that keeps a frame's change near the median of its neighbours'."""
    if len(neighbours) < FLASH_FRAMES:
        return 1.0
    allowed = max(LIMIT * median(other.change_levels for other in neighbours), LIMIT_FLOOR_LEVELS)
    return min(1.0, allowed / now.change_levels) if now.change_levels else 1.0


def is_cut(previous: Luma, current: Luma) -> bool:
    """Whether a new shot begins between two frames.

    Args:
        previous: (h, w) uint8.
        current: (h, w) uint8, of the same size.
    """
    first, second = (cv2.resize(x, THUMBNAIL_PX, interpolation=cv2.INTER_AREA) for x in (previous, current))
    difference = cv2.absdiff(first, second)
    unrelated = float(np.median(difference)) > CUT_MEDIAN_LEVELS and _correlation(first, second) < CUT_CORRELATION
    return unrelated or float(difference.mean()) > CUT_MEAN_LEVELS


def _correlation(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Correlation of two thumbnails, -1 to 1; near 0 where one of them is nearly flat."""
    a, b = (part.astype(np.float32) - np.float32(part.mean()) for part in (first, second))
    return float((a * b).mean() / ((a.std() + 2) * (b.std() + 2)))
