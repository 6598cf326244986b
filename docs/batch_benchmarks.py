"""Runs the benchmarks of `vderain batch` in docs/benchmarks.md and prints their rows.

python docs/batch_benchmarks.py broken kills two finished overhead ray
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from clips import Clip, damaged, make, sound_only  # noqa: E402

# x264's macroblock tree reads memory that it never wrote; without it the same pictures make the same bytes.
REPEATABLE = ("--encoder-opt", "x264-params=mbtree=0")
NO_NETWORK = ("--strength", "0")


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=sorted(PARTS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=6, help="of the part overhead")
    parser.add_argument("--duration", type=float, default=5, help="of each, in seconds")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    random.seed(options.seed)
    for name in options.parts:
        with tempfile.TemporaryDirectory(prefix="vderain-batch-") as folder:
            print(f"{name}: {PARTS[name](Path(folder), options)}", flush=True)


def batch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command("batch", *arguments), capture_output=True, text=True, check=False)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def copies(clip: Path, folder: Path, count: int) -> Path:
    """Copies a clip under several names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shutil.copy(clip, folder / f"2026_{number:04}.mp4")
    return folder


def rows(outdir: Path, query: str) -> list[tuple[object, ...]]:
    """Queries the ledger, if there is one yet."""
    if not (outdir / "vderain.sqlite").exists():
        return []
    with closing(sqlite3.connect(f"file:{outdir / 'vderain.sqlite'}?mode=ro", uri=True)) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []


def broken(folder: Path, options: argparse.Namespace) -> str:
    """200 clips, 20 of them broken in ten ways."""
    card = copies(make(folder / "sound.mp4", Clip(frames=10)), folder / "card", 180)
    kinds = break_twenty(card, folder)
    done = batch(card, "-o", folder / "out", *NO_NETWORK)
    said = [line for line in done.stderr.splitlines() if line.startswith("vderain: broken")]
    right = sum(kinds[line.split(": ")[1]] in line for line in said)
    results = len(list((folder / "out").glob("*.m*")))
    traces = (done.stdout + done.stderr).count("Traceback")
    return (
        f"{results} results, {len(said)} failures, {right} of them with the right message, exit {done.returncode}, "
        f"{traces} tracebacks"
    )


def break_twenty(card: Path, folder: Path) -> dict[str, str]:
    """Adds two files of each kind of damage; returns the expected message by file name."""
    sound = (card / "2026_0000.mp4").read_bytes()
    lost = damaged(make(folder / "ms.mkv", Clip(frames=4, time_base=Fraction(1, 1000))), folder / "lost.mkv", range(4))
    kinds: dict[str, tuple[str, bytes | None, str]] = {
        "empty": (".mp4", b"", "is empty"),
        "text": (".mp4", b"no video\n" * 100, "not a video file that can be read"),
        "noise": (".mkv", os.urandom(20000), "not a video file that can be read"),
        "head": (".mp4", sound[:40] + bytes(4000), "no usable index (moov)"),
        "tail": (".mp4", sound[-1500:], "not a video file that can be read"),
        "zeros": (".mov", bytes(5000), "not a video file that can be read"),
        "sound": (".mp4", sound_only(folder / "only.mp4").read_bytes(), "no video in it"),
        "lost": (".mkv", lost.read_bytes(), "can be decoded"),
        "pipe": (".mp4", None, "is a pipe or a device"),
        "link": (".mp4", None, "cannot be read"),
    }
    names: dict[str, str] = {}
    for kind, (suffix, data, message) in kinds.items():
        for number in range(2):
            path = card / f"broken-{kind}-{number}{suffix}"
            names[path.name] = message
            if data is not None:
                path.write_bytes(data)
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to(folder / "nowhere")
    return names


def kills(folder: Path, options: argparse.Namespace) -> str:
    """Kills runs at random times and repeats them, in rounds, until there have been enough kills."""
    card = folder / "card"
    card.mkdir()
    for number, frames in enumerate((40, 160, 90, 240, 25, 120, 60, 200)):
        make(card / f"{number}.mp4", Clip(frames=frames, size=(160, 96), audio="aac"))
    flags = (*REPEATABLE, "--model", tiny(folder), "--segment", 40, "--temporal", "off")
    began_s = time.monotonic()
    calm = batch(card, "-o", folder / "undisturbed", *flags)
    assert calm.returncode == 0, calm.stderr
    takes_s = time.monotonic() - began_s
    killed = rounds = twice = differ = in_a_file = 0
    while killed < options.kills:
        rounds += 1
        out = folder / f"round{rounds}"
        done: dict[str, int] = {}
        while True:
            running = subprocess.Popen(command("batch", card, "-o", out, *flags, "-q"), start_new_session=True)
            time.sleep(random.uniform(0, 0.6 * takes_s))
            ended = running.poll()
            running.send_signal(signal.SIGKILL)
            running.wait()
            if ended is not None:
                assert ended == 0, ended
                break
            killed += 1
            in_a_file += bool(
                (out / "vderain.sqlite").exists()
                and rows(out, "SELECT 1 FROM files WHERE record->>'state' = 'running'")
            )
            twice += count_redone(out, done)
        twice += count_redone(out, done)
        differ += sum(
            path.read_bytes() != (out / path.name).read_bytes() for path in (folder / "undisturbed").glob("*.mp4")
        )
        assert names_in(out) == names_in(folder / "undisturbed"), names_in(out)
        shutil.rmtree(out)
    return (
        f"{killed} kills in {rounds} rounds, {in_a_file} of them with a file in work; {differ} of {8 * rounds} results "
        f"differ from the undisturbed run's; {twice} files done again after they were done"
    )


