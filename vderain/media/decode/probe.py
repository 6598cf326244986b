"""Owns what is known of a video stream before it is read: an open stream enters, a StreamInfo leaves."""

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av

from vderain.errors import InputError
from vderain.media.decode.deinterlace import shows_fields
from vderain.media.decode.open import codec_name, description, open_input
from vderain.media.decode.side_data import lost_side_data
from vderain.media.frame import Colour
from vderain.media.hdr import HdrMetadata, hdr_metadata_of
from vderain.media.pixel_format import UNSPECIFIED, Layout, colour_of, nearest_layout

log = logging.getLogger(__name__)

_CHROMA_LOCATION = re.compile(r"[(,] ?(left|center|topleft|top|bottomleft|bottom)[),]")
FALLBACK_RATE = Fraction(25)  # frames a second of a raw stream that does not say; FFmpeg assumes the same
_RATE_MAX = 1000  # frames a second; a timecode can count no more
_CROPPING = re.compile(r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)")  # left, right, top, bottom
_STAMP_PACKETS = 64  # how far the first time stamp is looked for
_PROBE_PACKETS = 600  # how far the first picture is looked for: 10 s at 60 fps


@dataclass(frozen=True, slots=True)
class ColourTags:
    """How a stream is tagged, in FFmpeg's numbers (2: unspecified, for the range 0).

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
class Crop:
    """How much of a decoded picture's edges is not shown."""

    left_px: int = 0
    right_px: int = 0
    top_px: int = 0
    bottom_px: int = 0


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of the main video stream before it is read.

    Attributes:
        width_px, height_px: size of the stored pictures, before rotation.
        time_base: seconds in one unit of a frame's ``pts``.
        average_rate: frames a second, or None; for estimates only, never for timing.
        start_pts: pts of the first frame that will be delivered, in units of ``time_base``, as far as known.
        duration_s: seconds that will be read, or None.
        codec: FFmpeg's codec name such as ``h264``.
        pixel_format: FFmpeg's name of the decoded pixel format.
        colour: what the delivered planes mean.
        tags: the colour tags for the writer.
        rotation_deg: counter-clockwise turn a player makes before showing, -180..180.
        display_matrix: the nine numbers behind the rotation, or None.
        sample_aspect_ratio: width of a pixel over its height, or None.
        bit_rate: bits a second of the video stream, or None.
        container: FFmpeg's name of the file format.
        frames_estimate: how many frames will be delivered, or None.
        clock: where the pts come from: ``pts`` of the file; its ``dts``, in order, for AVI, which has no pts; or the
            frame ``rate`` where a file has no time stamps at all.
        stream_index: place of the stream in the file.
        interlaced: whether the first picture consists of two fields.
        misflagged: whether it is flagged as if it did, while pictures of the part that is read are whole.
        light: how bright HDR is meant to be, or None.
        crop: what is left out of the decoded pictures because the container says so.
        lost_side_data: what the first picture carries beside its samples that an output will not have, in words.
    """

    width_px: int
    height_px: int
    time_base: Fraction
    average_rate: Fraction | None
    start_pts: int
    duration_s: float | None
    codec: str
    pixel_format: str
    colour: Colour
    tags: ColourTags
    rotation_deg: int
    display_matrix: tuple[int, ...] | None
    sample_aspect_ratio: Fraction | None
    bit_rate: int | None
    container: str
    frames_estimate: int | None
    clock: Literal["pts", "dts", "rate"]
    stream_index: int
    interlaced: bool = False
    misflagged: bool = False
    light: HdrMetadata | None = None
    crop: Crop = Crop()
    lost_side_data: tuple[str, ...] = ()


def probe(
    container: Any, stream: Any, path: Path, start_s: float | None = None, duration_s: float | None = None
) -> VideoInfo:
    """Decodes the first picture, because containers are silent or wrong about half of this.

    Args:
        container: the open file.
        stream: its main video stream.
        path: its name, for errors.
        start_s: seconds from the beginning at which reading will start, or None.
        duration_s: seconds that are wanted, or None.

    Raises:
        InputError: no picture can be decoded.
    """
    picture, unstamped, stamp = _first_picture(container, stream, path)
    flagged = bool(picture.interlaced_frame)
    misflagged = flagged and not shows_fields(_pictures(path, stream.index, start_s))
    described = description(container, stream.index)
    crop = _crop(described, nearest_layout(picture.format.name)) or Crop()
    if picture.width <= crop.left_px + crop.right_px or picture.height <= crop.top_px + crop.bottom_px:
        crop = Crop()  # nothing would be left: the container is wrong
    if picture.width <= 0 or picture.height <= 0:
        raise InputError(f"The pictures in '{path}' have no size.", "Copy or record the file again.")
    rate = frame_rate(stream) or FALLBACK_RATE
    clock: Literal["pts", "dts", "rate"] = "rate" if stamp is None else "pts"
    if container.format.name == "avi" and stamp is not None:
        clock = "dts"
    time_base = 1 / rate if clock == "rate" else stream.time_base
    start_pts = (stamp or 0) - round(unstamped / (rate * time_base)) if clock == "pts" else 0
    read_s = _duration_s(container, stream, start_s, duration_s)
    return VideoInfo(
        width_px=picture.width - crop.left_px - crop.right_px,
        height_px=picture.height - crop.top_px - crop.bottom_px,
        time_base=time_base,
        average_rate=frame_rate(stream),
        start_pts=start_pts if start_s is None else 0,
        duration_s=read_s,
        codec=codec_name(stream),
        pixel_format=picture.format.name,
        colour=colour(picture, stream),
        tags=replace(_tags(picture, stream), chroma_location=_chroma_location(described)),
        rotation_deg=picture.rotation,
        display_matrix=_display_matrix(picture),
        # some codecs say it only in their pictures
        sample_aspect_ratio=stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None,
        bit_rate=stream.codec_context.bit_rate or None,
        container=container.format.name,
        frames_estimate=_frames_estimate(stream, rate, read_s, start_s is None and duration_s is None),
        clock=clock,
        stream_index=stream.index,
        interlaced=flagged and not misflagged,
        misflagged=misflagged,
        light=hdr_metadata_of(picture),
        crop=crop,
        lost_side_data=tuple(sorted(lost_side_data(picture))),
    )


def frame_rate(stream: Any) -> Fraction | None:
    """Frames a second, as far as the file says; raw DV says how often its clock ticks instead."""
    rates = (stream.average_rate, stream.guessed_rate)
    return next((rate for rate in rates if rate and rate <= _RATE_MAX), None)


def _first_picture(container: Any, stream: Any, path: Path) -> tuple[Any, int, int | None]:
    """Looks at the head of a stream.

    Returns:
        The first picture that decodes, sound or not; how many packets before the first with a pts have none (Matroska
        loses times before zero); the earliest pts, or None where there is none.
    """
    picture: Any = None
    unstamped = 0
    stamps: list[int] = []
    for tried, packet in enumerate(_packets(container, stream)):
        if packet.pts is not None:
            stamps.append(packet.pts)
        elif not stamps:
            unstamped += 1
        if picture is None:
            picture = _picture(packet)
        enough = stamps or tried >= _STAMP_PACKETS
        if (picture is not None and enough) or tried >= _PROBE_PACKETS:
            break
    if picture is None:
        raise InputError(f"No picture in '{path}' can be decoded.", "Copy or record the file again.")
    if picture.pts is not None and stamps:
        stamps.append(picture.pts)
    return picture, unstamped if stamps else 0, min(stamps, default=None)


def _pictures(path: Path, stream_index: int, start_s: float | None) -> Iterator[Any]:
    """Pictures from about a place on, for a look at them."""
    with open_input(path) as container:
        stream = next(each for each in container.streams.video if each.index == stream_index)
        if start_s:
            with suppress(av.error.FFmpegError):  # then the beginning has to do
                container.seek((container.start_time or 0) + int(start_s * av.time_base))
        for packet in _packets(container, stream):
            with suppress(av.error.FFmpegError, ValueError):
                yield from packet.decode()


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, the closing empty one included, up to the first that cannot be read."""
    try:
        yield from container.demux(stream)
    except (av.error.FFmpegError, OSError) as error:
        log.debug("looking at the head of a stream: %s", error)


