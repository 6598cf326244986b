"""Decodes keyframes and the frames right behind them, at a small size, and skips the rest of a video undecoded."""

from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import ThreadType
from av.video.reformatter import Interpolation

from vderain.errors import DamageError, InputError
from vderain.media.decode.media_file import Packet, TimeRange, VideoInfo
from vderain.media.decode.open import main_video, open_input, read_packets
from vderain.media.decode.timestamps import VideoClock, is_joinable
from vderain.media.frame import Frame
from vderain.media.pixel_format import frame_colour, planes_of

_PACKETS_MAX = 24  # after a keyframe, until its group is complete: a decoder holds back up to 16 frames


def keyframe_groups(
    path: Path, info: VideoInfo, part: TimeRange, count: int, every_s: Fraction, lines_px: int
) -> Generator[list[Frame]]:
    """Yields successive frames that begin with a keyframe, from all over a video.

    Args:
        path: the file.
        info: properties of its video stream.
        part: the part of the file to look at.
        count: frames of a group; a group before a gap or the end of the file may have fewer.
        every_s: least time between the keyframes of two groups.
        lines_px: greatest number of lines or columns on the shorter side; larger frames are downscaled.

    Raises:
        DamageError: a frame cannot be decoded, a packet is marked as damaged, or one that the file lists is missing.
        InputError: the file cannot be read.
    """
    try:
        with open_input(path) as container:
            stream = main_video(container, path)
            stream.thread_type, stream.codec_context.thread_count = ThreadType.SLICE, 1
            clock = VideoClock() if is_joinable(container) else None
            packets = (clock.follow(packet) if clock else packet for packet in read_packets(container, [stream]))
            group: list[Frame] = []
            next_s: Fraction | None = None
            left = 0  # packets that may still be decoded for this group
            listed = stream.frames if info.clock == "pts" else 0  # AVI counts frames that it does not store
            for packet in _checked(packets, path, listed):
                time_s = _time_s(packet, info)
                if time_s is not None and part.end_s is not None and time_s >= part.end_s:
                    break
                is_due = time_s is not None and part.holds(time_s) and (next_s is None or time_s >= next_s)
                if packet.is_keyframe and not packet.is_discard and is_due and time_s is not None and not left:
                    stream.codec_context.flush_buffers()
                    group, left, next_s = [], _PACKETS_MAX, time_s + every_s
                if not left:
                    continue
                left -= 1
                group += _decoded(path, stream, packet, info, lines_px)
                if len(group) >= count or not left:
                    left = 0
                    yield group[:count]
            if left:
                yield (group + _decoded(path, stream, None, info, lines_px))[:count]
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"'{path}' cannot be read any further ({error}).", "Check the disk.") from error


def _checked(packets: Iterable[Packet], path: Path, listed: int) -> Iterator[Packet]:
    """Passes packets on, unless one is marked as damaged, or the last of those that the file lists is missing."""
    count = 0
    for packet in packets:
        if packet.is_corrupt:
            raise _damaged(path)
        count += 1
        yield packet
    if count < listed:
        raise _damaged(path)


def _damaged(path: Path) -> DamageError:
    return DamageError(f"'{path}' is damaged.", "Decode all of it to find out how much is lost.")


def _time_s(packet: Packet, info: VideoInfo) -> Fraction | None:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None else stamp * info.time_base


def _decoded(
    path: Path, stream: av.VideoStream, packet: Packet | None, info: VideoInfo, lines_px: int
) -> list[Frame]:  # fmt: skip
    """The small frames that come out of the decoder for a packet; None flushes it."""
    try:
        frames = stream.codec_context.decode(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise _damaged(path) from error
    # Behind a keyframe of an open group, frames that refer to what was skipped are marked as damaged.
    return [_small(frame, stream, info, lines_px) for frame in frames if not frame.is_corrupt]


def _small(decoded: av.VideoFrame, stream: av.VideoStream, info: VideoInfo, lines_px: int) -> Frame:
    scale = max(1.0, min(decoded.width, decoded.height) / lines_px)
    size = max(2, round(decoded.width / scale / 2) * 2), max(2, round(decoded.height / scale / 2) * 2)
    small = decoded.reformat(*size, info.pixel_format, interpolation=Interpolation.AREA)
    return Frame(planes_of(small), frame_colour(decoded, stream), decoded.pts or 0, 0, info.time_base)
