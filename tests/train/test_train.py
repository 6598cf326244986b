"""Supervised training: recipes, windows, losses, whole runs, and how they stop and resume."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import Result
from clips import Clip, make, names_in, textured
from safetensors import safe_open
from safetensors.torch import load_file

from vderain.errors import CheckpointError, InputError, UsageError, VderainError
from vderain.model.checkpoint import load_checkpoint
from vderain.rain.streaks import draw_style
from vderain.train.config import Data, Pair, Recipe, load_recipe
from vderain.train.data.loader import WindowPool
from vderain.train.data.scenes import Scenes, load_pairs, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker
from vderain.train.logger import Event, Progress
from vderain.train.loop import train
from vderain.train.losses import charbonnier, supervised_loss
from vderain.train.supervised import Supervised
from vderain.train.trainer import BEST, GENERATOR, OFFENDING, RESUME, Losses, learning_rate

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SMOKE = CONFIGS / "smoke.toml"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three small photographs and a clip of eight frames."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), textured(number, (90, 110)))
    make(folder / "clip.mp4", Clip(frames=8, size=(96, 80)))
    return folder


@pytest.fixture
def smoke(scenes: Path) -> Callable[..., Recipe]:
    """The smoke recipe on those scenes, with overrides."""
    return lambda *overrides: load_recipe(SMOKE, (f"data.photos='{scenes}'", f"data.clips='{scenes}'", *overrides))


def trained(recipe: Recipe, out: Path, resume: bool = False) -> list[Progress]:
    told: list[Event] = []
    train(recipe, out, resume=resume, on_event=told.append)
    return [event for event in told if isinstance(event, Progress)]


def states_match(one: Path, other: Path) -> bool:
    """Whether two runs stand at the same place, bit for bit: weights, their mean, the optimiser."""
    first, second = load_file(one / RESUME), load_file(other / RESUME)
    assert len(first) > 30
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_smoke_recipe_trains_a_generator_that_processes_a_clip(
    vderain: Run, scenes: Path, tmp_path: Path, clip: Callable[..., Path]
) -> None:
    paths = ("--set", f"data.photos={scenes}", "--set", f"data.clips={scenes}")
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *paths)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'run' / GENERATOR}\n"
    assert len(result.stderr.splitlines()) == 8
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in log] == [1, 2, 3, 3, 4, 5, 6, 6]
    losses = [entry["loss"] for entry in log if entry["event"] == "progress"]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert names_in(tmp_path / "run") - {"tensorboard"} == {BEST, GENERATOR, RESUME, "log.jsonl", "pictures"}
    checkpoint = load_checkpoint(str(tmp_path / "run" / GENERATOR))
    assert checkpoint.facts["iterations"] == 6
    assert checkpoint.facts["recipe"]["name"] == "smoke"
    assert str(scenes) not in json.dumps(checkpoint.facts)
    assert checkpoint.generator.config.widths == (8, 16)
    assert checkpoint.generator.head.weight.abs().sum() > 0
    done = vderain("process", clip("in.mp4", frames=3), "--model", tmp_path / "run" / GENERATOR)
    assert done.exit_code == 0, done.stderr


def test_quiet_training_is_silent(vderain: Run, scenes: Path, tmp_path: Path) -> None:
    flags = ("--set", f"data.photos={scenes}", "--set", "optimiser.iterations=1", "-q")
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *flags)
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("pool", [4, 5, 64])
def test_a_resumed_run_equals_an_uninterrupted_one(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: int
) -> None:
    recipe = smoke(f"data.pool={pool}", "optimiser.iterations=8")
    trained(recipe, tmp_path / "straight")
    step = Supervised.step

    def stopping(self: Supervised, *batch: torch.Tensor) -> Losses:
        if self.iteration == 4:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "halves")
    assert not states_match(tmp_path / "straight", tmp_path / "halves")
    told = trained(recipe, tmp_path / "halves", resume=True)
    assert [progress.iteration for progress in told] == [5, 6, 7, 8]
    assert states_match(tmp_path / "straight", tmp_path / "halves")


def test_a_seed_repeats_a_run_and_another_does_not(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(smoke("optimiser.iterations=2", f"run.seed={seed}"), tmp_path / name)
    assert states_match(tmp_path / "a", tmp_path / "b")
    assert not states_match(tmp_path / "a", tmp_path / "c")


def test_workers_make_the_same_windows(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    for workers in (0, 2):
        trained(smoke("optimiser.iterations=2", f"data.workers={workers}"), tmp_path / str(workers))
    assert states_match(tmp_path / "0", tmp_path / "2")


def test_a_single_frame_generator_is_trained(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    told = trained(smoke("optimiser.iterations=2", "model.window=1"), tmp_path / "run")
    assert all(math.isfinite(progress.loss) for progress in told)
    assert load_checkpoint(str(tmp_path / "run" / GENERATOR)).generator.config.window == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_resume_continues(
    vderain: Run, scenes: Path, tmp_path: Path, number: signal.Signals
) -> None:  # fmt: skip
    out, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    flags = ["--out", str(out), "--set", f"data.photos={scenes}", "--set", "optimiser.decay=0", "--set"]
    with subprocess.Popen(
        [sys.executable, ROOT / "cli.py", "train", SMOKE, *flags, "optimiser.iterations=100000"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        until_s = time.monotonic() + 60
        while not log.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        os.kill(running.pid, number)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert errors.splitlines()[-1] == f"vderain: interrupted. The state is in {out}: --resume continues from there."
    assert "Traceback" not in errors
    assert {GENERATOR, RESUME, "log.jsonl"} <= names_in(out)
    assert not any(name.endswith(".partial") for name in names_in(out))
    with safe_open(out / RESUME, framework="pt") as file:
        reached = int(file.metadata()["iteration"])
    result = vderain("train", SMOKE, *flags, f"optimiser.iterations={reached + 1}", "--resume")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(f"{reached + 1}/{reached + 1} ")
    straight = load_recipe(
        SMOKE, (f"data.photos='{scenes}'", "optimiser.decay=0", f"optimiser.iterations={reached + 1}")
    )
    trained(straight, tmp_path / "straight")
    assert states_match(tmp_path / "straight", out), "the iteration was finished, and nothing of it done twice"


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of that kind")
def test_a_terminal_shows_a_progress_bar(scenes: Path, tmp_path: Path) -> None:
    flags = ["--out", str(tmp_path / "run"), "--set", f"data.photos={scenes}"]
    command = [sys.executable, str(ROOT / "cli.py"), "train", str(SMOKE), *flags]
    code = f"import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn({command})))"
    terminal = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=terminal)
    assert done.returncode == 0, done.stdout
    assert re.search(r"6/6 loss 0\.\d{5} .*images/s .* left", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout))
    assert "6/6  loss " in done.stdout, "a line of the log stays above the bar"
    assert "the best so far" in done.stdout


def test_a_loss_that_is_not_finite_stops_and_spoils_no_state(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    trained(smoke("optimiser.iterations=2"), tmp_path)
    before = (tmp_path / RESUME).read_bytes(), (tmp_path / GENERATOR).read_bytes()
    with pytest.raises(VderainError, match="loss became") as caught:
        trained(smoke("optimiser.iterations=20", "optimiser.rate=1e30", "run.save_every=1000"), tmp_path, resume=True)
    assert "optimiser.rate" in caught.value.cure
    rainy, confidence, clear, dry = (load_file(tmp_path / OFFENDING)[str(place)] for place in range(4))
    assert (rainy.shape, confidence.shape, clear.shape, dry.shape) == (
        (2, 15, 32, 32),
        (2, 1, 32, 32),
        (2, 3, 32, 32),
        (2,),
    )
    assert before == ((tmp_path / RESUME).read_bytes(), (tmp_path / GENERATOR).read_bytes())


@pytest.mark.parametrize(("log_every", "save_every", "saves"), [(1, 2, [2, 4, 5]), (4, 3, [3, 5])])
def test_the_state_is_saved_now_and_then(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    log_every: int, save_every: int, saves: list[int],
) -> None:  # fmt: skip
    saved: list[int] = []
    monkeypatch.setattr(Supervised, "save", lambda self, seconds: saved.append(self.iteration))
    trained(smoke("optimiser.iterations=5", f"run.log_every={log_every}", f"run.save_every={save_every}"), tmp_path)
    assert saved == saves


def test_nothing_to_resume_is_refused(vderain: Run, scenes: Path, tmp_path: Path) -> None:
    result = vderain("train", SMOKE, "--out", tmp_path / "run", "--set", f"data.photos={scenes}", "--resume")
    assert result.exit_code == 3
    assert "without --resume" in result.stderr


@pytest.mark.parametrize("kind", ["another network", "corrupt"])
def test_a_state_of_another_network_is_refused(smoke: Callable[..., Recipe], tmp_path: Path, kind: str) -> None:
    trained(smoke("optimiser.iterations=1"), tmp_path)
    if kind == "corrupt":
        (tmp_path / RESUME).write_bytes((tmp_path / RESUME).read_bytes()[:-500])
    with pytest.raises(VderainError, match=re.escape(RESUME)) as caught:
        trained(smoke("optimiser.iterations=2", "model.widths=[8, 24]"), tmp_path, resume=True)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimiser.ratte=1", "'rate'"),
        ("optimizer.rate=1", "'optimiser'"),
        ("data.photo=x", "'photos'"),
        ("colour=red", ""),
        ("optimiser.rate", "'='"),
        ("optimiser.rate=fast", "optimiser.rate"),
        ("optimiser.rate=-1", "optimiser.rate"),
        ("optimiser.batch=0", "optimiser.batch"),
        ("model.widths=wide", "model.widths"),
        ("model.window=3", "model.window"),
        ("model.stem=0", "stem"),
        ("name.first=x", "name"),
        ("optimiser=3", "optimiser"),
        ("optimiser.crop_px=400", "crop_px"),
        ("=5", ""),
        ("dashcam.real=2", "semi_supervised"),
        ("optimiser.foot=0.1", "optimiser.epsilon"),
        pytest.param(f"model.widths={'[' * 100_000}", "model.widths", id="nested without end"),
    ],
)
def test_bad_settings_are_refused_by_name(vderain: Run, scenes: Path, tmp_path: Path, override: str, says: str) -> None:
    flags = ("--out", tmp_path / "run", "--set", f"data.photos={scenes}", "--set", override)
    result = vderain("train", SMOKE, *flags)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


DEEP, LONG = "[" * 100_000, "1" * 10_000  # brackets without end, and more digits than Python reads


@pytest.mark.parametrize(
    "text", ["name = ", "\x00\x01", "[data", 'name = "x"\nname = "y"', f"name = {DEEP}", f"seed = {LONG}"], ids=range(6)
)
def test_a_recipe_that_is_not_toml(vderain: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    result = vderain("train", tmp_path / "bad.toml", "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there(vderain: Run, tmp_path: Path) -> None:
    assert vderain("train", tmp_path / "none.toml").exit_code == 3
    with pytest.raises(InputError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("where", ["data.photos=/nowhere", "data.side_px=4000"])
def test_no_usable_picture_is_refused(smoke: Callable[..., Recipe], tmp_path: Path, where: str) -> None:
    with pytest.raises(InputError, match="no usable clear picture"):
        trained(smoke("data.clips='/nowhere'", where), tmp_path)


def test_a_recipe_without_data_names_the_key(vderain: Run, tmp_path: Path) -> None:
    result = vderain("train", SMOKE, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert result.stderr == (
        "vderain: the recipe names no folder of clear pictures to train on. Add --set data.photos=FOLDER.\n"
    )
    cyclegan = vderain(
        "train", SMOKE, "--out", tmp_path / "run", *("--set", "model.window=1", "--set", "cyclegan.cycle=1")
    )
    assert cyclegan.exit_code == 3
    assert "--set data.rain=FOLDER" in cyclegan.stderr


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_in_configs_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem


def test_overrides_replace_values_of_the_recipe() -> None:
    recipe = load_recipe(SMOKE, ("optimiser.rate=0.5", "data.photos=some/where", "model.widths=[4, 4]", "name=mine"))
    assert recipe.optimiser.rate == 0.5
    assert recipe.data.photos == Path("some/where")
    assert recipe.model.widths == (4, 4)
    assert recipe.name == "mine"
    with pytest.raises(UsageError):
        load_recipe(SMOKE, ("data.unknown=1",))


def test_the_rate_warms_up_holds_and_decays(smoke: Callable[..., Recipe]) -> None:
    recipe = smoke("optimiser.iterations=10", "optimiser.warmup=4", "optimiser.decay=5", "optimiser.rate=1")
    rates = [learning_rate(i, recipe) for i in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_window_n_depends_on_the_seed_and_n_alone(scenes: Path) -> None:
    data = Data(side_px=48, border_px=8)
    material = load_scenes(scenes, scenes, 64)
    one, other = WindowMaker(material, data, 3), WindowMaker(material, data, 3)
    _ = [one[i] for i in range(4)]
    for index in (9, 4):
        a, b = one[index], other[index]
        assert torch.equal(a.rainy, b.rainy)
        assert torch.equal(a.confidence, b.confidence)
        assert torch.equal(a.clear, b.clear)
    assert not torch.equal(one[9].clear, one[4].clear)


def test_dry_windows_are_unchanged_and_rainy_ones_are_rainy(scenes: Path) -> None:
    material = load_scenes(scenes, scenes, 64)
    for share_dry in (0.0, 1.0):
        maker = WindowMaker(material, Data(side_px=48, border_px=8, share_dry=share_dry), 0)
        windows = [maker[i] for i in range(6)]
        for window in windows:
            assert window.rainy.shape == (5, 3, 48, 48)
            assert window.confidence.shape == (1, 48, 48)
            assert window.rainy.dtype == window.confidence.dtype == window.clear.dtype == torch.uint8
            assert bool(window.dry) == bool(share_dry)
        unchanged = [torch.equal(window.rainy[2], window.clear) for window in windows]
        assert all(unchanged) if share_dry else sum(unchanged) <= 2, "drizzle may miss so small a window"


def test_a_generator_for_drops_learns_to_leave_streaks(scenes: Path) -> None:
    """Most windows are of drops alone; in the others the same streaks are in the rainy picture and in the truth."""
    material = load_scenes(scenes, None, 64)
    dry, wet = (
        [WindowMaker(material, Data(remove="drops", side_px=48, border_px=8, share_dry=share), 0)[i] for i in range(16)]
        for share in (1.0, 0.0)
    )
    assert all(torch.equal(window.rainy[2], window.clear) for window in dry)
    assert sum(torch.equal(window.rainy[2], window.clear) for window in wet) <= 8, "few drops may miss a small window"
    streaks = [(a.clear.int() - b.clear.int()).abs().max() for a, b in zip(dry, wet, strict=True)]
    assert max(streaks) == 0, "the same seed is the same scene, whether there are drops or not"


def test_rain_falls_in_any_direction_only_where_asked(scenes: Path) -> None:
    angles = [
        [
            layer.angle_deg
            for seed in range(40)
            for layer in draw_style(torch.Generator().manual_seed(seed), None, share)
        ]
        for share in (0.0, 1.0)
    ]
    assert max(map(abs, angles[0])) < 60 < max(map(abs, angles[1]))
    same = [draw_style(torch.Generator().manual_seed(3), **more) for more in ({}, {"share_any_direction": 0.0})]
    assert same[0] == same[1]
    material = load_scenes(scenes, None, 64)
    data = Data(side_px=48, border_px=8, share_dry=0.0)
    sideways = data.model_copy(update={"share_any_direction": 1.0})
    downwards, any_way = ([WindowMaker(material, each, 0)[i].rainy for i in range(4)] for each in (data, sideways))
    assert not all(map(torch.equal, downwards, any_way))
    assert load_recipe(CONFIGS / "base.toml").data.share_any_direction == 0, "as the released weights were trained"


def test_colours_are_jittered_alike_in_all_frames_and_by_the_seed_alone(scenes: Path) -> None:
    material = load_scenes(scenes, None, 64)
    plain = Data(side_px=48, border_px=8, share_dry=1.0, share_drives=0.0, share_stills=0.0, share_clips=0.0)
    jittered = plain.model_copy(update={"colour_jitter": 0.5})
    state = torch.get_rng_state()
    windows = [WindowMaker(material, data, 0)[5] for data in (plain, jittered, jittered)]
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert not torch.equal(windows[0].clear, windows[1].clear)
    assert torch.equal(windows[1].clear, windows[2].clear)
    assert all(torch.equal(frame, windows[1].clear) for frame in windows[1].rainy)


@pytest.mark.parametrize("single", [False, True])
def test_own_pairs_are_trained_on(smoke: Callable[..., Recipe], tmp_path: Path, single: bool) -> None:
    for name, light in (("rain", 40), ("clear", 0)):
        (tmp_path / name).mkdir()
        for number in range(6):
            size = (80 + 4 * number * single, 90)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), textured(9, size) // 2 + light)
    given = [Pair(rain=tmp_path / "rain", clear=tmp_path / "clear", single=single)]
    pairs = load_pairs(given, 64)
    assert [len(pair) for pair in pairs] == ([5] * 6 if single else [6])
    scenes = Scenes([textured(1, (90, 110))], [], pairs)
    maker = WindowMaker(scenes, Data(side_px=48, border_px=8, share_pairs=1.0), 0)
    for window in (maker[i] for i in range(3)):
        assert not window.dry
        assert window.rainy.shape == (5, 3, 48, 48)
        assert ((window.rainy[2].int() - window.clear.int()) == 40).all()
    seldom = WindowMaker(scenes, Data(side_px=48, border_px=8, share_pairs=0.3, share_dry=1.0), 0)
    assert 2 < sum(not seldom[i].dry for i in range(24)) < 16
    rain, clear = tmp_path / "rain", tmp_path / "clear"
    recipe = smoke(f'data.pairs=[{{rain="{rain}", clear="{clear}", single={str(single).lower()}}}]')
    trained(recipe, tmp_path / "run")
    assert str(tmp_path) not in json.dumps(load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts)


def test_mismatched_pairs_are_refused(smoke: Callable[..., Recipe], scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        trained(smoke(f'data.pairs=[{{rain="{scenes / "clip.mp4"}", clear="/nowhere.mp4"}}]'), tmp_path)


def numbered(number: int) -> TrainingWindow:
    values = torch.full((5, 3, 8, 8), number, dtype=torch.uint8)
    return TrainingWindow(values, values[0, :1], values[0], torch.tensor(False))


def test_the_pool_keeps_the_latest_and_crops_are_of_one_window() -> None:
    pool: WindowPool[TrainingWindow] = WindowPool(3, 8)
    for number in range(10):
        pool.add(numbered(number))
    assert len(pool) == 3
    rainy, confidence, clear, dry = pool.batch(40, 4, torch.Generator().manual_seed(0))
    assert rainy.shape == (40, 15, 4, 4)
    assert confidence.shape == (40, 1, 4, 4)
    assert clear.shape == (40, 3, 4, 4)
    assert dry.shape == (40,)
    assert {round(float(value) * 255) for value in clear.unique()} == {7, 8, 9}
    assert torch.equal(rainy[:, 6:9], clear)


def test_the_loss_is_zero_for_the_truth_and_larger_where_nothing_may_change() -> None:
    clear = torch.rand(2, 3, 32, 32)
    weights = {"epsilon": 0.001, "untouched_weight": 2.0, "block_weight": 0.25, "dry_weight": 3.0}
    truth = supervised_loss(clear, clear + 0.1, clear, torch.tensor([True, False]), **weights)
    assert float(truth) == pytest.approx(0, abs=1e-6)
    rainy, dry = (
        float(supervised_loss(clear + 0.05, clear, clear, torch.tensor([both, both]), **weights))
        for both in (False, True)
    )
    assert dry == pytest.approx(3 * rainy, rel=1e-3)
    weights["block_weight"] = 0
    rained_on, untouched = (
        float(supervised_loss(clear + 0.05, before, clear, torch.tensor([False, False]), **weights))
        for before in (clear + 0.1, clear)
    )
    assert untouched == pytest.approx(2 * rained_on, rel=1e-3)


def test_an_error_below_epsilon_counts_as_a_square() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    small, twice = (float(charbonnier(zero + error, 0.1)) for error in (0.004, 0.008))
    large, more = (float(charbonnier(zero + error, 0.1)) for error in (4.0, 8.0))
    assert twice == pytest.approx(4 * small, rel=0.01)
    assert more == pytest.approx(2 * large, rel=0.05)


def test_training_can_start_from_weights(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    first = smoke()
    trained(first, tmp_path / "first")
    weights = tmp_path / "first" / "generator.safetensors"
    going_on = smoke(f'model.start="{weights}"', "optimiser.iterations=1", "optimiser.rate=1e-12")
    trained(going_on, tmp_path / "second")
    assert str(tmp_path) not in json.dumps(load_checkpoint(str(tmp_path / "second" / GENERATOR)).facts)
    before = load_checkpoint(str(weights)).generator.state_dict()
    after = load_checkpoint(str(tmp_path / "second" / "generator.safetensors")).generator.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)


def test_several_starts_are_averaged(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    for seed in (1, 2):
        trained(smoke(f"run.seed={seed}", "optimiser.iterations=3"), tmp_path / str(seed))
    files = [str(tmp_path / str(seed) / GENERATOR) for seed in (1, 2)]
    going_on = smoke(f"model.start={json.dumps(files)}", "optimiser.iterations=1", "optimiser.rate=1e-12")
    trained(going_on, tmp_path / "mean")
    one, other, mean = (
        load_checkpoint(name).generator.state_dict() for name in (*files, str(tmp_path / "mean" / GENERATOR))
    )
    assert not torch.allclose(one["stem.weight"], other["stem.weight"], atol=1e-2)
    assert all(torch.allclose((one[name] + other[name]) / 2, mean[name], atol=2e-3) for name in mean)


def test_weights_of_another_network_are_refused(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another network"):
        trained(smoke('model.start="base"'), tmp_path / "run")
