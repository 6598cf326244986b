"""Raindrops are removed from wet glass; frames behind dry glass stay as they are, to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import as_frame, drive

from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import EncodeOptions
from vderain.model.unet import UNet, UNetConfig
from vderain.options import Options, weights
from vderain.process import Hooks, LoadedModels, load_models, process
from vderain.restore.flow import flow_luma
from vderain.restore.frames import DROPS_LINES, PreparedFrame, upscaled
from vderain.restore.inference import NetworkRunner
from vderain.restore.raindrops import RaindropRemover, bounded, raindrop_level
from vderain.restore.window import prepare_frame, prepare_frames
from vderain.runtime.device import choose_device


def adding(levels: float) -> NetworkRunner:
    """A generator that adds the same to every pixel."""
    generator = UNet(UNetConfig(window=1, widths=(4, 4), stem=1))
    torch.nn.init.constant_(generator.head.bias, levels / 255)
    return NetworkRunner(generator, choose_device("cpu", "fp32"))


def remove_raindrops(
    raindrop_remover: RaindropRemover, pictures: list[np.ndarray], radius: int = 2
) -> list[PreparedFrame]:
    return list(
        raindrop_remover((prepare_frame(as_frame(picture, i)) for i, picture in enumerate(pictures)), 2, radius)
    )


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the bound, so that a constant residual passes."""
    monkeypatch.setattr("vderain.restore.raindrops.bounded", lambda picture, residual: residual)


def drops(count: int, size: tuple[int, int] = (96, 128), share: float = 1.0) -> np.ndarray:
    """A residual with square drops in the left part of a picture."""
    residual = np.zeros((*size, 3), np.float16)
    rng = np.random.default_rng(5)
    for y, x in zip(rng.integers(size[0], size=count), rng.integers(round(size[1] * share), size=count), strict=True):
        residual[y : y + 5, x : x + 5] = rng.choice([-0.1, 0.15])
    return residual


def test_many_drops_mean_wet_glass_and_a_few_changes_do_not() -> None:
    assert raindrop_level(drops(80)) > 1
    assert raindrop_level(drops(6)) == 0
    assert raindrop_level(drops(80, share=0.3)) == 0, "a tree is in one part of the picture"
    assert raindrop_level(np.full((48, 64, 3), 1 / 255, np.float16)) == 0


def test_raindrops_are_removed_from_wet_glass(unbounded: None) -> None:
    pictures = drive(5)
    for prepared, picture in zip(remove_raindrops(RaindropRemover(adding(-20)), pictures), pictures, strict=True):
        assert np.array_equal(prepared.rgb, np.maximum(picture, 20) - 20)
        assert np.array_equal(prepared.luma, flow_luma(prepared.rgb))
        assert prepared.raindrop_score == 1


def test_frames_behind_dry_glass_stay() -> None:
    seen = [prepare_frame(as_frame(picture, i)) for i, picture in enumerate(drive(5))]
    assert all(a is b for a, b in zip(RaindropRemover(adding(0))(seen, 2, 2), seen, strict=True))
    assert all(a is not b for a, b in zip(RaindropRemover(adding(0), skip_dry=False)(seen, 2, 2), seen, strict=True))


