"""Unpaired training: discriminators, image pools, data, whole runs and their resumption."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import Clip, make, names_in, textured
from safetensors.torch import load_file

from vderain.errors import InputError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.patchgan import PatchGAN
from vderain.model.unet import UNet, UNetConfig
from vderain.train.config import Data, Recipe, load_recipe
from vderain.train.cyclegan import CycleGAN, UnpairedCrops
from vderain.train.data.images import ImageIndex, ScanReport, index_images
from vderain.train.logger import Event, Progress
from vderain.train.loop import train
from vderain.train.losses import least_squares
from vderain.train.trainer import BEST, GENERATOR, RESUME, Losses

Run = Callable[..., Result]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"


def noisy(number: int, size: tuple[int, int]) -> np.ndarray:
    picture = textured(number, size).copy()
    picture[:, number % 7 :: 7] = 255
    return picture


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``rain`` with five pictures and ``clear`` with two, of sizes and kinds that folders have."""
    root = tmp_path_factory.mktemp("unpaired")
    for name in ("rain", "clear"):
        (root / name).mkdir()
    for number in range(5):
        cv2.imwrite(str(root / "rain" / f"{number}.png"), noisy(number, (50 + 7 * number, 64)))
    cv2.imwrite(str(root / "clear" / "grey.png"), textured(8, (70, 90))[..., 0])
    cv2.imwrite(str(root / "clear" / "tiny.jpg"), textured(9, (12, 20)))
    return root


@pytest.fixture
def smoke(folders: Path) -> Callable[..., Recipe]:
    """The smoke recipe as a CycleGAN of pictures, with overrides."""
    return lambda *overrides: load_recipe(SMOKE, (*settings(folders), *overrides))


def settings(folders: Path) -> tuple[str, ...]:
    paths = f"data.rain='{folders / 'rain'}'", f"data.photos='{folders / 'clear'}'"
    return (*paths, "model.window=1", "cyclegan.layers=1", "cyclegan.width=4", "cyclegan.pool=3")


def trained(recipe: Recipe, out: Path, resume: bool = False) -> list[Progress]:
    told: list[Event] = []
    train(recipe, out, resume=resume, on_event=told.append)
    return [event for event in told if isinstance(event, Progress)]


