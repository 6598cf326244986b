"""Muxes test clips: a video made by `clips`, and other streams as cameras, discs and editors add them."""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.stream import Disposition
from clips import Clip, make, picture, textured

Packets = list[Any]
FONT = bytes(range(256)) * 4
SUBTITLES = {
    ".srt": "1\n00:00:00,000 --> 00:00:00,150\nRain\n\n2\n00:00:00,200 --> 00:00:00,350\nSun, <i>at last</i>\n",
    ".vtt": "WEBVTT\n\n00:00.000 --> 00:00.150\nRain\n\n00:00.200 --> 00:00.350\nSun\n",
    ".ass": (
        "[Script Info]\nScriptType: v4.00+\nPlayResX: 64\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\n"
        "Style: Default,Rain Sans,12\n\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
        "Dialogue: 0,0:00:00.00,0:00:00.15,Default,Rain\nDialogue: 0,0:00:00.20,0:00:00.35,Default,Sun\n"
    ),
}


@dataclass(frozen=True)
class Part:
    """One stream beside the video: how it is added to an output, what it is called, and what marks it."""

    add: Callable[[Any, Path], tuple[Any, Packets]]
    language: str | None = None
    disposition: Disposition | None = None
    title: str | None = None


def sound(
    codec: str, layout: str = "mono", rate: int = 48000, start_s: Fraction = Fraction(0), seconds: float = 0.5,
    **marks: Any,
) -> Part:  # fmt: skip
    """A tone, encoded."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        stream = output.add_stream(codec, rate=rate)
        context = stream.codec_context
        context.layout = layout
        if codec in ("libvorbis", "vorbis", "truehd", "dca", "opus"):
            context.options = {"strict": "experimental"}
        channels = len(av.AudioLayout(layout).channels)
        packets: Packets = []
        resampler = av.AudioResampler(context.format, layout, rate)
        for offset in range(0, int(seconds * rate), 960):
            tone = (np.sin(np.arange(offset, offset + 960) / 20) * 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.repeat(tone, channels)[None], "s16", layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(start_s * rate) + offset
            for part in resampler.resample(frame):
                packets += stream.encode(part)
        return stream, packets + stream.encode(None)

    return Part(add, **marks)


def text(suffix: str, **marks: Any) -> Part:
    """Subtitles, from a file of their own."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        path = folder / f"subtitles{suffix}"
        path.write_text(SUBTITLES[suffix])
        with av.open(str(path)) as source:
            stream = output.add_stream_from_template(source.streams[0], opaque=True)
            return stream, _moved([p for p in source.demux() if p.size], stream)

    return Part(add, **marks)


def mov_text(**marks: Any) -> Part:
    """Subtitles as MP4 stores them."""
    return _timed("mov_text", lambda number: _counted(b"rain %d" % number), 100, **marks)


def telemetry(**marks: Any) -> Part:
    """A data track; FFmpeg's tag for it in MP4 and MOV is GoPro's gpmd."""
    return _timed("bin_data", lambda number: b"DVID" + bytes([0, number]) * 20, 100, data=True, **marks)


def klv(**marks: Any) -> Part:
    """A data track of an aerial camera, as transport streams carry it."""
    return _timed("klv", lambda number: bytes.fromhex("060e2b34") + bytes([number]) * 20, 100, data=True, **marks)


def film(clip: Clip, **marks: Any) -> Part:
    """A second video."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        path = make(folder / f"film-{len(output.streams)}.mp4", clip)
        with av.open(str(path)) as source:
            stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
            return stream, _moved([p for p in source.demux(video=0) if p.size], stream)

    return Part(add, **marks)


def cover(codec: str = "mjpeg") -> Part:
    """A cover picture."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        pixel_format = "yuvj420p" if codec == "mjpeg" else "rgb24"
        path = make(folder / f"cover-{codec}.mov", Clip(frames=1, codec=codec, pixel_format=pixel_format))
        with av.open(str(path)) as source:
            stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
            return stream, _moved([p for p in source.demux(video=0) if p.size], stream)

    return Part(add, disposition=Disposition.attached_pic)


