"""Removes raindrops on the windshield with a second, single-frame network.

Raindrops are larger than streaks and stay where they are, so neighbouring frames do not show what is behind them. A
network of their own restores each frame by itself, downscaled to the size of its training images. Its residual is
filtered by a temporal median, since what is mistaken for a drop moves with the street; then it is upscaled. While the
glass is dry in most parts of the frame, nothing is added; and while none is seen, the network looks at one frame in
three.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import flow_luma
from vderain.restore.frames import (
    WINDOW,
    Lasting,
    Picture,
    PreparedFrame,
    Residual,
    add_to_rgb,
    downscaled,
    median_of_five,
    to_float32,
    upscaled,
)
from vderain.restore.inference import NetworkRunner
from vderain.restore.rain_detection import mean_by_tile
from vderain.restore.scene_state import Observation, scene_states, thumbnail_of
from vderain.runtime.threads import ordered_map, sliding_window, stage

IGNORED_LEVELS = 2.0  # a smaller change is not a drop
SURROUNDINGS_PX, SOFT_PX = 81, 5  # the colours found there bound the residual: wider than a drop, and without its rim
# Mean change of the median tile, in levels of 255. Dry clips and images stay below .01; a few soft drops make .3, a
# glass full of small ones more than 1.
DRY_LEVELS, WET_LEVELS = 0.1, 0.25
# The mean of the same over a second. Behind dry glass it stays below .27 (reeds that hang still, a dirty windshield);
# drops before a night street make .54, a windshield full of them 1.6.
DRY_SCENE_LEVELS, WET_SCENE_LEVELS = 0.3, 0.5
# In a still image nothing can be seen to last, and dots of a pattern may pass for drops, so the thresholds are higher.
STILL_DRY_LEVELS, STILL_WET_LEVELS = 0.35, 0.6


EVERY = 3  # frames, of which the network sees one while the glass is dry

Completion = Callable[[Iterable[Lasting], int], Iterator[Lasting]]  # of frames, by a number of threads
_Detected = tuple[PreparedFrame, Residual | None]


class RaindropRemover:
    """Removes raindrops from frames.

    Args:
        network: with the raindrop generator, whose window is 1.
        skip_dry: leave frames behind dry glass as they are, to the bit.
        memory: completes the residuals; None for those of the network alone.
    """

    def __init__(self, network: NetworkRunner, skip_dry: bool = True, memory: Completion | None = None) -> None:
        self._network, self._skip_dry, self._memory = network, skip_dry, memory

    @property
    def has_memory(self) -> bool:
        """Whether a frame depends on what was seen long before."""
        return self._memory is not None

    def __call__(self, frames: Iterable[PreparedFrame], workers: int, radius: int) -> Iterator[PreparedFrame]:
        """The frames without raindrops, in order.

        Args:
            frames: of one clip.
            workers: number of threads.
            radius: frames of the same shot before and after in which a drop has to be as well.
        """
        threads = workers if self._network.on_cpu else 1
        every = EVERY if self._skip_dry and radius else 1
        sparse = ordered_map(partial(self._detect_some, every=every), frames, threads)
        detected = ordered_map(self._fill, sliding_window(sparse, every - 1), threads)
        lasting = ordered_map(self._combine, sliding_window(detected, radius), workers)
        judged = self._judge(lasting, alone=radius == 0)
        if self._memory is not None and radius:
            judged = self._memory(judged, workers)
        return ordered_map(self._remove, judged, workers)

    def _judge(self, frames: Iterable[Lasting], alone: bool) -> Iterator[Lasting]:
        """Each frame with its raindrop score: that of its scene, or its own where it is judged alone."""
        waiting: deque[Lasting] = deque()

        def observed() -> Iterator[Observation]:
            for item in frames:
                waiting.append(item)
                frame = item.frame
                yield Observation(frame.shot, frame.is_still_image, thumbnail_of(frame.luma), item.level, 0.0)

        for state in scene_states(observed(), DRY_SCENE_LEVELS, WET_SCENE_LEVELS):
            item = waiting.popleft()
            score = state.strength
            if alone or state.is_still_image:
                dry, wet = (STILL_DRY_LEVELS, STILL_WET_LEVELS) if state.is_still_image else (DRY_LEVELS, WET_LEVELS)
                score = min(1.0, max(0.0, (item.level - dry) / (wet - dry)))
            yield replace(item, score=score if self._skip_dry else 1.0)

    @stage("raindrops")
    def _detect_some(self, frame: PreparedFrame, every: int) -> _Detected:
        """Run the network on one frame in `every`, and on still images."""
        wanted = frame.is_still_image or frame.number % every == 0
        return self._detect(frame) if wanted else (frame, None)

    @stage("raindrops")
    def _fill(self, around: tuple[_Detected | None, ...]) -> tuple[PreparedFrame, Residual]:
        """The residual of a frame that was left out: a neighbour's while the glass is dry, else its own."""
        middle = len(around) // 2
        now = around[middle]
        assert now is not None
        frame, residual = now
        if residual is not None:
            return frame, residual
        before, after = (
            next((r for f, r in filter(None, side) if r is not None and f.shot == frame.shot), None)
            for side in (around[middle - 1 :: -1], around[middle + 1 :])
        )
        if before is None or after is None or max(map(raindrop_level, (before, after))) > DRY_LEVELS / 2:
            return self._detect(frame)
        return frame, before

    def _detect(self, frame: PreparedFrame) -> tuple[PreparedFrame, Residual]:
        """The frame with the network's residual, at the network's size."""
        rgb = downscaled(frame.rgb)  # (h, w, 3)
        restore = self._network.flip_ensemble if frame.is_still_image else self._network.restore_image
        residual = restore(rgb)
        return frame, bounded(rgb, residual) if raindrop_level(residual) > DRY_LEVELS / 2 else residual

    @stage("raindrops")
    def _combine(self, around: tuple[tuple[PreparedFrame, Residual] | None, ...]) -> Lasting:
        """What is in most residuals of a sliding window, for the frame in its middle."""
        middle = around[len(around) // 2]
        assert middle is not None
        frame, _ = middle
        residual = lasting([residual for other, residual in filter(None, around) if other.shot == frame.shot])
        return Lasting(frame, residual, raindrop_level(residual))

    @stage("raindrops")
    def _remove(self, item: Lasting) -> PreparedFrame:
        """Add the residual to a frame as far as the glass is wet."""
        frame, score = item.frame, item.score
        if score <= 0:
            return frame
        residual = (item.residual * np.float32(score)).astype(np.float16)  # (h, w, 3)
        rgb = add_to_rgb(frame.rgb, upscaled(residual, *frame.rgb.shape[:2]))
        return replace(frame, rgb=rgb, luma=flow_luma(rgb), raindrop_residual=residual, raindrop_score=score)


def raindrop_level(residual: NDArray[np.floating]) -> float:
    """How much the raindrops on a glass change the frame: the mean over the median tile, in levels of 255.

    Args:
        residual: (H, W, 3) in 0..1 units, of the raindrop network.
    """
    changed = np.abs(to_float32(residual)).max(axis=2) * np.float32(255)
    return float(np.median(mean_by_tile(changed, IGNORED_LEVELS)))


def bounded(rgb: Picture, residual: Residual) -> Residual:
    """Limit a residual so that nothing becomes brighter, darker or more colourful than its surroundings.

    Args:
        rgb: (H, W, 3) uint8.
        residual: (H, W, 3) in 0..1 units.

    Returns:
        (H, W, 3) float16 in 0..1 units.
    """
    unit = rgb.astype(np.float32) * np.float32(1 / 255)
    before = cv2.cvtColor(unit, cv2.COLOR_RGB2YCrCb)  # (H, W, 3)
    change = cv2.cvtColor(unit + residual.astype(np.float32), cv2.COLOR_RGB2YCrCb) - before
    soft, kernel = cv2.blur(before, (SOFT_PX, SOFT_PX)), np.ones((SURROUNDINGS_PX, SURROUNDINGS_PX), np.uint8)
    allowed = np.clip(before + change, cv2.erode(soft, kernel), cv2.dilate(soft, kernel)) - before
    allowed = np.clip(allowed, np.minimum(change, 0), np.maximum(change, 0))
    return np.asarray(cv2.cvtColor(before + allowed, cv2.COLOR_YCrCb2RGB) - unit, np.float16)


def lasting(residuals: list[Residual]) -> NDArray[np.float32]:
    """What is in most of the residuals, (h, w, 3) each: their element-wise median, float32."""
    parts = [part.astype(np.float32) for part in residuals]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == WINDOW:
        return median_of_five(parts)
    return np.median(parts, axis=0).astype(np.float32)  # at the ends of a shot