def same_state(one: Path, other: Path) -> bool:
    first, second = load_file(one / RESUME), load_file(other / RESUME)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("layers", "patch_px"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_each_prediction_sees_one_patch(layers: int, patch_px: int) -> None:
    discriminator = PatchGAN(layers, 2, spectral=True).eval()  # instance norm would look at the whole picture
    assert discriminator.patch_px == patch_px
    picture = torch.rand(1, 3, patch_px + 64, patch_px + 64, requires_grad=True)
    predictions = discriminator(picture)
    middle = predictions.shape[-1] // 2
    predictions[0, 0, middle, middle].backward()
    assert picture.grad is not None
    seen = picture.grad.abs().sum((0, 1)).nonzero()
    assert tuple((seen.max(0).values - seen.min(0).values + 1).tolist()) == (patch_px, patch_px)


def test_spectral_norm_bounds_every_layer() -> None:
    discriminator = PatchGAN(2, 4, spectral=True)
    for _ in range(20):
        discriminator(torch.rand(1, 3, 40, 40))
    weights = [m.weight.flatten(1) for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(weights) == 4
    assert all(float(torch.linalg.matrix_norm(weight.detach(), 2)) < 1.2 for weight in weights)


def test_least_squares_wants_one_for_real_and_nothing_for_made() -> None:
    predictions = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert float(least_squares(predictions, True)) == 0.25
    assert float(least_squares(predictions, False)) == 0.75


@pytest.mark.parametrize("residual", ["true", "false"])
def test_the_trained_generator_processes_a_clip(
    vderain: Run, folders: Path, tmp_path: Path, clip: Callable[..., Path], residual: str
) -> None:
    flags = [flag for each in (*settings(folders), f"model.residual={residual}") for flag in ("--set", each)]
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.stderr
    assert "  adversarial " in result.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert set(log[0]["parts"]) == {"adversarial", "cycle", "identity", "discriminators"}
    lines = [entry for entry in log if entry["event"] == "progress"]
    assert all(math.isfinite(value) for entry in lines for value in entry["parts"].values())
    assert names_in(tmp_path / "run") - {"tensorboard"} == {BEST, GENERATOR, RESUME, "log.jsonl", "pictures"}
    facts = load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts
    assert str(folders) not in json.dumps(facts)
    done = vderain("process", clip("in.mp4", frames=3), "--model", tmp_path / "run" / GENERATOR)
    assert done.exit_code == 0, done.stderr


def test_all_four_networks_change(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    for iterations in (1, 4):
        trained(smoke(f"optimiser.iterations={iterations}"), tmp_path / str(iterations))
    first, later = (load_file(tmp_path / name / RESUME) for name in ("1", "4"))
    for network in ("generator", "rain_generator", "discriminator_clear", "discriminator_rain"):
        assert any(not torch.equal(first[name], later[name]) for name in first if name.startswith(f"{network}."))


@pytest.mark.parametrize("spectral", ["true", "false"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spectral: str
) -> None:
    recipe = smoke("optimiser.iterations=8", "cyclegan.rendered=1.0", f"cyclegan.spectral={spectral}")
    trained(recipe, tmp_path / "straight")
    step = CycleGAN.step

    def stopping(self: CycleGAN, *batch: torch.Tensor) -> Losses:
        if self.iteration == 4:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(CycleGAN, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "halves")
    assert not same_state(tmp_path / "straight", tmp_path / "halves")
    trained(recipe, tmp_path / "halves", resume=True)
    assert same_state(tmp_path / "straight", tmp_path / "halves")
    assert load_file(tmp_path / "halves" / RESUME)["tensors.pool_clear"].shape == (3, 3, 32, 32)


def test_the_pool_returns_earlier_images(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    trainer = CycleGAN(smoke(), tmp_path)
    rng = torch.Generator().manual_seed(0)
    shown = [trainer.discriminators.pooled("clear", torch.full((1, 3, 32, 32), float(i)), rng) for i in range(40)]
    numbers = [int(picture[0, 0, 0, 0]) for picture in shown]
    assert numbers[:3] == [0, 1, 2]
    assert all(number <= i for i, number in enumerate(numbers))
    earlier = sum(number < i for i, number in enumerate(numbers))
    assert 8 < earlier < 32
    assert len(trainer.tensors["pool_clear"]) == 3


def test_cyclegan_learns_from_unpaired_folders(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    """White stripes go, without one pair ever having been seen."""
    for number in range(5, 10):
        (tmp_path / "clear").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "clear" / f"{number}.png"), textured(number, (50 + 7 * number, 64)))
    recipe = smoke(
        f"data.photos='{tmp_path / 'clear'}'", "cyclegan.cycle=2", "cyclegan.identity=0.1", "cyclegan.layers=2",
        "cyclegan.width=16", "cyclegan.spectral=true", "optimiser.iterations=150", "optimiser.rate=2e-3",
        "optimiser.decay=100", "optimiser.ema=0.9", "optimiser.batch=4", "validation.every=0",
        "run.log_every=50", "run.save_every=150",
    )  # fmt: skip
    trained(recipe, tmp_path)
    network = load_checkpoint(str(tmp_path / GENERATOR)).generator
    striped, plain = (torch.from_numpy(f(1, (64, 64)).copy()).permute(2, 0, 1)[None] / 255 for f in (noisy, textured))
    with torch.no_grad():
        restored = striped + network(striped)
    assert float((restored - plain).abs().mean()) < 0.7 * float((striped - plain).abs().mean())


def test_example_n_depends_on_the_seed_and_n_alone(folders: Path) -> None:
    one, other = (
        UnpairedCrops(*indexed(folders / "rain", folders / "clear"), 32, 4, data=Data(), rendered=True)
        for _ in range(2)
    )
    _ = one[3]
    assert all(torch.equal(a, b) for a, b in zip(one[7], other[7], strict=True))
    assert not torch.equal(one[7][0], one[8][0])
    assert [part.shape for part in one[7]] == [(3, 32, 32)] * 3


def indexed(*folders: Path) -> list[ImageIndex]:
    return [index_images([folder], 32, ScanReport(), kind="such", key="data.such") for folder in folders]


def test_undecodable_images_are_skipped(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "b.png"), np.full((40, 40), 60000, np.uint16))
    cv2.imwrite(str(tmp_path / "c.png"), np.full((40, 40, 4), 90, np.uint8))
    examples = UnpairedCrops(*indexed(tmp_path, folders / "clear"), 32, 0, data=Data(), rendered=False)
    assert {int(examples[i][0].max()) for i in range(20)} == {60000 // 256, 90}


def test_a_deleted_image_stops_nothing(folders: Path, tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 40), 50 * number, np.uint8))
    examples = UnpairedCrops(*indexed(tmp_path, folders / "clear"), 32, 0, data=Data(), rendered=False)
    (tmp_path / "0.png").unlink()
    assert {int(examples[i][0].max()) for i in range(20)} == {50, 100}
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no longer"):
        examples[0]


def test_frames_of_clips_are_used(folders: Path, tmp_path: Path) -> None:
    make(tmp_path / "rain.mp4", Clip(frames=11, size=(96, 80)))
    (gallery,) = indexed(tmp_path)
    assert [picture.shape for picture in gallery.pictures if not isinstance(picture, Path)] == [(80, 96, 3)] * 3


def test_empty_folders_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such picture"):
        indexed(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="can be used"):
        indexed(tmp_path)


def test_two_folders_of_unequal_size_train_out_of_the_box(vderain: Run, tmp_path: Path) -> None:
    """The shape of SyraHQ: five rainy pictures to a clear one, of many sizes, and nothing in common."""
    for kind, count in (("rain", 20), ("clear", 4)):
        (tmp_path / "syrahq" / kind).mkdir(parents=True)
        for number in range(count):
            size = (256 + 20 * (number % 5), 300 - 15 * (number % 4))
            cv2.imwrite(str(tmp_path / "syrahq" / kind / f"{kind} ({number}).jpg"), noisy(number, size))
    flags = [
        "--set", f"data.rain={tmp_path / 'syrahq' / 'rain'}", "--set", f"data.photos={tmp_path / 'syrahq' / 'clear'}",
        "--set", "optimiser.iterations=2", "--set", "model.widths=[8, 8]", "--set", "cyclegan.width=4",
        "--set", "validation.windows=2", "--set", "data.workers=0", "--set", "run.threads=1",
    ]  # fmt: skip
    result = vderain("train", SMOKE.with_name("cyclegan.toml"), "--out", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.stderr
    assert "enlarged" in result.stderr, "some are smaller than a crop"
    assert load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts["iterations"] == 2


def test_windows_are_refused(vderain: Run, folders: Path, tmp_path: Path) -> None:
    flags = [flag for each in (*settings(folders), "model.window=5") for flag in ("--set", each)]
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *flags)
    assert result.exit_code == 2
    assert "model.window" in result.stderr


@pytest.mark.parametrize("window", [1, 5])
def test_a_multi_path_generator_starts_as_the_identity_and_is_saved_and_loaded(window: int, tmp_path: Path) -> None:
    config = UNetConfig(window=window, widths=(8, 12), paths=(1, 2, 4))  # type: ignore[arg-type]
    generator = UNet(config)
    frames = torch.rand(1, 3 * window, 36, 44)
    assert not generator(frames).any()
    torch.nn.init.normal_(generator.head.weight, std=0.1)
    save_checkpoint(tmp_path / "g.safetensors", generator.half().float(), {})
    again = load_checkpoint(str(tmp_path / "g.safetensors")).generator
    assert again.config == config
    assert torch.allclose(again(frames), generator(frames), atol=1e-5)


def test_paths_look_further_than_one() -> None:
    assert UNetConfig(paths=(1, 4)).reach_px > UNetConfig().reach_px
    with pytest.raises(ValueError, match="paths"):
        UNetConfig(paths=())
