"""Prepares decoded frames for restoration: upright RGB, luma for optical flow, and scene cuts."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.media.colour import to_rgb8
from vderain.media.frame import Frame
from vderain.restore.flow import flow_luma
from vderain.restore.frames import Luma, PreparedFrame
from vderain.runtime.profiling import stage
from vderain.runtime.threads import ordered_map

THUMBNAIL_PX = (32, 18)
# A cut: the mean difference of two thumbnails exceeds what camera motion makes, in luma levels; or their median
# difference is large and they correlate no better than unrelated images do.
CUT_MEAN_LEVELS = 28.0
CUT_MEDIAN_LEVELS, CUT_CORRELATION = 12.0, 0.45


def prepare_frames(frames: Iterable[Frame], workers: int, rotation_quarters: int = 0) -> Iterator[PreparedFrame]:
    """Prepare a stream of frames.

    Args:
        frames: of one clip, in order.
        workers: number of threads.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing the frames.
    """
    return _number_shots(ordered_map(partial(prepare_frame, rotation_quarters=rotation_quarters), frames, workers))


@stage("prepare")
def prepare_frame(frame: Frame, rotation_quarters: int = 0) -> PreparedFrame:
    """Convert one frame to RGB and turn it upright: the network learned that rain falls down.

    Args:
        frame: as decoded.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing it.
    """
    rgb = np.ascontiguousarray(np.rot90(to_rgb8(frame), rotation_quarters))
    return PreparedFrame(frame, rgb, flow_luma(rgb))


def _number_shots(frames: Iterable[PreparedFrame]) -> Iterator[PreparedFrame]:
    """Add numbers and shots. Whether a frame is a still image shows when the next one arrives."""
    shot, is_first = 0, True
    previous: PreparedFrame | None = None
    for number, current in enumerate(frames):
        if previous is not None:
            is_last = previous.rgb.shape != current.rgb.shape or is_cut(previous.luma, current.luma)
            yield replace(previous, shot=shot, is_still_image=is_first and is_last)
            shot, is_first = shot + is_last, is_last
        previous = replace(current, number=number)
    if previous is not None:
        yield replace(previous, shot=shot, is_still_image=is_first)


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
