"""Two hours of video: no drift, no memory growth, and an output file that grows evenly."""

import os
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import Clip, identical, make

from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, Progress, process

TWO_HOURS_S = 7200
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
SOUND_HZ = 48000
BUFFER_BYTES = 1 << 18  # what FFmpeg keeps back before it writes


@dataclass(frozen=True)
class Loop:
    """A film that repeats one group of pictures, with audio and continuous timestamps."""

    seconds: int = TWO_HOURS_S
    rate: Fraction = Fraction(1)
    time_base: Fraction = Fraction(1, 90000)
    size: tuple[int, int] = (64, 48)
    round_frames: int = 30
    sound_hz: int = 8000
    sound_samples: int = 10240  # in a packet, so that there are fewer of them


def looped(path: Path, loop: Loop) -> Path:
    """Encode one group of pictures and repeat its packets."""
    pictures, header = one_round(loop)
    frames = int(loop.seconds * loop.rate)
    options = {"video_track_timescale": str(loop.time_base.denominator)}
    with av.open(str(path), "w", container_options=options) as output:
        stream = output.add_stream_from_template(header.streams.video[0], opaque=True)
        stream.time_base = loop.time_base
        audio: Any = output.add_stream("aac", rate=loop.sound_hz)
        output.start_encoding()
        spoken = 0
        for number in range(frames):
            while Fraction(spoken * loop.sound_samples, loop.sound_hz) <= number / loop.rate:
                sound = av.Packet(bytes(range(1, 33)))
                sound.pts = sound.dts = spoken * loop.sound_samples
                sound.duration, sound.time_base, sound.stream = loop.sound_samples, Fraction(1, loop.sound_hz), audio
                output.mux(sound)
                spoken += 1
            packet = av.Packet(pictures[number % loop.round_frames])
            packet.pts = packet.dts = int(number / loop.rate / loop.time_base)
            packet.duration = int(1 / loop.rate / loop.time_base)
            packet.time_base, packet.stream = loop.time_base, stream
            packet.is_keyframe = number % loop.round_frames == 0
            output.mux(packet)
    header.close()
    return path


def one_round(loop: Loop) -> tuple[list[bytes], Any]:
    """The packets of a closed group of pictures, and the container that describes them."""
    width, height = loop.size
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"vderain-round-{os.getpid()}.mp4"
    ramp = np.linspace(20, 220, width, dtype=np.uint8)[None].repeat(height, 0)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=loop.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = 0, loop.round_frames
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for number in range(loop.round_frames):
            luma = np.roll(ramp, 2 * number, 1)
            rgb = np.repeat(luma[..., None], 3, 2)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        output.mux(stream.encode(None))
    header = av.open(str(path))
    packets = [bytes(packet) for packet in header.demux(video=0) if packet.size]
    path.unlink()
    return packets, header


@dataclass
class Watch:
    """Records memory and file size during processing."""

    target: Path
    every: int
    memory_bytes: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        if progress.frames % self.every == 0:
            self.memory_bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES)
            (partial,) = self.target.parent.glob(f".{self.target.name}.*.partial*")
            self.sizes.append(partial.stat().st_size)


def stamps(path: Path, kind: str) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [packet.pts * packet.time_base for packet in container.demux(stream) if packet.size]


def run(tmp_path: Path, loop: Loop, suffix: str, may_grow_bytes: int) -> None:
    source, target = looped(tmp_path / "in.mp4", loop), tmp_path / f"out{suffix}"
    frames = int(loop.seconds * loop.rate)
    watch = Watch(target, frames // 40)
    encode = EncodeOptions(codec="h264", crf=30, preset="ultrafast", encoder_opts=(("g", str(loop.round_frames)),))
    result = process(source, target, Options(strength=0, encode=encode), watch)
    assert result.frames == frames
    before, after = stamps(source, "video"), sorted(stamps(target, "video"))
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(0)
    assert len(after) == frames and all(abs(a - b) <= tick / 2 for a, b in zip(before, after, strict=True))
    sounds = zip(stamps(source, "audio"), stamps(target, "audio"), strict=True)
    assert all(abs(a - b) <= max(tick / 2, Fraction(1, loop.sound_hz)) for a, b in sounds)
    start, end = max(watch.memory_bytes[4:10]), max(watch.memory_bytes[-10:])
    assert end - start <= may_grow_bytes, f"{start / 1e6:.0f} MB became {end / 1e6:.0f} MB"
    sizes = np.array(watch.sizes, float)[4:]
    line = np.linspace(sizes[0], sizes[-1], len(sizes))
    assert np.abs(sizes - line).max() < BUFFER_BYTES + 0.02 * sizes[-1], "the file does not grow evenly"
    print(
        f"{frames} frames: {start / 1e6:.0f} MB, then {end / 1e6:.0f} MB; {target.stat().st_size / 1e6:.1f} MB written"
    )


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")


@linux
@pytest.mark.parametrize(
    ("rate", "time_base", "suffix"),
    [
        (Fraction(500, 1001), Fraction(1, 1_000_000), ".mp4"),  # beyond 32 bits
        (Fraction(500, 1001), Fraction(1, 24000), ".mkv"),
    ],
)
def test_two_hours_of_time_stamps(tmp_path: Path, rate: Fraction, time_base: Fraction, suffix: str) -> None:
    run(tmp_path, Loop(rate=rate, time_base=time_base), suffix, may_grow_bytes=16 << 20)


@linux
@pytest.mark.long
@pytest.mark.timeout(4 * TWO_HOURS_S)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_two_hours_of_1080p(tmp_path: Path, suffix: str, request: pytest.FixtureRequest) -> None:
    """What may grow is the index that MP4 keeps in memory until the end: some hundred bytes a packet."""
    seconds = request.config.getoption("--film-seconds")
    ntsc = Fraction(30000, 1001)
    loop = Loop(seconds, ntsc, size=(1920, 1080), round_frames=60, sound_hz=SOUND_HZ, sound_samples=1024)
    run(tmp_path, loop, suffix, may_grow_bytes=96 << 20)


def peak_bytes(*arguments: object) -> int:
    """The most memory that the command line takes in a process of its own; it must succeed."""
    program = [sys.executable, "-c", "from vderain.__main__ import main; main()", *map(str, arguments)]
    process_id = os.spawnv(os.P_NOWAIT, sys.executable, program)
    _, status, used = os.wait4(process_id, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return used.ru_maxrss * 1024


@linux
@pytest.mark.long
@pytest.mark.timeout(TWO_HOURS_S)
@pytest.mark.parametrize("size", [(7680, 4320)])
def test_8k_frames_are_unchanged_within_3_gib(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = Clip(frames=2, codec="ffv1", size=size, time_base=Fraction(1, 1000), encoder_options={"slices": "24"})
    source, target = make(tmp_path / "in.mkv", clip), tmp_path / "out.mkv"
    peak = peak_bytes("process", source, "-o", target, "--strength", 0, "--codec", "ffv1")
    with VideoReader(source) as before, VideoReader(target) as after:
        pairs = zip(before.frames(), after.frames(), strict=True)
        same = [identical([a.planes], [b.planes]) for a, b in pairs]
    assert same == [True, True]
    print(f"{size[0]}x{size[1]}: {peak / 1e6:.0f} MB at most")
    assert peak < 3 << 30
