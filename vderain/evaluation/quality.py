"""How near a picture is to the truth: two RGB pictures enter, numbers leave.

They count as published tables do: Y of Matlab's rgb2ycbcr, whole pictures, means over frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError
from vderain.evaluation.footage import Picture

LUMA = np.array([65.481, 128.553, 24.966]) / 255  # R, G, B to the Y of Matlab's rgb2ycbcr, less its 16
ALIKE_DB = 99.0  # PSNR of pictures that do not differ
SSIM_PX, SSIM_SIGMA_PX = 11, 1.5  # Wang et al., "Image quality assessment", IEEE TIP 2004
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BLOCK_PX = 8

Values = NDArray[np.float64]  # (H, W) or (H, W, 3), in levels of 255


@dataclass(frozen=True, slots=True)
class Quality:
    """Nearness to the truth, of a frame or over a clip.

    Attributes:
        psnr_y_db, ssim_y: on Y.
        psnr_rgb_db, ssim_rgb: on R, G and B.
        worst8_levels: largest mean absolute difference of Y over any 8x8 block: where an erased lane dash or a ghost
            shows that a mean over the frame hides.
    """

    psnr_y_db: float
    ssim_y: float
    psnr_rgb_db: float
    ssim_rgb: float
    worst8_levels: float


def quality(picture: Picture, truth: Picture) -> Quality:
    """Compare a picture with the truth.

    Raises:
        InputError: they are too small for the window of SSIM.
    """
    height_px, width_px = truth.shape[:2]
    if min(height_px, width_px) < SSIM_PX:
        raise InputError(
            f"pictures of {width_px}x{height_px} are too small to compare.", f"Give {SSIM_PX} pixels a side or more."
        )
    one, other = luma(picture), luma(truth)
    wide, wide_truth = picture.astype(np.float64), truth.astype(np.float64)
    return Quality(
        psnr_db(one, other), ssim(one, other), psnr_db(wide, wide_truth), ssim(wide, wide_truth), worst8(one, other)
    )


def over_frames(frames: Sequence[Quality]) -> Quality:
    """The means over a clip, and its worst block."""
    return Quality(
        fmean(frame.psnr_y_db for frame in frames), fmean(frame.ssim_y for frame in frames),
        fmean(frame.psnr_rgb_db for frame in frames), fmean(frame.ssim_rgb for frame in frames),
        max(frame.worst8_levels for frame in frames),
    )  # fmt: skip


def luma(rgb: Picture) -> Values:
    """(H, W), 16..235."""
    return np.asarray(rgb @ LUMA + 16, np.float64)


def psnr_db(one: Values, other: Values) -> float:
    """Of a peak of 255, over all values."""
    return ALIKE_DB if np.array_equal(one, other) else float(cv2.PSNR(one, other, 255))


def ssim(one: Values, other: Values) -> float:
    """Structural similarity where the window fits into the picture; of colours, the mean of the three."""
    margin_px = SSIM_PX // 2

    def blur(x: Values) -> Values:
        blurred = cv2.GaussianBlur(x, (SSIM_PX, SSIM_PX), SSIM_SIGMA_PX)
        return np.asarray(blurred[margin_px:-margin_px, margin_px:-margin_px], np.float64)

    mean1, mean2 = blur(one), blur(other)
    var1, var2 = blur(one * one) - mean1**2, blur(other * other) - mean2**2
    covariance = blur(one * other) - mean1 * mean2
    likeness = (2 * mean1 * mean2 + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float(np.mean(likeness / ((mean1**2 + mean2**2 + SSIM_C1) * (var1 + var2 + SSIM_C2))))


def worst8(one: Values, other: Values) -> float:
    """In levels, over the blocks of a grid that begins in the upper left corner."""
    rows, columns = one.shape[0] // BLOCK_PX, one.shape[1] // BLOCK_PX
    off = np.abs(one - other)[: BLOCK_PX * rows, : BLOCK_PX * columns]
    return float(off.reshape(rows, BLOCK_PX, columns, BLOCK_PX).mean((1, 3)).max())
