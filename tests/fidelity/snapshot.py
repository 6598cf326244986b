"""Reads with PyAV alone what a file holds, so that the program is not checked by itself."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import Any

import av
from av.stream import Discard, Disposition
from clips import samples

PLANAR = {"nv12": "yuv420p", "bgr0": "gbrp", "rgb24": "gbrp", "bgr24": "gbrp", "yuyv422": "yuv422p"}
LIGHT = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
# Tags that muxers write about the file itself.
OF_THE_FILE = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "handler_name", "vendor_id"}
    | {"filename", "mimetype", "bps", "number_of_frames", "number_of_bytes"}
)


BIBLIOGRAPHIC = {"deu": "ger", "fra": "fre"}  # two codes of ISO 639-2 for one language


@dataclass(frozen=True)
class Stream:
    """A stream beside the video.

    Attributes:
        kind: video, cover, audio, subtitle, data or attachment.
        codec: FFmpeg's name, or the four-character tag.
        packets: (pts in seconds, duration in seconds, digest of the bytes).
        marks: disposition flags by name.
        metadata: language, title and other tags.
        detail: sample rate and layout, or size.
        tick: its time base, in seconds.
    """

    kind: str
    codec: str
    packets: tuple[tuple[Fraction, Fraction, str], ...]
    marks: frozenset[str]
    metadata: dict[str, str]
    detail: str
    tick: Fraction = Fraction(0)


@dataclass(frozen=True)
class Snapshot:
    """What a file holds.

    Attributes:
        times: timestamps of the frames of the main video, in seconds.
        pictures: digests of their samples.
        size: width and height as stored, after cropping.
        pixel_format: FFmpeg's name, yuvj and packed names made planar.
        tags: primaries, transfer, matrix, range.
        chroma: chroma location; left where unspecified.
        light: mastering display and content light level.
        matrix: the nine numbers of a display matrix, or None.
        aspect: pixel aspect ratio, or None for square.
        video: disposition and metadata of the main video.
        streams: the others, sorted.
        metadata: of the file.
        chapters: (begin, end, title).
        tick: time base of the main video, in seconds.
    """

    times: tuple[Fraction, ...]
    pictures: tuple[str, ...]
    size: tuple[int, int]
    pixel_format: str
    tags: tuple[int, int, int, int]
    chroma: str
    light: tuple[tuple[float, ...], ...]
    matrix: tuple[int, ...] | None
    aspect: Fraction | None
    video: Stream
    streams: tuple[Stream, ...]
    metadata: dict[str, str]
    chapters: tuple[tuple[Fraction, Fraction, str], ...]
    tick: Fraction

    def cut(self, begin_s: Fraction | None, end_s: Fraction | None, shift_s: Fraction) -> "Snapshot":
        """Trim to a time range and shift all timestamps."""

        def inside(time_s: Fraction) -> bool:
            return (begin_s is None or time_s >= begin_s) and (end_s is None or time_s < end_s)

        pairs = [(t - shift_s, p) for t, p in zip(self.times, self.pictures, strict=True) if inside(t)]
        chapters = []
        for begin, end, title in self.chapters:
            first = begin if begin_s is None else max(begin, begin_s)
            last = end if end_s is None else min(end, end_s)
            if first < last:
                chapters.append((first - shift_s, last - shift_s, title))
        return replace(
            self,
            times=tuple(t for t, _ in pairs),
            pictures=tuple(p for _, p in pairs),
            streams=tuple(
                s
                if s.kind in ("cover", "attachment")
                else replace(s, packets=tuple((t - shift_s, d, b) for t, d, b in s.packets if inside(t)))
                for s in self.streams
            ),
            chapters=tuple(chapters),
        )


def snapshot(path: Path, main: int | None = None) -> Snapshot:
    """Read a whole file.

    Args:
        path: the file.
        main: index of the main video; None for the first that is not cover art.
    """
    with av.open(str(path), metadata_errors="surrogateescape") as container:
        index = _main(container) if main is None else main
        video = container.streams[index]
        frames = []
        times: list[Fraction] = []
        facts: dict[str, Any] = {}
        for frame in _decoded(container, video):
            if not facts:
                facts = _facts(frame, video)
            times.append((frame.pts or 0) * frame.time_base)
            frames.append(digest_of(frame))
        metadata = _metadata(container.metadata)
        place = _chroma_place(container, index)
        chapters = tuple(
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title", ""))
            for c in container.chapters()
        )
        main_stream = _stream(video, ())
        tick = video.time_base
    return Snapshot(
        tuple(times), tuple(frames), video=main_stream, streams=_others(path, index), metadata=metadata,
        chapters=chapters, tick=tick, chroma=place, **facts,
    )  # fmt: skip


def _chroma_place(container: Any, index: int) -> str:
    """From FFmpeg's own description of the file; PyAV has no name for it."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.VERBOSE)
    av.logging.set_libav_level(av.logging.VERBOSE)
    lines = container.dumps_format().splitlines()
    av.logging.set_level(level)
    av.logging.set_libav_level(av.logging.INFO)
    line = next(line for line in lines if re.search(rf"Stream #0:{index}\b", line))
    found = re.search(r"[(,] ?(left|center|topleft|top|bottomleft|bottom)[),]", line)
    return found[1] if found else "left"


