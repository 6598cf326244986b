"""Damages small files at random and processes each: only documented errors, within limits of time and memory.

Every mutant follows from a seed and its number, so that a failure can be made again:

    python tests/fuzz.py CORPUS_FOLDER --seed 1 --begin 4711 --end 4712 --keep

A process that crashes or hangs is replaced, and goes on behind the mutant at fault.
"""

import argparse
import ast
import os
import queue
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from clips import Clip, make, with_side_stream
from dashcam import Dashcam, dashcam, record

from vderain.errors import VderainError
from vderain.media.decode.open import main_video, open_input, read_packets
from vderain.media.decode.probe import probe
from vderain.media.decode.reader import WITHOUT_PICTURE
from vderain.media.decode.timestamps import shows_frame
from vderain.media.describe import describe
from vderain.media.image.sequence import is_image_source
from vderain.model.checkpoint import load_checkpoint
from vderain.options import Options
from vderain.process import Hooks, process
from vderain.train.config import load_recipe

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TIME_MAX_S = 20.0  # of the processor
WAIT_S = 180.0  # on the wall, for a process to begin or to go on
MEMORY_MAX_BYTES = 1_500_000_000
MILLISECOND = Fraction(1, 1000)
DOCUMENTED = frozenset(range(2, 8))
STRUCTURE = [  # names in files, around which damage hurts most
    *b"ftyp moov mdat trak mdia stbl stts ctts stsc stsz stco stsd elst mvhd tkhd mdhd udta meta avcC".split(),
    b"IHDR", b"IDAT", b"LIST", b"avih", b"strh", b"strf", b"idx1", b"onMetaData",
    b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\x15\x49\xa9\x66", b"\xa3", b"\xff\xd8", b"\xff\xc0", b"\xff\xe1",
]  # fmt: skip
NUMBERS = [0, 1, 2, *(2**bits + step for bits in (7, 8, 15, 16, 31, 32, 63, 64) for step in (-1, 0))]


def make_corpus(folder: Path, checkpoint: Path, recipe: Path) -> None:
    """Writes one small file of each kind.

    Args:
        folder: where to.
        checkpoint: a small file of weights.
        recipe: of training.
    """
    frame, turned = Fraction(1, 30), (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    vp9, hevc = {"cpu-used": "8"}, {"x265-params": "log-level=none"}
    for name, clip in {
        "a.mp4": Clip(frames=10, b_frames=2, audio="aac", chapters=True, metadata={"title": "rain"}),
        "b.mov": Clip(frames=8, codec="mpeg4", audio="pcm_s16le", time_base=frame, display_matrix=turned),
        "c.mkv": Clip(frames=10, b_frames=2, audio="flac", chapters=True, time_base=MILLISECOND),
        "d.webm": Clip(frames=6, codec="libvpx-vp9", audio="libopus", time_base=MILLISECOND, encoder_options=vp9),
        "e.flv": Clip(frames=10, codec="flv", audio="aac", time_base=MILLISECOND),
        "f.flv": Clip(frames=10, b_frames=2, time_base=MILLISECOND),
        "g.ts": Clip(frames=10, b_frames=2, audio="mp2"),
        "h.ts": Clip(frames=8, codec="mpeg2video", time_base=frame),
        "i.avi": Clip(frames=10, codec="mpeg4", audio="mp2", time_base=frame),
        "j.mp4": Clip(frames=6, codec="libx265", encoder_options=hevc),
        "k.wmv": Clip(frames=8, codec="wmv2", time_base=MILLISECOND),
    }.items():
        make(folder / name, clip)
    with_side_stream(folder / "l.mkv", "subrip").with_name("plain-l.mp4").unlink()
    with_side_stream(folder / "m.mp4", "mov_text").with_name("plain-m.mp4").unlink()
    dashcam(make(folder / "plain.mp4", Clip(frames=6)), folder / "n.mp4", Dashcam(tuple(map(record, range(3)))))
    (folder / "plain.mp4").unlink()
    shades = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    for name in ("o.png", "p.jpg", "q.tif", "r.webp"):
        cv2.imwrite(str(folder / name), shades)
    shutil.copy(checkpoint, folder / "s.safetensors")
    shutil.copy(recipe, folder / "t.toml")


# Mutators: each takes the bytes of a file and a source of randomness


def _flip_bits(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 4, 30))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random) -> None:
    begin, size = _part(data, dice)
    data[begin : begin + size] = dice.choice((dice.randbytes(size), bytes(size), b"\xff" * size))


def _cut_end(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(1, len(data) + 1) :]


def _remove(data: bytearray, dice: random.Random) -> None:
    begin, size = _part(data, dice)
    del data[begin : begin + size]


