"""The temporal filter changes pixels where rain was removed, and no others."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from clips import as_frame, drive, psnr, textured

from vderain.restore.flow import FlowEstimator
from vderain.restore.frames import ConsistentFlow, Restoration
from vderain.restore.temporal_filter import STILL_RADIUS, _median, filter_over_time
from vderain.restore.window import windows

COLUMNS = slice(60, 64)
STILL = ConsistentFlow(np.zeros((48, 64, 2), np.float32), np.full((48, 64), 255, np.uint8))


def with_an_error(count: int = 7) -> tuple[list[np.ndarray], list[Restoration]]:
    """A drive, and its restoration with a streak removed from the fourth frame that left it too dark."""
    pictures = drive(count)
    seen = list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    residuals = [np.zeros(picture.shape, np.float16) for picture in pictures]
    residuals[3][20:70, COLUMNS] = -30 / 255
    return pictures, list(map(Restoration.of_window, seen, residuals))


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_neighbours_correct_an_error_of_one_frame(recompute_flow: bool) -> None:
    pictures, restored = with_an_error()
    out = list(filter_over_time(restored, recompute_flow, 2))
    assert psnr(out[3].restored_rgb, pictures[3]) > psnr(restored[3].restored_rgb, pictures[3]) + 8


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_pixels_without_rain_stay(recompute_flow: bool) -> None:
    _, restored = with_an_error()
    for number, item in enumerate(filter_over_time(restored, recompute_flow, 2)):
        changed = item.residual != 0
        if number == 3:
            changed[19:71, COLUMNS.start - 1 : COLUMNS.stop + 1] = False
        assert not changed.any()


def test_neighbours_that_differ_beside_the_rain_hardly_count() -> None:
    rng = np.random.default_rng(3)  # texture of its own in every frame: no motion leads from one to the next
    pictures = [cv2.resize(rng.integers(60, 196, (48, 64, 3), np.uint8), (128, 96)) for _ in range(5)]
    seen = list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    seen = [replace(window, flows_to_neighbours=(STILL,) * 4) for window in seen]
    restored = [Restoration.of_window(window, np.zeros((96, 128, 3), np.float16)) for window in seen]
    restored[2].residual[10:80, COLUMNS] = -30 / 255
    change = list(filter_over_time(restored, False, 1))[2].residual - restored[2].residual
    assert np.abs(change).mean() < 0.2 / 255


@pytest.mark.parametrize("recompute_flow", [False, True])
@pytest.mark.parametrize("end", [0, 6])
def test_at_the_ends_of_a_shot_the_next_two_frames_are_used(recompute_flow: bool, end: int) -> None:
    pictures, restored = with_an_error()
    restored[3].residual[:] = 0
    restored[end].residual[20:70, COLUMNS] = -30 / 255
    out = list(filter_over_time(restored, recompute_flow, 2))
    assert psnr(out[end].restored_rgb, pictures[end]) > psnr(restored[end].restored_rgb, pictures[end]) + 5


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_frames_of_another_shot_are_not_used(recompute_flow: bool) -> None:
    pictures = drive(4, seed=1) + [255 - picture // 4 for picture in drive(2, seed=2)] + drive(1, seed=1)
    seen = windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2)
    restored = [
        Restoration.of_window(w, np.full(p.shape, -9 / 255, np.float16)) for w, p in zip(seen, pictures, strict=True)
    ]
    out = list(filter_over_time(restored, recompute_flow, 2))
    shots = restored[:4], restored[4:6], restored[6:]
    apart = [item for shot in shots for item in filter_over_time(shot, recompute_flow, 2)]
    assert all(np.array_equal(a.residual, b.residual) for a, b in zip(out, apart, strict=True))


def test_every_frame_is_returned_in_order() -> None:
    _, restored = with_an_error()
    for recompute_flow in (False, True):
        assert [item.number for item in filter_over_time(restored, recompute_flow, 3)] == list(range(7))
        assert list(filter_over_time([], recompute_flow, 2)) == []
        assert [item.number for item in filter_over_time(restored[:1], recompute_flow, 2)] == [0]


@pytest.mark.parametrize(("recompute_flow", "flows"), [(False, 0), (True, 2 * 6 + 2 * 2)])
def test_flow_is_recomputed_only_on_request(recompute_flow: bool, flows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, restored = with_an_error()
    calls: list[tuple[bytes, bytes]] = []
    flow = FlowEstimator.flow

    def counted(self: FlowEstimator, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        calls.append((source.tobytes(), target.tobytes()))
        return flow(self, source, target)

    monkeypatch.setattr(FlowEstimator, "flow", counted)
    list(filter_over_time(restored, recompute_flow, 2))
    assert len(calls) == flows
    assert max(Counter(calls).values(), default=1) == 1, "no pair twice in one direction"


def still_scene(count: int, seed: int = 5) -> tuple[np.ndarray, list[np.ndarray]]:
    """A scene before a fixed camera, and `count` frames of it with the noise of a camera."""
    rng = np.random.default_rng(seed)
    scene = cv2.resize(rng.integers(60, 180, (12, 16, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    frames = [np.clip(scene + rng.normal(0, 1, (96, 128, 1)), 0, 255).astype(np.uint8) for _ in range(count)]
    return scene, frames


def restorations(frames: list[np.ndarray], residuals: list[np.ndarray]) -> list[Restoration]:
    seen = windows((as_frame(frame, i) for i, frame in enumerate(frames)), 2)
    return list(map(Restoration.of_window, seen, residuals))


@pytest.mark.parametrize("recompute_flow", [False, True])
@pytest.mark.parametrize("error", [-20, 20], ids=["scar", "rest of a streak"])
def test_where_nothing_moves_errors_of_some_frames_leave(recompute_flow: bool, error: int) -> None:
    """Of the frames before and after, one errs in the same place: only more frames tell what is right."""
    scene, frames = still_scene(15)
    residuals = [np.zeros(scene.shape, np.float16) for _ in frames]
    for number in (6, 7):
        residuals[number][20:70, COLUMNS] = -30 / 255
        frames[number][20:70, COLUMNS] += np.uint8(30 + error)
    out = list(filter_over_time(restorations(frames, residuals), recompute_flow, 2))
    wrong = np.abs(out[7].restored_rgb[25:65, COLUMNS].astype(int) - scene[25:65, COLUMNS])
    assert wrong.mean() < 3


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_what_crosses_a_still_scene_is_neither_erased_nor_repeated(recompute_flow: bool) -> None:
    scene, frames = still_scene(15)
    figure = textured(8, (50, 24)) // 2
    for number, frame in enumerate(frames):
        frame[30:80, 4 + 6 * number : 28 + 6 * number] = figure
    residuals = [np.zeros(scene.shape, np.float16) for _ in frames]
    residuals[7][20:90, 40:80] = -1 / 255  # all around and on it
    restored = restorations(frames, residuals)
    out = list(filter_over_time(restored, recompute_flow, 2))[7]
    change = np.abs(out.restored_rgb.astype(int) - restored[7].restored_rgb)
    assert change[30:80, 50:66].max() <= 8 < np.abs(frames[7][30:80, 50:66].astype(int) - scene[30:80, 50:66]).mean()


def test_what_goes_on_in_a_still_scene_is_not_delayed() -> None:
    """No motion tells of a lamp; its difference from the other frames does."""
    scene, frames = still_scene(15)
    frames[7][30:60, 50:80] = 230
    residuals = [np.zeros(scene.shape, np.float16) for _ in frames]
    residuals[7][:] = -1 / 255
    restored = [replace(item, flows_to_neighbours=(STILL,) * 4) for item in restorations(frames, residuals)]
    out = list(filter_over_time(restored, False, 2))[7]
    assert np.abs(out.restored_rgb[34:56, 54:76].astype(int) - 229).max() <= 2


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_a_frame_depends_on_so_many_frames_and_no_more(recompute_flow: bool) -> None:
    scene, frames = still_scene(20)
    rng = np.random.default_rng(2)
    residuals = [rng.normal(-1, 2, scene.shape).astype(np.float16) / np.float16(255) for _ in frames]
    restored = restorations(frames, residuals)
    whole = list(filter_over_time(restored, recompute_flow, 2))
    part = list(filter_over_time(restored[5:], recompute_flow, 1))
    same = [np.array_equal(a.residual, b.residual) for a, b in zip(whole[5:], part, strict=True)]
    assert all(same[STILL_RADIUS:])
    assert not all(same[:STILL_RADIUS])


@pytest.mark.parametrize("count", [1, 2, 3, 6, 13])
def test_the_median_over_time(count: int) -> None:
    planes = list(np.random.default_rng(count).integers(0, 256, (count, 5, 7), np.uint8))
    odd = planes[: count - 1 + count % 2]
    assert np.array_equal(_median(planes), np.median(odd, axis=0))
