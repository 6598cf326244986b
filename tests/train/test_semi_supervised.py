"""Semi-supervised training: windows of real rain, each part of the loss, and whole runs."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import make_scenes, names_in, textured
from safetensors.torch import load_file

from vderain.errors import InputError, UsageError
from vderain.model.checkpoint import load_checkpoint
from vderain.train.config import Data, Recipe, load_recipe
from vderain.train.data.loader import Packed, unpack
from vderain.train.data.scenes import CENTRE, Scenes
from vderain.train.distributed import ProcessGroup
from vderain.train.logger import Event, Progress
from vderain.train.loop import train
from vderain.train.losses import colourfulness, grey_layer, rain_mask, warping_loss
from vderain.train.semi_supervised import GENERATED, PARTS, RealRain, RealWindow, SemiSupervised
from vderain.train.trainer import BEST, GENERATOR, RESUME, Losses

Run = Callable[..., Result]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"
DATA = Data(side_px=64, border_px=8)
SIDE_PX = 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a clip, which stand for both clear and rainy ones."""
    return make_scenes(tmp_path_factory.mktemp("dashcam"), 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(folder: Path, *more: str) -> tuple[str, ...]:
    paths = (f"data.photos='{folder}'", f"data.rain='{folder}'")
    return (
        *paths,
        "semi_supervised.real=2",
        "semi_supervised.layers=1",
        "semi_supervised.width=4",
        "semi_supervised.pool=3",
        *more,
    )


@pytest.fixture
def smoke(folder: Path) -> Callable[..., Recipe]:
    return lambda *overrides: load_recipe(SMOKE, settings(folder, *overrides))


def panned(frames: int, pan_px: int, streaks: bool) -> np.ndarray:
    """A camera that pans over a picture, with a bright streak somewhere else in each frame: (T, 100, 120, 3)."""
    scene = cv2.GaussianBlur(textured(7, (100, 120 + frames * pan_px)), (0, 0), 2) // 2
    clip = np.stack([scene[:, t * pan_px : t * pan_px + 120] for t in range(frames)])
    if streaks:
        rng = np.random.default_rng(0)
        for frame in clip:
            for x in rng.integers(4, 116, 12):
                frame[20:80, x] += 60
    return clip


def test_a_real_window_has_the_flow_to_the_next_one() -> None:
    window = RealRain(Scenes([], [panned(6, 2, streaks=False)]), DATA, 0)[3]
    assert window.rainy.shape == (2, 5, 3, 64, 64)
    assert window.rain.shape == (5, 64, 64)
    confident = window.flow_confidence[0] > 200
    assert confident.float().mean() > 0.5
    assert float(window.flow[0][confident].median()) == pytest.approx(-2, abs=0.3), "the scene moves left"
    assert float(window.flow[1][confident].abs().median()) < 0.3
    now, after = (window.rainy[i, CENTRE][None].float() / 255 for i in (0, 1))
    flow, confidence = window.flow[None], window.flow_confidence[None].float() / 255
    assert float(warping_loss(now, after, flow, confidence)) < 0.3 * float((now - after).abs().mean())


def test_the_pseudo_label_is_without_the_streaks_that_neighbours_do_not_have() -> None:
    clear, rainy = (panned(6, 0, streaks) for streaks in (False, True))
    truth, window = (RealRain(Scenes([], [clip]), DATA, 5)[2] for clip in (clear, rainy))
    centre, pseudo, without = (x.float() for x in (window.rainy[0, CENTRE], window.pseudo, truth.rainy[0, CENTRE]))
    # Heavy streaks on a pan: flow over two frames is composed, and unsure where a streak is in the frame between.
    assert (pseudo - without).abs().mean() < 0.85 * (centre - without).abs().mean()
    assert window.pseudo_confidence.float().mean() > 100


def test_a_single_picture_has_no_flow_and_no_pseudo_label() -> None:
    window = RealRain(Scenes([textured(1, (90, 110))], []), DATA, 0)[1]
    assert not window.flow_confidence.any()
    assert not window.pseudo_confidence.any()
    assert torch.equal(window.rainy[0, 0], window.rainy[1, CENTRE])


def test_confidence_is_zero_across_a_scene_cut() -> None:
    clip = np.concatenate([np.full((3, 100, 120, 3), 30, np.uint8), np.full((3, 100, 120, 3), 200, np.uint8)])
    assert not RealRain(Scenes([], [clip]), DATA, 0)[0].flow_confidence.any()


def test_window_n_depends_on_the_seed_and_n_alone() -> None:
    scenes = Scenes([textured(1, (90, 110))], [panned(8, 1, streaks=True)])
    one, other = RealRain(scenes, DATA, 4), RealRain(scenes, DATA, 4)
    _ = one[1]
    for name in RealWindow.__slots__:
        assert torch.equal(getattr(one[6], name), getattr(other[6], name))


def test_a_mirrored_crop_moves_the_other_way() -> None:
    window = RealRain(Scenes([], [panned(6, 2, streaks=False)]), DATA, 3)[0]
    plain, flipped = (window.crop(slice(8, 40), slice(8, 40), flip) for flip in (False, True))
    assert plain[0].shape == (2, 15, 32, 32)
    assert torch.equal(flipped[0], plain[0].flip(-1))
    assert torch.equal(flipped[4][0], -plain[4][0].flip(-1))
    assert torch.equal(flipped[4][1], plain[4][1].flip(-1))


def test_windows_are_packed_and_unpacked() -> None:
    windows = RealRain(Scenes([], [panned(6, 1, streaks=True)]), DATA, 0)
    piece = Packed(windows, 2)[1]
    arrived = unpack(piece, RealWindow.empty(64))
    piece.zero_()  # what arrived has memory of its own
    for window, got in zip((windows[2], windows[3]), arrived, strict=True):
        assert all(torch.equal(getattr(got, name), getattr(window, name)) for name in RealWindow.__slots__)


def test_a_grey_layer_is_grey_and_bounded() -> None:
    residual = torch.randn(2, 3, 8, 8) * 5
    layer = grey_layer(residual, 0.6)
    assert layer.shape == (2, 1, 8, 8)
    assert float(layer.abs().max()) <= 0.6 + 1e-6
    faint = torch.full((1, 3, 2, 2), 0.05)
    assert torch.allclose(grey_layer(faint, 0.6), faint[:, :1], atol=2e-4)


def test_colourfulness_is_the_distance_from_grey() -> None:
    grey = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    assert float(colourfulness(grey)) == pytest.approx(0, abs=1e-7)
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 0.3
    assert float(colourfulness(red)) == pytest.approx((0.2 + 0.1 + 0.1) / 3)


def test_a_mask_is_empty_where_nothing_is_changed_and_full_where_much_is() -> None:
    residual = torch.zeros(1, 3, 1, 3)
    residual[..., 1], residual[..., 2] = 1.5 / 255, 0.5
    assert rain_mask(residual).flatten().tolist() == pytest.approx([0, 0.5, 1], abs=0.02)


def test_frames_that_agree_along_their_motion_are_consistent() -> None:
    after = torch.rand(1, 3, 20, 30)
    now = torch.zeros_like(after)
    now[..., :-3] = after[..., 3:]
    flow = torch.zeros(1, 2, 20, 30)
    flow[:, 0] = 3
    confidence = torch.ones(1, 1, 20, 30)
    assert float(warping_loss(now, after, flow, confidence)) == pytest.approx(0, abs=1e-5), (
        "beyond the edge nothing counts"
    )
    assert float(warping_loss(now, after, torch.zeros_like(flow), confidence)) > 0.2
    assert float(warping_loss(now, after, flow, 0 * confidence)) == 0


def batch_of(trainer: SemiSupervised) -> tuple[torch.Tensor, ...]:
    trainer.load_data()
    trainer.rainy = RealRain(Scenes([], [panned(8, 1, streaks=True)]), trainer.recipe.data, 0)  # of which flow is found
    return next(trainer.batches())


@pytest.mark.parametrize("part", [*PARTS])
def test_each_part_can_be_left_out_and_moves_something(smoke: Callable[..., Recipe], tmp_path: Path, part: str) -> None:
    alone = [f"semi_supervised.{name}={float(name == part)}" for name in PARTS]
    moved = set()
    trainer = SemiSupervised(smoke(*alone), tmp_path)
    for network in (trainer.generator, trainer.rain_generator):  # heads at zero stop what should reach the body
        torch.nn.init.normal_(network.head.weight, std=0.05)
    before = {name: [p.clone() for p in net.parameters()] for name, net in trainer.networks.items()}
    losses = trainer.step(*batch_of(trainer))
    assert losses["loss"] == pytest.approx(losses[part])
    assert losses[part] > 0
    assert all(losses[name] == 0 for name in PARTS if name != part)
    for name in ("generator", "rain_generator"):
        after = trainer.networks[name].parameters()
        moved |= {name} if any(not torch.equal(a, b) for a, b in zip(before[name], after, strict=True)) else set()
    both = {"generator", "rain_generator"}
    assert moved == {"self_regularisation": {"rain_generator"}, "cycle": both, "adversarial": both}.get(
        part, {"generator"}
    )


def single(*more: str) -> tuple[str, ...]:
    return ("model.window=1", "semi_supervised.temporal=0", "semi_supervised.pseudo_label=0", *more)


def test_single_frames_are_trained_without_neighbours(
    smoke: Callable[..., Recipe], tmp_path: Path, vderain: Run, folder: Path
) -> None:
    told: list[Event] = []
    more = single("semi_supervised.transplanted=1", "semi_supervised.bright=0.2")
    train(smoke(*more), tmp_path / "run", on_event=told.append)
    line = next(event for event in told if isinstance(event, Progress) and event.iteration == 4)
    assert line.parts["temporal"] == line.parts["pseudo_label"] == 0
    assert all(line.parts[name] > 0 for name in ("rendered", "half_cycle", "cycle", "identity"))
    picture = next(folder.rglob("*.png"))
    done = vderain("process", picture, "-o", tmp_path / "out.png", "--model", tmp_path / "run" / BEST)
    assert done.exit_code == 0, done.stderr


def test_without_its_parts_the_rain_generator_is_not_trained(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    off = [f"semi_supervised.{name}=0" for name in GENERATED]
    trainer = SemiSupervised(smoke(*off, "semi_supervised.transplanted=1"), tmp_path)
    nets = [trainer.rain_generator, trainer.discriminators.clear, trainer.discriminators.rain]
    before = [p.clone() for net in nets for p in net.parameters()]
    losses = trainer.step(*batch_of(trainer))
    after = [p for net in nets for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert losses["discriminators"] == 0


def test_transplanted_rain_is_what_the_averaged_generator_removes(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SemiSupervised(smoke(*single("semi_supervised.transplanted=1")), tmp_path)
    _rainy, _confidence, clear, _dry, *rest = batch_of(trainer)
    real, seen = RealWindow(*rest), []
    ask = trainer.loss_to_truth
    monkeypatch.setattr(trainer, "loss_to_truth", lambda *tensors: seen.append(tensors) or ask(*tensors))
    known = clear[: len(real.rainy)]
    trainer._transplanted(known, real)  # the averaged generator is the identity still, and removes nothing
    assert torch.equal(seen[0][1], known)
    torch.nn.init.constant_(trainer.mean.head.bias, -0.1)  # now it takes a tenth of white from every pixel
    trainer._transplanted(known, real)
    _, rained, truth, _ = seen[1]
    added = (rained - truth)[rained < 1]
    assert torch.equal(truth, known)
    assert 0.05 < float(added.min()) <= float(added.max()) < 0.19, "varied in strength"


def test_frames_of_rainy_clips_are_seen_one_by_one() -> None:
    clip = panned(3, 2, streaks=True)  # too short for two windows
    window = RealRain(Scenes([], [clip]), DATA, 1, single=True)[0]
    assert all(torch.equal(window.rainy[0, 0], frame) for frame in window.rainy[0])
    assert not window.flow_confidence.any()


def test_the_warm_up_is_of_rendered_pairs_alone(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    told: list[Event] = []
    train(smoke("semi_supervised.warmup=2", "optimiser.iterations=4"), tmp_path, on_event=told.append)
    lines = [event for event in told if isinstance(event, Progress)]
    for line in lines:
        assert set(line.parts) == {*PARTS, "discriminators"}
        assert (line.parts["half_cycle"] > 0) == (line.parts["discriminators"] > 0) == (line.iteration > 2)


def test_the_trained_generator_processes_a_clip(
    vderain: Run, folder: Path, tmp_path: Path, clip: Callable[..., Path]
) -> None:
    flags = [flag for each in settings(folder, "optimiser.bf16=true") for flag in ("--set", each)]
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(v) for entry in log if entry["event"] == "progress" for v in entry["parts"].values())
    assert names_in(tmp_path / "run") - {"tensorboard"} == {BEST, GENERATOR, RESUME, "log.jsonl", "pictures"}
    facts = load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts
    assert str(folder) not in json.dumps(facts)
    done = vderain("process", clip("in.mp4", frames=3), "--model", tmp_path / "run" / BEST)
    assert done.exit_code == 0, done.stderr


def test_a_resumed_run_equals_an_uninterrupted_one(
    smoke: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = smoke("optimiser.iterations=6", "semi_supervised.warmup=1")
    train(recipe, tmp_path / "straight")
    step = SemiSupervised.step

    def stopping(self: SemiSupervised, *batch: torch.Tensor) -> Losses:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(SemiSupervised, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "halves")
    train(recipe, tmp_path / "halves", resume=True)
    first, second = (load_file(tmp_path / name / RESUME) for name in ("straight", "halves"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.window=1", "model.window"),
        ("semi_supervised.bright=-1", "bright"),
        ("semi_supervised.real=3", "semi_supervised.real"),
        ("cyclegan.cycle=1", "two ways"),
    ],
)
def test_contradictory_settings_are_refused(smoke: Callable[..., Recipe], override: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        smoke(override)


def test_rainy_material_is_required(smoke: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.rain"):
        SemiSupervised(smoke("data.rain='/nowhere'"), tmp_path).load_data()
    with pytest.raises(UsageError, match="shared evenly"):
        SemiSupervised(smoke("optimiser.batch=4", "semi_supervised.real=3"), tmp_path, ProcessGroup(0, 2))
