"""The temporal filter changes pixels where rain was removed, and no others."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from clips import as_frame, drive, psnr

from vderain.restore.flow import FlowEstimator
from vderain.restore.frames import ConsistentFlow, Restoration
from vderain.restore.temporal_filter import filter_over_time
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
