"""Training with a memory: sequences, crops, and runs that stop and resume."""

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clips import drive, make_scenes, textured
from conftest import tiny_generator
from safetensors.torch import load_file

from vderain.errors import CheckpointError, InputError, UsageError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.recurrent import RecurrentUNet, from_window
from vderain.train.config import Data, Recipe, load_recipe
from vderain.train.data.loader import pack, unpack
from vderain.train.data.scenes import Scenes
from vderain.train.data.sequences import AHEAD, LENGTH, SequenceMaker, TrainingSequence
from vderain.train.logger import Event, Progress
from vderain.train.loop import train
from vderain.train.recurrent import Recurrent, within
from vderain.train.trainer import GENERATOR, RESUME, Losses

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"
SIDE_PX = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small photographs and a clip of nine frames."""
    return make_scenes(tmp_path_factory.mktemp("scenes"), 2)


@pytest.fixture
def smoke(folder: Path) -> Callable[..., Recipe]:
    """The smoke recipe for a generator with a memory, with overrides."""
    fixed = (
        f"data.photos='{folder}'", f"data.clips='{folder}'", "model.window=1", "model.state=4", "validation.every=0",
        "data.side_px=40",
    )  # fmt: skip
    return lambda *overrides: load_recipe(SMOKE, (*fixed, *overrides))


def trained(recipe: Recipe, out: Path, resume: bool = False) -> list[Progress]:
    told: list[Event] = []
    train(recipe, out, resume=resume, on_event=told.append)
    return [event for event in told if isinstance(event, Progress)]


def states_match(one: Path, other: Path) -> bool:
    first, second = load_file(one / RESUME), load_file(other / RESUME)
    assert len(first) > 30
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def maker(seed: int = 1, photos: int = 2, clips: int = 1, **data: object) -> SequenceMaker:
    pictures = [textured(number, (SIDE_PX + 40, SIDE_PX + 50)) for number in range(photos)]
    moving = [np.stack(drive(9, (SIDE_PX + 20, SIDE_PX + 30), seed=number)) for number in range(clips)]
    settings = {"side_px": SIDE_PX - 16, "border_px": 8} | data
    return SequenceMaker(Scenes(pictures, moving), Data(**settings), seed)  # type: ignore[arg-type]


def kinds(kind: str) -> dict[str, float]:
    """Shares of a recipe that makes sequences of one kind alone."""
    return {f"share_{name}": float(name == kind) for name in ("clips", "drives", "stills")}


def parts(sequence: TrainingSequence) -> dict[str, torch.Tensor]:
    return {field.name: getattr(sequence, field.name) for field in fields(sequence)}


def equal(one: TrainingSequence, other: TrainingSequence) -> bool:
    return all(torch.equal(a, b) for a, b in zip(parts(one).values(), parts(other).values(), strict=True))


@pytest.mark.parametrize("kind", ["clips", "drives", "stills", "pictures"])
def test_a_sequence_is_a_function_of_seed_and_index_alone(kind: str) -> None:
    one, other = maker(**kinds(kind)), maker(**kinds(kind))
    first = [one[index] for index in (3, 4)]
    again = [other[index] for index in (4, 3)][::-1]
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not equal(*first)
    assert not equal(first[0], maker(seed=2, **kinds(kind))[3])


@pytest.mark.parametrize("kind", ["clips", "drives", "stills", "pictures"])
def test_a_sequence_has_the_shapes_of_an_empty_one(kind: str) -> None:
    made, empty = maker(**kinds(kind))[0], TrainingSequence.empty(SIDE_PX - 16)
    for name, part in parts(made).items():
        like = getattr(empty, name)
        assert (part.shape, part.dtype) == (like.shape, like.dtype), name
    assert equal(unpack(pack([made, made]), empty)[1], made)
    assert not made.confidence[0].any(), "there is no frame before the first"


def test_pictures_are_not_evidence_for_each_other() -> None:
    for index in range(4):
        made = maker(**kinds("pictures"))[index]
        assert not made.confidence.any() and not made.following_confidence.any() and not made.flow.any()
        assert torch.equal(made.following, made.luma.expand(-1, 2, -1, -1))
    moving = maker(**kinds("drives"))[0]
    assert moving.confidence[1:].any() and moving.flow[1:].any()


def test_the_flow_leads_to_the_frame_before() -> None:
    """A clip that moves by two pixels a frame to the right and by one down, or by a multiple of it, or backwards."""
    ratios = []
    for index in range(6):
        made = maker(**kinds("clips"), share_dry=1.0)[index]
        sure = made.confidence[1:, 0] > 250
        x, y = (made.flow[1:, channel].float()[sure].median() for channel in (0, 1))
        ratios.append((abs(float(x)), float(y)))
    assert all(x > 1.5 and abs(abs(y) - x / 2) < 0.5 for x, y in ratios), ratios


def test_a_dry_sequence_has_nothing_to_remove() -> None:
    made = maker(share_dry=1.0)[0]
    assert made.dry and torch.equal(made.luma, made.clear)
    rainy = maker(share_dry=0.0)[0]
    assert not rainy.dry and not torch.equal(rainy.luma, rainy.clear)
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in rainy.rainy.permute(0, 2, 3, 1).numpy()])
    assert np.array_equal(rainy.luma[:, 0].numpy(), grey)


def test_a_crop_is_cut_from_all_parts_and_mirrored_with_its_flow() -> None:
    made = maker(**kinds("drives"))[0]
    rows, columns = slice(5, 25), slice(8, 40)
    straight, flipped = made.crop(rows, columns, False), made.crop(rows, columns, True)
    for name, part, cut, mirror in zip(parts(made), parts(made).values(), straight, flipped, strict=True):
        if name == "dry":
            assert torch.equal(cut, part) and torch.equal(mirror, part)
            continue
        assert torch.equal(cut, part[..., rows, columns])
        expected = cut.flip(-1)
        if name == "flow":
            assert cut[:, 0].any() and cut[:, 1].any()
            expected = torch.stack([-expected[:, 0], expected[:, 1]], 1)
        assert torch.equal(mirror, expected), name


def test_clips_that_are_too_short_for_a_sequence_are_left_out() -> None:
    short = np.stack(drive(LENGTH + AHEAD - 1, (SIDE_PX + 20, SIDE_PX + 30)))
    data = Data(side_px=SIDE_PX - 16, border_px=8, **kinds("clips"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shorter"):
        SequenceMaker(Scenes([], [short]), data, 1)
    exact = np.stack(drive(LENGTH + AHEAD, (SIDE_PX + 20, SIDE_PX + 30)))
    one, other = SequenceMaker(Scenes([], [short, exact]), data, 1), SequenceMaker(Scenes([], [exact]), data, 1)
    assert all(equal(one[index], other[index]) for index in range(3))


def test_flow_that_leaves_the_crop_is_not_followed() -> None:
    flow = torch.zeros(1, 2, 4, 6)
    assert within(flow).all()
    flow[:, 0] = 2.0
    flow[:, 1] = -1.0
    expected = torch.zeros(1, 1, 4, 6)
    expected[..., 1:, :4] = 1
    assert torch.equal(within(flow), expected)


def test_a_resumed_run_equals_an_uninterrupted_one(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = smoke("optimiser.iterations=4", "run.save_every=2")
    trained(recipe, tmp_path / "straight")
    step = Recurrent.step

    def stopping(self: Recurrent, *batch: torch.Tensor) -> Losses:
        if self.iteration == 2:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Recurrent, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "halves")
    assert not states_match(tmp_path / "straight", tmp_path / "halves")
    told = trained(recipe, tmp_path / "halves", resume=True)
    assert [progress.iteration for progress in told] == [3, 4]
    assert all(math.isfinite(progress.loss) and progress.loss > 0 for progress in told)
    assert states_match(tmp_path / "straight", tmp_path / "halves")
    generator = load_checkpoint(str(tmp_path / "halves" / GENERATOR)).generator
    assert isinstance(generator, RecurrentUNet) and generator.config.state == 4


def test_every_weight_is_trained(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = smoke("optimiser.iterations=3", "data.share_dry=0")
    before = Recurrent(recipe, tmp_path).generator.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    trained(recipe, tmp_path)
    after = load_file(tmp_path / RESUME)
    assert [name for name, value in before.items() if torch.equal(after[f"generator.{name}"], value)] == []


def test_training_starts_from_a_window_generator(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "window.safetensors", tiny_generator(5), {})
    start = f"model.start='{tmp_path / 'window.safetensors'}'"
    trained(smoke(start, "optimiser.iterations=1", "optimiser.rate=1e-12"), tmp_path / "run")
    generator = load_checkpoint(str(tmp_path / "run" / GENERATOR)).generator
    window = load_checkpoint(str(tmp_path / "window.safetensors")).generator.state_dict()
    for name, value in from_window(window, generator.config).items():
        assert torch.allclose(generator.state_dict()[name], value, atol=1e-3), name
    with pytest.raises(CheckpointError, match="another network"):
        trained(smoke(start, "model.widths=[8, 24]"), tmp_path / "other")


def test_a_recurrent_generator_is_a_start_itself(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    trained(smoke("optimiser.iterations=1"), tmp_path / "first")
    start = f"model.start='{tmp_path / 'first' / GENERATOR}'"
    trained(smoke(start, "optimiser.iterations=1", "optimiser.rate=1e-12"), tmp_path / "second")
    one, other = (
        load_checkpoint(str(tmp_path / run / GENERATOR)).generator.state_dict() for run in ("first", "second")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("validation.every=3", "validation.every"),
        ("data.remove=drops", "data.remove"),
        ("model.window=5", "recurrent"),
        ("model.widths=[8]", "recurrent"),
        ("model.state=5000", "state"),
        ("cyclegan.cycle=1", "model.state"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(smoke: Callable[..., Recipe], override: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        smoke(override)
    assert "\n" not in str(caught.value)
