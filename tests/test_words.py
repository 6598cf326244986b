"""The word list of the project: tools/check_words.py finds bad phrases and accepts plain ones."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "check_words.py"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"""Rain for one file: a clear clip enters, the same clip in rain leaves."""', 1),
        ('"""Owns what packets lack."""', 1),
        ("ends alike by Ctrl-C or a polite kill", 1),
        ("frames are made anew", 1),
        ("this is no video", 1),
        ('"""Repairs demuxed packets before remuxing."""', 0),
        ("the file is no longer there, and there is no such option", 0),
    ],
)
def test_check_words(tmp_path: Path, line: str, code: int) -> None:
    path = tmp_path / "text.md"
    path.write_text(f"# Title\n{line}\n")
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout
    assert done.stdout.count("\n") == code
