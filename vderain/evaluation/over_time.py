"""Measures a clip of real rain frame by frame, without ground truth: what was taken, how it lies, and what is left.

Before a fixed camera the truth is known in static places: rain is in a pixel less than half of the time, so the median
over the frames shows the scene (Wang et al., "Spatial attentive single-image deraining with a high quality real rain
dataset", CVPR 2019, take a percentile of the same kind).
"""

from dataclasses import dataclass
from statistics import fmean, median

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.evaluation.fixed_detail import Detail
from vderain.evaluation.footage import Footage, zip_frames
from vderain.evaluation.panels import Line, draw
from vderain.evaluation.quality import IDENTICAL_DB, Values, luma
from vderain.restore.frames import Picture

HELD_BYTES = 256 * 2**20  # for the frames whose median is the truth
HELD_FRAMES = 61
STATIC_LEVELS = 2.5  # between the medians of the first, second and last third of the frames
STEADY_LEVELS = 4.0  # median absolute deviation from the truth
STATIC_MIN_SHARE = 0.05  # of a frame: with less, no truth is known
FAINT_LEVELS = 3.0  # smaller errors are noise
NEIGHBOURS = 4  # frames on each side with which the strength of a frame is compared
TAKEN_LEVELS = 2.0  # less light taken has no direction


