"""Training of the generator for the windshield: examples of both parts, and runs that stop and resume."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import drive, make_scenes, textured
from conftest import tiny_glass
from safetensors.torch import load_file

from vderain.errors import InputError, UsageError
from vderain.model.checkpoint import save_checkpoint
from vderain.restore.glass import VARIANCE_MAX
from vderain.train.config import Data, Recipe, load_recipe
from vderain.train.data import glass as examples
from vderain.train.data.glass import PER_SEQUENCE, MemoryExample, MemoryMaker, ViewExample, ViewMaker
from vderain.train.data.glass_scenes import sequences
from vderain.train.data.loader import pack, unpack
from vderain.train.data.scenes import Scenes
from vderain.train.logger import Event, Progress
from vderain.train.loop import train
from vderain.train.trainer import GENERATOR, RESUME

CONFIGS = Path(__file__).parents[2] / "configs"
SIDE_PX, BORDER_PX = 64, 8
Example = ViewExample | MemoryExample


@pytest.fixture(autouse=True)
def short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LENGTH", 7), ("FIRST", 2), ("LAST", 4)):
        monkeypatch.setattr(examples, name, value)


def scenes() -> Scenes:
    side = SIDE_PX + 2 * BORDER_PX + 16
    photos = [textured(number, (side, side + 10)) for number in range(2)]
    return Scenes(photos, [np.stack(drive(9, (side, side + 20)))])


def data(**settings: object) -> Data:
    return Data(**{"side_px": SIDE_PX, "border_px": BORDER_PX, "share_dry": 0.0} | settings)  # type: ignore[arg-type]


def draw(seed: int, **settings: object) -> examples.Draw:
    return sequences(scenes(), data(**settings), seed, examples.LENGTH)


def view(seed: int = 1, **settings: object) -> ViewMaker:
    return ViewMaker(draw(seed, **settings), data(**settings), seed)


def memory(seed: int = 1, **settings: object) -> MemoryMaker:
    return MemoryMaker(draw(seed, **settings), data(**settings), seed, tiny_glass())


def equal(one: Example, other: Example) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


@pytest.mark.parametrize(("make_maker", "kind"), [(view, ViewExample), (memory, MemoryExample)])
def test_an_example_is_a_function_of_the_seed_and_its_number(
    make_maker: Callable[..., ViewMaker | MemoryMaker], kind: type[Example]
) -> None:
    one, number = make_maker(), PER_SEQUENCE + 1
    first = one[number]
    one[0]  # another sequence in between
    assert equal(first, one[number])
    assert equal(first, make_maker()[number])
    assert not equal(first, make_maker(seed=2)[number])
    like = kind.empty(SIDE_PX)
    for field in fields(first):
        made, empty = getattr(first, field.name), getattr(like, field.name)
        assert (made.shape, made.dtype) == (empty.shape, empty.dtype), field.name
    (again,) = unpack(pack([first]), like)
    assert equal(first, again)


def test_the_memory_is_of_frames_without_drops() -> None:
    """Where nothing is remembered the difference is 0, and behind dry glass the frame is the truth."""
    for number in range(3):
        example = memory(share_dry=1.0)[number * PER_SEQUENCE]
        assert torch.equal(example.rgb, example.clear)
        assert not example.covered.any()
        nothing = (example.variances == VARIANCE_MAX)[:1].expand(3, -1, -1)
        assert not example.before[nothing].any()
    wet = [memory()[number * PER_SEQUENCE] for number in range(4)]
    assert any(example.covered.float().mean() > 5 for example in wet)
    assert all((example.variances > 0).all() for example in wet)


def test_mirroring_reverses_the_horizontal_flow() -> None:
    example = view()[0]
    whole = slice(0, SIDE_PX)
    plain, mirrored = (example.crop(whole, whole, flip) for flip in (False, True))
    assert all(torch.equal(a.flip(-1), b) for a, b in zip(plain[:5], mirrored[:5], strict=True))
    for own, other, flows in ((plain[5], mirrored[5], 8), (plain[6], mirrored[6], 4)):
        assert torch.equal(own.flip(-1)[0:flows:2], -other[0:flows:2]), "to the left is to the right"
        assert torch.equal(own.flip(-1)[1:flows:2], other[1:flows:2])
        assert torch.equal(own.flip(-1)[flows:], other[flows:]), "trust has no direction"
    part = example.crop(slice(13, 45), slice(8, 40), flip=False)
    assert torch.equal(part[0], example.rgb[:, 8:40, 8:40]), "at whole cells"
    assert part[6].shape == (4, 4, 4)


def test_the_truth_of_the_flow_is_that_of_the_clear_clip() -> None:
    """The scene pans: the flow to the frame before is the reverse of that to the next one."""
    found = [view(share_clips=1.0, share_dry=share)[0] for share in (0.0, 1.0)]
    assert torch.equal(found[0].flow, found[1].flow), "drops change nothing in it"
    assert found[1].flow.abs().max() > 0.5


def test_material_that_is_too_short_is_refused() -> None:
    short = Scenes([], [np.stack(drive(5, (90, 100)))])
    with pytest.raises(InputError, match="shorter"):
        sequences(short, data(), 1, examples.LENGTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), 2)


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of one part, made tiny, with overrides."""
    start = tmp_path / "start.safetensors"
    save_checkpoint(start, tiny_glass(), {})
    fixed = (
        f"data.photos='{folder}'", f"data.clips='{folder}'", f"model.start='{start}'", "model.widths=[4, 8]",
        "model.glass=4", "data.side_px=48", "data.border_px=8", "data.pool=6", "data.fresh=2", "data.every=2",
        "data.workers=0", "optimiser.crop_px=48", "optimiser.batch=2", "optimiser.iterations=4", "optimiser.decay=0",
        "optimiser.warmup=1", "run.log_every=1", "run.save_every=1",
    )  # fmt: skip
    return lambda part, *overrides: load_recipe(CONFIGS / f"{part}.toml", (*fixed, *overrides))


@pytest.mark.parametrize(("part", "trains"), [("glass-view", ("cover.", "flow.")), ("glass", ("stem.", "head."))])
def test_a_run_trains_its_part_alone_and_resumes_exactly(
    part: str, trains: tuple[str, ...], recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    told: list[Event] = []
    train(recipe(part), tmp_path / "whole", on_event=told.append)
    before, after = load_file(tmp_path / "start.safetensors"), load_file(tmp_path / "whole" / GENERATOR)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(name.startswith(one) for name in changed) for one in trains)
    other_part = ("stem.", "head.") if part == "glass-view" else ("cover.", "flow.")
    assert not any(name.startswith(other_part) for name in changed)
    assert len([event for event in told if isinstance(event, Progress)]) == 4

    train(recipe(part, "optimiser.iterations=3"), tmp_path / "parts")
    train(recipe(part), tmp_path / "parts", resume=True)
    one, other = (load_file(tmp_path / name / RESUME) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_fit_the_windshield_is_refused(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UsageError, match="validation"):
        recipe("glass", "validation.every=10")
    with pytest.raises(UsageError, match="multiples of 8"):
        recipe("glass", "data.side_px=50")
