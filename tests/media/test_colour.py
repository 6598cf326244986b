"""Colour: against exact arithmetic, against swscale, and the promises of a residual."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vderain.media.colour import KR_KB, add_residual, code_scale, to_rgb8, ycbcr_from_rgb
from vderain.media.frame import Colour, Frame, Matrix, Plane

MATRICES: list[Matrix] = ["bt601", "bt709", "bt2020"]
SUBSAMPLINGS = [(2, 2), (2, 1), (1, 1)]


def random_frame(colour: Colour, height: int, width: int, seed: int = 0, planes: int = 3) -> Frame:
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if colour.depth_bits == 8 else np.uint16
    small = -(-height // colour.chroma_h), -(-width // colour.chroma_w)
    sizes = [(height, width), small, small][:planes]
    made: tuple[Plane, ...] = tuple(rng.integers(0, 2**colour.depth_bits, size).astype(dtype) for size in sizes)
    return Frame(made, colour, 7, 1, Fraction(1, 30))


def smooth_rgb(height: int, width: int) -> NDArray[np.float64]:
    """(H, W, 3) in 0.15..0.85, slow enough that any interpolation of chroma gives the same."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([0.15 + 0.7 * x, 0.15 + 0.7 * y, 0.85 - 0.35 * (x + y)], axis=-1)


