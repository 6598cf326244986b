"""The memory of what was seen through a windshield: colours, carried along the optical flow behind drops.

A pixel behind a drop was seen before, or is seen later, unless the car stands still. The memory is a Kalman filter for
each pixel: where the glass is clear, a frame replaces it; behind a drop it is carried on, and its variance grows with
each frame and with the error of the flow. What was never seen keeps the largest variance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.flow import sampled, sampling_places
from vderain.restore.frames import Luma, Picture, luma_of

Map = NDArray[np.float32]  # (h, w) or (h, w, C)

VARIANCE_MAX = 1e4  # levels squared: nothing is remembered
STEADY_FRAMES = 8  # on each side, over which luma is averaged
EDGES = 0.045, 0.065  # change of the cover from pixel to pixel over the cover: of drops too wide, and of narrow ones
PATTERN_PX = 17, 65  # sides of the boxes whose blur tells a fine and a coarse pattern from what is around
COVERED = 0.1  # a pixel covered further than this says nothing about the motion of the scene
SEEN_LEVELS2 = 0.3  # variance of the colour of a pixel behind clear glass
COVERED_LEVELS = 40.0  # error of the colour of a pixel behind a drop, after the raindrop generator
OPAQUE_LEVELS2, OPAQUE = 1e3, (0.3, 0.7)  # more of it behind drops that show nothing, from that cover on
PROCESS_LEVELS2 = 2.0  # variance that a frame adds: lighting, and interpolation
MOTION_LEVELS2 = 20.0  # variance for an error of the flow of one pixel
FLOOR_PX = 0.2  # error of a flow that agrees with the backward flow
FILL_LEVELS = 7
SPEED_PERCENTILE = 75  # a sky without texture has no motion of its own


class Memory(NamedTuple):
    """Colours of a scene.

    Attributes:
        rgb: (H, W, 3) float32 in levels.
        variance: (H, W) float32 in levels squared; `VARIANCE_MAX` where nothing was seen.
    """

    rgb: Map
    variance: Map


class Pattern(NamedTuple):
    """What stays where it is in frames without drops, see `vderain.model.glass.FixedPattern`.

    Attributes:
        fine: (h, w, 3) float16 in levels.
        coarse: (h, w, 3) float16 in levels.
        deviation: (h, w) uint8, four times the standard deviation of luma in levels.
    """

    fine: NDArray[np.float16]
    coarse: NDArray[np.float16]
    deviation: NDArray[np.uint8]


class Motion(NamedTuple):
    """Optical flow to another frame, behind drops too.

    Attributes:
        flow: (H, W, 2) float32 in pixels.
        error_px: (H, W) float32, its mean absolute error.
    """

    flow: Map
    error_px: Map


def steadiness(lumas: list[Luma]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mean and standard deviation of luma over frames, (h, w) uint8 each; the latter four times as large."""
    mean = _mean(lumas)
    squares = np.zeros(lumas[0].shape, np.float32)
    for luma in lumas:
        cv2.accumulateSquare(luma, squares)
    deviation = np.sqrt(np.maximum(squares / np.float32(len(lumas)) - mean**2, 0))
    return (mean + 0.5).astype(np.uint8), np.minimum(4 * deviation + 0.5, 255).astype(np.uint8)


def fixed_pattern(wiped: list[Picture]) -> Pattern:
    """What stays where it is in frames without drops, (h, w, 3) each."""
    mean = _mean(wiped)
    near, wide = (_box_blurred(mean, side_px) for side_px in PATTERN_PX)
    _, deviation = steadiness([luma_of(picture) for picture in wiped])
    return Pattern((mean - near).astype(np.float16), (near - wide).astype(np.float16), deviation)


def _mean(pictures: Sequence[NDArray[np.uint8]]) -> Map:
    """Their mean in levels; the sum is exact, so that it does not depend on their order."""
    total = np.zeros(pictures[0].shape, np.float32)
    for picture in pictures:
        cv2.accumulate(picture, total)
    return total / np.float32(len(pictures))


def _box_blurred(x: Map, side_px: int) -> Map:
    return np.asarray(cv2.blur(cv2.blur(x, (side_px, side_px)), (side_px, side_px)), np.float32)


def speeds(motions: tuple[Motion | None, Motion | None], shape: tuple[int, ...]) -> Map:
    """Motion of the scene to the next frame in pixels, (H, W, 2): at a pixel, and at most pixels.

    Args:
        motions: to the frame before and to the next one; without both, the scene is taken to stand.
        shape: H and W.
    """
    lengths = [np.hypot(*np.moveaxis(motion.flow, -1, 0)) for motion in motions if motion is not None]
    local = np.mean(lengths, axis=0) if lengths else np.zeros(shape[:2], np.float32)
    most = np.percentile(local[::4, ::4], SPEED_PERCENTILE)
    return np.dstack([local, np.full_like(local, most)]).astype(np.float32)


def seen(cover: Map) -> Map:
    """How far pixels are seen well enough to measure motion, 0..1."""
    return np.asarray(np.clip(1 - cover / np.float32(COVERED), 0, 1), np.float32)


