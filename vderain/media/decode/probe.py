"""Probes a media file with one open: streams, tags, bit rate, vendor boxes, and what its first frame says.

The first frame is decoded because containers are silent or wrong about half of this: pixel format, colour tags, field
order, rotation and HDR metadata are often in the bit stream alone.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Stream

from vderain.errors import InputError
from vderain.media.decode.deinterlace import shows_fields
from vderain.media.decode.media_file import (
    FALLBACK_RATE,
    TIMECODE,
    Clock,
    Crop,
    MediaFile,
    SourceRate,
    StreamInfo,
    VideoInfo,
    codec_name,
    description,
    programs,
    stream_name,
)
from vderain.media.decode.open import (
    FileHead,
    input_errors,
    main_video,
    open_input,
    open_input_file,
    packets_until_error,
    read_head,
)
from vderain.media.decode.side_data import frame_side_data, hdr_metadata_of, lost_side_data
from vderain.media.mp4.boxes import SampleEntry, read_sample_entries
from vderain.media.mp4.vendor_boxes import find_vendor_boxes
from vderain.media.pixel_format import colour_tags, frame_colour, nearest_layout

log = logging.getLogger(__name__)

_CHROMA_LOCATION = re.compile(r"[(,] ?(left|center|topleft|top|bottomleft|bottom)[),]")
_RATE_MAX = 1000  # frames a second; a timecode can count no more
_CROPPING = re.compile(r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)")  # left, right, top, bottom
_INDEX_SHARE = 0.9  # of the frames that an index must list: some formats list their keyframes only


def probe(path: Path, start_s: float | None = None, duration_s: float | None = None) -> MediaFile:
    """Reads what is known of a media file, and closes it again.

    Args:
        path: the file.
        start_s: seconds from the beginning at which reading will start, or None.
        duration_s: seconds that will be read, or None for all.

    Raises:
        InputError: the file is not a video that can be decoded.
    """
    with open_media(path, start_s, duration_s) as (_, media):
        return media


@contextmanager
def open_media(
    path: Path, start_s: float | None = None, duration_s: float | None = None
) -> Iterator[tuple[InputContainer, MediaFile]]:
    """Probes a media file and keeps it open; packets up to the first frame have been read then.

    Args:
        path: the file.
        start_s: seconds from the beginning at which reading will start, or None.
        duration_s: seconds that will be read, or None for all.

    Raises:
        InputError: the file is not a video that can be decoded.
    """
    with open_input_file(path) as (file, container):
        stream = main_video(container, path)
        # Before any packet is read: demuxers change start times, tags and indexes on the way.
        streams = _stream_infos(file, container)
        bit_rate = _rate_from_index(stream) or _rate_from_totals(container, stream)
        with input_errors(path), _position_kept(file):
            vendor_boxes = tuple(find_vendor_boxes(file, container.streams))
        duration = container.duration / av.time_base if container.duration else None
        media_start_s = Fraction(container.start_time or 0, av.time_base)
        tags, chapters = dict(container.metadata), tuple(container.chapters())
        others = [each for each in container.streams if each.type in ("audio", "video") and each is not stream]
        head = read_head(container, stream, path, others)
        video = _video_info(container, stream, path, head, start_s, duration_s)
        yield (
            container,
            MediaFile(
                path=path,
                container=container.format.name,
                size_bytes=path.stat().st_size,
                start_s=media_start_s,
                duration_s=duration,
                tags=tags,
                chapters=chapters,
                programs=programs(container),
                streams=tuple(replace(each, first_packet=head.first_packets.get(each.index)) for each in streams),
                video=video,
                bit_rate=bit_rate,
                vendor_boxes=vendor_boxes,
            ),
        )


def probe_stream(path: Path, index: int) -> VideoInfo:
    """Reads the properties of one video stream of a file, from its first packets on.

    Args:
        path: the file.
        index: of the video stream.

    Raises:
        InputError: the file cannot be opened, or no frame can be decoded.
    """
    with open_input(path) as container:
        stream = next(each for each in container.streams.video if each.index == index)
        return _video_info(container, stream, path, read_head(container, stream, path), None, None)


def frame_rate(stream: av.VideoStream) -> Fraction | None:
    """Frames a second, as far as the file says; for raw DV the average is the tick rate of its clock instead."""
    rates = (stream.average_rate, stream.guessed_rate)
    return next((rate for rate in rates if rate and rate <= _RATE_MAX), None)


@contextmanager
def _position_kept(file: BinaryIO) -> Iterator[None]:
    """Restores the position of a file that a demuxer reads as well; it counts on its own reads alone."""
    position = file.tell()
    try:
        yield
    finally:
        file.seek(position)


def _stream_infos(file: BinaryIO, container: InputContainer) -> list[StreamInfo]:
    entries: dict[int, SampleEntry] = {}
    if any(stream.type == "data" and stream.name is None for stream in container.streams):
        with _position_kept(file):
            entries = read_sample_entries(file)
    return [_stream_info(stream, entries.get(stream.id)) for stream in container.streams]


def _stream_info(stream: Stream, entry: SampleEntry | None) -> StreamInfo:
    codec = codec_name(stream)
    context = stream.codec_context
    is_unnamed = stream.type == "data" and stream.name is None and codec not in ("unknown", TIMECODE)
    return StreamInfo(
        index=stream.index,
        type=stream.type,
        codec=codec,
        name=stream_name(stream),
        language=stream.language,
        time_base=stream.time_base,
        start_time=stream.start_time or 0,
        tags=dict(stream.metadata),
        disposition=stream.disposition,
        is_chapter_track=stream.discard == Discard.all,
        is_unnamed_data=is_unnamed and entry is not None and entry.plain and entry.kind == codec,
        sample_rate_hz=context.sample_rate if isinstance(context, av.AudioCodecContext) else None,
    )


def _rate_from_index(stream: av.VideoStream) -> SourceRate | None:
    """Mean bit rate and largest burst, from the sizes in the file's index; None where it does not list the packets."""
    entries = [(entry.timestamp, entry.size) for entry in stream.index_entries]
    if len(entries) < max(2.0, _INDEX_SHARE * stream.frames) or not stream.frames or stream.time_base is None:
        return None
    ticks, sizes = np.array(sorted(entries), np.float64).T
    times_s = (ticks - ticks[0]) * float(stream.time_base)
    bits = 8 * sizes
    length_s = times_s[-1] * len(entries) / (len(entries) - 1)  # the last frame has a duration as well
    if length_s <= 0 or bits.sum() <= 0:
        return None
    bits_s = bits.sum() / length_s
    # A leaky bucket that empties at the average rate: its highest level is the burst.
    after = np.cumsum(bits) - bits_s * times_s
    before = after - bits
    return SourceRate(float(bits_s), float((after - np.minimum.accumulate(before)).max()))


