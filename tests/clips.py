"""Makes tiny clips on the fly, with the properties of real files that are hard to handle."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vderain.media.decode.reader import VideoReader
from vderain.media.frame import Colour, Frame

WIDTH, HEIGHT = 64, 48
RGB8 = Colour("rgb", full_range=True)
VFR_PTS = (0, 3003, 6006, 7000, 12000, 12500, 21021, 24024, 27027, 30030, 45000, 45500)  # in 1/90000 s


@dataclass(frozen=True)
class Clip:
    """Properties of a clip.

    ``pts`` are in units of ``time_base``; ``None`` stands for the regular 0, step, 2 * step...
    """

    frames: int = 12
    time_base: Fraction = Fraction(1, 90000)
    rate: Fraction = Fraction(30)
    pts: Sequence[int] | None = None
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (WIDTH, HEIGHT)
    b_frames: int = 0
    gop: int = 6
    audio: str | None = None
    audio_start_s: Fraction = Fraction(0)
    display_matrix: Sequence[int] | None = None
    tags: tuple[int, int, int, int] | None = None  # primaries, transfer, matrix, range
    sample_aspect_ratio: Fraction | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: bool = False
    muxer_options: dict[str, str] = field(default_factory=dict)
    encoder_options: dict[str, str] = field(default_factory=dict)

    def times(self) -> list[int]:
        if self.pts is not None:
            return list(self.pts)
        step = 1 / self.rate / self.time_base
        return [int(i * step) for i in range(self.frames)]


def picture(number: int, pixel_format: str = "yuv420p", size: tuple[int, int] = (WIDTH, HEIGHT)) -> av.VideoFrame:
    """A textured frame that differs from all others and uses every bit of the format's depth."""
    frame = av.VideoFrame(*size, pixel_format)
    bits = max(component.bits for component in frame.format.components)
    rng = np.random.default_rng(number)
    for index, plane in enumerate(frame.planes):
        view: Any = np.frombuffer(plane, dtype=np.uint8 if bits <= 8 else np.uint16)
        ramp = np.arange(view.size) // 3 + number * (7 + index)
        view[:] = (ramp + rng.integers(0, 16, view.size)) % (1 << bits)
    return frame


