"""Videos written in pieces: after a crash the work goes on, and nobody can tell from the result."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import Result as Ran
from clips import VFR_PTS, Clip, damaged, decoded_pts, identical, make, names_in, packets, planes_of_file

from vderain.errors import OutputError, VderainError
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.encode.segments import SegmentStore, decode_stamps
from vderain.media.frame import Frame
from vderain.options import Options
from vderain.process import CONTEXT, Hooks, process

Make = Callable[..., Path]
Run = Callable[..., Ran]
ROOT = Path(__file__).parents[3]
LOSSLESS = EncodeOptions(codec="ffv1")


class Crash(Exception):
    """What a power cut is to a process."""


def crash_at(number: int) -> Callable[[Frame, Frame, int], None]:
    """Lets a number of frames pass."""
    left = [number]

    def see(before: Frame, after: Frame, turns: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    return see


def in_pieces(source: Path, target: Path, options: Options, length: int, crashes: tuple[int, ...] = ()) -> Any:
    """Processes in pieces of a length, crashing so many frames into each attempt but the last."""
    store = target.with_name(f"{target.name}.store")
    for number in crashes:
        with pytest.raises(Crash):
            process(
                source, target, options, hooks=Hooks(on_frame=crash_at(number), segments=store, segment_frames=length)
            )
        assert not target.exists()
    return process(source, target, options, hooks=Hooks(segments=store, segment_frames=length))


@pytest.mark.parametrize("temporal", ["strong", "light", "off", "only"])
def test_a_joint_shows_in_no_frame(clip: Make, tiny: Path, temporal: Any) -> None:
    source = clip("in.mkv", frames=23, codec="ffv1", size=(96, 64), time_base=Fraction(1, 1000))
    options = Options(str(tiny), temporal=temporal, precision="fp32", encode=LOSSLESS, guard=False)
    whole = process(source, source.with_name("whole.mkv"), options)
    pieces = in_pieces(source, source.with_name("pieces.mkv"), options, 7, crashes=(8, 13, 2))
    assert pieces.frames == whole.frames == 23
    assert identical(planes_of_file(pieces.target), planes_of_file(whole.target))
    assert decoded_pts(pieces.target) == decoded_pts(whole.target)


@pytest.mark.timeout(180)
def test_the_guard_sees_over_a_joint(tmp_path: Path) -> None:
    """Real weights, half of the clip in rain: the count of dry frames and their pictures are as without a crash."""
    source = rain_begins(tmp_path / "in.mkv", dry=9, rainy=9)
    options = Options(encode=LOSSLESS, precision="fp32")
    whole = process(source, tmp_path / "whole.mkv", options)
    assert 4 <= whole.dry <= 10
    pieces = in_pieces(source, tmp_path / "pieces.mkv", options, 4, crashes=(10, 9))
    assert pieces.dry == whole.dry
    assert identical(planes_of_file(pieces.target), planes_of_file(whole.target))


def rain_begins(path: Path, dry: int, rainy: int) -> Path:
    """The sample drive, from the dry into the rain."""
    sources = [(ROOT / "samples" / "driving_dry.mp4", 0, dry), (ROOT / "samples" / "driving_rain.mp4", dry, rainy)]
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for source, first, count in sources:
            with av.open(str(source)) as container:
                for frame in islice(container.decode(video=0), first, first + count):
                    small = frame.reformat(320, 180, "yuv420p")
                    small.pts, small.time_base = frame.pts, frame.time_base
                    output.mux(stream.encode(small))
        output.mux(stream.encode(None))
    return path


# x264's macroblock tree reads memory that it never wrote: of the same pictures it makes other files now and then.
REPEATABLE = EncodeOptions(codec="h264", encoder_opts=(("x264-params", "mbtree=0"),))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_a_crash_shows_in_no_byte(clip: Make, tiny: Path, codec: str) -> None:
    """The encoders' own files, B-frames, sound and chapters included."""
    source = clip("in.mp4", frames=25, size=(96, 64), audio="aac", chapters=True)
    options = Options(str(tiny), strength=0, encode=REPEATABLE if codec == "h264" else EncodeOptions(codec=codec))
    straight = in_pieces(source, source.with_name("straight.mp4"), options, 8)
    broken = in_pieces(source, source.with_name("broken.mp4"), options, 8, crashes=(10, 17))
    assert broken.target.read_bytes() == straight.target.read_bytes()
    assert decoded_pts(broken.target) == decoded_pts(source)
    assert [p[3] for p in packets(broken.target, "audio")] == [p[3] for p in packets(source, "audio")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_every_container_takes_segments(clip: Make, tiny: Path, suffix: str) -> None:
    source = clip("in.mp4", frames=20, audio="aac")
    done = in_pieces(source, source.with_name(f"out{suffix}"), Options(str(tiny), strength=0), 6, crashes=(9,))
    assert done.frames == len(planes_of_file(done.target)) == 20


@pytest.mark.parametrize("properties", [
    {"pts": VFR_PTS}, {"pts": [p - 6006 for p in VFR_PTS]}, {"b_frames": 2}, {"rate": Fraction(30000, 1001)},
])  # fmt: skip
def test_times_are_those_of_a_video_in_one_go(clip: Make, tiny: Path, properties: dict[str, Any]) -> None:
    source = clip("in.mov", **properties)
    options = Options(str(tiny), strength=0)
    whole = process(source, source.with_name("whole.mov"), options)
    pieces = in_pieces(source, source.with_name("pieces.mov"), options, 5, crashes=(7,))
    assert decoded_pts(pieces.target) == decoded_pts(whole.target)
    assert [p[0] + p[2] for p in packets(pieces.target, "video")][-1] > 0


def test_start_duration_and_damage(clip: Make, tiny: Path) -> None:
    source = damaged(clip("sound.mkv", frames=30, time_base=Fraction(1, 1000)), clip("in.mkv"), (8, 14, 15))
    options = Options(str(tiny), start_s=0.2, duration_s=0.5, encode=LOSSLESS, precision="fp32")
    whole = process(source, source.with_name("whole.mkv"), options)
    pieces = in_pieces(source, source.with_name("pieces.mkv"), options, 4, crashes=(6, 9))
    assert (pieces.repeated, pieces.damage) == (whole.repeated, whole.damage)
    assert pieces.repeated
    assert identical(planes_of_file(pieces.target), planes_of_file(whole.target))
    assert decoded_pts(pieces.target) == decoded_pts(whole.target)


def test_stored_segments_are_not_encoded_again(clip: Make, tiny: Path) -> None:
    kept = 10 * (CONTEXT // 10 + 1)
    source = clip("in.mp4", frames=kept + 10)
    options = Options(str(tiny), drops=False)  # what is seen through drops depends on more frames
    seen: list[int] = []
    store, target = source.with_name("store"), source.with_name("out.mp4")
    with pytest.raises(Crash):
        hooks = Hooks(on_frame=crash_at(kept + 5), segments=store, segment_frames=10)
        process(source, target, options, hooks=hooks)
    hooks = Hooks(on_frame=lambda before, after, turns: seen.append(before.pts), segments=store, segment_frames=10)
    process(source, target, options, hooks=hooks)
    assert len(seen) == 10 + CONTEXT


@pytest.mark.parametrize("change", ["options", "source", "length", "damage"])
def test_segments_of_something_else_are_not_used(clip: Make, tiny: Path, change: str) -> None:
    source, target = clip("in.mp4", frames=20), clip("in.mp4", frames=20).with_name("out.mp4")
    store = source.with_name("store")
    options = Options(str(tiny), strength=0, encode=REPEATABLE)
    with pytest.raises(Crash):
        process(source, target, options, hooks=Hooks(on_frame=crash_at(15), segments=store, segment_frames=5))
    length = 5
    if change == "options":
        options = Options(str(tiny), strength=0, encode=replace(REPEATABLE, crf=30))
    elif change == "source":
        source = make(source, Clip(frames=21))
    elif change == "length":
        length = 6
    else:
        store.write_bytes(store.read_bytes()[:3000] + b"\xff" * 5000)
    done = process(source, target, options, hooks=Hooks(segments=store, segment_frames=length))
    fresh = process(
        source, target.with_name("new.mp4"), options, hooks=Hooks(segments=store.with_name("2"), segment_frames=length)
    )
    assert done.target.read_bytes() == fresh.target.read_bytes()


def filled(path: Path, segments: int = 3) -> Path:
    """A store of segments of four packets each."""
    with SegmentStore(path, "key") as store:
        store.set_origin(Fraction(0))
        for segment in range(segments):
            store.begin()
            for number in range(4):
                packet = av.Packet(bytes([segment, number]) * 900)
                packet.pts, packet.duration = 4 * segment + number, 1
                store.add(packet)
            store.end(4, Fraction(segment))
    return path


CHANGES = [
    "UPDATE packets SET data = zeroblob(1800) WHERE segment = 1 AND number = 2",
    "UPDATE packets SET pts = 99 WHERE segment = 0 AND number = 0",
    "UPDATE packets SET data = 'text'",
    "UPDATE packets SET segment = segment + 5 WHERE segment = 2",
    "DELETE FROM packets WHERE segment = 1 AND number = 3",
    "DELETE FROM segments WHERE number = 1",
    "DELETE FROM segments WHERE number = 2",
    "UPDATE segments SET frames = 1000",
    "UPDATE segments SET last_s = '1/0'",
    "UPDATE work SET origin_s = 'soon'",
    "DROP TABLE segments",
    "ALTER TABLE segments DROP COLUMN checksum",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_store_that_was_changed_is_discarded_with_a_warning(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path / "store")
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with SegmentStore(path, "key") as store:
        assert (store.frames, store.origin_s, list(store.packets())) == (0, None, [])
    assert "is damaged" in caplog.text
    assert filled(path) == path


def test_random_damage_to_a_store_gives_the_same_packets_or_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = filled(tmp_path / "original").read_bytes()
    with SegmentStore(tmp_path / "original", "key") as store:
        whole = [(packet.pts, bytes(packet)) for packet in store.packets()]
    rng = random.Random(7)
    for _ in range(150):
        data = bytearray(original)
        at, length = rng.randrange(len(data)), rng.choice([1, 8, 300, 5000])
        data[at : at + length] = rng.randbytes(length) if rng.random() < 0.7 else b""
        path = tmp_path / "store"
        path.write_bytes(data)
        caplog.clear()
        with SegmentStore(path, "key") as store:
            kept = [(packet.pts, bytes(packet)) for packet in store.packets()]
        assert kept == whole or (not kept and caplog.records), (at, length)


@pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")
def test_a_link_in_place_of_a_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "store").symlink_to("victim")
    filled(tmp_path / "store")
    assert (tmp_path / "victim").read_bytes() == b""
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o600


def test_a_short_video_needs_no_pieces(clip: Make, tiny: Path) -> None:
    source = clip("in.mp4", frames=5)
    process(source, source.with_name("out.mp4"), Options(str(tiny)), hooks=Hooks(segments=source.with_name("store")))
    assert names_in(source.parent) == {"in.mp4", "out.mp4"}


def test_a_disk_that_does_not_take_the_store(clip: Make, tiny: Path) -> None:
    source = clip("in.mp4", frames=20)
    with pytest.raises(OutputError):
        process(
            source,
            source.with_name("out.mp4"),
            Options(str(tiny)),
            hooks=Hooks(segments=source / "store", segment_frames=5),
        )
    assert names_in(source.parent) == {"in.mp4"}


@pytest.mark.parametrize(("pts", "dts"), [
    ([0, 1, 2], [0, 1, 2]),
    ([0, 3, 1, 2], [-1, 0, 1, 2]),
    ([0, 4, 2, 1, 3], [-2, -1, 0, 1, 2]),
    ([10, 40, 20, 50], [0, 10, 20, 40]),
    ([7], [7]),
    ([], []),
])  # fmt: skip
def test_decode_stamps(pts: list[int], dts: list[int]) -> None:
    assert decode_stamps(pts) == dts
    assert all(decode <= show for decode, show in zip(dts, pts, strict=True))


@dataclass
class RestoredFrame:
    dry: bool


def test_an_unfinished_segment_is_not_stored(tmp_path: Path) -> None:
    with SegmentStore(tmp_path / "store", "key") as store:
        assert store.set_origin(Fraction(1, 3)) == Fraction(1, 3)
        frames = [RestoredFrame(dry) for dry in (False, True, False, False, True)]
        written = store.remaining(frames, 0)
        store.begin()
        assert [next(written) for _ in range(4)] == frames[:4]
        store.end(4, Fraction(5, 3))
        store.begin()
        assert list(written) == frames[4:]
    with SegmentStore(tmp_path / "store", "key") as store:
        assert (store.frames, store.dry, store.origin_s, store.last_s) == (4, 1, Fraction(1, 3), Fraction(5, 3))
        assert store.set_origin(Fraction(7)) == Fraction(1, 3)
        assert list(store.remaining(frames[2:], 2)) == frames[4:]
    with SegmentStore(tmp_path / "store", "other") as store:
        assert store.frames == 0


def test_two_processes_do_not_mix_their_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was given up for dead may still write."""
    monkeypatch.setattr("vderain.media.encode.segments.WAIT_S", 0.1)
    with SegmentStore(tmp_path / "store", "key") as one, SegmentStore(tmp_path / "store", "key") as other:
        one.begin()
        with pytest.raises(VderainError, match="another process is at work"):
            other.begin()
        one.end(4, Fraction(1))
        with pytest.raises(VderainError, match="another process is at work"):
            other.begin()


@pytest.mark.timeout(180)
def test_process_resume_after_a_kill(vderain: Run, clip: Make, tiny1: Path) -> None:
    source = clip("in.mp4", frames=620)
    flags: tuple[object, ...] = ("--model", tiny1, "--resume", "--temporal", "off", "--no-drops", "--no-guard")
    flags += ("--encoder-opt", "x264-params=mbtree=0")
    store = source.with_name(".out.mp4.segments")
    command = [sys.executable, ROOT / "cli.py", "process", source, "-o", source.with_name("out.mp4"), *flags]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as running:
        while running.poll() is None and not segments_in(store):
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert segments_in(store)
    assert not source.with_name("out.mp4").exists()
    done = vderain("process", source, "-o", source.with_name("out.mp4"), *flags)
    assert done.exit_code == 0, done.stderr
    assert ": 620 frames in" in done.stdout
    assert not list(source.parent.glob("*.segments*"))
    assert vderain("process", source, "-o", source.with_name("straight.mp4"), *flags).exit_code == 0
    assert source.with_name("straight.mp4").read_bytes() == source.with_name("out.mp4").read_bytes()


def segments_in(store: Path) -> int:
    if not store.exists():
        return 0
    with sqlite3.connect(store) as db:
        try:
            return int(db.execute("SELECT count(*) FROM segments").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int flock(int fd, int how) { (void)fd; (void)how; errno = ENOLCK; return -1; }
#define WITHOUT_LOCKS(name)                                                                            \
  int name(int fd, int what, ...) {                                                                    \
    va_list rest; va_start(rest, what); void *value = va_arg(rest, void *); va_end(rest);               \
    if (what == F_SETLK || what == F_SETLKW || what == F_GETLK) { errno = ENOLCK; return -1; }          \
    return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, #name))(fd, what, value);                          \
  }
WITHOUT_LOCKS(fcntl)
WITHOUT_LOCKS(fcntl64)
"""


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="needs a C compiler on Linux")
@pytest.mark.timeout(180)
def test_a_drive_without_locks_takes_segments(tmp_path: Path, clip: Make) -> None:
    """As many network drives: neither flock nor POSIX locks."""
    (tmp_path / "a.c").write_text(NO_LOCKS)
    library = tmp_path / "nolocks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "a.c", "-ldl"], check=True)
    source, target = clip("in.mp4", frames=310), tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "cli.py", "process", source, "-o", target, "--strength", "0", "--resume"]
    done = subprocess.run(command, env=os.environ | {"LD_PRELOAD": str(library)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(decoded_pts(target)) == 310
    assert not list(tmp_path.glob(".out*"))
