"""Where training runs: the device, its precision, and how processes talk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from clips import planes_of_file

from vderain.errors import DeviceError, UsageError
from vderain.model.checkpoint import load_checkpoint
from vderain.train import distributed
from vderain.train.distributed import place_training
from vderain.train.trainer import GENERATOR

Run = Callable[..., Result]
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"
WAYS = {
    "supervised": (),
    "cyclegan": ("model.window=1", "cyclegan.layers=1", "cyclegan.width=4", "cyclegan.rendered=1.0"),
    "semi_supervised": ("semi_supervised.real=2", "semi_supervised.layers=1", "semi_supervised.width=4"),
    "unpaired": (
        "model.window=1",
        "semi_supervised.real=2",
        "semi_supervised.temporal=0",
        "semi_supervised.pseudo_label=0",
        "semi_supervised.transplanted=1",
        "semi_supervised.layers=1",
        "semi_supervised.width=4",
    ),
}


def flags(pictures: Path, *settings: str) -> list[str]:
    folders = (f"data.photos={pictures}", f"data.rain={pictures}", *settings)
    return [flag for each in folders for flag in ("--set", each)]


def test_auto_is_cuda_or_the_cpu() -> None:
    assert place_training("auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("bf16", "expected"), [(True, True), (False, False)])
def test_the_recipe_chooses_the_precision(bf16: bool, expected: bool) -> None:
    placement = place_training("cpu", bf16)
    assert placement.bf16 == expected
    with placement.autocast():
        assert torch.is_autocast_enabled("cpu") == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there_is_refused(vderain: Run, pictures: Path, tmp_path: Path, device: str) -> None:
    result = vderain("train", SMOKE, "--device", device, "--out", tmp_path / "run", *flags(pictures))
    assert result.exit_code == DeviceError.exit_code
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_each_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    place = distributed.DevicePlacement(torch.device("cpu"), False)
    monkeypatch.setattr(distributed, "choose_device", lambda *which: asked.append(which) or place)
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    place_training("cuda", True)
    place_training("cuda:1", None)
    assert asked == [("cuda:3", "bf16"), ("cuda:1", "auto")]


def test_mps_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    place = distributed.DevicePlacement(torch.device("mps"), False)
    monkeypatch.setattr(distributed, "choose_device", lambda *which: place)
    assert place_training("mps") is place
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    with pytest.raises(UsageError, match="mps"):
        place_training("mps")


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_runs_on_cuda(vderain: Run, pictures: Path, tmp_path: Path, way: str) -> None:
    settings = flags(pictures, *WAYS[way], "optimiser.iterations=4")
    result = vderain("train", SMOKE, "--device", "cuda", "--out", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.stderr
    longer = flags(pictures, *WAYS[way], "optimiser.iterations=6")
    resumed = vderain("train", SMOKE, "--device", "cuda", "--out", tmp_path / "run", "--resume", *longer)
    assert resumed.exit_code == 0, resumed.stderr
    facts = load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts
    assert facts["iterations"] == 6
    assert torch.cuda.get_device_name() in facts["hardware"]


@pytest.mark.gpu
def test_a_clip_comes_out_of_cuda_as_out_of_the_cpu(
    vderain: Run, clip: Callable[..., Path], tiny: Path, tmp_path: Path
) -> None:
    source, outputs = clip(frames=6), []
    for device in ("cpu", "cuda"):
        flags = ("--model", tiny, "--device", device, "--precision", "fp32", "--codec", "ffv1", "--no-guard")
        output = tmp_path / f"{device}.mkv"
        result = vderain("process", source, "-o", output, *flags)
        assert result.exit_code == 0, result.stderr
        assert f"on {device}" in result.output
        outputs.append(np.stack([np.concatenate([p.ravel() for p in f]) for f in planes_of_file(output)]).astype(int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1, "sums are rounded in another order"
