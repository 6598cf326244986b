"""Tells which output containers there are, and which streams each of them can hold."""

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.stream import Discard, Disposition

from vderain.errors import UsageError
from vderain.media.decode.open import codec_name, open_input, read_packets
from vderain.media.mp4.sample_entry import sample_entries
from vderain.media.remux import audio as sound
from vderain.media.remux.metadata import copy_tags

DEFAULT_SUFFIX = ".mp4"
CONTAINERS = {  # file suffix -> FFmpeg muxer
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
}  # fmt: skip

COVER_NAMES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
TIMECODE = "tmcd"  # the tag of a timecode track
BOXED = ("mp4", "mov")  # they make such a track themselves, from the tag of the video
_BOXED_INPUTS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2"})  # FFmpeg's name of the demuxer of both
DISK_ERRORS = frozenset({5, 27, 28, 30, 122})  # EIO, EFBIG, ENOSPC, EROFS, EDQUOT


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The part of a source that is read, in seconds of the source's own clock.

    Attributes:
        begin_s: instant of the first picture; None where nothing is cut in front.
        end_s: first instant that is left out; None where nothing is cut behind.
        shift_s: what to subtract from the source's times.
    """

    begin_s: Fraction | None = None
    end_s: Fraction | None = None
    shift_s: Fraction = Fraction(0)

    def holds(self, time_s: Fraction) -> bool:
        """Whether an instant of the source is inside."""
        return (self.begin_s is None or time_s >= self.begin_s) and (self.end_s is None or time_s < self.end_s)


def output_format(target: Path) -> str:
    """FFmpeg's muxer for a file name.

    Raises:
        UsageError: its suffix is not one we write.
    """
    try:
        return CONTAINERS[target.suffix.lower()]
    except KeyError:
        known = ", ".join(sorted(CONTAINERS))
        raise UsageError(
            f"'{target.name}' does not end in a video suffix that can be written.", f"Use one of {known}."
        ) from None


def is_chapter_track(stream: Any) -> bool:
    """True for the hidden track in which MP4 and MOV store chapter titles: chapters are copied as chapters."""
    return bool(stream.discard == Discard.all)


def can_hold(muxer: str, stream: Any) -> bool:
    """Whether a container takes a stream as it is, found by writing a file to memory and reading it back.

    Audio and video go in with their first packet, because some muxers refuse a stream only in their trailer.

    Args:
        muxer: FFmpeg's name.
        stream: of an open input.
    """
    if becomes_attachment(muxer, stream):
        return True
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as trial:
            copy = add_copy(trial, stream)
            trial.start_encoding()
            packet = _token_packet(copy) if stream.type == "data" else _first_packet(stream)
            if packet is None:
                return True
            packet.stream = copy
            trial.mux_one(packet)
        memory.seek(0)
        with av.open(memory, "r") as written:
            if stream.type == "data":  # what reads back as unknown is useless
                return [codec_name(each) for each in written.streams] == [codec_name(stream)] != ["unknown"]
            return [each.type for each in written.streams] == [stream.type]
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _first_packet(stream: Any) -> Any:
    """The first packet of audio or video, moved to time 0; None for other streams and for empty ones."""
    if stream.type not in ("audio", "video"):
        return None
    with open_input(Path(stream.container.name)) as container:
        packet = next(iter(read_packets(container, [container.streams[stream.index]])), None)
    if packet is not None:
        stamp = next((t for t in (packet.dts, packet.pts) if t is not None), 0)
        packet.pts = (packet.pts if packet.pts is not None else stamp) - stamp
        packet.dts = 0
    return packet


def is_nameless(muxer: str, stream: Any) -> bool:
    """Whether a track of data has a kind that FFmpeg has no name for, but that can be written into MP4 and MOV."""
    if muxer not in BOXED or stream.type != "data" or codec_name(stream) in ("unknown", TIMECODE):
        return False
    if stream.name is not None or stream.container.format.name not in _BOXED_INPUTS:
        return False
    entry = sample_entries(Path(stream.container.name)).get(stream.id)
    return entry is not None and entry.plain and entry.kind == codec_name(stream)


def file_of_data() -> BytesIO:
    """An MP4 of one track of data."""
    memory = BytesIO()
    with av.open(memory, "w", format="mp4") as output:
        output.mux_one(_token_packet(output.add_data_stream("bin_data")))
    memory.seek(0)
    return memory


def _token_packet(stream: Any) -> Any:
    packet = av.Packet(b"token")
    packet.pts = packet.dts = 0
    packet.duration, packet.time_base, packet.stream = 1, stream.time_base or Fraction(1, 1000), stream
    return packet


def fallback_codec(muxer: str, stream: Any) -> str | None:
    """A description of the codec in which a container takes a stream that it cannot hold as it is, or None."""
    encoder = sound.fallback_codec(muxer, stream)
    if encoder is None:
        return None
    codec = str(av.Codec(encoder, "w").canonical_name)
    return f"{codec} without loss" if sound.is_lossless(encoder) else codec


def add_copy(output: OutputContainer, stream: Any) -> Any:
    """Adds a stream to ``output`` that takes the packets of ``stream`` unchanged."""
    copy: Any = output.add_stream_from_template(stream, opaque=True)
    if stream.type == "audio" and copy.codec_context is not None:
        sound.name_channels(copy.codec_context)
    copy_tags(copy, stream, copied=True)
    return copy


def readable_name(codec: str) -> str:
    """The name under which a codec may read back: MP4 has one for both layers of MPEG audio, which decode alike."""
    return "mp3" if codec == "mp2" else codec


def becomes_attachment(muxer: str, stream: Any) -> bool:
    """Matroska keeps cover pictures as attachments, not as streams."""
    return bool(
        muxer == "matroska" and stream.disposition & Disposition.attached_pic and codec_name(stream) in COVER_NAMES
    )