def _repeat(data: bytearray, dice: random.Random) -> None:
    begin, size = _part(data, dice)
    data[begin:begin] = data[begin : begin + size] * dice.choice((1, 1, 2, 50))


def _move(data: bytearray, dice: random.Random) -> None:
    begin, size = _part(data, dice)
    part = data[begin : begin + size]
    del data[begin : begin + size]
    to = dice.randrange(len(data) + 1)
    data[to:to] = part


def _set_number(data: bytearray, dice: random.Random) -> None:
    _write_number(data, dice.randrange(len(data)), dice)


def _set_number_near_name(data: bytearray, dice: random.Random) -> None:
    """A size, count or offset close behind or before one of the names by which formats are built."""
    places = [found for name in STRUCTURE if (found := data.find(name, dice.randrange(len(data)))) >= 0]
    if places:
        _write_number(data, max(0, dice.choice(places) + dice.randrange(-4, 40)), dice)


def _rename(data: bytearray, dice: random.Random) -> None:
    names = [name for name in STRUCTURE if name in data]
    if names:
        name = dice.choice(names)
        other = dice.choice([each for each in STRUCTURE if len(each) == len(name)])
        begin = data.find(name)
        data[begin : begin + len(name)] = other


def _change_packet(data: bytearray, dice: random.Random) -> None:
    """Drops, doubles or exchanges units of 188 bytes, the packets of a transport stream."""
    count = len(data) // 188
    if count < 3:
        return
    first, second = dice.randrange(count) * 188, dice.randrange(count) * 188
    a, b = bytes(data[first : first + 188]), bytes(data[second : second + 188])
    way = dice.randrange(3)
    if way == 0:
        del data[first : first + 188]
    elif way == 1:
        data[first:first] = b
    else:
        data[first : first + 188], data[second : second + 188] = b, a


def _change_png_chunk(data: bytearray, dice: random.Random) -> None:
    """Numbers in a chunk whose checksum is right again."""
    begin = data.find(dice.choice((b"IHDR", b"IHDR", b"IDAT", b"IEND")))
    if begin < 4:
        return
    size = int.from_bytes(data[begin - 4 : begin], "big")
    if size:
        _write_number(data, begin + 4 + dice.randrange(size), dice)
        data[begin + 4 + size : begin + 8 + size] = struct.pack(">I", zlib.crc32(data[begin : begin + 4 + size]))


MUTATORS: list[Callable[[bytearray, random.Random], None]] = [
    _flip_bits, _flip_bits, _overwrite, _cut_end, _remove, _repeat, _move, _set_number, _set_number_near_name,
    _set_number_near_name, _rename, _change_packet, _change_png_chunk,
]  # fmt: skip


def _part(data: bytearray, dice: random.Random) -> tuple[int, int]:
    return dice.randrange(len(data)), min(len(data), int(2 ** dice.uniform(0, 12)))


def _write_number(data: bytearray, at: int, dice: random.Random) -> None:
    size = dice.choice((1, 2, 4, 4, 8))
    number = dice.choice(NUMBERS) if dice.random() < 0.8 else dice.getrandbits(8 * size)
    data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, dice.choice(("big", "big", "little")))


def mutant(corpus: list[Path], seed: int, number: int) -> tuple[str, bytes]:
    """Name and content of a damaged file.

    Args:
        corpus: sound files.
        seed: of the whole run.
        number: of the mutant.
    """
    dice = random.Random(f"{seed}:{number}")
    source = corpus[number % len(corpus)]
    data = bytearray(source.read_bytes())
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if data:
            dice.choice(MUTATORS)(data, dice)
    return f"{number}{source.suffix}", bytes(data[: 1 << 20])


# The worker


