"""Describes the contents of a media file, and what of it an output will keep (``vderain info``)."""

import os
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Stream

from vderain.media.clip import check_source
from vderain.media.decode.media_file import TIMECODE, MediaFile, StreamInfo
from vderain.media.decode.open import first_packet, is_empty
from vderain.media.decode.probe import frame_rate, open_media
from vderain.media.decode.side_data import is_kept
from vderain.media.encode.verify import joined_programs
from vderain.media.gps import read_fixes
from vderain.media.mp4.vendor_boxes import HOLDERS
from vderain.media.remux.capabilities import (
    BOXED,
    DEFAULT_SUFFIX,
    can_hold,
    fallback_codec,
    output_format,
)


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """A stream of a file.

    Attributes:
        index: its place in the file.
        kind: video, audio, subtitle, data or attachment.
        codec: FFmpeg's name of its codec, or "unknown".
        detail: description of its size, frame rate or sample rate.
        language: ISO 639 code, or None.
        processed: True for the video stream that is restored.
        kept: whether the output will have it, restored or copied.
        becomes: description of its replacement where it is not kept as it is, or None.
        empty: whether it is not kept because it has no packets.
    """

    index: int
    kind: str
    codec: str
    detail: str
    language: str | None
    processed: bool
    kept: bool
    becomes: str | None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class HiddenDescription:
    """Data beside the streams of a file or inside its frames.

    Attributes:
        name: description.
        kept: whether the output will have it.
    """

    name: str
    kept: bool


@dataclass(frozen=True, slots=True)
class FileDescription:
    """The contents of a file.

    Attributes:
        path: the file.
        container: FFmpeg's name of its format.
        output_format: the muxer against which ``kept`` was judged.
        duration_s: duration in seconds, or None.
        size_bytes: size of the file.
        chapters: number of chapters.
        metadata: tags such as title and creation time.
        streams: all streams in file order.
        hidden: data beside the streams, and side data in the frames.
        gps_fixes: number of GPS positions that a GPX file would have.
        interlaced: whether the video is interlaced and will be deinterlaced.
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
    """Describes a file, and what of it an output of a container will keep.

    Args:
        path: the file.
        suffix: file suffix of the output, such as ``.mkv``.

    Raises:
        InputError: the file cannot be read or has no video.
        UsageError: the suffix is unknown.
    """
    source = Path(path)
    check_source(source)
    muxer = output_format(Path(f"output{suffix}"))
    with open_media(source) as (container, media):
        streams = tuple(_describe_stream(container.streams[info.index], info, media, muxer) for info in media.streams)
        hidden = [HiddenDescription(part.name, part.movable and muxer in HOLDERS) for part in media.vendor_boxes]
        hidden += [
            HiddenDescription(name, is_kept(name, media.main_stream, muxer)) for name in media.video.lost_side_data
        ]
        hidden += [HiddenDescription(name, False) for name in joined_programs(container)]
    return FileDescription(
        path=source,
        container=media.container,
        output_format=muxer,
        duration_s=media.duration_s,
        size_bytes=media.size_bytes,
        chapters=len(media.chapters),
        metadata=dict(media.tags),
        streams=streams,
        hidden=tuple(hidden),
        gps_fixes=len(read_fixes(media)),
        interlaced=media.video.interlaced,
    )


def _describe_stream(stream: Stream, info: StreamInfo, media: MediaFile, muxer: str) -> StreamDescription:
    processed = info.index == media.video.stream_index
    timecode = info.codec == TIMECODE
    # MP4 and MOV write a timecode track of their own, and data tracks that FFmpeg has no name for.
    kept = processed or info.is_chapter_track or (muxer in BOXED and (timecode or info.is_unnamed_data))
    kept = kept or (not timecode and can_hold(muxer, stream, first_packet(stream, info)))
    becomes = None if kept else "a tag" if timecode else fallback_codec(muxer, stream)
    return StreamDescription(
        index=info.index,
        kind="chapters" if info.is_chapter_track else "cover picture" if info.is_cover else info.type,
        codec=info.codec,
        detail=_detail(stream),
        language=info.language,
        processed=processed,
        kept=kept,
        becomes=becomes,
        empty=not kept and not becomes and is_empty(stream, info),
    )


def _detail(stream: Stream) -> str:
    context = stream.codec_context
    if isinstance(context, av.VideoCodecContext) and isinstance(stream, av.VideoStream):
        rate = frame_rate(stream)
        fps = f", {float(rate):.6g} fps" if rate else ""
        return f"{context.width}x{context.height}, {context.pix_fmt}{fps}"
    if isinstance(context, av.AudioCodecContext):
        return f"{context.sample_rate} Hz, {context.layout.name}"
    return str(stream.metadata.get("handler_name") or stream.metadata.get("filename") or "")
