"""The first impression: help comes at once, because nothing heavy is imported for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 0.3


def processor_seconds(*arguments: str) -> float:
    """What a run costs; a clock on the wall would measure whatever else the machine does."""
    before = os.times()
    done = subprocess.run([sys.executable, ROOT / "cli.py", *arguments], capture_output=True, timeout=30)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("arguments", [("--help",), ("process", "-h"), ("--version",)], ids=" ".join)
def test_help_comes_at_once(arguments: tuple[str, ...]) -> None:
    assert min(processor_seconds(*arguments) for _ in range(5)) < LIMIT_S


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "av", "cv2", "numpy", "pydantic", "safetensors"}
    code = "import sys, vderain.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert heavy & set(done.stdout.split()) == set()
    assert "vderain.cli.main" in done.stdout.split()