@pytest.mark.parametrize(("levels", "runs"), [(0, 5), (-20, 13)])
def test_the_network_sees_one_frame_in_three_while_the_glass_is_dry(
    levels: float, runs: int, unbounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, seen = adding(levels), []
    run = network.restore_image

    def counted(rgb: np.ndarray) -> np.ndarray:
        seen.append(rgb)
        return run(rgb)

    monkeypatch.setattr(network, "restore_image", counted)
    frames = prepare_frames((as_frame(picture, i) for i, picture in enumerate(drive(13))), 1)
    assert len(list(RaindropRemover(network)(frames, 1, 2))) == 13
    assert len(seen) == runs


def test_the_residual_is_bounded_by_the_colours_of_the_surroundings() -> None:
    sky = np.full((120, 160, 3), (120, 150, 170), np.uint8)
    sky[:, 100:] = (60, 70, 80)
    drop = sky.copy()
    drop[50:60, 50:60] = (40, 45, 50)
    residual = np.zeros(sky.shape, np.float16)
    residual[50:60, 50:60] = (90 / 255, 120 / 255, 200 / 255)  # too bright, and blue
    mended = drop + bounded(drop, residual).astype(np.float32) * 255
    assert np.abs(mended[50:60, 50:60] - (120, 150, 170)).max() < 12
    residual[50:60, 50:60] = (70 / 255, 90 / 255, 100 / 255)
    assert np.abs(bounded(drop, residual) - residual).max() < 0.004, "what fits is left as it is"
    assert np.abs(bounded(sky, np.zeros_like(residual))).max() < 0.002


def test_a_change_in_one_frame_only_is_not_a_drop(unbounded: None) -> None:
    """One dark frame among bright ones: the residual of that frame alone is not used."""
    generator = adding(0)
    pictures = [np.full((48, 64, 3), level, np.uint8) for level in (200, 200, 60, 200, 200)]
    flat = {200: 0.0, 60: -0.1}
    generator.restore_image = lambda rgb: np.full((48, 64, 3), flat[int(rgb[0, 0, 0])], np.float16)  # type: ignore[method-assign]
    out = remove_raindrops(RaindropRemover(generator), pictures)
    assert all(np.array_equal(prepared.rgb, picture) for prepared, picture in zip(out, pictures, strict=True))
    assert remove_raindrops(RaindropRemover(generator), pictures, radius=0)[2].raindrop_score == 1


def test_frames_of_another_shot_are_not_used(unbounded: None) -> None:
    generator = adding(0)
    pictures = [np.full((48, 64, 3), level, np.uint8) for level in (200, 200, 60, 60)]
    taken = {200: -20 / 255, 60: 0.0}
    generator.restore_image = lambda rgb: np.full((48, 64, 3), taken[int(rgb[0, 0, 0])], np.float16)  # type: ignore[method-assign]
    out = list(RaindropRemover(generator)(prepare_frames((as_frame(p, i) for i, p in enumerate(pictures)), 1), 2, 2))
    assert [prepared.raindrop_score for prepared in out] == [1, 1, 0, 0]
    assert [int(prepared.rgb[0, 0, 0]) for prepared in out] == [180, 180, 60, 60]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 53), (DROPS_LINES + 40, 2 * DROPS_LINES)])
def test_frames_of_any_size_are_restored_and_large_ones_downscaled(size: tuple[int, int], unbounded: None) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(60, 200, (*size, 3), np.uint8)
    (prepared,) = remove_raindrops(RaindropRemover(adding(30)), [picture], radius=0)
    assert prepared.raindrop_residual is not None
    assert min(prepared.raindrop_residual.shape[:2]) == min(*size, DROPS_LINES)
    assert upscaled(prepared.raindrop_residual, *size).shape == picture.shape
    assert np.abs(prepared.rgb.astype(int) - picture - 30).max() <= 1


@pytest.mark.parametrize("temporal", ["strong", "off"])
def test_the_file_has_no_raindrops_and_no_frame_counts_as_dry(
    clip: Callable[..., Path], tmp_path: Path, temporal: str, unbounded: None
) -> None:
    source = clip(frames=4)
    options = Options(temporal=temporal, encode=EncodeOptions(codec="ffv1"))
    loaded = LoadedModels("both", adding(0), RaindropRemover(adding(-20)))
    result = process(source, tmp_path / "out.mkv", options, hooks=Hooks(models=loaded))
    assert (result.frames, result.dry) == (4, 0)
    with VideoReader(source) as before, VideoReader(result.target) as after:
        for a, b in zip(before.frames(), after.frames(), strict=True):
            darker = a.planes[0].astype(int) - b.planes[0]
            assert 10 < darker[a.planes[0] > 80].mean() < 22


def test_raindrop_removal_is_optional_and_its_weights_count_where_it_is_on() -> None:
    with_drops, without = Options(), Options(drops=False)
    assert load_models(without).raindrop_remover is None
    assert load_models(with_drops).raindrop_remover is not None
    assert weights(with_drops).startswith(weights(without) + "+")
    assert weights(Options(temporal="only")) == ""