def encode(rgb: NDArray[np.float64], colour: Colour) -> Frame:
    """RGB in 0..1 to planes, in double precision and area-averaged chroma, for sizes that divide."""
    scale, offset = code_scale(colour)
    codes = rgb @ ycbcr_from_rgb(colour.matrix).T * scale + offset
    height, width, dtype = *rgb.shape[:2], np.uint8 if colour.depth_bits == 8 else np.uint16
    blocks = codes.reshape(height // colour.chroma_h, colour.chroma_h, width // colour.chroma_w, colour.chroma_w, 3)
    means = blocks.mean(axis=(1, 3))
    parts = [codes[..., 0], means[..., 1], means[..., 2]]
    return Frame(tuple(np.rint(p).astype(dtype) for p in parts), colour, 0, 1, Fraction(1, 30))


def all_colours() -> st.SearchStrategy[Colour]:
    ycbcr = st.builds(
        lambda m, full, depth, sub: Colour(m, full, depth, *sub),
        st.sampled_from(MATRICES),
        st.booleans(),
        st.sampled_from([8, 9, 10, 12, 16]),
        st.sampled_from(SUBSAMPLINGS),
    )
    return ycbcr | st.builds(
        lambda full, depth: Colour("rgb", full, depth), st.booleans(), st.sampled_from([8, 10, 16])
    )


def test_the_matrices_are_those_of_the_standards() -> None:
    # H.264 / BT.601, BT.709 and BT.2020 print these figures, rounded.
    assert ycbcr_from_rgb("bt601")[1] == pytest.approx([-0.168736, -0.331264, 0.5], abs=1e-6)
    assert ycbcr_from_rgb("bt709")[2] == pytest.approx([0.5, -0.454153, -0.045847], abs=1e-6)
    assert ycbcr_from_rgb("bt2020")[1] == pytest.approx([-0.139630, -0.360370, 0.5], abs=1e-6)
    for matrix in KR_KB:
        assert ycbcr_from_rgb(matrix).sum(axis=1) == pytest.approx([1, 0, 0], abs=1e-12)


@pytest.mark.parametrize("depth", [8, 9, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_rgb_is_the_exact_arithmetic_within_a_level(matrix: Matrix, full_range: bool, depth: int) -> None:
    colour = Colour(matrix, full_range, depth)
    frame = random_frame(colour, 64, 48)
    scale, offset = code_scale(colour)
    light = ((np.stack(frame.planes, -1) - offset) / scale) @ np.linalg.inv(ycbcr_from_rgb(matrix)).T
    assert np.abs(to_rgb8(frame) - np.clip(light * 255, 0, 255)).max() <= 1.0


@pytest.mark.parametrize("sub", SUBSAMPLINGS)
@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_swscale_sees_the_same_picture(matrix: Matrix, full_range: bool, depth: int, sub: tuple[int, int]) -> None:
    colour = Colour(matrix, full_range, depth, *sub)
    frame = encode(smooth_rgb(96, 160), colour)
    name = {(2, 2): "yuv420p", (2, 1): "yuv422p", (1, 1): "yuv444p"}[sub] + ("" if depth == 8 else f"{depth}le")
    theirs = av.VideoFrame(160, 96, name)
    for ours, plane in zip(frame.planes, theirs.planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // ours.itemsize), ours.dtype)
        padded[:, : ours.shape[1]] = ours
        plane.update(padded.tobytes())
    space = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}[matrix]
    theirs_rgb = theirs.reformat(
        format="rgb24",
        src_colorspace=space,
        dst_colorspace=Colorspace.DEFAULT,
        src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    ).to_ndarray()
    apart = np.abs(to_rgb8(frame).astype(int) - theirs_rgb.astype(int))[4:-4, 4:-4]
    assert apart.max() <= 2
    assert apart.mean() < 0.8


@settings(max_examples=60, deadline=None)
@given(all_colours(), st.integers(1, 33), st.integers(1, 33), st.integers(0, 9))
def test_a_zero_residual_returns_the_very_same_planes(colour: Colour, height: int, width: int, seed: int) -> None:
    frame = random_frame(colour, height, width, seed)
    same = add_residual(frame, np.zeros((height, width, 3), np.float32))
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(frame.planes, same.planes, strict=True))
    assert (same.pts, same.colour) == (frame.pts, frame.colour)


@settings(max_examples=60, deadline=None)
@given(all_colours(), st.integers(1, 17), st.integers(1, 17), st.integers(0, 9))
def test_a_residual_below_half_a_code_value_changes_nothing(colour: Colour, h: int, w: int, seed: int) -> None:
    frame = random_frame(colour, h, w, seed)
    scale = code_scale(colour)[0].max()
    tiny = np.full((h, w, 3), 0.49 / scale, np.float32) * np.random.default_rng(seed).choice([-1, 1])
    assert all(np.array_equal(a, b) for a, b in zip(frame.planes, add_residual(frame, tiny).planes, strict=True))


@settings(max_examples=60, deadline=None)
@given(all_colours(), st.integers(1, 33), st.integers(1, 33), st.integers(0, 9))
def test_any_size_and_any_residual_stays_in_range(colour: Colour, height: int, width: int, seed: int) -> None:
    frame = random_frame(colour, height, width, seed)
    residual = np.random.default_rng(seed).normal(0, 3, (height, width, 3)).astype(np.float32)
    changed = add_residual(frame, residual)
    assert to_rgb8(changed).shape == (height, width, 3)
    for before, after in zip(frame.planes, changed.planes, strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert int(after.max()) <= 2**colour.depth_bits - 1


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MATRICES), st.booleans(), st.sampled_from([8, 10, 12]), st.integers(0, 9))
def test_the_residual_between_two_pictures_leads_from_one_to_the_other(
    matrix: Matrix, full: bool, depth: int, seed: int
) -> None:
    """Encoding b is encoding a plus the residual b - a, within the rounding of two encodings."""
    rng = np.random.default_rng(seed)
    for sub in SUBSAMPLINGS:
        colour = Colour(matrix, full, depth, *sub)
        a, b = rng.random((16, 20, 3)), rng.random((16, 20, 3))
        reached = add_residual(encode(a, colour), (b - a).astype(np.float32))
        for ours, exact in zip(reached.planes, encode(b, colour).planes, strict=True):
            assert np.abs(ours.astype(int) - exact.astype(int)).max() <= 1


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_a_grey_residual_moves_luma_alone(depth: int) -> None:
    frame = random_frame(Colour("bt709", False, depth, 2, 2), 31, 45)
    grey = np.random.default_rng(1).uniform(-0.5, 0.5, (31, 45, 1)).astype(np.float32).repeat(3, axis=2)
    changed = add_residual(frame, grey)
    assert not np.array_equal(changed.planes[0], frame.planes[0])
    assert np.array_equal(changed.planes[1], frame.planes[1])
    assert np.array_equal(changed.planes[2], frame.planes[2])


def test_the_change_is_linear_in_the_residual() -> None:
    colour = Colour("bt709", True, 16)
    middle: tuple[Plane, ...] = tuple(np.full((24, 24), 32768, np.uint16) for _ in range(3))
    frame = Frame(middle, colour, 0, 1, Fraction(1, 30))
    a, b = (np.random.default_rng(s).uniform(-0.1, 0.1, (24, 24, 3)).astype(np.float32) for s in (1, 2))

    def change(residual: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.stack(add_residual(frame, residual).planes).astype(np.int64) - 32768

    assert np.abs(change(a + b) - change(a) - change(b)).max() <= 2
    assert np.abs(change(2 * a) - 2 * change(a)).max() <= 2


def test_odd_sizes_repeat_the_edge_when_chroma_is_averaged() -> None:
    colour = Colour("bt601", True, 8, 2, 2)
    frame = Frame((np.full((3, 5), 100, np.uint8), *(np.full((2, 3), 128, np.uint8),) * 2), colour, 0, 1, Fraction(1))
    residual = np.zeros((3, 5, 3), np.float32)
    residual[2, 4] = [0, 0, 0.4]  # alone in the last chroma block: its mean is itself
    cb = add_residual(frame, residual).planes[1]
    assert cb[1, 2] == 128 + round(0.4 * 0.5 * 255)
    assert np.count_nonzero(cb != 128) == 1


def test_planar_and_interleaved_residuals_are_one() -> None:
    frame = random_frame(Colour("bt709", False, 8, 2, 2), 30, 40)
    chw = np.random.default_rng(3).normal(0, 0.1, (3, 30, 40)).astype(np.float32)
    seen, copied = chw.transpose(1, 2, 0), np.ascontiguousarray(chw.transpose(1, 2, 0))
    for a, b in zip(add_residual(frame, seen).planes, add_residual(frame, copied).planes, strict=True):
        assert np.array_equal(a, b)


def test_rgb_frames_take_the_residual_as_it_is() -> None:
    for depth in (8, 16):
        frame = random_frame(Colour("rgb", True, depth), 8, 9)
        peak = 2**depth - 1
        residual = np.zeros((8, 9, 3), np.float32)
        residual[..., 1] = 0.25
        r, g, b = add_residual(frame, residual).planes
        assert np.array_equal(r, frame.planes[0]) and np.array_equal(b, frame.planes[2])
        assert np.array_equal(g, np.minimum(frame.planes[1].astype(int) + round(0.25 * peak), peak))


def test_rgb_frames_are_read_as_they_are() -> None:
    eight = random_frame(Colour("rgb", True), 8, 9)
    assert np.array_equal(to_rgb8(eight), np.stack(eight.planes, -1))
    sixteen = random_frame(Colour("rgb", True, 16), 8, 9)
    assert np.abs(to_rgb8(sixteen) - np.stack(sixteen.planes, -1) / 257).max() <= 0.51


@pytest.mark.parametrize("colour", [Colour("bt709", False, 8), Colour("bt709", True, 12), Colour("rgb", True, 16)])
def test_grey_frames_have_luma_alone(colour: Colour) -> None:
    frame = random_frame(colour, 9, 11, planes=1)
    scale, offset = code_scale(colour)
    exact = np.clip((frame.planes[0] - offset[0]) / scale[0] * 255, 0, 255)
    rgb = to_rgb8(frame)
    assert np.abs(rgb - exact[..., None]).max() <= 0.6
    green = np.zeros((9, 11, 3), np.float32)
    green[..., 1] = -0.1
    (after,) = add_residual(frame, green).planes
    step = np.rint(-0.1 * 0.7152 * scale[0])
    assert np.array_equal(after, np.clip(frame.planes[0] + step, 0, 2**colour.depth_bits - 1))


def test_a_residual_of_another_size_is_refused() -> None:
    frame = random_frame(Colour("bt709", False, 8, 2, 2), 8, 8)
    with pytest.raises(ValueError, match="residual is"):
        add_residual(frame, np.zeros((4, 4, 3), np.float32))


def test_the_frame_given_is_never_written_to() -> None:
    frame = random_frame(Colour("bt709", False, 10, 2, 2), 31, 33)
    before = [p.copy() for p in frame.planes]
    for plane in frame.planes:
        plane.setflags(write=False)
    to_rgb8(frame)
    add_residual(frame, np.full((31, 33, 3), 0.2, np.float32))
    assert all(np.array_equal(a, b) for a, b in zip(before, frame.planes, strict=True))


def test_hd_takes_milliseconds() -> None:
    """A loose bound: about 1.5 and 3.5 ms on one core of 2023; it catches a slow path taken by mistake."""
    frame = random_frame(Colour("bt709", False, 8, 2, 2), 720, 1280)
    residual = np.random.default_rng(0).normal(0, 0.1, (720, 1280, 3)).astype(np.float32)
    ticks = []
    for _ in range(5):
        start = cv2.getTickCount()
        to_rgb8(frame)
        add_residual(frame, residual)
        ticks.append(cv2.getTickCount() - start)
    assert min(ticks) / cv2.getTickFrequency() < 0.1