def _rate_from_totals(container: InputContainer, stream: av.VideoStream) -> SourceRate | None:
    """Mean bit rate as the stream states it, else from the file's size less its audio."""
    if stream.codec_context is not None and stream.codec_context.bit_rate:
        return SourceRate(float(stream.codec_context.bit_rate), None)
    if not container.duration or not container.size:
        return None
    others = sum(s.codec_context.bit_rate or 0 for s in container.streams.audio if s.codec_context is not None)
    total = 8 * container.size / (container.duration / av.time_base)
    return SourceRate(total - others, None) if total > others else None


def _video_info(
    container: InputContainer,
    stream: av.VideoStream,
    path: Path,
    head: FileHead,
    start_s: float | None,
    duration_s: float | None,
) -> VideoInfo:
    frame = head.frame
    if frame.width <= 0 or frame.height <= 0:
        raise InputError(f"The frames of '{path}' have no size.", "Copy or record the file again.")
    flagged = bool(frame.interlaced_frame)
    misflagged = flagged and not shows_fields(_frames_from(path, stream.index, start_s))
    described = description(container, stream.index)
    crop = _crop(described, frame)
    clock, time_base, start_pts = _clock(container, stream, head)
    read_s = _duration_s(container, stream, start_s, duration_s)
    rate = frame_rate(stream) or FALLBACK_RATE
    return VideoInfo(
        width_px=frame.width - crop.left_px - crop.right_px,
        height_px=frame.height - crop.top_px - crop.bottom_px,
        time_base=time_base,
        average_rate=frame_rate(stream),
        start_pts=start_pts if start_s is None else 0,
        duration_s=read_s,
        codec=codec_name(stream),
        pixel_format=frame.format.name,
        colour=frame_colour(frame, stream),
        tags=replace(colour_tags(frame, stream), chroma_location=_chroma_location(described)),
        rotation_deg=frame.rotation,
        display_matrix=_display_matrix(frame),
        # some codecs state it in their frames only
        sample_aspect_ratio=stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None,
        bit_rate=stream.codec_context.bit_rate or None,
        container=container.format.name,
        frames_estimate=_frames_estimate(stream, rate, read_s, start_s is None and duration_s is None),
        clock=clock,
        stream_index=stream.index,
        interlaced=flagged and not misflagged,
        misflagged=misflagged,
        light=hdr_metadata_of(frame),
        crop=crop,
        lost_side_data=tuple(sorted(lost_side_data(frame))),
    )


