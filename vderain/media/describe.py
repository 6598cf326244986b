"""Owns the answer to "what is in this file?": a path enters, what each stream is and whether it will be kept leaves."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from vderain.media.decode.open import codec_name, main_video, open_input, stream_kind
from vderain.media.decode.probe import frame_rate, probe
from vderain.media.decode.side_data import is_kept
from vderain.media.encode.verify import joined_programs
from vderain.media.gps import read_fixes
from vderain.media.mp4.vendor_boxes import HOLDERS, find_vendor_boxes
from vderain.media.remux.capabilities import (
    BOXED,
    DEFAULT_SUFFIX,
    TIMECODE,
    can_hold,
    fallback_codec,
    is_chapter_track,
    is_nameless,
    output_format,
)


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """One stream of a file, for people.

    Attributes:
        index: its place in the file.
        kind: video, audio, subtitle, data or attachment.
        codec: FFmpeg's name of its codec, or "unknown".
        detail: size, rate or sample rate, in words.
        language: ISO 639 code, or None.
        processed: True for the one video stream whose pictures are restored.
        kept: True where the output will have it (restored or copied).
        becomes: what will stand in for it where it is not kept as it is, in words, or None.
    """

    index: int
    kind: str
    codec: str
    detail: str
    language: str | None
    processed: bool
    kept: bool
    becomes: str | None


@dataclass(frozen=True, slots=True)
class HiddenDescription:
    """A part of a file beside its streams or pictures: its name, and whether the output will have it."""

    name: str
    kept: bool


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What is in a file.

    Attributes:
        path: the file.
        container: FFmpeg's name of its format.
        output_format: the muxer against which ``kept`` was judged.
        duration_s: seconds, or None where the file does not say.
        size_bytes: size of the file.
        chapters: number of chapters.
        metadata: title, creation time and so on.
        streams: all streams in file order.
        hidden: what is in the file beside its streams, and in its pictures beside their samples.
        gps_fixes: places with a time that a GPX file can have.
        interlaced: whether its pictures consist of fields, of which whole pictures will be made.
    """

    path: Path
    container: str
    output_format: str
    duration_s: float | None
    size_bytes: int
    chapters: int
    metadata: dict[str, str]
    streams: tuple[StreamDescription, ...]
    hidden: tuple[HiddenDescription, ...]
    gps_fixes: int
    interlaced: bool


def describe(path: str | os.PathLike[str], suffix: str = DEFAULT_SUFFIX) -> FileDescription:
    """What is in a file, and what of it an output of the given kind will keep.

    Args:
        path: the file.
        suffix: file suffix of the output, such as ``.mkv``.

    Raises:
        InputError: the file cannot be read or has no video.
        UsageError: the suffix is unknown.
    """
    source = Path(path)
    muxer = output_format(Path(f"output{suffix}"))
    with open_input(source) as container:
        main = main_video(container, source)
        streams = tuple(_describe_stream(stream, main.index, muxer) for stream in container.streams)
        duration_s = container.duration / av.time_base if container.duration is not None else None
        info = probe(container, main, source)
        hidden = [HiddenDescription(part.name, part.movable and muxer in HOLDERS) for part in find_vendor_boxes(source)]
        hidden += [HiddenDescription(name, is_kept(name, main, muxer)) for name in info.lost_side_data]
        hidden += [HiddenDescription(name, False) for name in joined_programs(container)]
        return FileDescription(
            source, container.format.name, muxer, duration_s, source.stat().st_size,
            len(container.chapters()), dict(container.metadata), streams,
            tuple(hidden), len(read_fixes(source)), info.interlaced,
        )  # fmt: skip


def _describe_stream(stream: Any, main_index: int, muxer: str) -> StreamDescription:
    processed = stream.index == main_index
    timecode = codec_name(stream) == TIMECODE
    remade = timecode and muxer in BOXED
    kept = processed or is_chapter_track(stream) or remade or is_nameless(muxer, stream)
    kept = kept or (not timecode and can_hold(muxer, stream))
    becomes = None if kept else "a tag" if timecode else fallback_codec(muxer, stream)
    kind = "chapters" if is_chapter_track(stream) else stream_kind(stream)
    return StreamDescription(
        stream.index, kind, codec_name(stream), _detail(stream), stream.language, processed, kept, becomes
    )


def _detail(stream: Any) -> str:
    context = stream.codec_context
    if stream.type == "video" and context is not None:
        rate = frame_rate(stream)
        said = f", {float(rate):.6g} fps" if rate else ""
        return f"{context.width}x{context.height}, {context.pix_fmt}{said}"
    if stream.type == "audio" and context is not None:
        return f"{context.sample_rate} Hz, {context.layout.name}"
    return str(stream.metadata.get("handler_name") or stream.metadata.get("filename") or "")
