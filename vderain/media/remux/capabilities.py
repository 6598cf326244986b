"""Owns what containers take of the streams besides the picture: a stream and a muxer enter, answers leave."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.stream import Discard, Disposition

from vderain.errors import UsageError
from vderain.media.decode.open import codec_name, open_input, read_packets
from vderain.media.mp4.sample_entry import sample_entries
from vderain.media.remux import audio as sound
from vderain.media.remux import subtitles as captions
from vderain.media.remux.metadata import copy_tags

DEFAULT_SUFFIX = ".mp4"
CONTAINERS = {  # file suffix -> FFmpeg muxer
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts", ".nut": "nut",
}  # fmt: skip

COVER_NAMES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_WITHOUT_BLOCKS = frozenset({"aac", "ac3"})
_DRIFT_PACKETS = 50  # of sound: a second or two
_DRIFT_S = Fraction(1, 200)  # in that time
_TS_CODECS = frozenset({"dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle", "klv", "timed_id3", "scte_35"})
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
    """Whether a container takes a stream as it is; asked of the muxer itself, with a file written to memory.

    Sound and video go in with their first packets: some muxers refuse only in their trailer, that of transport streams
    takes anything, as private data that nobody can read, and that of AVI makes up the time of some sound.
    """
    if becomes_attachment(muxer, stream):
        return True
    if muxer == "mpegts" and stream.type in ("subtitle", "data") and codec_name(stream) not in _TS_CODECS:
        return False
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as trial:
            copy = add_copy(trial, stream)
            trial.start_encoding()
            packets = [_token_packet(copy)] if stream.type == "data" else _first_packets(muxer, stream)
            if not packets:
                return True
            lasts_s = span_s(packets)
            for packet in packets:
                packet.stream = copy
                trial.mux_one(packet)
        memory.seek(0)
        with av.open(memory, "r") as written:
            if stream.type == "data":  # what reads back as unknown is of no use to anybody
                return [codec_name(each) for each in written.streams] == [codec_name(stream)] != ["unknown"]
            if [each.type for each in written.streams] != [stream.type]:
                return False  # of so few packets no more can be told for certain
            return muxer != "avi" or abs(span_s(p for p in written.demux() if p.size) - lasts_s) < _DRIFT_S
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def span_s(packets: Iterable[Any]) -> Fraction:
    """From when the first of some packets is heard or seen until the last one is."""
    begins: list[Fraction] = [packet.pts * packet.time_base for packet in packets]
    return max(begins) - min(begins)


def _first_packets(muxer: str, stream: Any) -> list[Any]:
    """The first packet of sound or video, at its beginning, or many where time is in question."""
    if stream.type not in ("audio", "video"):
        return []
    count = _DRIFT_PACKETS if muxer == "avi" and stream.type == "audio" else 1
    with open_input(Path(stream.container.name)) as container:
        packets = list(islice(read_packets(container, [container.streams[stream.index]]), count))
    stamps = [next((t for t in (packet.dts, packet.pts) if t is not None), 0) for packet in packets]
    for packet, stamp in zip(packets, stamps, strict=True):
        packet.pts = (packet.pts if packet.pts is not None else stamp) - stamps[0]
        packet.dts = stamp - stamps[0]
    return packets


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
    """In which form a container takes a stream that it cannot hold as it is, in words; None where in none."""
    if (encoder := sound.fallback_codec(muxer, stream)) is not None:
        codec = str(av.Codec(encoder, "w").canonical_name)
        return f"{codec} without loss" if sound.is_lossless(encoder) else codec
    text = captions.fallback_codec(muxer, stream)
    return f"{text}, without styles" if text is not None else None


def add_copy(output: OutputContainer, stream: Any) -> Any:
    """Adds a stream to ``output`` that takes the packets of ``stream`` unchanged."""
    with _template(output.format.name, stream) as template:
        copy: Any = output.add_stream_from_template(template, opaque=True)
    if stream.type == "audio" and copy.codec_context is not None:
        sound.name_channels(copy.codec_context)
    copy_tags(copy, stream, copied=True)
    return copy


@contextmanager
def _template(muxer: str, stream: Any) -> Iterator[Any]:
    """What a copy is made after: the stream itself, or for AVI one like it that has no size of blocks.

    AVI counts the time of sound in such blocks where it is given their size, and these codecs have none.
    """
    if muxer != "avi" or codec_name(stream) not in _WITHOUT_BLOCKS:
        yield stream
        return
    memory = BytesIO()
    with av.open(memory, "w", format="matroska") as header:
        like = header.add_stream_from_template(stream, opaque=True)
        for packet in _first_packets("matroska", stream):
            packet.stream = like
            header.mux_one(packet)
    memory.seek(0)
    with av.open(memory) as template:
        yield template.streams[0]


def readable_name(codec: str) -> str:
    """The name under which a codec may read back: MP4 has one for both layers of MPEG audio, which decode alike."""
    return "mp3" if codec == "mp2" else codec


def becomes_attachment(muxer: str, stream: Any) -> bool:
    """Matroska keeps cover pictures as attachments, not as streams."""
    return bool(
        muxer == "matroska" and stream.disposition & Disposition.attached_pic and codec_name(stream) in COVER_NAMES
    )