def share_revealed(cover: Map) -> float:
    """How far the memory may be trusted, 0..1: not at all behind patches so wide that nothing moves out of them.

    Args:
        cover: (H, W) in 0..1.
    """
    total = float(cover.sum(dtype=np.float64))
    if total == 0:
        return 0.0
    edges = float(np.abs(np.diff(cover, axis=1)).sum(dtype=np.float64)) / total  # of one drop: 2 / its width in pixels
    wide, narrow = EDGES
    return min(1.0, max(0.0, (edges - wide) / (narrow - wide)))


def filled(values: Map, weight: Map) -> Map:
    """Fill in a flow or colours where they have no weight, from around, coarse to fine.

    Args:
        values: (h, w, C).
        weight: (h, w) in 0..1.

    Returns:
        (h, w, C); the values themselves where the weight is 1.
    """
    levels = [(values * weight[..., None], weight)]
    while len(levels) < FILL_LEVELS and min(levels[-1][1].shape) >= 4:
        size = tuple((side + 1) // 2 for side in levels[-1][1].shape[::-1])
        smooth = (cv2.GaussianBlur(part, (5, 5), 1.0) for part in levels[-1])
        total, share = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in smooth)
        levels.append((np.asarray(total, np.float32), np.asarray(share, np.float32)))
    total, share = levels[-1]
    out = total / (share[..., None] + np.float32(1e-6))
    for total, share in levels[-2::-1]:
        around = cv2.resize(out, share.shape[::-1], interpolation=cv2.INTER_LINEAR)
        known = np.minimum(share, 1)[..., None]
        out = around + known * (total / (share[..., None] + np.float32(1e-6)) - around)
    return np.asarray(out, np.float32)


def surroundings(wiped: Map, cover: Map) -> Map:
    """The colours around drops: (H, W, 3), smooth behind them and the frame itself elsewhere, but for fine detail.

    Args:
        wiped: (H, W, 3), a frame without drops.
        cover: (H, W) in 0..1.
    """
    height_px, width_px = cover.shape
    half = max(1, width_px // 2), max(1, height_px // 2)
    parts = (cv2.resize(x, half, interpolation=cv2.INTER_AREA) for x in (wiped, cover))
    small, behind = (np.asarray(part, np.float32) for part in parts)
    smooth = cv2.resize(filled(small, seen(behind)), (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth, np.float32)


def observed(wiped: Map, cover: Map, predicted: Memory | None) -> Memory:
    """Update the memory by a frame without drops.

    Args:
        wiped: (H, W, 3) in levels.
        cover: (H, W) in 0..1.
        predicted: the memory, carried to the frame; None where there is none.
    """
    low, high = OPAQUE
    opaque = np.clip((cover - np.float32(low)) / np.float32(high - low), 0, 1)
    error = np.float32(SEEN_LEVELS2) + (np.float32(COVERED_LEVELS) * cover) ** 2 + np.float32(OPAQUE_LEVELS2) * opaque
    if predicted is None:
        return Memory(wiped, error)
    gain = predicted.variance / (predicted.variance + error)
    rgb = predicted.rgb + gain[..., None] * (wiped - predicted.rgb)
    return Memory(rgb, gain * error)


def nothing_remembered(wiped: Map) -> Memory:
    """The memory of a frame, (H, W, 3) in levels, of which nothing was seen before."""
    return Memory(wiped, np.full(wiped.shape[:2], VARIANCE_MAX, np.float32))


def carried(memory: Memory, flow: Map, error_px: Map) -> Memory:
    """Carry the memory to another frame.

    Args:
        memory: of a frame.
        flow: (H, W, 2) in pixels, from the other frame to that one.
        error_px: (H, W), mean absolute error of the flow.
    """
    height_px, width_px = error_px.shape
    where = sampling_places(flow)
    rgb = sampled(memory.rgb, where, cv2.BORDER_REPLICATE, interpolation=cv2.INTER_CUBIC)
    variance = sampled(memory.variance, where, cv2.BORDER_REPLICATE)
    variance = variance + np.float32(PROCESS_LEVELS2) + np.float32(MOTION_LEVELS2) * error_px**2
    x, y = where[..., 0], where[..., 1]
    outside = (x < -0.5) | (y < -0.5) | (x > width_px - 0.5) | (y > height_px - 0.5)
    variance[outside] = VARIANCE_MAX
    return Memory(rgb, np.minimum(variance, np.float32(VARIANCE_MAX)))


def stepped(wiped: Map, cover: Map, motion: Motion | None, memory: Memory | None) -> tuple[Memory, Memory]:
    """The memory as it is carried to a frame, and after it saw it.

    Args:
        wiped: (H, W, 3) in levels, the frame without drops.
        cover: (H, W) in 0..1.
        motion: from the frame to the one that the memory is of.
        memory: None where there is none.
    """
    predicted = None if memory is None or motion is None else carried(memory, motion.flow, motion.error_px)
    return predicted or nothing_remembered(wiped), observed(wiped, cover, predicted)
