"""Measures, without ground truth, how much detail keeps its place in the picture while the scene moves.

On a moving car that is what lies on the windshield, beside what travels along: the car ahead, the bonnet, a stamp. The
mean of the frames keeps such detail and averages out the rest:

    static = |H(mean x)|²        moving = mean |H(x)|² - static        H(x) = x - x blurred by 8 px

Removed drops lower the static part. The moving part must not fall with it: then the scene was blurred.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.evaluation.quality import luma
from vderain.restore.frames import Picture

BLUR_PX = 8.0
FRAMES = 48  # over which detail has to stay
FRAMES_MIN = 12


@dataclass(frozen=True, slots=True)
class Detail:
    """Energy of detail, in squared levels of 255, mean over the frame.

    Attributes:
        static: of what keeps its place over 48 frames.
        moving: of the rest.
    """

    static: float
    moving: float


def measure_detail(pictures: Iterable[Picture]) -> Detail | None:
    """Measure the detail of a clip, the mean over its stretches of 48 frames; None where it has fewer than 12.

    Args:
        pictures: its frames, (H, W, 3) uint8 RGB each.
    """
    found: list[Detail] = []
    held: list[Picture] = []
    for picture in pictures:
        held.append(picture)
        if len(held) == FRAMES:
            found.append(detail_of(held))
            held = []
    if not found and len(held) >= FRAMES_MIN:
        found.append(detail_of(held))
    if not found:
        return None
    return Detail(float(np.mean([d.static for d in found])), float(np.mean([d.moving for d in found])))


def detail_of(pictures: list[Picture]) -> Detail:
    """Measure the detail of successive frames.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
    """
    total, energy = np.zeros(pictures[0].shape[:2], np.float32), 0.0
    for picture in pictures:
        fine = _detail(luma(picture).astype(np.float32))
        total += fine  # H is linear: the mean of the details is the detail of the mean
        energy += float((fine**2).mean(dtype=np.float64)) / len(pictures)
    static = float(((total / len(pictures)) ** 2).mean(dtype=np.float64))
    return Detail(static, energy - static)


def _detail(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x - cv2.GaussianBlur(x, (0, 0), BLUR_PX), np.float32)