def _clock(container: InputContainer, stream: av.VideoStream, head: FileHead) -> tuple[Clock, Fraction, int]:
    """Where timestamps come from, their time base in seconds, and the first pts."""
    rate = frame_rate(stream) or FALLBACK_RATE
    if head.first_pts is None or stream.time_base is None:
        return "rate", 1 / rate, 0
    if container.format.name == "avi":
        return "dts", stream.time_base, 0
    return "pts", stream.time_base, head.first_pts - round(head.unstamped / (rate * stream.time_base))


def _frames_from(path: Path, stream_index: int, start_s: float | None) -> Iterator[av.VideoFrame]:
    """Frames from about a time on, without any care for damage."""
    with open_input(path) as container:
        stream = next(each for each in container.streams.video if each.index == stream_index)
        if start_s:
            with suppress(av.error.FFmpegError):  # then the beginning has to do
                container.seek((container.start_time or 0) + int(start_s * av.time_base))
        for packet in packets_until_error(container, [stream]):
            with suppress(av.error.FFmpegError, ValueError):
                yield from (frame for frame in packet.decode() if isinstance(frame, av.VideoFrame))


def _chroma_location(described: str) -> str | None:
    """Where chroma samples sit between luma samples."""
    match = _CHROMA_LOCATION.search(described.partition("\n")[0])
    return match[1] if match else None


def _crop(described: str, frame: av.VideoFrame) -> Crop:
    """The edges that the container hides, rounded down to whole chroma samples at the left and the top."""
    match = _CROPPING.search(described)
    if match is None:
        return Crop()
    layout = nearest_layout(frame.format.name)
    left, right, top, bottom = (int(edge) for edge in match.groups())
    crop = Crop(left - left % layout.chroma_w, right, top - top % layout.chroma_h, bottom)
    if frame.width <= crop.left_px + crop.right_px or frame.height <= crop.top_px + crop.bottom_px:
        return Crop()  # nothing would be left: the container is wrong
    return crop


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    for side_data in frame_side_data(frame):
        if side_data.type.name == "DISPLAYMATRIX":
            return tuple(memoryview(bytes(side_data)).cast("i"))
    return None


def _duration_s(
    container: InputContainer, stream: av.VideoStream, start_s: float | None, wanted_s: float | None
) -> float | None:
    """Seconds that will be read, of those wanted."""
    if stream.duration is not None and stream.time_base is not None:
        whole_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        whole_s = container.duration / av.time_base
    else:
        return wanted_s
    rest_s = max(0.0, whole_s - (start_s or 0.0))
    return rest_s if wanted_s is None else min(rest_s, float(wanted_s))


def _frames_estimate(
    stream: av.VideoStream, rate: Fraction | None, duration_s: float | None, whole: bool
) -> int | None:
    if stream.frames and whole:
        return int(stream.frames)
    return round(duration_s * float(rate)) if duration_s is not None and rate else None