def attachment(name: str = "rain.ttf", mimetype: str = "font/ttf", data: bytes = FONT) -> Part:
    """A file inside the file."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        return output.add_attachment(name, mimetype, data), []

    return Part(add)


def chapter(start_ms: int, end_ms: int, title: str) -> dict[str, Any]:
    return {
        "id": start_ms + 1,
        "start": start_ms,
        "end": end_ms,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def assemble(
    path: Path, clip: Clip | Path, parts: Sequence[Part] = (), metadata: dict[str, str] | None = None,
    chapters: Sequence[dict[str, Any]] = (), video_metadata: dict[str, str] | None = None,
    video_disposition: Disposition | None = None, options: dict[str, str] | None = None, video_last: bool = False,
) -> Path:  # fmt: skip
    """Writes a file with a video and parts beside it, and returns its path.

    Args:
        path: the file; its suffix is its container.
        clip: the video, or a file whose first video is taken.
        parts: the other streams, in order.
        metadata, chapters: of the file.
        video_metadata, video_disposition: of the video.
        options: for the muxer.
        video_last: the video is the last stream of the file instead of the first.
    """
    folder = path.parent
    plain = clip if isinstance(clip, Path) else make(folder / f"plain-{path.stem}.mp4", clip)
    scale = (
        {"movie_timescale": "90000", "video_track_timescale": "90000"}
        if path.suffix in (".mp4", ".mov", ".m4v")
        else {}
    )
    container_options = {"avoid_negative_ts": "disabled", **scale, **(options or {})}
    with av.open(str(plain)) as source, av.open(str(path), "w", container_options=container_options) as output:
        output.metadata.update(metadata or {})
        streams = list(parts)
        moving = Part(lambda out, _: _video(out, source), disposition=video_disposition or Disposition.default)
        streams.insert(len(streams) if video_last else 0, moving)
        queues = []
        for part in streams:
            stream, packets = part.add(output, folder)
            if part.language:
                stream.metadata["language"] = part.language
            if part.title:
                stream.metadata["title"] = part.title
            if part is moving:
                stream.metadata.update(video_metadata or {})
            if part.disposition:
                stream.disposition = part.disposition
            queues += [(stream, packet) for packet in packets]
        if chapters:
            output.set_chapters(list(chapters))
        for stream, packet in sorted(queues, key=lambda each: each[1].dts * each[1].time_base):
            packet.stream = stream
            output.mux(packet)
    return path


def _video(output: Any, source: Any) -> tuple[Any, Packets]:
    stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
    return stream, _moved([p for p in source.demux(video=0) if p.size], stream)


def _moved(packets: Packets, stream: Any) -> Packets:
    """Copies that outlive the file they come from."""
    copies = []
    for packet in packets:
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
        copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
        copies.append(copy)
    return copies


def _timed(codec: str, content: Callable[[int], bytes], step_ms: int, data: bool = False, **marks: Any) -> Part:
    """Four packets, one after the other."""

    def add(output: Any, folder: Path) -> tuple[Any, Packets]:
        stream = output.add_data_stream(codec) if data else output.add_mux_stream(codec)
        stream.time_base = Fraction(1, 1000)
        packets = []
        for number in range(4):
            packet = av.Packet(content(number))
            packet.pts = packet.dts = number * step_ms
            packet.duration, packet.time_base, packet.is_keyframe = step_ms, Fraction(1, 1000), True
            packets.append(packet)
        return stream, packets

    return Part(add, **marks)


def _counted(words: bytes) -> bytes:
    return len(words).to_bytes(2, "big") + words


def filtered(source: Path, target: Path, bitstream_filter: str) -> Path:
    """A copy of a video whose packets went through one of FFmpeg's bitstream filters."""
    from av.bitstream import BitStreamFilterContext

    with av.open(str(source)) as input_, av.open(str(target), "w") as output:
        video = input_.streams.video[0]
        stream = output.add_stream_from_template(video, opaque=True)
        context = BitStreamFilterContext(bitstream_filter, video, stream)
        for packet in _with_flush(input_.demux(video)):
            for changed in context.filter(packet):
                changed.stream = stream
                output.mux(changed)
    return target


def _with_flush(packets: Iterator[Any]) -> Iterator[Any]:
    yield from (packet for packet in packets if packet.size)
    yield None


def interlaced(path: Path, codec: str, top_first: bool = True, frames: int = 8, whole: int = 0, **options: str) -> Path:
    """A clip of two fields a picture, in which something moves between the fields.

    The first ``whole`` pictures are flagged as if it did, and are progressive.
    """
    size = (64, 64)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.max_b_frames = 0
        stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced transform and motion estimation
        graph = av.filter.Graph()
        entry = graph.add_buffer(width=64, height=64, format="yuv420p", time_base=Fraction(1, 25))
        field = graph.add("setfield", "tff" if top_first else "bff")
        entry.link_to(field)
        field.link_to(graph.add("buffersink"))
        graph.configure()
        for number in range(frames):
            frame = picture(0, "yuv420p", size)
            luma: Any = np.frombuffer(frame.planes[0], np.uint8).reshape(size[1], -1)[:, : size[0]]
            luma[:] = textured(1, size)[..., 0]  # neighbouring lines are alike, as in what cameras see
            early, late = (0, 1) if top_first else (1, 0)
            luma[early::2] = np.roll(luma[early::2], 4 * number, axis=1)
            luma[late::2] = np.roll(luma[late::2], 4 * number + 2 * (number >= whole), axis=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            output.mux(stream.encode(graph.pull()))
        output.mux(stream.encode(None))
    return path


def with_clean_aperture(source: Path, target: Path) -> Path:
    """A copy of a 64x48 MP4 whose container wants 48x40 to be shown, from column 10 and row 2 on.

    Its centre is 2 columns right of and 2 rows above that of the picture (ISO/IEC 14496-12, 12.1.4).
    """
    data = bytearray(source.read_bytes())
    begin, end, path = 0, len(data), []
    for kind, head in (
        (b"moov", 8),
        (b"trak", 8),
        (b"mdia", 8),
        (b"minf", 8),
        (b"stbl", 8),
        (b"stsd", 16),
        (b"avc1", 0),
    ):
        while data[begin + 4 : begin + 8] != kind:
            begin += int.from_bytes(data[begin : begin + 4], "big")
            assert begin < end
        path.append(begin)
        begin, end = begin + head, begin + int.from_bytes(data[begin : begin + 4], "big")
    clap = struct.pack(">I4s8i", 40, b"clap", 48, 1, 40, 1, 2, 1, -2, 1)
    data[end:end] = clap
    for box in path:
        size = int.from_bytes(data[box : box + 4], "big")
        data[box : box + 4] = (size + len(clap)).to_bytes(4, "big")
    target.write_bytes(data)
    return target
