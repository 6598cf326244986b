"""What reaches a terminal, and what one that is closed does to a run."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vderain.cli.console import one_line, print_error


@pytest.mark.parametrize(("name", "shown"), [
    ("regen ä 雨 👍🏽.mp4", "regen ä 雨 👍🏽.mp4"),
    ("a\n\x1b[2Jb\x9b.mp4", r"a\n\x1b[2Jb\x9b.mp4"),
    ("a\u202eb.mp4", r"a\u202eb.mp4"),
    (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
])  # fmt: skip
def test_names_give_a_terminal_no_commands(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(name) == shown
    print_error(f"'{name}' is empty.", "Copy it again.")
    assert capsys.readouterr().err == f"vderain: '{shown}' is empty. Copy it again.\n"


RUN = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)  # makes it the terminal of this session
from vderain.cli.batch import _stopping
from vderain.cli.console import exit_on_error, print_error
with exit_on_error(False, False), _stopping() as stop:
    print_error("ready", "")
    stop.wait()
    print_error("not shown", "")
sys.exit(130)
"""


def test_a_terminal_that_is_closed_is_an_interruption() -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    os.close(theirs)
    assert b"ready" in os.read(ours, 1000)
    os.close(ours)
    assert running.wait(60) == 130
