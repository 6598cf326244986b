"""Runs that are killed at any instant, their stores tampered with: the next run gives what an undisturbed one gives."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import pytest
import torch
from clips import Clip, make, names_in, textured
from safetensors.torch import load_file

from vderain.__main__ import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
ROOT = Path(__file__).parents[1]
Command = list[object]
QUICK = ["--temporal", "off", "--no-drops", "--no-guard", "--encoder-opt", "x264-params=mbtree=0"]
EVERY_THIRD = 3
LOADED = multiprocessing.get_context("forkserver")
LOADED.set_forkserver_preload(
    ["torch", "vderain.batch.run", "vderain.cli.batch", "vderain.process", "vderain.train.loop"]
)


@dataclass
class Ended:
    """A command that has ended: its exit code, and what it printed."""

    returncode: int | None
    stderr: str


class Started:
    """A command in a process group of its own. It is forked from a process that has loaded the program already.

    Args:
        command: arguments of the command line.
        log: receives what it prints.
        began: whether it has begun to work; this is waited for.
    """

    def __init__(self, command: Command, log: Path, began: Callable[[], bool] = lambda: True) -> None:
        self._log = log
        self._running = LOADED.Process(target=_run, args=([str(part) for part in command], log))
        self._running.start()
        while self._running.exitcode is None and not began():
            time.sleep(0.005)
        self._began_s = time.monotonic()

    def ended(self) -> Ended:
        """Waits for the end."""
        self._running.join(timeout=600)
        text = self._log.read_text()
        assert self._running.exitcode is not None and "Traceback" not in text, text
        return Ended(self._running.exitcode, text)

    def ended_s(self) -> float:
        """Waits for the end. Returns seconds since the work began."""
        assert self.ended().returncode == 0
        return time.monotonic() - self._began_s

    def kill(self, after_s: float) -> None:
        self._running.join(timeout=after_s)
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid or 0, signal.SIGKILL)
        self._running.join()


def _run(command: list[str], log: Path) -> None:
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["vderain", *command]
    main()


def ran(command: Command, log: Path) -> Ended:
    return Started(command, log).ended()


def tamper(paths: Sequence[Path], dice: random.Random) -> bool:
    """Overwrites a part of one of some files, or cuts it short. Returns whether there was one."""
    held = [path for path in sorted(paths) if path.is_file() and path.stat().st_size]
    if not held:
        return False
    path = dice.choice(held)
    data = bytearray(path.read_bytes())
    begin, size = dice.randrange(len(data)), dice.choice((1, 100, 5000))
    data[begin : begin + size] = dice.randbytes(size) if dice.random() < 0.8 else b""
    path.write_bytes(data)
    return True


@dataclass(frozen=True)
class Attack:
    """How to kill a command again and again.

    Attributes:
        command: to be run again after each kill.
        log: file for what it prints.
        began: whether it has begun to work.
        store: returns the files that may be tampered with.
        reset: removes all results.
        check: checks the results; is given the messages of the run that continued.
        can_continue: whether the command may be run with ``--resume``.
    """

    command: Command
    log: Path
    began: Callable[[], bool]
    store: Callable[[], Sequence[Path]]
    reset: Callable[[], object]
    check: Callable[[str], object]
    can_continue: Callable[[], bool] = lambda: True

    def carry_out(self, numbers: range) -> None:
        """Kills the command at instants of 100, evenly spaced over its work, and continues it each time."""
        self.reset()
        work_s = Started(self._command(), self.log, self.began).ended_s()
        tampered = said = 0
        for number in numbers:
            dice = random.Random(number)
            self.reset()
            Started(self._command(), self.log, self.began).kill(work_s * (number + dice.random()) / 100)
            has_tampered = number % EVERY_THIRD == 0 and tamper(self.store(), dice)
            done = ran(self._command(), self.log)
            assert done.returncode == 0, (number, done.stderr)
            self.check(done.stderr)
            tampered += has_tampered
            said += has_tampered and "is damaged" in done.stderr
        print(f"{len(numbers)} kills, {tampered} stores tampered with, {said} of them named as damaged")

    def _command(self) -> Command:
        return self.command if self.can_continue() else [part for part in self.command if part != "--resume"]


SHARES = [
    pytest.param(range(i, 100, 4), marks=[pytest.mark.long, pytest.mark.timeout(3600)], id=str(i)) for i in range(4)
]
shares = pytest.mark.parametrize("numbers", SHARES)  # quick tests of the two commands kill them at a few instants


@shares
def test_process_is_killed(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    source, target = make(tmp_path / "in.mp4", Clip(frames=1000, audio="aac")), tmp_path / "out.mp4"
    command: Command = ["process", source, "--model", tiny1, "--resume", "--overwrite", *QUICK, "-o"]
    log = tmp_path / "log"
    assert ran([*command, tmp_path / "straight.mp4"], log).returncode == 0
    store = tmp_path / ".out.mp4.segments"

    def reset() -> None:
        for path in tmp_path.glob("*out.mp4*"):
            path.unlink()

    def check(told: str) -> None:
        assert target.read_bytes() == (tmp_path / "straight.mp4").read_bytes(), told
        assert names_in(tmp_path) == {"in.mp4", "log", "out.mp4", "straight.mp4"}

    Attack([*command, target], log, store.exists, lambda: [store], reset, check).carry_out(numbers)


@shares
def test_batch_is_killed(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    card, out, straight = tmp_path / "card", tmp_path / "out", tmp_path / "straight"
    card.mkdir()
    names = [f"{number}.mp4" for number in range(3)]
    for name in names:
        make(card / name, Clip(frames=300))
    command: Command = ["batch", card, "--model", tiny1, "--segment", 20, *QUICK, "-o"]
    log = tmp_path / "log"
    assert ran([*command, straight], log).returncode == 0

    def store() -> list[Path]:
        return list(out.rglob("segments*"))

    def check(told: str) -> None:
        for name in names:
            assert (out / name).read_bytes() == (straight / name).read_bytes(), told
        left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert not [name for name in left if "partial" in name or "segments" in name], left

    reset = partial(shutil.rmtree, out, ignore_errors=True)
    Attack([*command, out], log, lambda: bool(store()), store, reset, check).carry_out(numbers)


@pytest.mark.parametrize("numbers", [pytest.param(range(75, 76), marks=pytest.mark.timeout(300), id="one"), *SHARES])
def test_train_is_killed(tmp_path: Path, numbers: range) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(4):
        cv2.imwrite(str(photos / f"{number}.png"), textured(number, (90, 110)))
    recipe = ["train", ROOT / "configs" / "smoke.toml", "--set", f"data.photos={photos}", "--set", "run.save_every=1"]
    log = tmp_path / "log"
    assert ran([*recipe, "--out", tmp_path / "straight"], log).returncode == 0
    straight = load_file(tmp_path / "straight" / "resume.safetensors")
    state = out / "resume.safetensors"  # without it, --resume is refused

    def check(told: str) -> None:
        reached = load_file(state)
        assert reached.keys() == straight.keys() and all(torch.equal(reached[name], straight[name]) for name in reached)
        assert not [name for name in names_in(out) if "partial" in name]

    reset = partial(shutil.rmtree, out, ignore_errors=True)
    command: Command = [*recipe, "--resume", "--out", out]
    Attack(command, log, out.exists, list, reset, check, state.exists).carry_out(numbers)