def _picture(packet: Any) -> Any:
    try:
        return next(iter(packet.decode()), None)
    except (av.error.FFmpegError, ValueError):
        return None


def colour(picture: Any, stream: Any) -> Colour:
    """What the planes of a picture mean."""
    name = picture.format.name
    tags = _tags(picture, stream)
    return colour_of(nearest_layout(name), name, tags.matrix, tags.range, (picture.width, picture.height))


def _tags(picture: Any, stream: Any) -> ColourTags:
    """The picture's own tags; the stream's where it has none."""
    context = stream.codec_context

    def pick(of_picture: int, of_stream: int, silent: int) -> int:
        return int(of_picture if of_picture != silent else of_stream)

    return ColourTags(
        primaries=pick(picture.color_primaries, context.color_primaries, UNSPECIFIED),
        transfer=pick(picture.color_trc, context.color_trc, UNSPECIFIED),
        matrix=pick(picture.colorspace, context.colorspace, UNSPECIFIED),
        range=pick(picture.color_range, context.color_range, 0),
    )


def _chroma_location(described: str) -> str | None:
    """Where chroma samples sit between luma samples."""
    match = _CHROMA_LOCATION.search(described.partition("\n")[0])
    return match[1] if match else None


def _crop(described: str, layout: Layout) -> Crop | None:
    """What a container wants to be left out at the edges, down to whole chroma samples at the left and the top."""
    match = _CROPPING.search(described)
    if match is None:
        return None
    left, right, top, bottom = (int(edge) for edge in match.groups())
    crop = Crop(left - left % layout.chroma_w, right, top - top % layout.chroma_h, bottom)
    return crop if crop != Crop() else None


def _display_matrix(picture: Any) -> tuple[int, ...] | None:
    for side_data in picture.side_data:
        if side_data.type.name == "DISPLAYMATRIX":
            return tuple(memoryview(bytes(side_data)).cast("i"))
    return None


def _duration_s(container: Any, stream: Any, start_s: float | None, wanted_s: float | None) -> float | None:
    """Seconds that will be read, of those wanted."""
    if stream.duration is not None:
        whole_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        whole_s = container.duration / av.time_base
    else:
        return wanted_s
    rest_s = max(0.0, whole_s - (start_s or 0.0))
    return rest_s if wanted_s is None else min(rest_s, float(wanted_s))


def _frames_estimate(stream: Any, rate: Fraction | None, duration_s: float | None, whole: bool) -> int | None:
    if stream.frames and whole:
        return int(stream.frames)
    return round(duration_s * float(rate)) if duration_s is not None and rate else None
