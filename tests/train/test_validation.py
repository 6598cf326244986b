"""Validation during training: sets, their blend, the best generator, contact sheets and TensorBoard."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clips import names_in, textured
from safetensors.torch import load_file

from vderain.errors import UsageError
from vderain.evaluation.footage import Footage
from vderain.evaluation.quality import quality
from vderain.model.checkpoint import load_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.train import trainer
from vderain.train.config import Recipe, load_recipe
from vderain.train.data.scenes import held_out, load_scenes
from vderain.train.logger import Event, Score, Validated
from vderain.train.loop import train
from vderain.train.supervised import Supervised
from vderain.train.trainer import BEST, GENERATOR, RESUME
from vderain.train.validation import Validator, blended

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``rain`` and ``clear``, three pictures each, the rainy ones brighter by ten levels."""
    folder = tmp_path_factory.mktemp("paired")
    for name, light in (("clear", 0), ("rain", 10)):
        (folder / name).mkdir()
        for number in range(3):
            picture = textured(number, (44, 60)) // 2 + 50 + light
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    return folder


@pytest.fixture
def smoke(pictures: Path) -> Callable[..., Recipe]:
    return lambda *overrides: load_recipe(SMOKE, (f"data.photos='{pictures}'", *overrides))


def own(paired: Path, more: str = "") -> str:
    return f'validation.sets=[{{name="own", rain="{paired / "rain"}", clear="{paired / "clear"}"{more}}}]'


def validations(recipe: Recipe, out: Path, resume: bool = False) -> list[Validated]:
    told: list[Event] = []
    train(recipe, out, resume=resume, on_event=told.append)
    return [event for event in told if isinstance(event, Validated)]


def still(window: int = 5) -> UNet:
    """A generator that changes nothing."""
    return UNet(UNetConfig(window, (4, 4)))  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [1, 5])
def test_a_generator_that_does_nothing_scores_as_the_input(
    smoke: Callable[..., Recipe], pictures: Path, paired: Path, window: int
) -> None:
    recipe = smoke(own(paired, ", weight=2.0, clear_weight=0.5"))
    _, held = held_out(load_scenes(pictures, None, 64), recipe.held_share)
    found = Validator(recipe, held)(still(window), 7)
    assert found.sets.keys() == {"rendered", "dry", "own", "own clear"}
    assert all(score.psnr_y_db == pytest.approx(score.psnr_in_db) for score in found.sets.values())
    assert found.sets["dry"].psnr_y_db == found.sets["own clear"].psnr_y_db == 99
    assert found.sets["rendered"].psnr_y_db < 60
    one, other = (next(iter(Footage(paired / name).pictures())) for name in ("rain", "clear"))
    assert found.sets["own"].psnr_y_db == pytest.approx(quality(one, other).psnr_y_db)
    assert [found.sets[name].weight for name in ("own", "own clear")] == [2.0, 0.5]
    assert found.best
    height_px, width_px = found.picture.shape[:2]
    assert width_px == 1600, "input, output, truth, removed"
    assert height_px > 8 * 24, "two rows a set"


def test_unrelated_pictures_of_any_size_are_validated(
    smoke: Callable[..., Recipe], pictures: Path, tmp_path: Path
) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), textured(number, (40 + 8 * number, 60)))
    recipe = smoke(f'validation.sets=[{{name="own", rain="{tmp_path}", clear="{tmp_path}", single=true}}]')
    _, held = held_out(load_scenes(pictures, None, 64), recipe.held_share)
    assert Validator(recipe, held)(still(), 1).sets["own"].ssim_y == pytest.approx(1)


def test_the_blend_is_a_weighted_mean_and_nothing_counts_beyond_the_ceiling() -> None:
    scores = [Score(30, 0.9, 20, 2.0), Score(99, 1.0, 99, 1.0)]
    assert blended(scores, 48) == pytest.approx((2 * 30 + 48) / 3)
    assert blended(scores, 200) == pytest.approx((2 * 30 + 99) / 3)
    assert blended([Score(30, 0.9, 20, 0.0)], 48) == 0


def test_harm_lowers_the_blend(smoke: Callable[..., Recipe], pictures: Path) -> None:
    recipe = smoke("validation.rendered_weight=0")
    _, held = held_out(load_scenes(pictures, None, 64), recipe.held_share)
    validator = Validator(recipe, held)
    harmful = still()
    torch.nn.init.constant_(harmful.head.bias, 0.02)
    assert validator(harmful, 1).blend_db < 40
    assert validator(still(), 2).blend_db == 50
    assert not validator(harmful, 3, best_db=50.0).best


