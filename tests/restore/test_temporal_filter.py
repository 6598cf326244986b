"""What was taken out is steadied by the frames around it; what was not, is not."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from clips import as_frame, drive, psnr

from vderain.restore.flow import ConsistentFlow, FlowEstimator
from vderain.restore.temporal_filter import filter_over_time
from vderain.restore.window import Restoration, windows

COLUMNS = slice(60, 64)
STILL = ConsistentFlow(np.zeros((48, 64, 2), np.float32), np.full((48, 64), 255, np.uint8))


def blotched(count: int = 7) -> tuple[list[np.ndarray], list[Restoration]]:
    """A drive, and what a network would hand on that took a streak out of the fourth frame and darkened it too much."""
    pictures = drive(count)
    seen = list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    residuals = [np.zeros(picture.shape, np.float16) for picture in pictures]
    residuals[3][20:70, COLUMNS] = -30 / 255
    return pictures, list(map(Restoration, seen, residuals))


@pytest.mark.parametrize("again", [False, True])
def test_what_one_frame_got_wrong_its_neighbours_mend(again: bool) -> None:
    pictures, derained = blotched()
    out = list(filter_over_time(derained, again, 2))
    assert psnr(out[3].rgb, pictures[3]) > psnr(derained[3].rgb, pictures[3]) + 8


@pytest.mark.parametrize("again", [False, True])
def test_where_nothing_was_taken_out_nothing_is_changed(again: bool) -> None:
    _, derained = blotched()
    for number, item in enumerate(filter_over_time(derained, again, 2)):
        changed = item.residual != 0
        if number == 3:
            changed[19:71, COLUMNS.start - 1 : COLUMNS.stop + 1] = False
        assert not changed.any()


def test_neighbours_that_differ_beside_the_rain_are_not_believed_about_it() -> None:
    rng = np.random.default_rng(3)  # texture of its own in every frame: no motion leads from one to the next
    pictures = [cv2.resize(rng.integers(60, 196, (48, 64, 3), np.uint8), (128, 96)) for _ in range(5)]
    seen = list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    seen = [replace(window, flows_to_neighbours=(STILL,) * 4) for window in seen]
    derained = [Restoration(window, np.zeros((96, 128, 3), np.float16)) for window in seen]
    derained[2].residual[10:80, COLUMNS] = -30 / 255
    assert np.array_equal(list(filter_over_time(derained, False, 1))[2].residual, derained[2].residual)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("end", [0, 6])
def test_at_the_ends_of_a_shot_the_next_two_frames_serve(again: bool, end: int) -> None:
    pictures, derained = blotched()
    derained[3].residual[:] = 0
    derained[end].residual[20:70, COLUMNS] = -30 / 255
    out = list(filter_over_time(derained, again, 2))
    assert psnr(out[end].rgb, pictures[end]) > psnr(derained[end].rgb, pictures[end]) + 5


@pytest.mark.parametrize("again", [False, True])
def test_nothing_comes_from_another_shot(again: bool) -> None:
    pictures = drive(4, seed=1) + [255 - picture // 4 for picture in drive(2, seed=2)] + drive(1, seed=1)
    seen = windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2)
    derained = [Restoration(w, np.full(p.shape, -9 / 255, np.float16)) for w, p in zip(seen, pictures, strict=True)]
    out = list(filter_over_time(derained, again, 2))
    apart = [
        *filter_over_time(derained[:4], again, 2),
        *derained[4:],
    ]  # the shots of two frames and of one are too short
    assert all(np.array_equal(a.residual, b.residual) for a, b in zip(out, apart, strict=True))


def test_frames_come_out_in_order_and_none_is_lost() -> None:
    _, derained = blotched()
    for again in (False, True):
        assert [item.window.number for item in filter_over_time(derained, again, 3)] == list(range(7))
        assert list(filter_over_time([], again, 2)) == []
        assert [item.window.number for item in filter_over_time(derained[:1], again, 2)] == [0]


@pytest.mark.parametrize(("again", "flows"), [(False, 0), (True, 2 * 6 + 2 * 2)])
def test_motion_is_looked_for_again_only_when_asked(again: bool, flows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, derained = blotched()
    calls: list[tuple[bytes, bytes]] = []
    flow = FlowEstimator.flow

    def counted(self: FlowEstimator, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        calls.append((source.tobytes(), target.tobytes()))
        return flow(self, source, target)

    monkeypatch.setattr(FlowEstimator, "flow", counted)
    list(filter_over_time(derained, again, 2))
    assert len(calls) == flows
    assert max(Counter(calls).values(), default=1) == 1, "no pair twice in one direction"