def names_in(folder: Path) -> set[str]:
    """Names in a folder of results, without SQLite's temporary files."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("vderain.sqlite-")}


def count_redone(out: Path, done: dict[str, int]) -> int:
    """Counts results that were done before and have been replaced; adds those that are done now to ``done``."""
    redone = sum((out / name).stat().st_mtime_ns != stamp for name, stamp in done.items())
    for (name,) in rows(out, "SELECT record->>'$.item.target' FROM files WHERE record->>'state' = 'done'"):
        done[str(name)] = (out / str(name)).stat().st_mtime_ns
    return redone


def tiny(folder: Path) -> Path:
    """Weights of a tiny network, so that the network takes little of the time."""
    from conftest import tiny_generator

    from vderain.model.checkpoint import save_checkpoint

    save_checkpoint(folder / "tiny.safetensors", tiny_generator(5), {})
    return folder / "tiny.safetensors"


def two(folder: Path, options: argparse.Namespace) -> str:
    """Two concurrent runs with one folder of results."""
    card = copies(make(folder / "clip.mp4", Clip(frames=20)), folder / "card", 100)
    out = folder / "out"
    both = [subprocess.Popen(command("batch", card, "-o", out, *NO_NETWORK, "-q")) for _ in range(2)]
    codes = [each.wait() for each in both]
    journal = (out / ".vderain" / "journal.jsonl").read_text().splitlines()
    attempts = rows(
        out,
        "SELECT record->>'attempts', count(*), count(DISTINCT record->>'run') FROM files "
        "WHERE record->>'state' = 'done' GROUP BY 1",
    )
    shares = rows(out, "SELECT count(*) FROM files GROUP BY record->>'run'")
    return (
        f"exits {codes}; (attempts, files, runs) {attempts}; {len(journal)} results were given their names for "
        f"{len(list(out.glob('*.mp4')))} files; shares {[count for (count,) in shares]}"
    )


def finished(folder: Path, options: argparse.Namespace) -> str:
    """A second run over a finished folder of 1,000 files."""
    card = copies(make(folder / "clip.mp4", Clip(frames=2)), folder / "card", 1000)
    out = folder / "out"
    assert batch(card, "-o", out, *NO_NETWORK).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    times = []
    for _ in range(3):
        began_s = time.monotonic()
        assert batch(card, "-o", out, *NO_NETWORK).returncode == 0
        times.append(time.monotonic() - began_s)
    same = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == before
    return f"{', '.join(f'{each:.2f}' for each in times)} s; nothing redone: {same and len(before) == 1000}"


def overhead(folder: Path, options: argparse.Namespace) -> str:
    """Compares `process`, run file by file, with `batch` and one worker."""
    card = copies(ROOT / "samples" / "driving_rain.mp4", folder / "card", options.files)
    part = ("--duration", options.duration)
    began = _clocks()
    inside_s = 0.0
    for path in sorted(card.iterdir()):
        by_hand = command("process", path, "-o", folder / path.name, "--json", *part)
        done = subprocess.run(by_hand, capture_output=True, text=True, check=True)
        inside_s += json.loads(done.stdout.splitlines()[-1])["seconds"]
    between = _clocks()
    assert batch(card, "-o", folder / "out", "--workers", 1, *part).returncode == 0
    end = _clocks()
    hand, whole = ([b - a for a, b in zip(*pair, strict=True)] for pair in ((began, between), (between, end)))
    return (
        f"by hand {hand[0]:.1f} s and {hand[1]:.1f} s of processor time ({inside_s:.1f} s inside `process`, the rest "
        f"starts Python and loads PyTorch); batch {whole[0]:.1f} s ({whole[0] / hand[0] - 1:+.1%}) and "
        f"{whole[1]:.1f} s of processor time ({whole[1] / hand[1] - 1:+.1%})"
    )


def _clocks() -> tuple[float, float]:
    """Wall-clock time, and processor time of finished child processes, which other programs do not affect."""
    times = os.times()
    return time.monotonic(), times.children_user + times.children_system


def ray(folder: Path, options: argparse.Namespace) -> str:
    """Runs the test of a cluster of two nodes, one of which is lost."""
    test = [
        sys.executable,
        "-m",
        "pytest",
        str(ROOT / "tests" / "batch" / "workers" / "test_ray.py"),
        "-m",
        "long",
        "-q",
        "-rA",
    ]
    done = subprocess.run(test, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip().splitlines()[-1] + f", exit {done.returncode}"


PARTS: dict[str, Callable[[Path, argparse.Namespace], str]] = {
    "broken": broken, "kills": kills, "two": two, "finished": finished, "overhead": overhead, "ray": ray,
}  # fmt: skip

if __name__ == "__main__":
    main()