def test_the_best_is_kept_beside_the_latest(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blends = iter([30.0, 40.0, 35.0])

    def validated(self: Validator, generator: UNet, iteration: int, best_db: float) -> Validated:
        blend_db = next(blends)
        return Validated(iteration, {"own": Score(blend_db, 0.9, 20, 1)}, blend_db, blend_db > best_db)

    monkeypatch.setattr(Validator, "__call__", validated)
    validations(smoke("validation.every=2"), tmp_path)
    best, latest = (load_checkpoint(str(tmp_path / name)) for name in (BEST, GENERATOR))
    assert (best.facts["iterations"], latest.facts["iterations"]) == (4, 6)
    assert best.facts["blend_db"] == 40
    assert best.facts["validation"] == {"own": {"psnr_y_db": 40, "ssim_y": 0.9}}


def test_a_resumed_run_keeps_the_best_and_one_log(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    settings = ("validation.every=2", "optimiser.decay=0")
    straight = validations(smoke(*settings, "optimiser.iterations=8"), tmp_path / "straight")
    validations(smoke(*settings, "optimiser.iterations=4"), tmp_path / "halves")
    log = tmp_path / "halves" / "log.jsonl"
    with log.open("a") as file:  # as a run leaves it that was killed after its last save
        file.write('{"event": "progress", "iteration": 5}\n{"event": "pro')
    resumed = validations(smoke(*settings, "optimiser.iterations=8"), tmp_path / "halves", resume=True)
    assert [(v.iteration, v.blend_db, v.best) for v in resumed] == [
        (v.iteration, v.blend_db, v.best) for v in straight[2:]
    ]
    entries = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
               for name in ("straight", "halves")]  # fmt: skip
    assert [(e["event"], e["iteration"]) for e in entries[0]] == [(e["event"], e["iteration"]) for e in entries[1]]
    states = [load_file(tmp_path / name / RESUME) for name in ("straight", "halves")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_scores_and_contact_sheets_are_written(smoke: Callable[..., Recipe], paired: Path, tmp_path: Path) -> None:
    told = validations(smoke(own(paired)), tmp_path)
    assert str(paired) not in json.dumps(load_checkpoint(str(tmp_path / BEST)).facts)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = [entry for entry in log if entry["event"] == "validation"]
    assert [entry["iteration"] for entry in scores] == [3, 6]
    assert scores[1]["blend_db"] == told[1].blend_db
    assert scores[1]["sets"]["own"]["ssim_y"] == told[1].sets["own"].ssim_y
    assert names_in(tmp_path / "pictures") == {"000003.png", "000006.png"}
    read = cv2.imread(str(tmp_path / "pictures" / "000006.png"))[..., ::-1]
    assert np.array_equal(read, told[1].picture)


def test_tensorboard_has_scalars_sheets_and_examples(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told = validations(smoke(), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "rate", "waiting", "blend_db", "dry/psnr_y_db"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in events.Scalars("blend_db")] == pytest.approx([v.blend_db for v in told])
    assert [event.step for event in events.Images("pictures")] == [3, 6]
    (examples,) = events.Images("examples")
    assert (examples.step, examples.width) == (0, 4 * (32 + 2) + 2), "two pairs in a row"


def test_without_tensorboard_a_run_is_the_same(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    validations(smoke(), tmp_path)
    assert names_in(tmp_path) == {BEST, GENERATOR, RESUME, "log.jsonl", "pictures"}


def test_held_out_data_is_not_trained_on(smoke: Callable[..., Recipe], pictures: Path, tmp_path: Path) -> None:
    run = Supervised(smoke(), tmp_path)
    held = run.load_data()
    assert (len(run.scenes.photos), len(held.photos)) == (3, 1)
    assert not any(np.array_equal(held.photos[0], photo) for photo in run.scenes.photos)
    never = Supervised(smoke("validation.every=0"), tmp_path)
    assert never.load_data().photos == []
    assert len(never.scenes.photos) == 4


def test_of_clips_alone_the_ends_are_held_out() -> None:
    clip = np.arange(40, dtype=np.uint8)[:, None, None, None]
    kept, held = held_out(trainer.Scenes([], [clip, clip[:8]]), 0.25)
    assert [len(c) for c in kept.clips] == [30, 8]
    assert [c.flatten().tolist() for c in held.clips] == [list(range(30, 40))]


def test_one_picture_is_trained_on_without_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), textured(0, (90, 110)))
    assert validations(load_recipe(SMOKE, (f"data.photos='{tmp_path / 'in'}'",)), tmp_path / "run") == []
    assert any("not validated" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ('validation.sets=[{name="a", rain="x", clear="y", wait=2}]', "'weight'"),
        ('validation.sets=[{name="a", rain="x"}]', "validation.sets.0.clear"),
        ('validation.sets=[{name="dry", rain="x", clear="y"}]', "its own name"),
        ("validation.evry=5", "'every'"),
        ("cyclegan.cycel=5", "'cycle'"),
    ],
)
def test_a_misspelt_key_is_named(override: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        load_recipe(SMOKE, ("model.window=1", override))
