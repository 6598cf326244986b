"""Converts frames to 8-bit RGB for the network, and adds its RGB residuals to the frames' own planes.

The arithmetic is that of Rec. ITU-T H.273 (matrix coefficients and quantisation), with Kr and Kb from Rec. ITU-R
BT.601-7 section 2.5.1, BT.709-6 section 3.2 and BT.2020-2 table 4 (non-constant luminance). Chroma samples are taken
to sit in the middle of the luma samples they cover; the left siting of MPEG-2 would shift chroma by half a luma sample,
which a residual does not show.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.media.frame import Colour, Frame, Matrix, Plane

KR_KB: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def ycbcr_from_rgb(matrix: Matrix) -> NDArray[np.float64]:
    """The linear map from R', G', B' in 0..1 to Y' in 0..1 and Cb, Cr in -0.5..0.5 (H.273, equations 38 to 40).

    Args:
        matrix: which standard; ``rgb`` is the identity.

    Returns:
        (3, 3), rows Y, Cb, Cr, columns R, G, B.
    """
    if matrix == "rgb":
        return np.eye(3)
    kr, kb = KR_KB[matrix]
    y = np.array([kr, 1.0 - kr - kb, kb])
    cb = (np.array([0.0, 0.0, 1.0]) - y) / (2.0 * (1.0 - kb))
    cr = (np.array([1.0, 0.0, 0.0]) - y) / (2.0 * (1.0 - kr))
    return np.stack([y, cb, cr])


def code_scale(colour: Colour) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many code values one unit of each component spans, and the code value of zero (H.273, equations 26 to 37).

    Returns:
        Scale (3,) and offset (3,), in code values, for (Y, Cb, Cr) or (R, G, B).
    """
    step = 2.0 ** (colour.depth_bits - 8)
    peak = 2.0**colour.depth_bits - 1.0
    luma, black = (peak, 0.0) if colour.full_range else (219.0 * step, 16.0 * step)
    if colour.matrix == "rgb":
        return np.full(3, luma), np.full(3, black)
    chroma = peak if colour.full_range else 224.0 * step
    return np.array([luma, chroma, chroma]), np.array([black, 128.0 * step, 128.0 * step])


def to_rgb8(frame: Frame) -> NDArray[np.uint8]:
    """The frame as full-range 8-bit R, G, B.

    Args:
        frame: any planes that ``Frame`` allows.

    Returns:
        (H, W, 3), R, G, B in 0..255, a new array.
    """
    scale, offset = code_scale(frame.colour)
    if len(frame.planes) == 1:
        grey_HW = _affine8(frame.planes[0], np.array([[255.0 / scale[0], -255.0 * offset[0] / scale[0]]]))
        return _uint8(cv2.merge([grey_HW, grey_HW, grey_HW]))
    if _is_rgb8(frame.colour):
        return _uint8(cv2.merge(list(frame.planes)))
    codes: Plane = cv2.merge(_full_size(frame))  # type: ignore[assignment]  # (H, W, 3)
    return _affine8(codes, _rgb8_from_codes(frame.colour))


def add_residual(frame: Frame, residual: NDArray[np.float32]) -> Frame:
    """Adds an RGB residual to a frame in its own planes; a change that rounds to zero leaves the code value alone.

    Only the linear part of the colour matrix applies to a residual, so the frame itself is never converted or rounded:
    a zero residual returns the same code values, whatever the depth, range and subsampling. A residual of luma alone
    leaves the chroma planes as they are.

    Args:
        frame: the frame as decoded.
        residual: (H, W, 3), change of full-range R, G, B, where 1.0 is 255 levels of 8-bit RGB; or (H, W, 1), the same
            change of all three.

    Returns:
        A new frame of the same time and colour. Grey frames take the luma of the residual.

    Raises:
        ValueError: the residual is not (H, W, 3) or (H, W, 1) of this frame.
    """
    if residual.shape[:2] != (frame.height_px, frame.width_px) or residual.shape[2:] not in ((1,), (3,)):
        raise ValueError(f"residual is {residual.shape}, the frame {(frame.height_px, frame.width_px, 3)}")
    peak = 2**frame.colour.depth_bits - 1
    rows = _codes_from_rgb(frame)
    if residual.shape[2] == 1:
        changed = frame.planes if frame.colour.matrix == "rgb" else frame.planes[:1]
        delta = residual[..., 0] * rows[0].sum()
        return frame.with_planes((*(_added(p, delta, peak) for p in changed), *frame.planes[len(changed) :]))
    residual = _interleaved(residual)
    deltas = [cv2.transform(residual, rows[:1])]
    if len(frame.planes) == 3:
        # Averaging commutes with the matrix, and a quarter of the samples is four times faster to multiply.
        small = _area_averaged(residual, frame.colour.chroma_w, frame.colour.chroma_h)
        deltas += [cv2.transform(small, row) for row in (rows[1:2], rows[2:3])]
    return frame.with_planes(tuple(_added(p, d, peak) for p, d in zip(frame.planes, deltas, strict=True)))


