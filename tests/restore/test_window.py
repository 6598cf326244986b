"""Prepared frames, scene cuts, aligned windows, and the median baseline that uses them."""

import inspect
from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from clips import as_frame, drive, psnr, textured

from vderain.rain.streaks import Light, StreakLayer, rain_onto, streak_opacity
from vderain.restore.flow import FlowEstimator
from vderain.restore.frames import RADIUS, AlignedWindow, Restoration
from vderain.restore.median_baseline import restore_window
from vderain.restore.scene_state import CUT_MEAN_LEVELS, is_cut
from vderain.restore.window import prepare_frame, prepare_frames, single_frame, windows

WINDOW = 2 * RADIUS + 1


def seen(pictures: list[np.ndarray], workers: int = 2) -> list[AlignedWindow]:
    return list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), workers))


def gated(pictures: list[np.ndarray]) -> list[Restoration]:
    return [restore_window(window) for window in seen(pictures)]


def rained_on(pictures: list[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    clear = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    style = (StreakLayer(8, 26, 1.6, 9, 0.6), StreakLayer(4, 14, 1.0, 14, 0.4))
    generator = torch.Generator().manual_seed(seed)
    opacity = streak_opacity(style, *pictures[0].shape[:2], generator, len(pictures))
    rainy = rain_onto(clear, opacity, Light(ambient=0.4, sky=0.95, occlusion=0.8, haze=0))
    return list((rainy * 255 + 0.5).byte().permute(0, 2, 3, 1).numpy())


def test_the_median_baseline_removes_rain_from_a_drive() -> None:
    dry = drive(9)
    rainy = rained_on(dry)
    after = [item.restored_rgb for item in gated(rainy)]
    gain_db = np.mean([psnr(a, d) - psnr(r, d) for a, d, r in zip(after, dry, rainy, strict=True)])
    assert gain_db > 5.0


def test_the_median_baseline_leaves_a_dry_drive_alone() -> None:
    dry = drive(9)
    worst_db = min(psnr(item.restored_rgb, picture) for item, picture in zip(gated(dry), dry, strict=True))
    assert worst_db >= 50


def test_the_median_baseline_leaves_a_static_dry_scene_bit_identical() -> None:
    picture = textured(1, (60, 80))
    assert all(np.count_nonzero(item.residual) == 0 for item in gated([picture] * 6))


def test_the_median_baseline_only_darkens_a_static_scene() -> None:
    pictures = [textured(1, (60, 80)) for _ in range(5)]
    pictures[2] = pictures[2].copy()
    pictures[2][10:40, 30:32] = 250
    item = gated(pictures)[2]
    assert float(item.residual.max()) <= 0
    assert psnr(item.restored_rgb, textured(1, (60, 80))) > psnr(pictures[2], textured(1, (60, 80))) + 10


def test_flow_is_computed_twice_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bytes, bytes]] = []
    flow = FlowEstimator.flow

    def counted(self: FlowEstimator, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        calls.append((source.tobytes(), target.tobytes()))
        return flow(self, source, target)

    monkeypatch.setattr(FlowEstimator, "flow", counted)
    frames = 9
    gated(drive(frames))
    assert len(calls) == 2 * (frames - 1), "the first frame has none before it"
    assert max(Counter(calls).values()) == 1, "no pair twice in one direction"


def test_missing_neighbours_are_mirrored_at_both_ends() -> None:
    sources = [window.sources for window in seen(drive(6))]
    assert sources == [(2, 1, 1, 2), (3, 0, 2, 3), (0, 1, 3, 4), (1, 2, 4, 5), (2, 3, 5, 2), (3, 4, 4, 3)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(0, 0, 0, 0)]),
        (2, [(0, 1, 1, 0), (1, 0, 0, 1)]),
        (3, [(2, 1, 1, 2), (1, 0, 2, 1), (0, 1, 1, 0)]),
        (4, [(2, 1, 1, 2), (3, 0, 2, 3), (0, 1, 3, 0), (1, 2, 2, 1)]),
    ],
)
def test_short_clips_use_the_neighbours_they_have(count: int, expected: list[tuple[int, ...]]) -> None:
    found = seen(drive(count))
    assert [window.sources for window in found] == expected
    assert [window.centre.number for window in found] == list(range(count))
    assert all(window.aligned.shape[0] == WINDOW for window in found)


