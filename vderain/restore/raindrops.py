"""Drops on the windshield: frames as they came enter, frames as through a wiped glass leave.

Drops are larger than streaks and stay where they are, so neighbours know no more of what is behind them than the frame
itself: a generator of its own looks at each frame alone, made as small as the pictures that it learned from. What it
would add is believed as far as it lasts, since what is mistaken for a drop moves with the street; then it is enlarged.
While the glass is dry in most of its parts, nothing is added.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import Picture, flow_luma
from vderain.restore.inference import NetworkRunner
from vderain.restore.median_baseline import median_of_five
from vderain.restore.rain_detection import by_tile
from vderain.restore.still_image import flip_ensemble
from vderain.restore.window import WINDOW, PreparedFrame, Residual, single_frame_window
from vderain.runtime.threads import Timed, ordered_map, sliding_window, untimed

MAX_LINES = 360  # of the shorter side, at most
IGNORED_LEVELS = 2.0  # a smaller change is no drop
AROUND_PX, SOFT_PX = 81, 5  # what is seen there bounds what is guessed: larger than a drop, and without its rim
# Mean change of the median tile. Dry clips and pictures stay below .01; a few soft drops make .3, a glass full of small
# ones more than 1.
DRY_LEVELS, WET_LEVELS = 0.1, 0.25
# In a picture by itself nothing can be seen to last, and dots of a pattern may pass for drops: more is asked for.
LONE_DRY_LEVELS, LONE_WET_LEVELS = 0.35, 0.6


def raindrop_level(residual: NDArray[np.floating]) -> float:
    """How much the drops on a glass change the picture: the mean over the median tile, in levels of 255.

    Args:
        residual: (H, W, 3) in 0..1 units, what the drops' generator would add.
    """
    changed = np.abs(residual).max(axis=2).astype(np.float32) * np.float32(255)
    return float(np.median(by_tile(changed, IGNORED_LEVELS)))


class RaindropRemover:
    """Takes drops off the glass.

    Args:
        network: with the generator for drops, which looks at one frame.
        guarded: leave frames behind dry glass as they are, to the bit.
    """

    def __init__(self, network: NetworkRunner, guarded: bool = True) -> None:
        self._derainer, self._guarded = network, guarded

    def __call__(
        self, sights: Iterable[PreparedFrame], workers: int, radius: int, timed: Timed = untimed
    ) -> Iterator[PreparedFrame]:
        """Sights through a wiped glass, in order.

        Args:
            sights: of one clip.
            workers: threads.
            radius: frames of its shot before and after in which a drop has to be too.
            timed: counts the time.
        """
        on_cpu = self._derainer.place.device.type == "cpu"
        seen = ordered_map(timed("drops", self._seen), sights, workers if on_cpu else 1)
        return ordered_map(timed("drops", self._wiped), sliding_window(seen, radius), workers)

    def _seen(self, prepared: PreparedFrame) -> tuple[PreparedFrame, Residual]:
        """With what the generator would add, at its own size; there is time for a single picture."""
        height_px, width_px = prepared.rgb.shape[:2]
        scale = min(1.0, MAX_LINES / min(height_px, width_px))
        size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
        small = cv2.resize(prepared.rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else prepared.rgb
        picture = np.asarray(small, np.uint8)
        if prepared.is_still_image:
            residual = flip_ensemble(prepared, picture, self._derainer)
        else:
            residual = self._derainer.picture(single_frame_window(replace(prepared, rgb=picture)))
        return prepared, bounded(picture, residual) if raindrop_level(residual) > DRY_LEVELS / 2 else residual

    def _wiped(self, around: tuple[tuple[PreparedFrame, Residual] | None, ...]) -> PreparedFrame:
        middle = around[len(around) // 2]
        assert middle is not None
        prepared, _ = middle
        lasting = _lasting([change for other, change in filter(None, around) if other.shot == prepared.shot])
        dry, drenched = (LONE_DRY_LEVELS, LONE_WET_LEVELS) if prepared.is_still_image else (DRY_LEVELS, WET_LEVELS)
        raindrop_score = (raindrop_level(lasting) - dry) / (drenched - dry) if self._guarded else 1.0
        if raindrop_score <= 0:
            return prepared
        raindrop_residual = (lasting * np.float32(min(1.0, raindrop_score))).astype(np.float16)
        change = enlarged(raindrop_residual, height_px=prepared.rgb.shape[0], width_px=prepared.rgb.shape[1])
        rgb = np.asarray(cv2.add(prepared.rgb, change * np.float32(255), dtype=cv2.CV_8U), np.uint8)
        return replace(
            prepared,
            rgb=rgb,
            small=flow_luma(rgb),
            raindrop_residual=raindrop_residual,
            raindrop_score=min(1.0, raindrop_score),
        )


def bounded(picture: Picture, residual: Residual) -> Residual:
    """As much of a residual as makes nothing brighter, darker or more colourful than what is seen around it.

    Args:
        picture: (H, W, 3) uint8.
        residual: (H, W, 3) in 0..1 units.
    """
    rgb = picture.astype(np.float32) * np.float32(1 / 255)
    before = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    change = cv2.cvtColor(rgb + residual.astype(np.float32), cv2.COLOR_RGB2YCrCb) - before
    soft, around = cv2.blur(before, (SOFT_PX, SOFT_PX)), np.ones((AROUND_PX, AROUND_PX), np.uint8)
    allowed = np.clip(before + change, cv2.erode(soft, around), cv2.dilate(soft, around)) - before
    allowed = np.clip(allowed, np.minimum(change, 0), np.maximum(change, 0))
    return np.asarray(cv2.cvtColor(before + allowed, cv2.COLOR_YCrCb2RGB) - rgb, np.float16)


def _lasting(residuals: list[Residual]) -> NDArray[np.float32]:
    """(H, W, 3), the median of what is there in each of several frames."""
    parts = [part.astype(np.float32) for part in residuals]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == WINDOW:
        return median_of_five(parts)
    return np.median(parts, axis=0).astype(np.float32)  # at the ends of a shot


def enlarged(raindrop_residual: Residual, height_px: int, width_px: int) -> NDArray[np.float32]:
    """(height_px, width_px, 3), what a wiper added, at the size of the frame."""
    change = raindrop_residual.astype(np.float32)
    if change.shape[:2] == (height_px, width_px):
        return change
    return np.asarray(cv2.resize(change, (width_px, height_px), interpolation=cv2.INTER_CUBIC), np.float32)
