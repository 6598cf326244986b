"""Scores: exact values where they can be worked out by hand, their order elsewhere."""

import json
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import VFR_PTS, as_frame, drive, names_in, textured

from vderain.evaluation import evaluate
from vderain.evaluation.contact_sheet import BAND_PX, CELL_W_PX, MIDDLE, ROWS
from vderain.evaluation.evaluate import PairedScores, UnpairedScores, evaluate_against_truth, evaluate_without_truth
from vderain.evaluation.footage import Footage
from vderain.evaluation.quality import over_frames, quality
from vderain.evaluation.temporal import optical_flow, residual_rain_levels, warp_error
from vderain.media.decode.reader import VideoReader
from vderain.media.image.sequence import ImageReader
from vderain.rain.streaks import Light, StreakLayer, rain_onto, streak_opacity
from vderain.restore.window import windows

Make = Callable[..., Path]
Run = Callable[..., Result]
Y_PER_GREY = 219 / 255  # levels of Matlab's Y in one level of grey
SIZE = (48, 64)


def saved(folder: Path, pictures: list[Any]) -> Path:
    """A folder of PNG."""
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture[..., ::-1])
    return folder


def rained(dry: list[Any], density: float) -> list[Any]:
    """Render rain with a number of streaks per 10 000 px onto a clip."""
    generator = torch.Generator().manual_seed(1)
    style = (StreakLayer(angle_deg=5, length_px=14, width_px=1.5, density=density, opacity=0.4),)
    clear = torch.from_numpy(np.stack(dry)).permute(0, 3, 1, 2) / 255
    opacity = streak_opacity(style, *clear.shape[2:], generator, len(dry))
    rainy = rain_onto(clear, opacity, Light(ambient=0.3, sky=0.9, occlusion=0.5, haze=0))
    return list((rainy.permute(0, 2, 3, 1) * 255).round().byte().numpy())


@pytest.fixture(scope="module")
def dry() -> list[Any]:
    return drive(6, SIZE)