def samples(frame: av.VideoFrame) -> list[Any]:
    """The samples of each plane of a planar picture, in the format's own order of planes."""
    dtype = np.uint16 if max(component.bits for component in frame.format.components) > 8 else np.uint8
    planes = []
    for plane in frame.planes:
        lines: Any = np.frombuffer(plane, dtype)[: plane.height * plane.line_size // dtype(0).itemsize]
        planes.append(lines.reshape(plane.height, -1)[:, : plane.width])
    return planes


def make(path: Path, clip: Clip | None = None) -> Path:
    """Write a clip and return its path."""
    clip = clip or Clip()
    # A muxer may shift clips that begin before zero, unless told not to.
    options = {"avoid_negative_ts": "disabled", **clip.muxer_options}
    if path.suffix in (".mp4", ".mov"):
        options.setdefault("video_track_timescale", str(clip.time_base.denominator))
        options.setdefault("movie_timescale", str(clip.time_base.denominator))
    with av.open(str(path), "w", container_options=options) as output:
        output.metadata.update(clip.metadata)
        stream = _video(output, clip)
        audio = _audio(output, clip) if clip.audio else None
        if clip.chapters:
            output.set_chapters(_chapters())
        pending = _audio_packets(audio, clip) if audio is not None else []
        for number, pts in enumerate(clip.times()):
            frame = picture(number, clip.pixel_format, clip.size)
            frame.pts, frame.time_base = pts, clip.time_base
            while pending and pending[0].pts * pending[0].time_base <= pts * clip.time_base:
                output.mux(pending.pop(0))
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        output.mux(pending)
    return path


def _video(output: Any, clip: Clip) -> Any:
    if clip.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it reads this once, and tests of silence come after
    stream = output.add_stream(clip.codec, rate=clip.rate)
    stream.width, stream.height = clip.size
    stream.pix_fmt = clip.pixel_format
    stream.time_base = clip.time_base
    context = stream.codec_context
    context.time_base = clip.time_base
    context.gop_size = clip.gop
    if clip.codec != "ffv1":
        context.max_b_frames = clip.b_frames
    context.options = {"preset": "ultrafast", **clip.encoder_options} if "x264" in clip.codec else clip.encoder_options
    if clip.b_frames and "x264" in clip.codec:
        context.options = {**context.options, "preset": "veryfast", "x264-params": f"bframes={clip.b_frames}:b-adapt=0"}
    if clip.tags is not None:
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = clip.tags
    if clip.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = clip.sample_aspect_ratio
    if clip.display_matrix is not None:
        stream.set_display_matrix(clip.display_matrix)
    return stream


def _audio(output: Any, clip: Clip) -> Any:
    stream = output.add_stream(clip.audio, rate=48000)
    stream.codec_context.layout = "mono"
    stream.metadata["language"] = "eng"
    return stream


def _audio_packets(stream: Any, clip: Clip) -> list[Any]:
    end_s = (clip.times()[-1] - clip.times()[0]) * clip.time_base + Fraction(1, 10)
    start = int((clip.audio_start_s + clip.times()[0] * clip.time_base) * 48000)
    packets: list[Any] = []
    for offset in range(0, int(end_s * 48000), 1024):
        tone = (np.sin(np.arange(offset, offset + 1024) / 20) * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start + offset, Fraction(1, 48000)
        resampled = av.AudioResampler(stream.codec_context.format, "mono", 48000).resample(frame)
        for part in resampled:
            packets += stream.encode(part)
    return packets + stream.encode(None)


def _chapters() -> list[Any]:
    base = Fraction(1, 1000)
    return [
        {"id": 1, "start": 0, "end": 200, "time_base": base, "metadata": {"title": "Rain"}},
        {"id": 2, "start": 200, "end": 400, "time_base": base, "metadata": {"title": "Sun"}},
    ]


def with_side_stream(path: Path, codec: str) -> Path:
    """A clip with four packets of subtitles or telemetry, 0.2 s each."""
    plain = make(path.with_name(f"plain-{path.stem}.mp4"), Clip(frames=30))
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        side: Any = output.add_data_stream(codec) if codec in ("bin_data", "klv") else output.add_mux_stream(codec)
        side.time_base = Fraction(1, 1000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
        for number in range(4):
            text = b"rain %d" % number
            data = {"mov_text": len(text).to_bytes(2, "big") + text, "klv": bytes.fromhex("060e2b34") + text}
            extra = av.Packet(data.get(codec, text))
            extra.pts = extra.dts = number * 200
            extra.duration, extra.time_base, extra.is_keyframe = 200, Fraction(1, 1000), True
            extra.stream = side
            output.mux(extra)
    return path


def remux(source: Path, target: Path, change: Callable[[int, bytes], bytes | None], muxer: str | None = None) -> Path:
    """Copy the video packets of a clip, each changed by ``change(number, bytes)``; None drops a packet."""
    with av.open(str(source)) as input_, av.open(str(target), "w", format=muxer) as output:
        video = input_.streams.video[0]
        stream = output.add_stream_from_template(video, opaque=True)
        number = 0
        for packet in input_.demux(video):
            if not packet.size:
                continue
            data = change(number, bytes(packet))
            number += 1
            if data is None:
                continue
            changed = av.Packet(data)
            changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
            changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
            changed.stream = stream
            output.mux(changed)
    return target


def damaged(source: Path, target: Path, numbers: Sequence[int]) -> Path:
    """A copy in which the packets with these numbers (in file order) cannot be decoded."""
    return remux(source, target, lambda number, data: b"\xff" * len(data) if number in numbers else data)


def sound_only(path: Path) -> Path:
    """A file without video."""
    clip = make(path.with_name(f"with-{path.name}"), Clip(frames=5, audio="aac"))
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    clip.unlink()
    return path


def truncated(source: Path, target: Path, part: float) -> Path:
    """The first part of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


def packets(path: Path, kind: str) -> list[tuple[Fraction, Fraction, Fraction, bytes]]:
    """(pts, dts, duration, bytes) of all packets of a kind, in seconds."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found = []
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                base = packet.time_base
                times = (packet.pts * base, packet.dts * base, (packet.duration or 0) * base)
                found.append((*times, bytes(packet)))
        return found


def decoded_pts(path: Path) -> list[Fraction]:
    """Timestamps of all frames in seconds, as PyAV alone reads them."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def planes_of_file(path: Path) -> list[tuple[Any, ...]]:
    """The planes of all frames of a video, as the program reads them."""
    with VideoReader(path) as reader:
        return [frame.planes for frame in reader.frames()]


def identical(first: Sequence[tuple[Any, ...]], second: Sequence[tuple[Any, ...]]) -> bool:
    """Whether two clips have the same frames, code value for code value."""
    return len(first) == len(second) and all(
        np.array_equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def names_in(folder: Path) -> set[str]:
    """Everything in a folder, hidden files included."""
    return {path.name for path in folder.iterdir()}


def textured(seed: int, size: tuple[int, int]) -> Any:
    """(H, W, 3) uint8: soft blobs of several sizes in which motion can be seen at every scale."""
    rng = np.random.default_rng(seed)
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    for cell_px in (4, 9, 21):
        coarse = rng.random((height // cell_px + 2, width // cell_px + 2, 3), np.float32)
        fine = cv2.resize(coarse, (width + cell_px, height + cell_px), interpolation=cv2.INTER_CUBIC)
        total += fine[:height, :width]
    return (np.clip(total / 3, 0, 1) * 160 + 30).astype(np.uint8)


def drive(frames: int, size: tuple[int, int] = (120, 160), step: tuple[int, int] = (2, 1), seed: int = 5) -> list[Any]:
    """A camera gliding over one large textured picture: frames of (H, W, 3) uint8."""
    height, width = size
    wide = textured(seed, (height + frames * step[1], width + frames * step[0]))
    return [wide[i * step[1] :, i * step[0] :][:height, :width].copy() for i in range(frames)]


def as_frame(rgb: Any, pts: int = 0) -> Frame:
    """Wrap an RGB array into a `Frame`."""
    return Frame(tuple(np.ascontiguousarray(rgb[..., i]) for i in range(3)), RGB8, pts, 1, Fraction(1, 30))


def psnr(first: Any, second: Any) -> float:
    error = np.mean((np.asarray(first, float) - np.asarray(second, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def make_scenes(folder: Path, photos: int) -> Path:
    """Small photographs and a clip of nine frames in a folder, to train on."""
    for number in range(photos):
        cv2.imwrite(str(folder / f"{number}.png"), textured(number, (90, 110)))
    make(folder / "clip.mp4", Clip(frames=9, size=(96, 80)))
    return folder
