"""Looking through a wet windshield: what the memory shows, where it begins, and the whole of `process` with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import Clip as ClipFile
from clips import as_frame, drive, make, planes_of_file, textured
from conftest import tiny_glass

from vderain.media.encode.encoder import EncodeOptions
from vderain.model.glass import GlassUNet
from vderain.options import Options
from vderain.pipeline import LoadedModels
from vderain.process import Hooks, process
from vderain.restore import glass, glass_memory
from vderain.restore.frames import ConsistentFlow, Lasting
from vderain.restore.glass import (
    EDGES,
    VARIANCE_MAX,
    Memory,
    carried,
    filled,
    fixed_pattern,
    nothing_remembered,
    observed,
    share_revealed,
    steadiness,
    surroundings,
)
from vderain.restore.glass_memory import GlassMemory
from vderain.restore.glass_network import GlassNetwork, cell_motion
from vderain.restore.inference import NetworkRunner
from vderain.restore.raindrops import RaindropRemover
from vderain.restore.window import prepare_frames
from vderain.runtime.device import DevicePlacement

CPU = DevicePlacement(torch.device("cpu"), bf16=False)
SIZE = 96, 128
STEP_PX = 3  # by which the scene moves from frame to frame
DROP = slice(40, 52), slice(60, 72)


@pytest.fixture
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, frames in (("PERIOD", 6), ("WARM_UP", 3), ("CHUNK", 3)):
        monkeypatch.setattr(glass_memory, name, frames)


@pytest.fixture(autouse=True)
def narrow_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained generator sees one wide patch, behind which the memory would not be believed."""
    monkeypatch.setattr(glass, "EDGES", (-2.0, -1.0))


def memory(generator: GlassUNet | None = None) -> GlassMemory:
    return GlassMemory(GlassNetwork(generator or tiny_glass(), CPU))


def lasting(pictures: list[np.ndarray], score: float = 1.0, first: int = 0) -> list[Lasting]:
    """Frames with a residual that differs from place to place."""
    frames = prepare_frames((as_frame(picture, i) for i, picture in enumerate(pictures, first)), 1, first=first)
    noise = np.random.default_rng(2).normal(0, 0.02, (*pictures[0].shape[:2], 3)).astype(np.float32)
    return [Lasting(frame, noise, 1.0, score) for frame in frames]