@dataclass(frozen=True, slots=True)
class StaticTruth:
    """The scene where it is static.

    Attributes:
        scene: (H, W) luma, the median over time.
        static: (H, W) bool, where it is the truth.
    """

    scene: Values
    static: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StaticError:
    """Error in static places, in squared levels of 255.

    Attributes:
        mean: of all errors.
        bright: of those of more than 3 levels: rain that is left.
        dark: of those below -3 levels: too much was taken.
    """

    mean: float
    bright: float
    dark: float

    @property
    def psnr_db(self) -> float:
        """PSNR for a peak of 255."""
        return float(10 * np.log10(255**2 / self.mean)) if self.mean else IDENTICAL_DB


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What was done to one frame.

    Attributes:
        taken_levels: mean absolute change, in levels of 255.
        unsteadiness: that change, divided by the median change of the eight frames around; None where nothing changed.
        direction_deg: of the streaks that were taken, -90 to 90 from the vertical, positive where they lean to the
            right; None where nothing was taken.
        error_in, error_out: before and after; None where nothing is static.
    """

    taken_levels: float
    unsteadiness: float | None
    direction_deg: float | None
    error_in: StaticError | None
    error_out: StaticError | None


@dataclass(frozen=True, slots=True)
class OverTime:
    """The facts of all frames.

    Attributes:
        static_in, static_out: mean errors in static places before and after; None where nothing is static.
        direction_deg: median direction of the streaks that were taken; None where nothing was taken.
        unsteadiness: the largest of all frames; None where nothing changed.
        frames: the facts of each frame.
        detail_in, detail_out: what keeps its place in the picture, and what moves, before and after; None for clips of
            few frames.
    """

    static_in: StaticError | None
    static_out: StaticError | None
    direction_deg: float | None
    unsteadiness: float | None
    frames: list[FrameFacts]
    detail_in: Detail | None = None
    detail_out: Detail | None = None


def measure_over_time(rain: Footage, out: Footage) -> list[FrameFacts]:
    """Measure each frame of a clip before and after deraining.

    Args:
        rain: the rainy clip.
        out: the derained clip.

    Raises:
        InputError: a clip cannot be read, or the clips differ in length or size.
    """
    truth = static_truth(rain)
    taken, directions, errors = [], [], []
    for before, after in zip_frames([rain, out]):
        y_before, y_after = luma(before), luma(after)
        taken.append(float(np.abs(y_after - y_before).mean()))
        directions.append(streak_direction_deg(y_before - y_after))
        errors.append((_error(y_before, truth), _error(y_after, truth)))
    steady = unsteadiness(taken)
    return [
        FrameFacts(levels, ratio, direction, *pair)
        for levels, ratio, direction, pair in zip(taken, steady, directions, errors, strict=True)
    ]


def static_truth(rain: Footage) -> StaticTruth | None:
    """The scene of a fixed camera behind the rain; None where hardly anything is static.

    Args:
        rain: the rainy clip; up to 61 of its frames, evenly spread, are held.
    """
    count = sum(1 for _ in rain.pictures())
    frames: list[NDArray[np.float32]] = []
    limit = HELD_FRAMES
    for number, picture in enumerate(rain.pictures()):
        limit = max(9, min(HELD_FRAMES, HELD_BYTES // (picture.nbytes // 3 * 4)))
        if number * limit // count != (number - 1) * limit // count:
            frames.append(luma(picture).astype(np.float32))
    if len(frames) < 9:
        return None
    held = np.stack(frames)
    scene = np.median(held, axis=0)
    thirds = [np.median(part, axis=0) for part in np.array_split(held, 3)]
    static = np.max(thirds, axis=0) - np.min(thirds, axis=0) < STATIC_LEVELS
    static &= np.median(np.abs(held - scene), axis=0) < STEADY_LEVELS
    return StaticTruth(scene.astype(np.float64), static) if static.mean() >= STATIC_MIN_SHARE else None


def _error(y: Values, truth: StaticTruth | None) -> StaticError | None:
    if truth is None:
        return None
    error = (y - truth.scene)[truth.static]
    squared = error**2
    return StaticError(
        float(squared.mean()),
        float((squared * (error > FAINT_LEVELS)).mean()),
        float((squared * (error < -FAINT_LEVELS)).mean()),
    )


def summary(facts: list[FrameFacts]) -> OverTime:
    """Sum up what was measured of each frame."""
    directions = [fact.direction_deg for fact in facts if fact.direction_deg is not None]
    return OverTime(
        static_in=_mean_error([fact.error_in for fact in facts if fact.error_in]),
        static_out=_mean_error([fact.error_out for fact in facts if fact.error_out]),
        direction_deg=median(directions) if directions else None,
        unsteadiness=max((fact.unsteadiness for fact in facts if fact.unsteadiness is not None), default=None),
        frames=facts,
    )


def _mean_error(errors: list[StaticError]) -> StaticError | None:
    if not errors:
        return None
    return StaticError(
        fmean(error.mean for error in errors), fmean(error.bright for error in errors),
        fmean(error.dark for error in errors),
    )  # fmt: skip


def unsteadiness(taken: list[float]) -> list[float | None]:
    """Each value divided by the median of the up to eight around it; None where that is 0, or there are none."""
    found: list[float | None] = []
    for number, value in enumerate(taken):
        around = taken[max(0, number - NEIGHBOURS) : number] + taken[number + 1 : number + 1 + NEIGHBOURS]
        middle = float(np.median(around)) if around else 0.0
        found.append(value / middle if middle > 0 else None)
    return found


def streak_direction_deg(taken: Values) -> float | None:
    """The direction of the streaks in the light that was taken from a frame, by its structure tensor.

    Args:
        taken: (H, W) levels, positive where light was taken.

    Returns:
        -90 to 90 degrees from the vertical, positive where the upper end is further right; None where none was taken.
    """
    light = np.maximum(taken - TAKEN_LEVELS, 0).astype(np.float32)
    if not light.any():
        return None
    across, down = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    xx, yy, xy = (float((a * b).mean(dtype=np.float64)) for a, b in ((across, across), (down, down), (across, down)))
    gradient_rad = 0.5 * np.arctan2(2 * xy, xx - yy)  # of steepest change, across the streaks, from the x axis
    return float(np.degrees(gradient_rad))


def plot(facts: list[FrameFacts]) -> Picture:
    """Draw the measures over the frames, one panel each: (H, W, 3) uint8 RGB.

    Args:
        facts: of successive frames.
    """

    def db(error: StaticError | None) -> float | None:
        return error.psnr_db if error else None

    def bright(error: StaticError | None) -> float | None:
        return error.bright if error else None

    def dark(error: StaticError | None) -> float | None:
        return error.dark if error else None

    panels = [("taken, levels (mean change of a frame)", [Line("", [f.taken_levels for f in facts])])]
    panels.append(("taken, in multiples of the frames around", [Line("", [f.unsteadiness for f in facts])]))
    panels.append(("direction of streaks, degrees from the vertical", [Line("", [f.direction_deg for f in facts])]))
    if any(fact.error_in for fact in facts):
        for title, of in (
            ("PSNR in static places, dB", db),
            ("rain left, levels^2", bright),
            ("too dark, levels^2", dark),
        ):
            lines = [Line("input", [of(f.error_in) for f in facts]), Line("output", [of(f.error_out) for f in facts])]
            panels.append((title, lines))
    return draw(panels)
