"""Optical flow: follows motion, and has low confidence where forward and backward flow disagree."""

import cv2
import numpy as np
import pytest
from clips import textured
from hypothesis import given, settings
from hypothesis import strategies as st

from vderain.restore.flow import (
    FLOW_SIDE_MAX_PX,
    PHOTOMETRIC_FULL,
    PHOTOMETRIC_NONE,
    FlowEstimator,
    align,
    consistent_flow,
    flow_luma,
)
from vderain.restore.frames import ConsistentFlow, Picture

SIZE = (96, 128)


def moved(dx: int, dy: int) -> tuple[Picture, Picture]:
    """A textured image, and the same scene after the camera moved by dx, dy."""
    wide = textured(7, (SIZE[0] + 40, SIZE[1] + 40))
    return wide[20:-20, 20:-20].copy(), wide[20 + dy : SIZE[0] + 20 + dy, 20 + dx : SIZE[1] + 20 + dx].copy()


def between(centre: Picture, neighbour: Picture) -> ConsistentFlow:
    estimator, a, b = FlowEstimator(), flow_luma(centre), flow_luma(neighbour)
    return consistent_flow(a, b, estimator.flow(a, b), estimator.flow(b, a))


def inner(picture: np.ndarray, border: int = 16) -> np.ndarray:
    return picture[border:-border, border:-border].astype(int)


@pytest.mark.parametrize("shift", [(0, 0), (4, 0), (-6, 2), (3, -5)])
def test_foundfollows_a_moved_image(shift: tuple[int, int]) -> None:
    centre, neighbour = moved(*shift)
    found = between(centre, neighbour)
    displacement = inner(found.flow * 8, 8) / 8
    assert np.abs(displacement - np.array(shift) / -2).mean() < 0.25
    assert inner(found.confidence, 8).mean() > 240
    aligned = align(centre, neighbour, found)
    assert np.abs(inner(aligned) - inner(centre)).mean() < 2.5
    if shift != (0, 0):
        assert np.abs(inner(neighbour) - inner(centre)).mean() > 8


def test_fine_texture_survives_warping_by_half_a_pixel() -> None:
    x = np.arange(SIZE[1])
    wave = [np.repeat(128 + 60 * np.sin(2 * np.pi * (x + by) / 4), 3).reshape(1, -1, 3) for by in (0, 0.5)]
    centre, neighbour = (np.repeat(row.round().astype(np.uint8), SIZE[0], axis=0) for row in wave)
    small = (SIZE[0] // 2, SIZE[1] // 2)
    found = ConsistentFlow(np.full((*small, 2), (-0.25, 0), np.float32), np.full(small, 255, np.uint8))
    aligned = inner(align(centre, neighbour, found))
    assert np.abs(aligned - 128).max() > 0.9 * np.abs(inner(centre) - 128).max(), "bilinear leaves .7"


def test_an_unmoved_image_aligns_to_itself() -> None:
    centre, _ = moved(0, 0)
    assert np.abs(align(centre, centre, between(centre, centre)).astype(int) - centre).max() <= 1


def test_an_occluded_area_has_low_confidence() -> None:
    centre, neighbour = moved(2, 0)
    neighbour[30:70, 50:90] = (250, 245, 235)
    found = between(centre, neighbour)
    confidence = cv2.resize(found.confidence, SIZE[::-1])
    assert confidence[38:62, 58:82].mean() < 30
    assert confidence[10:86, 8:36].mean() > 220
    aligned = align(centre, neighbour, found)
    assert np.abs(aligned[38:62, 58:82].astype(int) - centre[38:62, 58:82]).mean() < 12, "the centre stands in"


def test_an_unrelated_image_has_low_confidence() -> None:
    assert between(textured(1, SIZE), 255 - textured(2, SIZE)).confidence.mean() < 110


def test_confidence_falls_with_the_difference_along_the_flow() -> None:
    still = np.zeros((40, 50, 2), np.float32)
    dark = np.full((40, 50), 20, np.uint8)
    middle = (PHOTOMETRIC_FULL + PHOTOMETRIC_NONE) / 2
    confidence = [
        float(
            consistent_flow(dark, np.full_like(dark, 20 + round(levels)), still, still).confidence[10:30, 10:40].mean()
        )
        for levels in (0, PHOTOMETRIC_FULL - 5, middle, PHOTOMETRIC_NONE + 5)
    ]
    assert confidence[0] == confidence[1] == 255
    assert 90 < confidence[2] < 165
    assert confidence[3] == 0


def test_a_thin_streak_is_removed_before_foundis_computed() -> None:
    centre, _ = moved(0, 0)
    rainy = centre.copy()
    rainy[20:70, 40:42] = 255
    assert np.abs(flow_luma(rainy).astype(int) - flow_luma(centre)).max() < 40
    assert np.abs(flow_luma(rainy).astype(int) - flow_luma(centre)).mean() < 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_images_of_any_size_have_flow(height: int, width: int) -> None:
    centre, neighbour = textured(3, (height, width)), textured(4, (height, width))
    found = between(centre, neighbour)
    assert found.flow.shape == (*found.confidence.shape, 2)
    assert np.isfinite(found.flow).all()
    assert align(centre, neighbour, found).shape == (height, width, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (480, 640), (1080, 1920), (1081, 1921), (2160, 3840), (10, 8000)])
def test_the_size_at_which_foundis_computed_is_bounded(size: tuple[int, int]) -> None:
    small = flow_luma(np.zeros((*size, 3), np.uint8))
    assert 1 <= max(small.shape) <= FLOW_SIDE_MAX_PX
    assert min(small.shape) >= 1
    assert small.shape[0] <= max(1, size[0] // 2)
