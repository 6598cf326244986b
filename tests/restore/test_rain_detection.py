"""Rain detection: dry scenes stay as they are, rainy ones are restored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import as_frame, drive

from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, process
from vderain.restore.frames import Restoration
from vderain.restore.rain_detection import removed_light, score_rain, zero_dry_scenes
from vderain.restore.temporal_filter import filter_over_time
from vderain.restore.window import windows


def streaked(share_of_picture: float, levels: float = 40, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A residual that darkens thin columns in the left part of a picture."""
    residual = np.zeros((*size, 3), np.float32)
    residual[:, : round(size[1] * share_of_picture) : 8] = -levels / 255
    return residual


def detected(residuals: list[np.ndarray], cut_at: int | None = None) -> list[Restoration]:
    pictures = drive(len(residuals), size=residuals[0].shape[:2])
    if cut_at is not None:
        pictures[cut_at:] = [255 - picture for picture in pictures[cut_at:]]
    seen = windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2)
    return list(zero_dry_scenes(map(Restoration.of_window, seen, residuals)))


def test_a_residual_in_a_corner_only_is_not_rain() -> None:
    assert score_rain([removed_light(streaked(0.25))] * 5) > 0  # dense enough to be a shower in the light of a lamp
    assert score_rain([removed_light(streaked(0.25, levels=3))] * 5) == 0


def test_faint_rain_everywhere_is_rain() -> None:
    assert score_rain([removed_light(streaked(1.0, levels=3))] * 5) == 1


def test_a_zero_or_brightening_residual_is_dry() -> None:
    nothing = np.zeros((48, 64, 3), np.float32)
    assert score_rain([removed_light(nothing)]) == 0
    assert score_rain([removed_light(nothing + 0.2)]) == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 53)])
def test_frames_of_any_size_are_scored(size: tuple[int, int]) -> None:
    assert removed_light(np.full((*size, 3), -0.1, np.float32)).shape == (6, 8)
    assert score_rain([removed_light(np.full((*size, 3), -0.1, np.float32))]) == 1


def test_dry_residuals_become_zero_and_rainy_ones_stay() -> None:
    dry, rainy = streaked(0.1, levels=3), streaked(1.0)
    assert all(not item.residual.any() for item in detected([dry] * 7))
    assert all(np.array_equal(item.residual, rainy) for item in detected([rainy] * 7))


@pytest.mark.parametrize("recompute_flow", [False, True])
def test_the_temporal_filter_leaves_dry_frames_alone(recompute_flow: bool) -> None:
    pictures = drive(7, size=(96, 128))
    seen = list(windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2))
    removed = [streaked(0.1, levels=3)] * 7
    assert not any(
        item.residual.any()
        for item in filter_over_time(zero_dry_scenes(map(Restoration.of_window, seen, removed)), recompute_flow, 2)
    )


def test_a_rainy_scene_does_not_affect_the_next_one() -> None:
    dry, rainy = streaked(0.1, levels=3), streaked(1.0)
    out = detected([rainy] * 6 + [dry] * 6, cut_at=6)
    assert [bool(item.residual.any()) for item in out] == [True] * 6 + [False] * 6


def test_a_dry_clip_stays_bit_identical_and_is_counted(tmp_path: Path) -> None:
    source, target = Path(__file__).parents[2] / "samples" / "driving_dry.mp4", tmp_path / "out.mkv"
    result = process(source, target, Options(encode=EncodeOptions(codec="ffv1"), duration_s=0.5))
    assert result.dry == result.frames > 8
    with VideoReader(source) as before, VideoReader(target) as after:
        for a, b in zip(before.frames(), after.frames(), strict=False):
            assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def test_without_rain_detection_no_frame_counts_as_dry(clip: Callable[..., Path], tiny: Path, tmp_path: Path) -> None:
    source = clip(frames=4)
    assert process(source, tmp_path / "a.mp4", Options(model=str(tiny), guard=False)).dry == 0
