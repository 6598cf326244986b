"""What is known of a media file before it is processed: its streams, tags, time base, colour and vendor boxes.

`vderain.media.decode.probe.probe` fills these records with one open of the file; reader, writer and stream copier take
what they need from there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypedDict, cast

import av
from av.container import Container, InputContainer
from av.stream import Disposition, Stream

if TYPE_CHECKING:
    from vderain.media.frame import Colour
    from vderain.media.mp4.vendor_boxes import VendorBox

    Packet: TypeAlias = av.Packet[Stream]
else:
    Packet = av.Packet  # generic in PyAV's stubs only

Clock = Literal["pts", "dts", "rate"]
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED, AVCOL_PRI_UNSPECIFIED and AVCOL_TRC_UNSPECIFIED share this number
TIMECODE = "tmcd"  # the codec tag of a timecode track
_TAG = re.compile(r"\((\w{4}) / 0x[0-9A-F]{8}\)")  # the four characters by which MP4 and MOV tell data apart
_STREAM = re.compile(r"^ *Stream #0:(?P<index>\d+).*?: (?P<type>[A-Z]\w+): (?P<codec>\w+).*", re.MULTILINE)
FALLBACK_RATE = Fraction(25)  # frames a second of a raw stream that does not say; FFmpeg assumes the same


class Chapter(TypedDict):
    """A chapter as PyAV reads and writes it; ``start`` and ``end`` are in units of ``time_base``."""

    id: int
    start: int
    end: int
    time_base: Fraction | None
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The part of a source that is read, in seconds of the source's own clock.

    Attributes:
        begin_s: time of the first frame; None where nothing is cut off at the front.
        end_s: first time that is left out; None where nothing is cut off at the end.
        shift_s: what to subtract from the source's timestamps.
    """

    begin_s: Fraction | None = None
    end_s: Fraction | None = None
    shift_s: Fraction = Fraction(0)

    def holds(self, time_s: Fraction) -> bool:
        """Whether a time of the source lies inside."""
        return (self.begin_s is None or time_s >= self.begin_s) and (self.end_s is None or time_s < self.end_s)


