"""Signs painted into training windows."""

import numpy as np
from clips import textured

from vderain.evaluation.edges import edge_scores
from vderain.evaluation.quality import luma
from vderain.train.config import Data
from vderain.train.data.lettering import with_lettering
from vderain.train.data.scenes import Scenes, drive_window, held_out, photo_window
from vderain.train.data.windows import WindowMaker

FLAT = np.full((128, 160, 3), 120, np.uint8)


def test_signs_have_hard_edges_and_only_they_change_the_picture() -> None:
    edges = []
    for seed in range(40):
        before = FLAT.copy()
        painted, cover = with_lettering(FLAT, np.random.default_rng(seed))
        assert np.array_equal(before, FLAT)
        assert painted.shape == FLAT.shape
        assert painted.dtype == cover.dtype == np.uint8
        assert np.array_equal(painted[cover == 0], FLAT[cover == 0])
        edges.append(edge_scores(luma(FLAT), luma(painted)).kept < 1)
    assert np.mean(edges) > 0.8, "nearly every picture has edges that a flat one lacks"


def test_signs_depend_on_the_random_numbers_alone() -> None:
    one, other = (with_lettering(FLAT, np.random.default_rng(5))[0] for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, with_lettering(FLAT, np.random.default_rng(6))[0])


def test_the_share_decides_how_many_windows_get_signs() -> None:
    plain = Scenes([FLAT], [])
    some = Scenes([FLAT], [], share_lettering=0.25)
    rng = np.random.default_rng(0)
    assert all((photo_window(plain, 64, rng) == 120).all() for _ in range(20))
    share = np.mean([(photo_window(some, 64, rng) != 120).any() for _ in range(400)])
    assert 0.15 < share < 0.3, "some signs lie beyond the window"


def test_a_share_of_nothing_leaves_windows_as_they_were() -> None:
    photo = textured(2, (96, 120))
    data = Data(side_px=64, border_px=8, share_clips=0)
    was, now = (WindowMaker(Scenes([photo], [], share_lettering=share), data, 1) for share in (0.0, 1.0))
    again = WindowMaker(Scenes([photo], []), data, 1)
    assert np.array_equal(was[3].rainy, again[3].rainy)
    assert not np.array_equal(was[3].rainy, now[3].rainy)


def test_signs_move_with_the_scene() -> None:
    scenes = Scenes([FLAT], [], share_lettering=1.0)
    frames = drive_window(scenes, 96, np.random.default_rng(1))
    assert len(np.unique(frames[2])) > 20
    assert not np.array_equal(frames[0], frames[2])


def test_held_out_photographs_have_none() -> None:
    photos = [FLAT, FLAT, FLAT]
    kept, held = held_out(Scenes(photos, [], share_lettering=0.5), 0.34)
    assert (kept.share_lettering, held.share_lettering) == (0.5, 0)
