"""`--help` is fast, because it imports nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 0.4  # measured: 0.21 s, median of ten on two busy cores (0.26 s on the wall); contention adds to it
COMMAND_LIMIT_S = 0.7  # typer imports pydantic for the flags of a command


def processor_seconds(*arguments: str) -> float:
    """Processor time of a run; wall-clock time would include whatever else the machine does."""
    before = os.times()
    done = subprocess.run([sys.executable, ROOT / "cli.py", *arguments], capture_output=True, timeout=30)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize(
    ("arguments", "limit_s"),
    [(["--help"], LIMIT_S), (["--version"], LIMIT_S), (["process", "-h"], COMMAND_LIMIT_S)],
    ids=["--help", "--version", "process -h"],
)
def test_help_is_fast(arguments: list[str], limit_s: float) -> None:
    assert min(processor_seconds(*arguments) for _ in range(5)) < limit_s


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "av", "cv2", "numpy", "pydantic", "safetensors"}
    code = "import sys, vderain.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert heavy & set(done.stdout.split()) == set()
    assert "vderain.cli.main" in done.stdout.split()
