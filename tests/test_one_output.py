"""Real runs that meet on one output, files and links in their way, and the order of writes to the disk."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import Clip, decoded_pts, make, names_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and locks of POSIX")
ROOT = Path(__file__).parents[1]
OUTPUT_ERROR = 4
FRAMES = 30
QUICK = ["--temporal", "off", "--no-drops", "--no-guard"]
ALWAYS = pytest.param(range(1), marks=pytest.mark.timeout(300))
LONG = pytest.param(range(1, 21), marks=[pytest.mark.long, pytest.mark.timeout(3600)])
tries = pytest.mark.parametrize("numbers", [ALWAYS, LONG], ids=len)


def start(source: Path, target: Path, model: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, ROOT / "cli.py", "process", source, "-o", target, "--model", model, "-q", *QUICK]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@tries
def test_of_two_runs_on_one_output_one_wins(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        source, target = make(folder / "in.mp4", Clip(frames=FRAMES)), folder / "out.mp4"
        one = start(source, target, tiny1)
        time.sleep(random.Random(number).uniform(0, 1.5))
        other = start(source, target, tiny1)
        told = [each.communicate(timeout=120)[1] for each in (one, other)]
        assert sorted((one.returncode, other.returncode)) == [0, OUTPUT_ERROR], told
        lost = told[one.returncode == 0]
        assert re.search("another run is writing|exists already", lost) and len(lost.splitlines()) == 1, lost
        assert len(decoded_pts(target)) == FRAMES
        assert names_in(folder) == {"in.mp4", "out.mp4"}


@tries
def test_what_is_in_the_way_stays_as_it_is(tmp_path: Path, tiny1: Path, numbers: range) -> None:
    """Put there before the run or while it works: files, links to files and to nothing, folders, forged drafts."""
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "victim.mp4").write_bytes(b"of another")
        source, target = make(folder / "in.mp4", Clip(frames=FRAMES)), folder / "out.mp4"
        forged = folder / ".out.mp4.0123abcd.partial.mp4"
        dice = random.Random(number)
        put = [
            lambda at: at.write_bytes(b"of another"),
            lambda at: at.symlink_to("victim.mp4"),
            lambda at: at.symlink_to("nothing.mp4"),
            lambda at: at.mkdir(),
        ][number % 4]
        running = None if number % 2 else start(source, target, tiny1)
        until_s = time.monotonic() + 60
        while running and not list(folder.glob(".out.mp4.*.partial.mp4")) and time.monotonic() < until_s:
            time.sleep(0.01)
        place = forged if number % 3 == 2 else target
        put(place)
        before = place.lstat()
        running = running or start(source, target, tiny1)
        time.sleep(dice.random())
        _, told = running.communicate(timeout=120)
        assert running.returncode in ((0, OUTPUT_ERROR) if place == forged else (OUTPUT_ERROR,)), (number, told)
        assert "Traceback" not in told and len(told.splitlines()) == (1 if running.returncode else 0)
        assert (folder / "victim.mp4").read_bytes() == b"of another"
        assert not (folder / "nothing.mp4").exists()
        if place == target:
            assert place.lstat().st_ino == before.st_ino, number
            assert names_in(folder) == {"in.mp4", "out.mp4", "victim.mp4"}
        elif not running.returncode:
            assert len(decoded_pts(target)) == FRAMES
        shutil.rmtree(folder)


def can_trace() -> bool:
    return bool(shutil.which("strace")) and not subprocess.run(["strace", "true"], capture_output=True).returncode


@pytest.mark.skipif(not can_trace(), reason="there is no strace that works here")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.timeout(400)
def test_an_output_is_on_the_disk_before_it_has_its_name(tmp_path: Path, tiny1: Path, overwrite: bool) -> None:
    source, target, log = make(tmp_path / "in.mp4", Clip(frames=4)), tmp_path / "out.mp4", tmp_path / "log"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    command = [sys.executable, ROOT / "cli.py", "process", source, "-o", target, "--model", tiny1, "-q", *QUICK]
    command += ["--overwrite"] if overwrite else []
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", calls, "-o", log, *command],
        check=True, timeout=380, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = log.read_text().splitlines()
    draft = re.escape(f"{tmp_path}/.out.mp4.") + r"[0-9a-f]{8}\.partial\.mp4"
    (named,) = [at for at, line in enumerate(lines) if re.search(rf'(rename|link)\w*\(.*"{draft}".*out\.mp4"', line)]
    synced = [at for at, line in enumerate(lines) if re.search(rf"f(data)?sync\(\d+<{draft}>\) += 0", line)]
    folder = [at for at, line in enumerate(lines) if re.search(rf"fsync\(\d+<{re.escape(str(tmp_path))}>\) += 0", line)]
    assert synced and min(synced) < named < max(folder), lines