@pytest.fixture
def pair(dry: list[Any], tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a rainy and a dry clip."""
    return saved(tmp_path / "rain", rained(dry, 8)), saved(tmp_path / "clear", dry)


def test_psnr_of_a_constant_offset() -> None:
    truth = textured(1, (32, 40)) // 2
    found = quality(truth + np.uint8(10), truth)
    assert found.psnr_rgb_db == pytest.approx(20 * np.log10(255 / 10))
    assert found.psnr_y_db == pytest.approx(20 * np.log10(255 / (10 * Y_PER_GREY)))
    assert found.worst8_levels == pytest.approx(10 * Y_PER_GREY)


def test_quality_of_identical_images() -> None:
    picture = textured(2, (30, 41))
    found = quality(picture, picture.copy())
    assert (found.psnr_y_db, found.ssim_y, found.psnr_rgb_db, found.ssim_rgb) == (99, 1, 99, 1)
    assert found.worst8_levels == 0


def test_ssim_of_a_single_window_matches_the_formula() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 256, (2, 11, 11, 3)).astype(np.uint8)
    away = np.arange(-5, 6) ** 2
    weights = np.exp(-(away[:, None] + away) / (2 * 1.5**2))
    weights /= weights.sum()

    def by_hand(x: Any, y: Any) -> float:
        x, y = np.asarray(x, float), np.asarray(y, float)
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
        cov = (weights * (x - mx) * (y - my)).sum()
        c1, c2 = 2.55**2, 7.65**2
        return float((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))

    found = quality(one, other)
    assert found.ssim_rgb == pytest.approx(np.mean([by_hand(one[..., i], other[..., i]) for i in range(3)]))
    y1, y2 = (16 + (65.481 * p[..., 0] + 128.553 * p[..., 1] + 24.966 * p[..., 2]) / 255 for p in (one, other))
    assert found.ssim_y == pytest.approx(by_hand(y1, y2))


def test_the_worst_block_is_found() -> None:
    truth = np.full((40, 50, 3), 100, np.uint8)
    picture = truth.copy()
    picture[16:24, 32:40] = 40
    picture[:, 48:] = 250  # beyond the last whole block
    assert quality(picture, truth).worst8_levels == pytest.approx(60 * Y_PER_GREY)


def test_scores_of_a_clip_are_means_and_its_worst_block() -> None:
    truth = textured(4, (32, 32)) // 2
    frames = [quality(truth + np.uint8(k), truth) for k in (2, 9, 4)]
    whole = over_frames(frames)
    assert whole.psnr_y_db == pytest.approx(np.mean([f.psnr_y_db for f in frames]))
    assert whole.ssim_rgb == pytest.approx(np.mean([f.ssim_rgb for f in frames]))
    assert whole.worst8_levels == frames[1].worst8_levels


def test_warp_error_without_motion_is_the_squared_difference() -> None:
    picture = textured(5, SIZE)
    error = warp_error(picture, picture + np.uint8(5), optical_flow(picture, picture))
    assert error == pytest.approx((5 / 255) ** 2 * 1e3)


def test_warp_error_ignores_motion() -> None:
    now, after = drive(2, (96, 128), (3, 1))
    along = optical_flow(now, after)
    unmoved = ((after.astype(float) - now) ** 2).mean() / 255**2 * 1e3
    error = warp_error(now, after, along)
    assert error is not None
    assert error < unmoved / 20
    assert along.visible.mean() > 0.9


def test_warp_error_is_none_where_all_pixels_are_occluded(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = textured(5, SIZE)
    along = optical_flow(picture, picture)
    along.visible[:] = False
    assert warp_error(picture, picture, along) is None


def residual_rain(pictures: list[Any]) -> float:
    seen = windows((as_frame(picture, i) for i, picture in enumerate(pictures)), 2)
    return float(np.mean([residual_rain_levels(window.aligned) for window in seen]))


def test_residual_rain_grows_with_rain() -> None:
    dry = drive(6, (96, 128))
    noise = np.random.default_rng(6).normal(0, 3, (len(dry), 96, 128, 3))

    def noisy(density: float) -> list[Any]:
        return list(np.clip(rained(dry, density) + noise, 0, 255).round().astype(np.uint8))

    found = [residual_rain(noisy(density)) for density in (0, 4, 8, 16, 32)]
    assert abs(residual_rain(dry)) < 0.01
    assert abs(found[0]) < 0.01, "noise is no rain"
    assert found[1] > 0.05
    assert all(more > 1.5 * less for less, more in pairwise(found[1:])), found


def test_residual_rain_is_negative_for_dark_ghosts(dry: list[Any]) -> None:
    dark = [2 * d.astype(int) - r for d, r in zip(dry, rained(dry, 8), strict=True)]
    assert residual_rain([np.clip(d, 0, 255).astype(np.uint8) for d in dark]) < -0.1


def test_frames_are_rotated_and_converted_as_ffmpeg_does(clip: Make) -> None:
    source = clip("in.mp4", frames=3)
    with av.open(str(source)) as container:
        wanted = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(list(Footage(source).pictures()), wanted)


@pytest.mark.parametrize("limit", [1, 5, 11])
def test_limit_counts_frames_at_any_frame_rate(clip: Make, limit: int) -> None:
    source = clip("vfr.mp4", pts=[9000 + pts for pts in VFR_PTS], audio="aac")
    footage = Footage(source, limit=limit)
    with VideoReader(source, duration_s=footage.limit_s()) as reader:
        assert len(list(reader.frames())) == limit
    assert len(list(footage.pictures())) == limit
    assert Footage(source, limit=len(VFR_PTS)).limit_s() is None


@pytest.mark.parametrize("limit", [1, 7, 10])
def test_limit_counts_images_of_a_folder(tmp_path: Path, limit: int) -> None:
    folder = saved(tmp_path / "many", [textured(i, (16, 16)) for i in range(12)])
    with ImageReader(folder, duration_s=Footage(folder, limit=limit).limit_s()) as reader:
        assert reader.count == limit


def test_scores_against_truth(pair: tuple[Path, Path], dry: list[Any]) -> None:
    rain, clear = map(Footage, pair)
    found = evaluate_against_truth(rain, clear, clear)
    rainy = rained(dry, 8)
    assert found.frames == 6
    by_hand = over_frames([quality(r, d) for r, d in zip(rainy, dry, strict=True)])
    assert found.quality_in == by_hand
    assert found.quality_out.psnr_y_db == 99
    assert found.stability_in and found.stability_out
    assert found.stability_out.ratio == 1
    errors = [warp_error(rainy[i], rainy[i + 1], optical_flow(dry[i], dry[i + 1])) for i in range(5)]
    assert found.stability_in.warp == pytest.approx(np.mean(errors))
    assert found.stability_in.ratio == pytest.approx(found.stability_in.warp / found.stability_out.warp)


def test_scores_without_truth_are_better_for_the_dry_clip(pair: tuple[Path, Path]) -> None:
    found = evaluate_without_truth(*map(Footage, pair))
    assert found.scores_in.warp and found.scores_out.warp
    assert found.scores_in.warp > 2 * found.scores_out.warp
    assert found.scores_in.residual_rain_levels > 0.2
    assert abs(found.scores_out.residual_rain_levels) < 0.01


@pytest.mark.parametrize("truth", [True, False])
def test_frames_are_streamed(truth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, alive, most = 60, 0, 0
    monkeypatch.setattr(evaluate, "cores", lambda: 2)

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(self: Footage) -> Iterator[Any]:
        nonlocal alive, most
        for number in range(frames):
            picture = np.full((16, 16, 3), number, np.uint8)
            weakref.finalize(picture, gone)
            alive += 1
            most = max(most, alive)
            yield picture

    monkeypatch.setattr(Footage, "pictures", counted)
    clip = Footage(Path("clip"))
    report: PairedScores | UnpairedScores = (
        evaluate_against_truth(clip, clip, clip) if truth else evaluate_without_truth(clip, clip)
    )
    assert report.frames == frames
    assert 2 < most < frames


def ran(vderain: Run, *arguments: object) -> dict[str, Any]:
    result = vderain("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(result.stdout)
    return found


SCORES = {"psnr_y_db", "ssim_y", "psnr_rgb_db", "ssim_rgb", "worst8_levels", "edges_kept", "edges_new"}


def test_command_derains_a_folder_and_compares_it(vderain: Run, tiny: Path, pair: tuple[Path, Path]) -> None:
    rain, clear = pair
    found = ran(vderain, "--rain", rain, "--clear", clear, "--model", tiny, "--limit", 3, "--identity")
    assert (found["rain"], found["clear"], found["out"], found["model"]) == (str(rain), str(clear), None, "tiny")
    assert found["frames"] == 3
    assert {*found["quality_in"]} == {*found["quality_out"]} == {*found["quality_clear"]} == SCORES
    assert {*found["stability_in"]} == {*found["stability_out"]} == {"warp", "ratio"}
    assert found["quality_in"] != found["quality_out"]
    assert names_in(rain.parent) == {"rain", "clear"}


def test_scores_before_and_after_are_equal_at_strength_0(vderain: Run, pair: tuple[Path, Path]) -> None:
    rain, clear = pair
    found = ran(vderain, "--rain", rain, "--clear", clear, "--strength", 0, "--identity")
    assert found["quality_in"] == found["quality_out"]
    assert found["stability_in"] == found["stability_out"]
    assert found["quality_clear"]["psnr_rgb_db"] == 99


def test_command_scores_a_video_without_truth(vderain: Run, clip: Make, tiny: Path) -> None:
    source = clip("rain.mp4", frames=5, audio="aac")
    found = ran(vderain, "--rain", source, "--model", tiny, "--limit", 4)
    assert found["frames"] == 4
    assert {*found["scores_in"]} == {*found["scores_out"]} == {"warp", "residual_rain_levels"}
    assert found["scores_in"] != found["scores_out"]


def test_a_video_can_be_compared_with_a_folder(vderain: Run, clip: Make, tmp_path: Path) -> None:
    source = clip("rain.mkv", frames=3, codec="ffv1")
    clear = saved(tmp_path / "clear", list(Footage(source).pictures()))
    found = ran(vderain, "--rain", source, "--clear", clear, "--out", source)
    assert found["quality_out"]["psnr_rgb_db"] == 99


def test_out_is_scored_as_it_is(vderain: Run, pair: tuple[Path, Path]) -> None:
    rain, clear = pair
    found = ran(vderain, "--rain", rain, "--clear", clear, "--out", clear)
    assert (found["out"], found["model"]) == (str(clear), None)
    assert found["quality_out"]["psnr_y_db"] == 99


def test_single_images_may_differ_in_size(vderain: Run, tiny: Path, tmp_path: Path) -> None:
    shapes = [(40, 60), (60, 40), (40, 60)]
    rain = saved(tmp_path / "rain", [textured(i, shape) for i, shape in enumerate(shapes)])
    clear = saved(tmp_path / "clear", [textured(i, shape) for i, shape in enumerate(shapes)])
    sheet = tmp_path / "sheet.png"
    found = ran(vderain, "--rain", rain, "--clear", clear, "--single", "--model", tiny, "--limit", 2, "--sheet", sheet)
    assert found["frames"] == 2
    assert found["stability_in"] is None
    assert found["quality_in"]["psnr_y_db"] == 99
    assert sheet.exists()


def test_images_of_a_clip_must_have_one_size(vderain: Run, tmp_path: Path) -> None:
    rain = saved(tmp_path / "rain", [textured(1, (40, 60)), textured(2, (60, 40))])
    result = vderain("evaluate", "--rain", rain, "--clear", rain)
    assert result.exit_code != 0
    assert "1.png differs in size from 0.png" in result.stderr
    assert "--single" in result.stderr


def test_table_and_json_agree(vderain: Run, pair: tuple[Path, Path]) -> None:
    rain, clear = pair
    arguments = ("--rain", rain, "--clear", clear, "--out", clear)
    found = ran(vderain, *arguments)
    table = vderain("evaluate", *arguments).stdout.splitlines()
    assert table[0] == f"{rain}: 6 frames"
    rows = {line[:24].strip(): line[24:].split() for line in table[2:]}
    assert rows["PSNR Y, dB"] == [f"{found['quality_in']['psnr_y_db']:.2f}", "99.00"]
    assert rows["SSIM RGB"] == [f"{found['quality_in']['ssim_rgb']:.4f}", "1.0000"]
    assert rows["E_warp / clear"] == [f"{found['stability_in']['ratio']:.2f}", "1.00"]
    looked = vderain("evaluate", "--rain", rain, "--out", clear).stdout
    assert "residual rain" in looked


def test_contact_sheet_shows_input_output_truth_and_difference(
    vderain: Run, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    rain, clear = pair
    sheet = tmp_path / "sheet.png"
    ran(vderain, "--rain", rain, "--clear", clear, "--out", rain, "--sheet", sheet)
    picture = np.asarray(cv2.imread(str(sheet)))
    cell_h = CELL_W_PX * SIZE[0] // SIZE[1]
    assert picture.shape == (ROWS * (BAND_PX + cell_h), 4 * CELL_W_PX, 3)
    first = picture[BAND_PX : BAND_PX + cell_h]
    assert np.array_equal(first[:, :CELL_W_PX], first[:, CELL_W_PX : 2 * CELL_W_PX]), "input is output here"
    assert not np.array_equal(first[:, :CELL_W_PX], first[:, 2 * CELL_W_PX : 3 * CELL_W_PX])
    assert (first[:, 3 * CELL_W_PX :] == MIDDLE).all()
    assert picture[:BAND_PX, :60].max() > 150, "a label"


def test_contact_sheet_is_not_overwritten(vderain: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"mine")
    result = vderain("evaluate", "--rain", pair[0], "--out", pair[1], "--sheet", sheet)
    assert result.exit_code == 4
    assert sheet.read_bytes() == b"mine"
    assert vderain("evaluate", "--rain", pair[0], "--sheet", tmp_path / "no" / "sheet.png").exit_code == 4
    assert vderain("evaluate", "--rain", pair[0], "--sheet", tmp_path / "sheet.jpg").exit_code == 2


def test_clips_of_different_length_or_size_are_refused_first(vderain: Run, dry: list[Any], tmp_path: Path) -> None:
    rain, clear = saved(tmp_path / "rain", dry), saved(tmp_path / "clear", dry[:4])
    small = saved(tmp_path / "small", [picture[:40] for picture in dry])
    result = vderain("evaluate", "--rain", rain, "--clear", clear, "--model", "no such model")
    assert result.exit_code == 3
    cure = "Give as many of both, or compare the first N with --limit N."
    assert result.stderr == f"vderain: {clear} ends after 4 frames, while {rain} goes on. {cure}\n"
    assert vderain("evaluate", "--rain", rain, "--clear", clear, "--out", rain, "--limit", 4).exit_code == 0
    result = vderain("evaluate", "--rain", rain, "--clear", small, "--model", "no such model")
    assert result.exit_code == 3
    assert f"frame 0 of {small} is 64x40, of {rain} 64x48." in result.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--limit", 0], "'--limit'"),
        (["--identity"], "--clear"),
        (["--single"], "--clear"),
        (["--out", "CLEAR", "--strength", 1], "--strength"),
        (["--strength", 3], "'--strength'"),
    ],
)
def test_contradictory_flags_are_refused(vderain: Run, pair: tuple[Path, Path], flags: list[object], says: str) -> None:
    given = [pair[1] if flag == "CLEAR" else flag for flag in flags]
    result = vderain("evaluate", "--rain", pair[0], *given)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_missing_or_too_small_inputs_are_refused(vderain: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    rain, clear = pair
    for flags in (["--rain", tmp_path / "none"], ["--rain", rain, "--clear", tmp_path / "none"]):
        result = vderain("evaluate", *flags)
        assert result.exit_code == 3
        assert str(tmp_path / "none") in result.stderr
    result = vderain("evaluate", "--rain", rain / "0.png", "--out", clear / "0.png")
    assert result.exit_code == 3
    assert "one picture" in result.stderr
    assert vderain("evaluate", "--rain", rain / "0.png", "--clear", clear, "--single").exit_code == 2
    tiny_picture = saved(tmp_path / "tiny", [np.zeros((8, 8, 3), np.uint8)])
    assert vderain("evaluate", "--rain", tiny_picture, "--clear", tiny_picture, "--out", tiny_picture).exit_code == 3