def _main(container: Any) -> int:
    return int(next(s.index for s in container.streams.video if not s.disposition & Disposition.attached_pic))


def _decoded(container: Any, video: Any) -> Iterable[Any]:
    for packet in container.demux(video):
        yield from packet.decode()


def _facts(frame: Any, video: Any) -> dict[str, Any]:
    context = video.codec_context
    sides = {side.type.name: bytes(side) for side in frame.side_data}
    tags = (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
    matrix = tuple(memoryview(sides["DISPLAYMATRIX"]).cast("i")) if "DISPLAYMATRIX" in sides else None
    aspect = video.sample_aspect_ratio or context.sample_aspect_ratio or None
    return {
        "size": (frame.width, frame.height),
        "pixel_format": planar(frame.format.name),
        "tags": tuple(int(tag) for tag in tags),
        "light": tuple(_numbers(sides[name]) for name in LIGHT if name in sides),
        "matrix": matrix,
        "aspect": None if aspect == 1 else aspect,
    }


def _numbers(data: bytes) -> tuple[float, ...]:
    """FFmpeg's struct of ten ratios and two flags, or of two whole numbers."""
    whole = memoryview(data).cast("i").tolist()
    if len(whole) < 20:
        return tuple(whole)
    return tuple(round(n / max(1, d), 4) for n, d in zip(whole[0:20:2], whole[1:20:2], strict=True))


def planar(name: str) -> str:
    return PLANAR.get(name, name.replace("yuvj", "yuv"))


def digest_of(frame: Any) -> str:
    """A digest of a picture's samples, in the order of planes of the planar format."""
    if frame.format.name in PLANAR:
        frame = frame.reformat(format=PLANAR[frame.format.name])
    return digest(b"".join(plane.tobytes() for plane in samples(frame)))


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def _others(path: Path, main: int) -> tuple[Stream, ...]:
    found: dict[int, list[tuple[Fraction, Fraction, str]]] = {}
    samples: dict[int, bytes] = {}  # of PCM, which every container cuts into packets of its own
    with av.open(str(path), metadata_errors="surrogateescape") as container:
        wanted = [
            s for s in container.streams if s.index != main and s.discard != Discard.all and s.type != "attachment"
        ]
        empty = b"\0\0"  # between two subtitles in MP4
        for packet in container.demux(*wanted) if wanted else ():
            data = bytes(packet)
            if packet.size and not (packet.stream.type == "subtitle" and data == empty):
                stamp = packet.pts if packet.pts is not None else packet.dts
                time_s = (stamp or 0) * packet.time_base
                if _codec(packet.stream).startswith("pcm_"):
                    data = samples[packet.stream_index] = samples.get(packet.stream_index, b"") + data
                    time_s = found.pop(packet.stream_index, [(time_s, Fraction(0), "")])[0][0]
                found.setdefault(packet.stream_index, []).append(
                    (time_s, (packet.duration or 0) * packet.time_base, digest(data))
                )
        streams = [_stream(s, found.get(s.index, ())) for s in wanted]
        streams += [_attached(s) for s in container.streams if s.type == "attachment"]
    return tuple(
        sorted(streams, key=lambda s: (s.kind, s.codec, [p[2] for p in s.packets], sorted(s.metadata.items())))
    )


def _stream(stream: Any, packets: Iterable[tuple[Fraction, Fraction, str]]) -> Stream:
    cover = bool(stream.disposition & Disposition.attached_pic)
    packets = tuple((Fraction(0), Fraction(0), data) for _, _, data in packets) if cover else tuple(packets)
    marks = frozenset(flag.name for flag in Disposition if flag & stream.disposition and flag.name)
    kind = "cover" if cover else stream.type
    return Stream(
        kind, _codec(stream), packets, marks, _metadata(stream.metadata), _detail(stream),
        stream.time_base or Fraction(0),
    )  # fmt: skip


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return str(context.codec.canonical_name) if context is not None else str(getattr(stream, "name", None))


def _detail(stream: Any) -> str:
    context = stream.codec_context
    if stream.type == "audio" and context is not None:
        return f"{context.sample_rate} Hz, {len(context.layout.channels)} channels"
    if stream.type == "video" and context is not None:
        return f"{context.width}x{context.height}"
    return ""


def _attached(stream: Any) -> Stream:
    data = digest(bytes(stream.data))
    name = str(stream.metadata.get("filename"))
    return Stream("attachment", name, ((Fraction(0), Fraction(0), data),), frozenset(), {}, str(stream.mimetype))


def _metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Tags with keys in lower case, without those that muxers write about themselves."""
    kept = {key.lower(): value for key, value in metadata.items()}
    if "name" in kept:  # what FFmpeg's muxer of MP4 calls title, its demuxer calls name
        kept["title"] = kept.pop("name")
    kept["language"] = BIBLIOGRAPHIC.get(kept.get("language", "und"), kept.get("language", "und"))
    own = [k for k, v in kept.items() if k == "software" and v.startswith("Lavf")]  # AVI's name for the encoder
    return {
        k: v
        for k, v in kept.items()
        if k.split("-")[0] not in OF_THE_FILE and not k.startswith("_statistics") and k not in own
    }