def test_neighbours_across_a_cut_are_not_used() -> None:
    first, second = drive(5, seed=1), [255 - picture // 4 for picture in drive(4, seed=2)]
    found = seen(first + second)
    assert [window.centre.number < 5 for window in found for source in window.sources] == [
        source < 5 for window in found for source in window.sources
    ]
    apart = seen(first) + seen(second)
    for joined, single in zip(found, apart, strict=True):
        assert np.array_equal(joined.aligned, single.aligned)
        assert np.array_equal(joined.confidence, single.confidence)


def test_motion_and_streaks_are_not_cuts() -> None:
    dry = drive(4, step=(6, 3))
    for pictures in (dry, rained_on(dry)):
        small = [prepare_frame(as_frame(picture)).luma for picture in pictures]
        assert not any(is_cut(a, b) for a, b in pairwise(small))
    assert is_cut(prepare_frame(as_frame(dry[0])).luma, prepare_frame(as_frame(255 - dry[0] // 3)).luma)


def test_unrelated_scenes_of_similar_brightness_are_a_cut() -> None:
    """Their mean difference is too small to be a cut."""
    street, other = drive(1, seed=1)[0], drive(1, seed=4)[0]
    pictures = [
        cv2.normalize(cv2.GaussianBlur(part, (0, 0), 4), None, 60, 180, cv2.NORM_MINMAX) for part in (street, other)
    ]
    first, second = (prepare_frame(as_frame(np.ascontiguousarray(part))).luma for part in pictures)
    assert np.abs(first.astype(float) - second).mean() < CUT_MEAN_LEVELS
    assert is_cut(first, second)
    assert not is_cut(first, cv2.convertScaleAbs(first, alpha=1, beta=20)), "a cloud passes"


def test_shots_are_numbered_and_still_images_marked() -> None:
    bright, dim = 255 - drive(1, seed=2)[0] // 4, drive(3, seed=1)
    pictures = [*dim, bright, *dim[:2], dim[2][:119]]  # the last one's luma for flow is as large as that of the others
    found = list(prepare_frames((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    assert [prepared.shot for prepared in found] == [0, 0, 0, 1, 2, 2, 3]
    assert [prepared.is_still_image for prepared in found] == [False, False, False, True, False, False, True]


def test_an_occluded_region_is_taken_from_the_centre_with_low_confidence() -> None:
    pictures = [picture.copy() for picture in drive(5)]
    for picture in (pictures[1], pictures[3]):
        picture[40:90, 60:110] = (250, 245, 235)
    window = seen(pictures)[2]
    changed = (slice(50, 80), slice(70, 100))
    assert window.confidence[changed].mean() < window.confidence[:30].mean() - 80
    for neighbour in (1, 3):
        assert np.abs(window.aligned[(neighbour, *changed)].astype(int) - pictures[2][changed]).mean() < 10


def test_aligned_neighbours_look_like_the_centre() -> None:
    pictures = drive(5)
    window = seen(pictures)[2]
    assert np.array_equal(window.aligned[RADIUS], pictures[2])
    inside = (slice(12, -12), slice(12, -12))
    for place in (0, 1, 3, 4):
        aligned_db = psnr(window.aligned[place][inside], pictures[2][inside])
        assert aligned_db > psnr(pictures[place][inside], pictures[2][inside]) + 8


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    pictures = drive(7)
    for one, other in zip(seen(pictures, workers), seen(pictures, 2), strict=True):
        assert np.array_equal(one.aligned, other.aligned)
        assert np.array_equal(one.confidence, other.confidence)


def test_a_single_frame_is_its_own_neighbour() -> None:
    picture = textured(1, (20, 30))
    window = single_frame(as_frame(picture))
    assert all(np.array_equal(place, picture) for place in window.aligned)
    assert window.flows_to_neighbours == (None,) * 4


@pytest.mark.parametrize("rotation_quarters", [0, 1, 2, 3])
def test_rotated_frames_are_turned_upright(rotation_quarters: int) -> None:
    upright = textured(2, (20, 30))
    stored = np.rot90(upright, -rotation_quarters)
    assert np.array_equal(prepare_frame(as_frame(stored), rotation_quarters).rgb, upright)


def test_windows_are_lazy() -> None:
    taken = 0

    def frames() -> object:
        nonlocal taken
        for number, picture in enumerate(drive(40, size=(32, 32))):
            taken = number + 1
            yield as_frame(picture, number)

    stream = windows(frames(), 1)  # type: ignore[arg-type]
    assert inspect.isgenerator(stream)
    next(stream)
    assert taken <= 1 + RADIUS + 3 * 2
    stream.close()
