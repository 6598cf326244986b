"""What reaches a terminal, and what one that is closed does to a run."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from clips import with_side_stream
from rich.console import Console

from vderain.batch.plan import Item
from vderain.batch.record import FileResult, Record
from vderain.cli.batch_output import _table_by_group
from vderain.cli.console import print_error, progress_display
from vderain.media.frame import Progress
from vderain.runtime.text import one_line

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


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
import os, sys, time
os.open(os.ttyname(0), os.O_RDWR)  # makes it the terminal of this session
from vderain.cli.batch import _stopping
from vderain.cli.console import exit_on_error, print_error
with exit_on_error(False, False), _stopping() as stop:
    print_error("ready", "")
    while not stop.is_set():
        time.sleep(0.01)
    print_error("not shown", "")
sys.exit(130)
"""


def test_a_terminal_that_is_closed_is_an_interruption() -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        cwd=ROOT,
    )  # fmt: skip
    os.close(theirs)
    assert b"ready" in os.read(ours, 1000)
    os.close(ours)
    assert running.wait(60) == 130


def command(*arguments: object, **redirected: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    """The command line in a process of its own; its streams are pipes where they are not redirected."""
    program = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **redirected}
    return subprocess.Popen(program, cwd=ROOT, **pipes)


@needs_full_device
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info", "--json"], ["process", "--help"]])
def test_standard_output_on_a_full_disk_is_one_clear_line(arguments: list[str]) -> None:
    with FULL.open("wb") as full:
        running = command(*arguments, stdout=full)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 4
    assert re.fullmatch(rb"vderain: standard output cannot be written \(.*\)\. Free some space, .*\n", said), said


@needs_full_device
def test_a_result_that_cannot_be_printed_is_kept(clip: Callable[..., Path], tiny: Path) -> None:
    source = clip("in.mp4", frames=2)
    with FULL.open("wb") as full:
        running = command("process", source, "--model", tiny, stdout=full)
        running.communicate(timeout=60)
    assert running.returncode == 4
    assert {path.name for path in source.parent.glob("*.mp4")} == {"in.mp4", "in.derained.mp4"}


@needs_full_device
def test_standard_error_on_a_full_disk_changes_no_exit_code(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        assert command("info", tmp_path / "missing.mp4", stderr=full).wait(60) == 3


START = """
import sys
from vderain.__main__ import main
print("begun", flush=True)
main()
"""


@pytest.mark.parametrize("instant_s", [n / 40 for n in range(1, 21)])
def test_ctrl_c_while_the_program_starts_gives_no_traceback(instant_s: float, tmp_path: Path) -> None:
    program = [sys.executable, "-c", START, "info", str(tmp_path / "missing.mp4")]
    running = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    time.sleep(instant_s)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode in (130, 3), said  # 3: its end had begun already, because the file is missing
    assert len(said.splitlines()) <= 1


ENDING = """
import atexit, os, signal, sys
from vderain.__main__ import main

class Signalled:
    def __del__(self, kill=os.kill, own=os.getpid(), numbers=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        for number in numbers:
            kill(own, number)

atexit.register(Signalled().__del__)
sys.held = Signalled()  # deleted after Python's own clean-up of signals
main()
"""


def test_signals_while_the_program_ends_change_nothing(tmp_path: Path) -> None:
    program = [sys.executable, "-c", ENDING, "info", str(tmp_path / "missing.mp4")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


NESTED = """
import signal, sys
from {module} import {name} as stopping

events = []

def interrupt(frame, event, argument):
    if frame.f_code.co_name == "set":
        events.append(event)
        if events == ["call", "line", "line"] or event == "return":  # after its first line
            sys.settrace(None)
            signal.raise_signal(signal.SIGTERM)
    return interrupt

with stopping() as stop:
    sys.settrace(interrupt)
    signal.raise_signal(signal.SIGHUP)
    assert stop.is_set()
sys.exit(130)
"""


@pytest.mark.parametrize(
    ("module", "name"), [("vderain.cli.batch", "_stopping"), ("vderain.train.loop", "_deferred_signals")]
)
def test_a_signal_while_another_is_handled_is_no_deadlock(module: str, name: str) -> None:
    program = [sys.executable, "-c", NESTED.format(module=module, name=name)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, timeout=30)
    assert done.returncode == 130, done.stderr


def test_at_80_columns_no_number_of_the_summary_is_cut() -> None:
    group = "[/b]\x1b front camera of the car"
    item = Item(source=Path("/card/front.mp4"), name="front.mp4", target="front.mp4", group=group)
    result = FileResult(frames=1_079_920, repeated=1_200, dry=250_000, media_s=36_000)
    record = Record(item=item, state="done", result=result, bytes_out=52_000_000_000)
    narrow = Console(width=80)
    with narrow.capture() as shown:
        narrow.print(_table_by_group([record]))
    row = shown.get().splitlines()[3]
    assert row.lstrip().startswith(r"[/b]\x1b")
    assert row.split()[-8:] == ["1079920", "1200", "250000", "10:00:00", "0.0", "MB", "52.0", "GB"]


def test_names_from_files_are_printed_as_clean_text(vderain: Callable[..., Any], tmp_path: Path, tiny1: Path) -> None:
    """Control characters and bytes that are not UTF-8: of a file, of its folder, and of a stream in it."""
    folder = tmp_path / "card" / os.fsdecode(b"[/b]\x1b[2J\xe9")
    folder.mkdir(parents=True)
    source = with_side_stream(folder / os.fsdecode(b"in\x1b[2J\xe9.mp4"), "mov_text")
    data, name = source.read_bytes(), b"SubtitleHandler"
    source.write_bytes(data.replace(name, b"rain\xff\x1b[2J".ljust(len(name), b".")))
    assert source.read_bytes() != data
    options = ["--model", tiny1, "--temporal", "off", "--no-drops", "--no-guard"]
    told = [
        vderain("info", source),
        vderain("process", source, *options, "-o", source.with_suffix(".webm")),
        vderain("batch", tmp_path / "card", *options, "-o", tmp_path / "out", "--include", "*.mp4"),
    ]
    assert [each.exit_code for each in told] == [0, 0, 0], told
    texts = [each.output for each in told] + [(tmp_path / "out" / "report.html").read_text("utf-8")]
    assert not [text for text in texts if re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ufffd\ud800-\udfff]", text)]
    assert r"rain\xff\x1b[2J" in texts[0]
    for text in texts[1:]:
        assert r"in\x1b[2J\xe9" in text


def paced(monkeypatch: pytest.MonkeyPatch, total_s: float, resumed_s: float = 0.0) -> None:
    """Shows the progress of a video at half its speed, of which frames come a minute after the start."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress_display("a.mp4", quiet=False, as_json=False, fast_share=0.7) as show:
        now[0] = 60.0
        for frame in range(300):
            show(Progress(frames=frame, done_s=resumed_s + frame / 30, total_s=total_s))
            now[0] += 2 / 30


def test_a_long_run_says_once_how_a_faster_one_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paced(monkeypatch, 604.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "--speed" in line] == ["15.0 frames/s, 20 min left; --speed fast: 14 min"]
    paced(monkeypatch, 60.0)
    assert "--speed" not in capsys.readouterr().err


def test_the_time_left_counts_from_the_first_frame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paced(monkeypatch, 100.0, resumed_s=40.0)
    assert "a.mp4: 45%, 15.0 frames/s, 1:50 left" in capsys.readouterr().err