def behind_a_drop(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A scene that moves to the right, and the same behind a grey drop."""
    wide = textured(4, (SIZE[0], SIZE[1] + STEP_PX * count))
    clear = [np.ascontiguousarray(wide[:, STEP_PX * (count - i) :][:, : SIZE[1]]) for i in range(count)]
    rainy = [picture.copy() for picture in clear]
    for picture in rainy:
        picture[DROP] = 128
    return clear, rainy


def carried_along(frames: list[np.ndarray], cover: np.ndarray, step_px: int) -> Memory:
    """The memory of earlier frames, as the last one finds it."""
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[..., 0] = -step_px
    error_px = np.zeros(SIZE, np.float32)
    state = observed(frames[0].astype(np.float32), cover, None)
    for frame in frames[1:-1]:
        state = observed(frame.astype(np.float32), cover, carried(state, flow, error_px))
    return carried(state, flow, error_px)


def test_what_a_drop_hides_was_seen_before() -> None:
    clear, rainy = behind_a_drop(8)
    cover = np.zeros(SIZE, np.float32)
    cover[DROP] = 1
    found = carried_along(rainy, cover, STEP_PX)
    assert np.abs(found.rgb - clear[-1])[DROP].max() < 3
    assert np.abs(rainy[-1].astype(int) - clear[-1])[DROP].mean() > 15
    assert found.variance[DROP].max() < 30


def test_while_the_car_stands_nothing_is_invented() -> None:
    _, rainy = behind_a_drop(1)
    cover = np.zeros(SIZE, np.float32)
    cover[DROP] = 1
    found = carried_along(rainy * 8, cover, 0)
    assert np.array_equal(found.rgb[DROP], rainy[0][DROP].astype(np.float32)), "what is behind the drop was never seen"
    assert found.variance[DROP].min() > 300, "and the memory says so"
    assert found.variance[:30].max() < 10


def test_what_comes_into_view_is_not_remembered() -> None:
    state = Memory(np.full((*SIZE, 3), 90, np.float32), np.ones(SIZE, np.float32))
    flow = np.full((*SIZE, 2), (-10, 0), np.float32)
    found = carried(state, flow, np.zeros(SIZE, np.float32))
    assert (found.variance[:, :9] == VARIANCE_MAX).all()
    assert (found.variance[:, 11:] < 4).all()
    assert (nothing_remembered(state.rgb).variance == VARIANCE_MAX).all()


def test_a_flow_is_filled_in_from_around_a_drop() -> None:
    flow = np.full((40, 60, 2), (4, -2), np.float32)
    weight = np.ones((40, 60), np.float32)
    broken = flow.copy()
    broken[10:25, 20:40], weight[10:25, 20:40] = 50, 0
    assert np.abs(filled(broken, weight) - flow).max() < 0.01
    assert np.allclose(filled(broken, np.ones_like(weight)), broken, atol=1e-4)
    assert not filled(broken, np.zeros_like(weight)).any(), "nothing is known of a flow without weight"


def test_the_colours_around_a_drop_replace_it() -> None:
    sky = np.full((*SIZE, 3), (120, 150, 170), np.float32)
    wiped, cover = sky.copy(), np.zeros(SIZE, np.float32)
    wiped[DROP], cover[DROP] = 30, 1
    assert np.abs(surroundings(wiped, cover) - sky).max() < 1
    assert np.abs(surroundings(wiped, np.zeros_like(cover)) - wiped)[42:50, 62:70].max() < 1


def test_a_missing_flow_is_that_of_even_motion() -> None:
    cover = np.zeros(SIZE, np.float32)
    known = ConsistentFlow(np.full((48, 64, 2), (1.5, 0), np.float32), np.full((48, 64), 255, np.uint8))
    cells = cell_motion(known, None, cover)
    assert cells.measured.shape == (12, 16, 4)
    assert np.allclose(cells.filled, (3, 0, -3, 0), atol=1e-3), "in pixels of the frame"
    assert np.allclose(cells.trust, (1, 0), atol=1e-3)
    assert not any(part.any() for part in cell_motion(None, None, cover))


def test_what_stays_on_the_glass_stays_in_the_mean() -> None:
    lumas = [np.full((4, 4), level, np.uint8) for level in (10, 20, 30)]
    mean, deviation = steadiness(lumas)
    assert (mean == 20).all()
    assert (deviation == round(4 * float(np.std([10, 20, 30])))).all()


def test_a_trace_that_stays_while_the_scene_moves_is_a_fixed_pattern() -> None:
    _, rainy = behind_a_drop(17)
    for picture in rainy:
        picture[DROP] = 250
    still, moving = fixed_pattern(rainy[:1] * 17), fixed_pattern(rainy)
    fine = moving.fine.astype(np.float32)
    assert fine[DROP].mean() > 40
    assert np.abs(fine[:30]).mean() < 0.5 * np.abs(still.fine[:30].astype(np.float32)).mean(), "the scene averages out"
    assert moving.deviation[DROP].max() == 0 < moving.deviation[:30].min()


def test_wide_patches_hide_too_much_to_believe_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glass, "EDGES", EDGES)

    def disc(radius_px: int) -> np.ndarray:
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        return np.clip(radius_px - np.hypot(y - 48, x - 64), 0, 1).astype(np.float32)

    assert share_revealed(disc(8)) == 1
    assert share_revealed(disc(44)) == 0
    assert 0 < share_revealed(disc(24)) < 1
    assert share_revealed(np.zeros(SIZE, np.float32)) == 0


def test_bf16_looks_through_drops_as_fp32_does() -> None:
    _, rainy = behind_a_drop(9)
    given, other = lasting(rainy), GlassMemory(GlassNetwork(tiny_glass(), DevicePlacement(CPU.device, bf16=True)))
    for one, two in zip(memory()(given, 1), other(given, 1), strict=True):
        assert np.abs(one.residual - two.residual).mean() < 0.02
        assert not np.array_equal(one.residual, two.residual)


def test_an_untrained_generator_changes_nothing(short_periods: None) -> None:
    given = lasting(drive(9, (40, 56)))
    for before, after in zip(given, memory(tiny_glass(trained=False))(given, 2), strict=True):
        assert np.array_equal(before.residual, after.residual)
        assert before.frame is after.frame


def test_dry_frames_and_still_images_pass() -> None:
    dry = lasting(drive(5, (40, 56)), score=0.0)
    assert all(a is b for a, b in zip(dry, memory()(dry, 2), strict=True))
    (still,) = lasting(drive(1, (40, 56)))
    assert still.frame.is_still_image
    assert list(memory()([still], 1)) == [still]


def test_frames_of_another_shot_are_not_used(short_periods: None) -> None:
    first, second = drive(7, (40, 56), seed=1), [255 - picture for picture in drive(7, (40, 56), seed=2)]
    both = lasting(first + second)
    assert {item.frame.shot for item in both} == {0, 1}
    alone = [*memory()(lasting(first), 1), *memory()(lasting(second, first=7), 1)]
    for one, other in zip(memory()(both, 1), alone, strict=True):
        assert np.array_equal(one.residual, other.residual)


@pytest.mark.parametrize("first", [1, 5, 8, 14])
def test_frames_made_again_equal_those_of_an_uninterrupted_run(
    first: int, short_periods: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glass_memory, "STEADY_FRAMES", 2)
    reach = 6 + 3 + 2 + 2
    pictures = drive(30, (40, 56))
    whole = [item.residual for item in memory()(lasting(pictures), 2)]
    again = [item.residual for item in memory()(lasting(pictures[first:], first=first), 1)]
    begins = first + reach
    assert all(map(np.array_equal, whole[begins:], again[reach:]))
    assert not np.array_equal(whole[first], again[0]), "frames before have been forgotten here"


def test_the_file_is_the_same_for_any_number_of_threads(tmp_path: Path, short_periods: None) -> None:
    source = make(tmp_path / "clip.mp4", ClipFile(frames=8, size=(64, 48)))

    def planes(workers: int, remember: GlassMemory | None) -> list[list[np.ndarray]]:
        options = Options(encode=EncodeOptions(codec="ffv1"), batch_size=workers, overwrite=True)
        remover = RaindropRemover(adding(-20), skip_dry=False, memory=remember)
        loaded = LoadedModels("both", adding(0), remover)
        return planes_of_file(process(source, tmp_path / "out.mkv", options, hooks=Hooks(models=loaded)).target)

    one, three, without = planes(1, memory()), planes(3, memory()), planes(1, None)
    assert all(np.array_equal(a, b) for x, y in zip(one, three, strict=True) for a, b in zip(x, y, strict=True))
    assert any(not np.array_equal(a, b) for x, y in zip(one, without, strict=True) for a, b in zip(x, y, strict=True))


def adding(levels: float) -> NetworkRunner:
    """A generator that adds the same to every pixel."""
    from vderain.model.unet import UNet, UNetConfig

    generator = UNet(UNetConfig(window=1, widths=(4, 4), stem=1))
    torch.nn.init.constant_(generator.head.bias, levels / 255)
    return NetworkRunner(generator, CPU)