@dataclass(frozen=True, slots=True)
class ColourTags:
    """Colour tags of a stream, in FFmpeg's numbers (2 means unspecified; for the range 0 does).

    Attributes:
        primaries: AVColorPrimaries.
        transfer: AVColorTransferCharacteristic.
        matrix: AVColorSpace.
        range: AVColorRange.
        chroma_location: FFmpeg's name such as ``left`` or ``topleft``, or None.
    """

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0
    chroma_location: str | None = None


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """Static HDR10 metadata, in the terms of SMPTE ST 2086 and CTA-861.3.

    Attributes:
        primaries: x and y of the mastering display's red, green, blue and white, or None.
        luminance: its least and greatest luminance in cd/m2, or None.
        content: greatest light level of a pixel and of a frame's mean in cd/m2 (MaxCLL, MaxFALL), or None.
    """

    primaries: tuple[Fraction, ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    content: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Crop:
    """How many pixels at each edge of a decoded frame are not shown."""

    left_px: int = 0
    right_px: int = 0
    top_px: int = 0
    bottom_px: int = 0


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of the main video stream.

    Attributes:
        width_px, height_px: size of the stored frames, before rotation.
        time_base: seconds in one unit of a frame's ``pts``.
        average_rate: frames a second, or None; for estimates only, never for timing.
        start_pts: pts of the first frame that will be delivered, in units of ``time_base``, as far as known.
        duration_s: seconds that will be read, or None.
        codec: FFmpeg's codec name such as ``h264``.
        pixel_format: FFmpeg's name of the decoded pixel format.
        colour: meaning of the code values in the delivered planes.
        tags: the colour tags for the writer.
        rotation_deg: counter-clockwise rotation that a player applies before showing, -180..180.
        display_matrix: the nine numbers behind the rotation, or None.
        sample_aspect_ratio: width of a pixel over its height, or None.
        bit_rate: bits a second of the video stream, or None.
        container: FFmpeg's name of the file format.
        frames_estimate: how many frames will be delivered, or None.
        clock: where timestamps come from: the file's ``pts``; its ``dts`` in order for AVI, which stores no pts; or
            the frame ``rate`` where the file has no timestamps at all.
        stream_index: index of the stream in the file.
        interlaced: whether the first frame consists of two fields.
        misflagged: whether frames are flagged as interlaced although those of the part that is read are progressive.
        light: static HDR metadata, or None.
        crop: edges of the decoded frames that the container hides.
        lost_side_data: descriptions of side data of the first frame that an encoder does not write.
    """

    width_px: int
    height_px: int
    time_base: Fraction
    average_rate: Fraction | None
    start_pts: int
    duration_s: float | None
    codec: str
    pixel_format: str
    colour: "Colour"
    tags: ColourTags
    rotation_deg: int
    display_matrix: tuple[int, ...] | None
    sample_aspect_ratio: Fraction | None
    bit_rate: int | None
    container: str
    frames_estimate: int | None
    clock: Clock
    stream_index: int
    interlaced: bool = False
    misflagged: bool = False
    light: HdrMetadata | None = None
    crop: Crop = Crop()
    lost_side_data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceRate:
    """Bit rate of a video stream.

    Attributes:
        bits_s: bits a second, on average.
        burst_bits: how far the stream runs ahead of that average at most; 0 for a constant bit rate. None where the
            file has no index of its packets.
    """

    bits_s: float
    burst_bits: float | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Properties of any stream of a file.

    Attributes:
        index: index of the stream in the file.
        type: FFmpeg's media type: video, audio, subtitle, data or attachment.
        codec: FFmpeg's codec name; the four-character tag where FFmpeg has no such codec, else ``unknown``.
        name: name for messages, such as ``audio #1 (aac, eng)``.
        language: ISO 639 code, or None.
        time_base: seconds in one unit of its timestamps, or None.
        start_time: timestamp of its beginning in that unit; 0 where the file does not say.
        tags: its metadata.
        disposition: its flags, such as default, forced or attached picture.
        is_chapter_track: whether it is the hidden track in which MP4 and MOV store chapter titles.
        is_unnamed_data: whether it is a data track of MP4 or MOV that FFmpeg has no codec name for, and whose sample
            entry consists of its four-character tag alone, so that it can be written again.
        sample_rate_hz: of audio, else None.
        first_packet: of audio and video, else None; also None where it was not near the beginning of the file.
    """

    index: int
    type: str
    codec: str
    name: str
    language: str | None
    time_base: Fraction | None
    start_time: int
    tags: Mapping[str, str]
    disposition: Disposition
    is_chapter_track: bool = False
    is_unnamed_data: bool = False
    sample_rate_hz: int | None = None
    first_packet: Packet | None = field(default=None, repr=False, compare=False)

    @property
    def is_cover(self) -> bool:
        """Whether it is a cover picture rather than moving video."""
        return bool(self.disposition & Disposition.attached_pic)

    @property
    def start_s(self) -> Fraction | None:
        """When it begins, in seconds, or None where it has no time base."""
        return self.start_time * self.time_base if self.time_base else None


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A media file, probed once.

    Attributes:
        path: the file.
        container: FFmpeg's name of its format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        size_bytes: size of the file.
        start_s: when the earliest stream begins, on the file's clock; 0 where the file does not say.
        duration_s: duration of the whole file, or None.
        tags: metadata of the file itself.
        chapters: in order.
        programs: number of programs of a transport stream, else 0.
        streams: all streams by index, the main video included.
        video: properties of the main video stream, for the part that will be read.
        bit_rate: bit rate of the main video stream, or None.
        vendor_boxes: data of the camera's maker beside the streams of an MP4 or MOV file.
    """

    path: Path
    container: str
    size_bytes: int
    start_s: Fraction
    duration_s: float | None
    tags: Mapping[str, str]
    chapters: tuple[Chapter, ...]
    programs: int
    streams: tuple[StreamInfo, ...]
    video: VideoInfo
    bit_rate: SourceRate | None
    vendor_boxes: "tuple[VendorBox, ...]"

    @property
    def main_stream(self) -> StreamInfo:
        """The stream whose frames are restored."""
        return self.streams[self.video.stream_index]


def codec_name(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec; the four-character tag where FFmpeg has no codec for it."""
    context = stream.codec_context
    if context is not None:
        return str(context.codec.canonical_name)
    name = getattr(stream, "name", None)
    if name is None and stream.type == "data" and isinstance(stream.container, InputContainer):
        name = _tags_of(stream.container).get(stream.index)
    return str(name or "unknown")


@lru_cache(maxsize=4)  # FFmpeg describes all streams at once, and a file may have hundreds
def _tags_of(container: InputContainer) -> dict[int, str]:
    """The four-character codes of the streams that have one, by index."""
    lines = (
        (match, _TAG.search(match.string, match.start(), match.end()))
        for match in _STREAM.finditer(_described(container))
    )
    return {int(match["index"]): tag[1] for match, tag in lines if tag}


def description(container: Container, index: int) -> str:
    """FFmpeg's own text about a stream, which holds some properties that PyAV does not expose."""
    found = re.search(rf"^ *Stream #0:{index}\b.*(\n(?! *Stream #).*)*", _described(container), re.MULTILINE)
    return found[0].strip() if found else ""


def programs(container: Container) -> int:
    """How many programs a transport stream has; 0 in all other formats."""
    return len(re.findall(r"^ *Program \d+", _described(container), re.MULTILINE))


def late_streams(container: Container) -> list[str]:
    """Names of the streams that appeared while a file was read; PyAV has no objects by which to copy them.

    They are common in transport streams of dashcams, whose tables do not list the packets with GPS positions.
    """
    late = (match for match in _STREAM.finditer(_described(container)) if int(match["index"]) >= len(container.streams))
    return [
        f"{match['type'].lower()} stream #{match['index']} ({match['codec']}), which the header does not list"
        for match in late
    ]


class _Dumpable(Protocol):
    """A method that PyAV's stubs leave out: FFmpeg's ``av_dump_format`` at the current log level."""

    def dumps_format(self) -> str: ...


def _described(container: Container) -> str:
    level = av.logging.get_level()
    try:
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_libav_level(av.logging.VERBOSE)
        return cast("_Dumpable", container).dumps_format()
    finally:
        av.logging.set_level(level)
        av.logging.set_libav_level(av.logging.INFO)


def stream_name(stream: Stream) -> str:
    """A stream's name for messages, such as ``audio #1 (aac, eng)``."""
    parts = [codec_name(stream)] if stream.type != "attachment" else [str(stream.metadata.get("filename", "unnamed"))]
    if stream.language not in (None, "und"):
        parts.append(stream.language)
    return f"{stream_kind(stream)} #{stream.index} ({', '.join(parts)})"


def stream_kind(stream: Stream) -> str:
    """``cover picture`` for cover art, else FFmpeg's media type."""
    return "cover picture" if stream.disposition & Disposition.attached_pic else str(stream.type)