def _is_rgb8(colour: Colour) -> bool:
    return colour.matrix == "rgb" and colour.full_range and colour.depth_bits == 8


@lru_cache(maxsize=64)
def _rgb8_from_codes(colour: Colour) -> NDArray[np.float64]:
    """(3, 4): R, G, B in 0..255 from three code values and 1."""
    scale, offset = code_scale(colour)
    linear = 255.0 * np.linalg.inv(ycbcr_from_rgb(colour.matrix)) / scale
    return np.hstack([linear, -(linear @ offset)[:, None]])


def _codes_from_rgb(frame: Frame) -> NDArray[np.float32]:
    """(planes, 3): change in code values from a change in R, G, B; a single plane is luma, BT.709 if untagged."""
    colour, grey = frame.colour, len(frame.planes) == 1
    matrix: Matrix = "bt709" if grey and colour.matrix == "rgb" else colour.matrix
    rows = ycbcr_from_rgb(matrix) * code_scale(colour)[0][:, None]
    return (rows[:1] if grey else rows).astype(np.float32)


def _full_size(frame: Frame) -> list[Plane]:
    """The three planes at the size of the first, chroma interpolated linearly."""
    size = frame.colour.chroma_w, frame.colour.chroma_h
    return [frame.planes[0], *(_enlarged(p, *size)[: frame.height_px, : frame.width_px] for p in frame.planes[1:])]


def _enlarged(plane: Plane, by_w: int, by_h: int) -> Plane:
    if (by_w, by_h) == (1, 1):
        return plane
    large: Plane = cv2.resize(plane, None, fx=by_w, fy=by_h, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return large


def _affine8(codes: Plane, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Matrix times (codes, 1), rounded and saturated to 0..255."""
    if codes.dtype == np.uint8:
        return _uint8(cv2.transform(codes, matrix))
    # OpenCV saturates to the type it was given: 8.8 fixed point in 16 bits saturates at both ends as 8 bits would.
    fixed = matrix * 256.0
    fixed[:, -1] += 127.5
    return (np.asarray(cv2.transform(codes, fixed), np.uint16) >> 8).astype(np.uint8)


def _uint8(array: object) -> NDArray[np.uint8]:
    return np.asarray(array, np.uint8)


def _interleaved(residual_HW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """The residual contiguous in memory; networks return a view of (3, H, W), fastest to copy with cv2.merge."""
    planes = residual_HW3.transpose(2, 0, 1)
    if planes.flags.c_contiguous and residual_HW3.dtype == np.float32:
        return np.asarray(cv2.merge(list(planes)), np.float32)
    return np.ascontiguousarray(residual_HW3, np.float32)


def _area_averaged(residual_HW3: NDArray[np.float32], by_w: int, by_h: int) -> NDArray[np.float32]:
    """Means over blocks of by_w by by_h samples; odd sizes repeat their last row or column."""
    if (by_w, by_h) == (1, 1):
        return residual_HW3
    height, width = residual_HW3.shape[:2]
    pad_h, pad_w = -height % by_h, -width % by_w
    if pad_h or pad_w:
        residual_HW3 = np.pad(residual_HW3, ((0, pad_h), (0, pad_w), (0, 0)), mode="edge")
    size = (width + pad_w) // by_w, (height + pad_h) // by_h
    return np.asarray(cv2.resize(residual_HW3, size, interpolation=cv2.INTER_AREA), np.float32)


def _added(plane: Plane, delta: object, peak: int) -> Plane:
    """Plane plus delta; the delta is rounded by itself, so that below half a code value the plane stays as it was."""
    rounded = np.rint(np.asarray(delta, np.float32))
    depth = cv2.CV_8U if plane.dtype == np.uint8 else cv2.CV_16U
    total: Plane = cv2.add(plane, rounded, dtype=depth)  # type: ignore[assignment]
    if peak < np.iinfo(plane.dtype).max:
        np.minimum(total, peak, out=total)
    return total
