"""torchvision: imported beside a CPU build of PyTorch, refused clearly where it is missing, never used by `process`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from vderain.errors import UsageError
from vderain.train import torchvision_import
from vderain.train.torchvision_import import require_torchvision

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.toml"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transforms_and_grids_work_beside_this_build_of_pytorch() -> None:
    require_torchvision("a test")
    from torchvision.transforms import v2
    from torchvision.utils import make_grid

    assert v2.RandomCrop(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)
    assert make_grid(torch.zeros(4, 3, 8, 8), nrow=2).shape == (3, 22, 22)


def test_processing_never_imports_it() -> None:
    code = "import sys, vderain.process, vderain.pipeline; print(sorted(sys.modules))"
    assert "'torchvision" not in python(code)


def test_training_starts_without_it() -> None:
    code = "import sys, vderain.train.loop; print(sorted(sys.modules))"
    assert "'torchvision'" not in python(code)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(torchvision_import, "import_module", absent)
    require_torchvision.cache_clear()


def test_without_it_a_line_says_what_to_install(missing: None) -> None:
    with pytest.raises(UsageError, match=r"colour.* needs torchvision.*vderain\[train\]"):
        require_torchvision("colour")


def test_without_it_supervised_training_runs_and_cyclegan_is_refused(
    missing: None, vderain: Callable[..., Result], pictures: Path, tmp_path: Path
) -> None:
    data = ("--set", f"data.photos={pictures}", "--set", f"data.rain={pictures}", "--set", "optimiser.iterations=1")
    plain = vderain("train", SMOKE, "--out", tmp_path / "plain", *data)
    assert plain.exit_code == 0, plain.stderr
    cyclegan = ("--set", "model.window=1", "--set", "cyclegan.layers=1", "--set", "cyclegan.width=4")
    for way in (cyclegan, ("--set", "data.colour_jitter=0.2")):
        refused = vderain("train", SMOKE, "--out", tmp_path / "refused", *data, *way)
        assert refused.exit_code == 2, refused.output
        assert "vderain[train]" in refused.stderr
