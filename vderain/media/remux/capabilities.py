"""Tells which output containers there are, with which muxer options, and which streams each of them can hold."""

import math
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import cast

import av
from av.container import OutputContainer
from av.stream import Disposition, Stream

from vderain.errors import UsageError
from vderain.media.decode.media_file import MediaFile, Packet, StreamInfo, codec_name
from vderain.media.remux import audio, copy_tags, portable_tags

DEFAULT_SUFFIX = ".mp4"
CONTAINERS = {  # file suffix -> FFmpeg muxer
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
}  # fmt: skip

COVER_NAMES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
BOXED = ("mp4", "mov")  # they make such a track themselves, from the tag of the video
_INT32_MAX = 2**31 - 1
_MP4_SCALE = 1000  # units a second of a movie's own clock, as most programs write it
# What MP4 and MOV hold in their classic boxes, which every program reads.
_CLASSIC_TAGS = frozenset(
    {"title", "artist", "album_artist", "album", "composer", "comment", "copyright", "date", "description", "genre"}
    | {"grouping", "keywords", "lyrics", "network", "show", "synopsis", "episode_id", "creation_time", "timecode"}
)
_CLASSIC_MOV_TAGS = frozenset({"make", "model", "location"})


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


def muxer_options(muxer: str, media: MediaFile, cuts_front: bool, recoded: Sequence[StreamInfo]) -> dict[str, str]:
    """Options that make the container keep time exactly.

    Args:
        muxer: FFmpeg's name.
        media: the source.
        cuts_front: whether timestamps restart at the first frame delivered.
        recoded: the audio streams that will be encoded again.
    """
    options = {"avoid_negative_ts": "disabled"}  # else one early audio packet would shift every frame
    if muxer in BOXED:
        scale = media.video.time_base.denominator
        flags = "+faststart"
        classic = _CLASSIC_TAGS | (_CLASSIC_MOV_TAGS if muxer == "mov" else frozenset())
        if portable_tags(media.tags).keys() - classic:
            flags += "+use_metadata_tags"  # keys such as com.apple.quicktime.make have no classic tag
        options |= {
            "movflags": flags,
            "video_track_timescale": str(scale),
            "movie_timescale": str(_movie_scale(media, cuts_front, recoded)),
        }
    return options


def _movie_scale(media: MediaFile, cuts_front: bool, recoded: Sequence[StreamInfo]) -> int:
    """A time scale for edit lists in which the start offsets of all streams are whole numbers.

    MP4's usual clock of 1 ms is kept where it will do, because old players know only 32 bits of it.
    """
    starts = [stream.start_s for stream in media.streams if stream.start_s is not None]
    bases = [stream.time_base.denominator for stream in media.streams if stream.time_base]
    # Audio that is encoded again begins earlier, by a lead-in counted in samples.
    bases += [stream.sample_rate_hz for stream in recoded if stream.sample_rate_hz]
    moves = cuts_front or media.video.start_pts < 0 or recoded
    if not moves and all((start * _MP4_SCALE).denominator == 1 or start < 0 for start in starts):
        return _MP4_SCALE
    scale = media.video.time_base.denominator
    for base in bases:
        common = math.lcm(scale, base)
        scale = common if common <= _INT32_MAX else scale
    return scale


def can_hold(muxer: str, stream: Stream, packet: Packet | None) -> bool:
    """Whether a container takes a stream as it is, found by writing a file to memory and reading it back.

    Audio and video go in with their first packet, because some muxers refuse a stream only in their trailer.

    Args:
        muxer: FFmpeg's name.
        stream: of an open input.
        packet: what `open.first_packet` returned; its timestamps are changed.
    """
    if becomes_attachment(muxer, stream):
        return True
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as trial:
            copy = add_copy(trial, stream)
            trial.start_encoding()
            packet = _token_packet(copy) if stream.type == "data" else packet
            if packet is None:
                return True
            if stream.type != "data":
                _move_to_zero(packet)
            packet.stream = copy
            trial.mux_one(packet)
        memory.seek(0)
        with av.open(memory, "r") as written:
            if stream.type == "data":  # what reads back as unknown is useless
                return [codec_name(each) for each in written.streams] == [codec_name(stream)] != ["unknown"]
            return [each.type for each in written.streams] == [stream.type]
    except (av.error.FFmpegError, ValueError, OSError, ArithmeticError):
        return False


def _move_to_zero(packet: Packet) -> None:
    stamp = next((t for t in (packet.dts, packet.pts) if t is not None), 0)
    packet.pts = (packet.pts if packet.pts is not None else stamp) - stamp
    packet.dts = 0


def file_of_data() -> BytesIO:
    """An MP4 of one track of data."""
    memory = BytesIO()
    with av.open(memory, "w", format="mp4") as output:
        output.mux_one(_token_packet(output.add_data_stream("bin_data")))
    memory.seek(0)
    return memory


def _token_packet(stream: Stream) -> Packet:
    packet = av.Packet(b"token")
    packet.pts = packet.dts = 0
    packet.duration, packet.time_base, packet.stream = 1, stream.time_base or Fraction(1, 1000), stream
    return packet


def fallback_codec(muxer: str, stream: Stream) -> str | None:
    """A description of the codec in which a container takes a stream that it cannot hold as it is, or None."""
    encoder = audio.fallback_codec(muxer, stream)
    if encoder is None:
        return None
    codec = str(av.Codec(encoder, "w").canonical_name)
    return f"{codec} without loss" if audio.is_lossless(encoder) else codec


def add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """Adds a stream to ``output`` that takes the packets of ``stream`` unchanged."""
    copy = output.add_stream_from_template(stream, opaque=True)
    if stream.type == "audio" and copy.codec_context is not None:
        audio.name_channels(cast("av.AudioCodecContext", copy.codec_context))
    copy_tags(copy, stream, copied=True)
    return copy


def readable_name(codec: str) -> str:
    """The name under which a codec may read back: MP4 has one for both layers of MPEG audio, which decode alike."""
    return "mp3" if codec == "mp2" else codec


def becomes_attachment(muxer: str, stream: Stream) -> bool:
    """Matroska keeps cover pictures as attachments, not as streams."""
    return bool(
        muxer == "matroska" and stream.disposition & Disposition.attached_pic and codec_name(stream) in COVER_NAMES
    )