def check(path: Path, folder: Path) -> str:
    """Processes a file. Returns what is wrong with the program's behaviour, or an empty string."""
    before, data = set(folder.iterdir()), path.read_bytes()
    try:
        _use(path, folder / "out")
        wrong = ""
    except VderainError as error:
        wrong = "" if error.exit_code in DOCUMENTED else f"exit code {error.exit_code}: {error}"
        wrong = wrong or ("an error of several lines" if len(str(error).splitlines()) > 1 else "")
        wrong = wrong or (f"an error of {len(str(error))} characters" if len(str(error)) > 2000 else "")
    except Exception:
        wrong = traceback.format_exc()
    if path.read_bytes() != data:
        wrong = wrong or "the input was changed"
    left = set(folder.iterdir()) - before - {each for each in folder.glob("out.*") if not wrong}
    for each in folder.glob("*out*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return wrong or (f"left over: {[each.name for each in left]}" if left else "")


def _use(path: Path, target: Path) -> None:
    if path.suffix == ".safetensors":
        load_checkpoint(str(path))
    elif path.suffix == ".toml":
        load_recipe(path)
    elif is_image_source(path):
        process(path, target.with_suffix(path.suffix), Options(strength=0))
    else:
        _check_video(path, target.with_suffix({".mp4": ".mp4", ".mov": ".mov"}.get(path.suffix, ".mkv")))


def _check_video(path: Path, target: Path) -> None:
    describe(path)
    shown: list[int] = []
    result = process(
        path, target, Options(strength=0, gpx=True), hooks=Hooks(on_frame=lambda before, after, turns: shown.append(1))
    )
    assert len(shown) == result.frames == _frames_in(target), "frames written"
    media = probe(path)
    if media.video.interlaced or "interlaced" in "".join(result.changed):
        return  # two packets may hold the two fields of one frame
    empty = sum(int(text.rpartition(" ")[2]) for text in result.changed if text.startswith(WITHOUT_PICTURE))
    promised = _promised_frames(path, media.video.codec)
    accounted = result.frames + result.missing + empty
    assert promised <= accounted, f"{promised} packets, but {accounted} frames written, missing or empty"


def _promised_frames(path: Path, codec: str) -> int:
    with open_input(path) as container:
        packets = read_packets(container, [main_video(container, path)])
        return sum(shows_frame(codec, packet) and not packet.is_discard for packet in packets)


def _frames_in(path: Path) -> int:
    with av.open(str(path), metadata_errors="surrogateescape") as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _work(corpus: Path, seed: int, begin: int, end: int, keep: bool) -> None:
    folder = Path.cwd() / f"work-{os.getpid()}"
    folder.mkdir()
    files = sorted(corpus.iterdir())
    for number in range(begin, end):
        print(f"begin\t{number}", flush=True)
        name, data = mutant(files, seed, number)
        path = folder / name
        path.write_bytes(data)
        _reset_peak()
        started_s = time.process_time()  # the machine may be busy with other things
        wrong = check(path, folder)
        seconds, peak = time.process_time() - started_s, _peak_bytes()
        if peak > MEMORY_MAX_BYTES:
            wrong = wrong or f"{peak / 1e9:.2f} GB of memory"
        if seconds > TIME_MAX_S:
            wrong = wrong or f"{seconds:.1f} s"
        if wrong and keep:
            shutil.copy(path, Path.cwd())
        path.unlink()
        print(f"end\t{number}\t{seconds:.3f}\t{peak}\t{wrong!r}", flush=True)
    folder.rmdir()


def _reset_peak() -> None:
    """Linux keeps the peak of the memory until it is told to begin again."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


# The supervisor


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        number: of the mutant.
        seconds: of the processor that it took.
        peak_bytes: of memory.
        wrong: what is wrong; empty if nothing is.
    """

    number: int
    seconds: float
    peak_bytes: int
    wrong: str


def run(corpus: Path, folder: Path, seed: int, begin: int, end: int) -> Iterator[Outcome]:
    """Processes mutants in a process of their own.

    Args:
        corpus: folder of sound files.
        folder: for mutants and their outputs; those at fault stay there.
        seed: of the whole run.
        begin: number of the first mutant.
        end: number behind the last one.
    """
    while begin < end:
        part = [f"--seed={seed}", f"--begin={begin}", f"--end={end}", "--keep"]
        command = [sys.executable, __file__, str(corpus), *part]
        with subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            lines: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=_collect, args=(worker, lines), daemon=True).start()
            while (line := _next_line(lines)) is not None:
                event, number, *facts = line.rstrip("\n").split("\t")
                if event == "end":
                    begin = int(number) + 1
                    wrong = ast.literal_eval(facts[2])
                    yield Outcome(int(number), float(facts[0]), int(facts[1]), wrong)
            worker.kill()
        if begin < end:
            yield Outcome(begin, 0.0, 0, f"the process ended with {worker.returncode}, or did not answer")
            begin += 1


def _collect(worker: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith(("begin\t", "end\t")):
            lines.put(line)
    lines.put(None)


def _next_line(lines: "queue.Queue[str | None]") -> str | None:
    try:
        return lines.get(timeout=WAIT_S)
    except queue.Empty:
        return None


def main() -> None:
    """Carries out a part of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--begin", type=int, default=0)
    parser.add_argument("--end", type=int, default=100)
    parser.add_argument("--keep", action="store_true", help="keep the mutants at fault in the current folder")
    arguments = parser.parse_args()
    _work(arguments.corpus.absolute(), arguments.seed, arguments.begin, arguments.end, arguments.keep)


if __name__ == "__main__":
    main()
