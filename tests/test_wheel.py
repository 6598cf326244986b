"""The wheel holds the program and its weights, nothing else, and runs."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vderain import __version__
from vderain.model.checkpoint import released_models

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling to build")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, source)
    for name in ("vderain", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", target, source], check=True, capture_output=True, timeout=120)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"vderain-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"vderain-{__version__}.dist-info/"
    program = {name for name in names if not name.startswith(info)}
    suffixes = (".py", ".typed", ".html", ".css")  # the last two make the report of a batch
    wanted = {p.relative_to(ROOT).as_posix() for p in (ROOT / "vderain").rglob("*") if p.suffix in suffixes}
    assert program == wanted | {f"vderain/model/weights/{name}.safetensors" for name in released_models()}
    assert {f"{info}METADATA", f"{info}entry_points.txt", f"{info}licenses/LICENSE"} <= names
    assert wheel.stat().st_size < 20_000_000


def test_the_program_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import vderain.cli.main; "
        "from vderain.model.checkpoint import load_checkpoint; print(vderain.__file__, load_checkpoint('base').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site" / "vderain" / "__init__.py"), "base"]
