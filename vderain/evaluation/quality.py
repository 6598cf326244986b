"""Compares frames with the ground truth: PSNR and SSIM as published tables do (Y of Matlab's rgb2ycbcr), and edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError
from vderain.evaluation.edges import edge_scores
from vderain.restore.frames import Picture

LUMA = np.array([65.481, 128.553, 24.966]) / 255  # R, G, B to the Y of Matlab's rgb2ycbcr, minus its offset of 16
IDENTICAL_DB = 99.0  # PSNR of identical images, which is infinite by definition
SSIM_PX, SSIM_SIGMA_PX = 11, 1.5  # Wang et al., "Image quality assessment", IEEE TIP 2004
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BLOCK_PX = 8

Values = NDArray[np.float64]  # (H, W) or (H, W, 3), in levels of 255


@dataclass(frozen=True, slots=True)
class Quality:
    """Full-reference quality of a frame or a clip.

    Attributes:
        psnr_y_db, ssim_y: on luma.
        psnr_rgb_db, ssim_rgb: on R, G and B.
        worst8_levels: largest mean absolute difference of luma over any 8x8 block, in levels of 255. It shows an erased
            lane marking or a ghost, which a mean over the frame hides.
        edges_kept: share of the edges of the truth that are kept, 0..1.
        edges_new: share of its smooth pixels on which there is an edge, 0..1.
    """

    psnr_y_db: float
    ssim_y: float
    psnr_rgb_db: float
    ssim_rgb: float
    worst8_levels: float
    edges_kept: float
    edges_new: float


def quality(picture: Picture, truth: Picture) -> Quality:
    """Compare a frame with the ground truth.

    Args:
        picture: (H, W, 3) uint8 RGB.
        truth: of the same shape.

    Raises:
        InputError: the frames are smaller than the window of SSIM.
    """
    height_px, width_px = truth.shape[:2]
    if min(height_px, width_px) < SSIM_PX:
        raise InputError(
            f"pictures of {width_px}x{height_px} are too small to compare.", f"Give {SSIM_PX} pixels a side or more."
        )
    y, y_truth = luma(picture), luma(truth)
    edges = edge_scores(y, y_truth)
    rgb, rgb_truth = picture.astype(np.float64), truth.astype(np.float64)
    return Quality(
        psnr_y_db=psnr_db(y, y_truth),
        ssim_y=ssim(y, y_truth),
        psnr_rgb_db=psnr_db(rgb, rgb_truth),
        ssim_rgb=ssim(rgb, rgb_truth),
        worst8_levels=worst8(y, y_truth),
        edges_kept=edges.kept,
        edges_new=edges.new,
    )


def over_frames(frames: Sequence[Quality]) -> Quality:
    """Average the scores of the frames of a clip; the worst block is the worst of all frames."""
    return Quality(
        psnr_y_db=fmean(frame.psnr_y_db for frame in frames),
        ssim_y=fmean(frame.ssim_y for frame in frames),
        psnr_rgb_db=fmean(frame.psnr_rgb_db for frame in frames),
        ssim_rgb=fmean(frame.ssim_rgb for frame in frames),
        worst8_levels=max(frame.worst8_levels for frame in frames),
        edges_kept=fmean(frame.edges_kept for frame in frames),
        edges_new=fmean(frame.edges_new for frame in frames),
    )


def luma(rgb: Picture) -> Values:
    """Convert (H, W, 3) RGB to (H, W) luma in 16..235."""
    return np.asarray(rgb @ LUMA + 16, np.float64)


def psnr_db(one: Values, other: Values) -> float:
    """Peak signal-to-noise ratio over all values, for a peak of 255."""
    return IDENTICAL_DB if np.array_equal(one, other) else float(cv2.PSNR(one, other, 255))


def ssim(one: Values, other: Values) -> float:
    """Structural similarity without the border where the window does not fit; mean over channels."""
    margin_px = SSIM_PX // 2

    def blur(x: Values) -> Values:
        blurred = cv2.GaussianBlur(x, (SSIM_PX, SSIM_PX), SSIM_SIGMA_PX)
        return np.asarray(blurred[margin_px:-margin_px, margin_px:-margin_px], np.float64)

    mean1, mean2 = blur(one), blur(other)
    var1, var2 = blur(one * one) - mean1**2, blur(other * other) - mean2**2
    covariance = blur(one * other) - mean1 * mean2
    numerator = (2 * mean1 * mean2 + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float(np.mean(numerator / ((mean1**2 + mean2**2 + SSIM_C1) * (var1 + var2 + SSIM_C2))))


def worst8(one: Values, other: Values) -> float:
    """Largest mean absolute difference over 8x8 blocks, in levels; the grid begins in the upper left corner."""
    rows, columns = one.shape[0] // BLOCK_PX, one.shape[1] // BLOCK_PX
    off = np.abs(one - other)[: BLOCK_PX * rows, : BLOCK_PX * columns]
    return float(off.reshape(rows, BLOCK_PX, columns, BLOCK_PX).mean((1, 3)).max())
