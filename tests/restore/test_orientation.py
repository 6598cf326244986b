"""Clips that lie on their side are turned before the network sees them, and no others."""

import cv2
import numpy as np
import pytest
from clips import drive

from vderain.derainer import Derainer
from vderain.restore.frames import Picture, luma_of
from vderain.restore.orientation import FRAMES_MIN, lies_on_its_side


def showered(count: int = 12, slant_px: int = 4) -> list[Picture]:
    """A drive through rain that falls downwards."""
    rng = np.random.default_rng(5)
    frames = []
    for picture in drive(count, (180, 240)):
        rain = np.zeros(picture.shape[:2], np.uint8)
        for x, y in rng.integers(0, (240, 180), (60, 2)).tolist():
            cv2.line(rain, (x, y), (x + slant_px, y + 22), 70)
        frames.append(cv2.add(picture, cv2.merge([rain] * 3)))
    return frames


def turned(frames: list[Picture], quarters: int) -> list[Picture]:
    return [np.ascontiguousarray(np.rot90(frame, quarters)) for frame in frames]


@pytest.mark.parametrize(("quarters", "lies"), [(0, False), (1, True), (2, False), (3, True)])
def test_streaks_tell_how_a_clip_lies(quarters: int, lies: bool) -> None:
    assert lies_on_its_side(map(luma_of, turned(showered(), quarters))) is lies


@pytest.mark.parametrize("quarters", [0, 1])
def test_a_dry_clip_and_a_short_one_are_not_turned(quarters: int) -> None:
    assert not lies_on_its_side(map(luma_of, turned(drive(12, (180, 240)), quarters)))
    assert not lies_on_its_side(map(luma_of, turned(showered(FRAMES_MIN - 1), quarters)))
    assert not lies_on_its_side([])


def test_rain_in_all_directions_is_not_turned() -> None:
    both = [a if number % 2 else b for number, (a, b) in enumerate(zip(showered(), turned(showered(), 1), strict=True))]
    square = [np.ascontiguousarray(frame[:180, :180]) for frame in both]
    assert not lies_on_its_side(map(luma_of, square))


def test_a_clip_on_its_side_is_restored_as_the_upright_one() -> None:
    frames = showered(7)
    derainer = Derainer.load("fast", guard=False)
    upright = list(derainer.restore(iter(frames)))
    on_its_side = list(derainer.restore(iter(turned(frames, 3))))
    assert all(np.array_equal(a, b) for a, b in zip(turned(on_its_side, 1), upright, strict=True))
    assert not np.array_equal(upright[3], frames[3])
