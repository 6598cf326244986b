"""Data-parallel training: two processes under torchrun equal one with the same batch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from clips import names_in
from safetensors.torch import load_file

from vderain.errors import UsageError
from vderain.train.config import load_recipe
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup
from vderain.train.loop import train
from vderain.train.supervised import Supervised
from vderain.train.trainer import BEST, GENERATOR, OFFENDING, RESUME

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.toml"
pytestmark = pytest.mark.timeout(360)  # starting torchrun and two processes is slow on a busy machine

# Sums of a batch's gradients round differently when they are taken in two halves, and Adam divides by their size.
TOLERANCE = 2e-5


def together(out: Path, overrides: Sequence[str], *more: str) -> subprocess.CompletedProcess[str]:
    """A run by two processes under torchrun."""
    flags = [flag for override in overrides for flag in ("--set", override)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "vderain", "train", str(SMOKE), "--out", str(out), *flags, *more],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def alone(out: Path, overrides: Sequence[str]) -> None:
    train(load_recipe(SMOKE, tuple(overrides)), out)


def worst(one: Path, other: Path) -> float:
    """Largest difference of any weight, or of any pixel in the pools."""
    first, second = load_file(one / RESUME), load_file(other / RESUME)
    networks = {name for name in first if ".exp_avg" not in name and not name.endswith(".step")}
    assert networks <= second.keys()
    weights = [name for name in networks if first[name].shape == second[name].shape and first[name].numel()]
    assert len(weights) > 30
    return max(float((first[name] - second[name]).abs().max()) for name in weights)


@pytest.mark.parametrize(
    "kind", ["supervised", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("cyclegan", "semi_supervised"))]
)
def test_two_processes_equal_one(pictures: Path, tmp_path: Path, kind: str) -> None:
    settings = [f"data.photos='{pictures}'", "optimiser.batch=4", "optimiser.iterations=6", "data.fresh=3"]
    if kind == "cyclegan":  # with instance norm a bias before it moves by rounding errors alone
        settings += [f"data.rain='{pictures}'", "model.window=1", "cyclegan.layers=1", "cyclegan.width=4"]
        settings += ["cyclegan.pool=3", "cyclegan.rendered=1.0", "cyclegan.spectral=true"]
    elif kind == "semi_supervised":
        settings += [
            f"data.rain='{pictures}'",
            "semi_supervised.warmup=2",
            "semi_supervised.layers=1",
            "semi_supervised.width=4",
        ]
    alone(tmp_path / "1", settings)
    done = together(tmp_path / "2", settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "2" / GENERATOR)]
    assert done.stderr.count("6/6  loss") == 1
    assert names_in(tmp_path / "2") == names_in(tmp_path / "1") >= {BEST, GENERATOR, RESUME, "log.jsonl", "pictures"}
    assert worst(tmp_path / "1", tmp_path / "2") < TOLERANCE
    alone(tmp_path / "start", [*settings, "optimiser.iterations=1"])
    assert worst(tmp_path / "1", tmp_path / "start") > 50 * TOLERANCE, "the run went somewhere"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_equal_one(pictures: Path, tmp_path: Path) -> None:
    settings = [f"data.photos='{pictures}'", "optimiser.batch=4", "optimiser.iterations=6", "data.fresh=3"]
    train(load_recipe(SMOKE, tuple(settings)), tmp_path / "1", device="cuda")
    done = together(tmp_path / "2", settings, "--device", "cuda")
    assert done.returncode == 0, done.stderr
    assert worst(tmp_path / "1", tmp_path / "2") < 1e-3, "sums are rounded in varying order"


def test_two_processes_resume_a_run_of_one(pictures: Path, tmp_path: Path) -> None:
    settings = [f"data.photos='{pictures}'", "optimiser.decay=0"]
    alone(tmp_path / "straight", [*settings, "optimiser.iterations=6"])
    alone(tmp_path / "halves", [*settings, "optimiser.iterations=3"])
    done = together(tmp_path / "halves", [*settings, "optimiser.iterations=6"], "--resume")
    assert done.returncode == 0, done.stderr
    assert worst(tmp_path / "straight", tmp_path / "halves") < TOLERANCE


def test_a_loss_that_is_not_finite_stops_all_of_them(pictures: Path, tmp_path: Path) -> None:
    done = together(tmp_path, [f"data.photos='{pictures}'", "optimiser.rate=1e30", "optimiser.iterations=30"])
    assert done.returncode != 0
    assert done.stderr.count("vderain: the loss became") == 1
    assert load_file(tmp_path / OFFENDING)["0"].shape == (2, 15, 32, 32), "the batch of both"


def test_a_batch_that_cannot_be_shared_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be shared evenly"):
        Supervised(load_recipe(SMOKE, ("optimiser.batch=3",)), tmp_path, ProcessGroup(0, 2))


def test_shares_make_up_the_batch() -> None:
    batch = list(range(6))
    assert sorted([*ProcessGroup(0, 2).shard(batch), *ProcessGroup(1, 2).shard(batch)]) == batch
    assert SINGLE_PROCESS.shard(batch) == batch
    value = torch.rand(3)
    assert torch.equal(SINGLE_PROCESS.mean(value), value)
    assert torch.equal(SINGLE_PROCESS.all_gather(value), value)
