"""Detail that keeps its place in the picture, and detail that moves."""

import numpy as np
import pytest
from clips import drive, textured

from vderain.evaluation.fixed_detail import FRAMES_MIN, detail_of, measure_detail

SIZE = 80, 120


def behind_drops() -> tuple[list[np.ndarray], list[np.ndarray]]:
    clear = drive(24, SIZE)
    rainy = [picture.copy() for picture in clear]
    for y, x in ((10, 20), (30, 70), (60, 40), (50, 100)):
        for picture in rainy:
            picture[y : y + 6, x : x + 6] = 250
    return rainy, clear


def test_drops_on_the_glass_are_static_and_the_scene_is_not() -> None:
    rainy, clear = map(detail_of, behind_drops())
    assert rainy.static > 5 * clear.static
    assert clear.moving > 2 * clear.static
    assert rainy.moving == pytest.approx(clear.moving, rel=0.3)


def test_a_scene_that_stands_is_static() -> None:
    still = detail_of([textured(3, SIZE)] * 12)
    assert still.moving == pytest.approx(0, abs=1e-3 * still.static)


def test_a_clip_of_few_frames_is_not_measured() -> None:
    rainy, _ = behind_drops()
    assert measure_detail(rainy[: FRAMES_MIN - 1]) is None
    assert measure_detail(rainy[:FRAMES_MIN]) == detail_of(rainy[:FRAMES_MIN])
