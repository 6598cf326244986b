"""A clip of real rain, measured frame by frame: the truth of a fixed camera, direction and steadiness."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from clips import drive, textured

from vderain.evaluation.footage import Footage
from vderain.evaluation.over_time import measure_over_time, plot, static_truth, streak_direction_deg, summary
from vderain.evaluation.panels import PANEL_PX
from vderain.evaluation.quality import luma

Run = Callable[..., Result]
SIZE = (48, 64)


def saved(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:03}.png"), picture[..., ::-1])
    return folder


def with_streaks(scene: np.ndarray, count: int, levels: int = 40) -> list[np.ndarray]:
    """Frames of a still scene, each with a leaning streak in a place of its own."""
    frames = []
    for number in range(count):
        frame = scene.copy()
        for shift in (0, 30):
            x = (5 + 7 * number + shift) % 60
            streak = cv2.line(np.zeros(SIZE, np.uint8), (x, 40), (x + 6, 10), levels, 1, cv2.LINE_AA)
            frame = cv2.add(frame, cv2.merge([streak] * 3))
        frames.append(frame)
    return frames


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """Rain before a fixed camera, the result of which half is left in every frame but the tenth, and the scene."""
    scene = textured(3, SIZE)
    rain = with_streaks(scene, 21)
    out = with_streaks(scene, 21, 20)
    out[10] = scene
    return saved(tmp_path / "rain", rain), saved(tmp_path / "out", out), scene


def test_the_truth_of_a_fixed_camera_is_its_median(clips: tuple[Path, Path, np.ndarray]) -> None:
    truth = static_truth(Footage(clips[0]))
    assert truth is not None
    assert truth.static.mean() > 0.9
    assert np.abs(truth.scene - luma(clips[2]))[truth.static].max() < 1


def test_a_moving_camera_has_no_static_truth(tmp_path: Path) -> None:
    assert static_truth(Footage(saved(tmp_path / "drive", drive(15, SIZE, (5, 3))))) is None


def test_what_is_left_and_how_steadily(clips: tuple[Path, Path, np.ndarray]) -> None:
    rain, out, _ = clips
    facts = measure_over_time(Footage(rain), Footage(out))
    found = summary(facts)
    assert found.static_in is not None and found.static_out is not None
    assert found.static_out.psnr_db > found.static_in.psnr_db + 4
    assert 0.1 < found.static_out.bright / found.static_in.bright < 0.4
    assert found.static_out.dark < 0.01
    assert facts[10].unsteadiness == found.unsteadiness == pytest.approx(2, abs=0.3)
    assert found.direction_deg == pytest.approx(np.degrees(np.arctan2(6, 30)), abs=4)
    assert plot(facts).shape == (6 * PANEL_PX[1], PANEL_PX[0], 3)


@pytest.mark.parametrize("degrees", [-60, -20, 0, 35])
def test_the_direction_of_streaks(degrees: float) -> None:
    light, (dx, dy) = np.zeros((80, 80), np.uint8), (np.sin(np.radians(degrees)), np.cos(np.radians(degrees)))
    ends = [(round(40 - 25 * s * dx), round(40 + 25 * s * dy)) for s in (1, -1)]  # below, and above
    cv2.line(light, ends[0], ends[1], 60, 2, cv2.LINE_AA)
    assert streak_direction_deg(light.astype(float)) == pytest.approx(degrees, abs=4)
    assert streak_direction_deg(np.zeros((9, 9))) is None


def test_evaluate_prints_and_plots_it(vderain: Run, clips: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    rain, out, _ = clips
    chart = tmp_path / "chart.png"
    result = vderain("evaluate", "--rain", rain, "--out", out, "--plot", chart, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["over_time"]
    assert len(facts["frames"]) == 21
    assert facts["static_out"]["bright"] < facts["static_in"]["bright"]
    assert np.asarray(cv2.imread(str(chart))).std() > 5
    shown = vderain("evaluate", "--rain", rain, "--out", out).stdout
    assert "PSNR in static places" in shown and "degrees" in shown
    assert vderain("evaluate", "--rain", rain, "--out", out, "--plot", chart).exit_code == 4, "never overwritten"
    assert vderain("evaluate", "--rain", rain, "--clear", out, "--plot", tmp_path / "b.png").exit_code == 2
