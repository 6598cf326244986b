"""Runs that are killed at any instant, their stores tampered with: the next run gives what an undisturbed one gives."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import pytest
import torch
from clips import Clip, make, names_in, textured
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
ROOT = Path(__file__).parents[1]
Command = list[object]
QUICK = ["--temporal", "off", "--no-drops", "--no-guard", "--encoder-opt", "x264-params=mbtree=0"]
IMPORTS_S = 1.0  # nothing is written before
EVERY_THIRD = 3


def ran(command: Command) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, command)], capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def killed(command: Command, after_s: float) -> None:
    """Starts a command and kills it with all its workers."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *map(str, command)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as running:  # fmt: skip
        time.sleep(after_s)
        os.killpg(running.pid, signal.SIGKILL)


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


def killed_and_continued(
    command: Command, whole_s: float, numbers: range, store: Callable[[], Sequence[Path]], reset: Callable[[], object],
    check: Callable[[str], object], can_continue: Callable[[], bool] = lambda: True,
) -> None:  # fmt: skip
    """Kills a command at instants, continues it each time, and checks what it made.

    Args:
        command: to be run again after each kill.
        whole_s: how long it takes undisturbed.
        numbers: of instants of 100, evenly spaced over that time.
        store: returns the files that may be tampered with.
        reset: removes all results.
        check: is given the messages of the run that continued.
        can_continue: whether the command may be run with ``--resume``.
    """
    tampered = 0
    for number in numbers:
        dice = random.Random(number)
        reset()
        killed(command, IMPORTS_S + max(0.0, whole_s - IMPORTS_S) * (number + dice.random()) / 100)
        if number % EVERY_THIRD == 0:
            tampered += tamper(store(), dice)
        done = ran(command if can_continue() else [part for part in command if part != "--resume"])
        assert done.returncode == 0, (number, done.stderr)
        check(done.stderr)
    print(f"{len(numbers)} kills, {tampered} stores tampered with")


def timed(command: Command) -> float:
    started_s = time.monotonic()
    done = ran(command)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started_s


SHARES = [
    pytest.param(range(i, 100, 4), marks=[pytest.mark.long, pytest.mark.timeout(3600)], id=str(i)) for i in range(4)
]
shares = pytest.mark.parametrize("numbers", SHARES)  # quick tests of the two commands kill them at a few instants


@shares
def test_process_is_killed(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    source, target = make(tmp_path / "in.mp4", Clip(frames=620, audio="aac")), tmp_path / "out.mp4"
    command: Command = ["process", source, "--model", tiny1, "--resume", *QUICK, "-o"]
    whole_s = timed([*command, tmp_path / "straight.mp4"])
    straight = (tmp_path / "straight.mp4").read_bytes()

    def reset() -> None:
        for path in tmp_path.glob("*out.mp4*"):
            path.unlink()

    def check(told: str) -> None:
        assert target.read_bytes() == straight, told
        assert names_in(tmp_path) == {"in.mp4", "out.mp4", "straight.mp4"}

    store = tmp_path / ".out.mp4.segments"
    killed_and_continued([*command, target], whole_s, numbers, lambda: [store], reset, check)


@shares
def test_batch_is_killed(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    card, out = tmp_path / "card", tmp_path / "out"
    card.mkdir()
    for number in range(3):
        make(card / f"{number}.mp4", Clip(frames=60 + 40 * number))
    command: Command = ["batch", card, "--model", tiny1, "--segment", 20, "-q", *QUICK, "-o"]
    whole_s = timed([*command, tmp_path / "straight"])
    names = [f"{number}.mp4" for number in range(3)]

    def check(told: str) -> None:
        for name in names:
            assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), told
        left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert not [name for name in left if "partial" in name or "segments" in name], left

    def store() -> list[Path]:
        return list(out.rglob("*segments*"))

    killed_and_continued([*command, out], whole_s, numbers, store, lambda: shutil.rmtree(out, True), check)


@pytest.mark.parametrize("numbers", [pytest.param(range(75, 76), marks=pytest.mark.timeout(180), id="one"), *SHARES])
def test_train_is_killed(tmp_path: Path, numbers: range) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(4):
        cv2.imwrite(str(photos / f"{number}.png"), textured(number, (90, 110)))
    recipe = ["train", ROOT / "configs" / "smoke.toml", "--set", f"data.photos={photos}", "--set", "run.save_every=1"]
    whole_s = timed([*recipe, "--out", tmp_path / "straight"])
    straight = load_file(tmp_path / "straight" / "resume.safetensors")

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def check(told: str) -> None:
        state = load_file(out / "resume.safetensors")
        assert state.keys() == straight.keys() and all(torch.equal(state[name], straight[name]) for name in state)
        assert not [name for name in names_in(out) if "partial" in name]

    state = out / "resume.safetensors"  # without it, --resume is refused
    killed_and_continued([*recipe, "--resume", "--out", out], whole_s, numbers, list, reset, check, state.exists)
