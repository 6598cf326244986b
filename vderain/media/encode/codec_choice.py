"""Chooses the codec of an output, and probes which encoders and muxers work on this machine."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vderain.errors import UsageError
from vderain.media.decode.media_file import VideoInfo
from vderain.media.encode import EncodeOptions
from vderain.media.encode.codecs import FAMILIES, HARDWARE_ENCODERS, Family, family_of, quieten
from vderain.media.pixel_format import Layout, best_pixel_format, choose_layout, is_lossy, offered_formats

log = logging.getLogger(__name__)

_PROBE_PX = 256  # side of the frame that encoders are probed with: hardware refuses much smaller ones
_PROBE_RATE = Fraction(25)
_OF_SOURCE = {"vp8": "vp9"} | {name: name for name in FAMILIES}
_WITHOUT_QUALITY = ("ffv1", "prores")
_FALLBACKS = ("h264", "hevc", "vp9", "av1")  # widely playable codecs, by preference


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder that works on this machine.

    Attributes:
        codec: the name for ``--codec``.
        encoder: FFmpeg's name.
        default_crf: on the encoder's own scale, or None if it has none.
    """

    codec: str
    encoder: str
    default_crf: float | None


def working_encoders() -> list[EncoderInfo]:
    """The encoders that work on this machine, found by encoding one small frame with each."""
    candidates = FAMILIES | {name: Family(name) for name in HARDWARE_ENCODERS}
    return [
        EncoderInfo(name, family.encoder, family.crf)
        for name, family in candidates.items()
        if probe_encoder(family.encoder, family.extra)
    ]


def choose_codec(options: EncodeOptions, muxer: str, info: VideoInfo) -> str:
    """The codec to use: the one asked for, or the source's, or one that fits.

    Args:
        options: what the user chose.
        muxer: FFmpeg's name of the output container.
        info: the source's video stream, with the size of the frames that will be written.

    Raises:
        UsageError: the codec is unknown, or the container or the size of the frames does not suit it.
    """
    if options.codec is not None:
        name = options.codec.lower()
    else:
        has_quality = options.crf is not None or options.preset is not None
        name = default_codec(info, muxer, has_quality, options.lossless)
    _check_fit(name, muxer, info)
    return name


def _check_fit(name: str, muxer: str, info: VideoInfo) -> None:
    family = family_of(name)
    if family.is_too_small(info):
        least = "x".join(str(side) for side in family.min_px)
        raise UsageError(f"{name.upper()} needs frames of at least {least} pixels.", "Choose another --codec.")
    if not _holds(muxer, family):
        suffix = "mkv" if muxer == "matroska" else muxer
        raise UsageError(
            f"A .{suffix} file cannot hold {name} video.", "Choose another --codec, or .mkv, which holds all."
        )


def default_codec(info: VideoInfo, muxer: str, has_quality: bool, lossless: bool) -> str:
    """The codec to use when none was chosen: the source's, or the first widely playable one that fits.

    Args:
        info: the source's video stream.
        muxer: FFmpeg's name of the container that has to hold it.
        has_quality: leave out codecs without a quality or speed setting, because the user chose one.
        lossless: leave out codecs that cannot keep every bit.
    """
    family = _OF_SOURCE.get(info.codec)
    if has_quality and family in _WITHOUT_QUALITY:
        family = None
    names = dict.fromkeys((family, *_FALLBACKS, *(["ffv1"] if lossless else [])))
    candidates = [name for name in names if name and not FAMILIES[name].is_too_small(info)]
    candidates = [name for name in candidates if not lossless or FAMILIES[name].lossless is not None]
    candidates.sort(key=lambda name: _loses(FAMILIES[name], info))  # stable: lossless pixel formats first
    chosen = next((name for name in candidates if _fits(muxer, name)), "h264")
    if chosen != info.codec:
        log.info("The source is %s, which cannot be encoded or does not fit: the output is %s.", info.codec, chosen)
    return chosen


def _fits(muxer: str, codec: str) -> bool:
    if codec == "ffv1" and muxer != "matroska":
        return False  # MP4 may hold it, but nothing plays that
    return _holds(muxer, FAMILIES[codec])


def _loses(family: Family, info: VideoInfo) -> bool:
    """Whether the encoder can only take the source's frames with fewer bits or coarser colour."""
    return is_lossy(info, best_pixel_format(av.Codec(family.encoder, "w"), info))


def probe_encoder(encoder: str, options: Mapping[str, str]) -> bool:
    """Whether an encoder works on this machine, found by encoding one small frame.

    Args:
        encoder: FFmpeg's name.
        options: for the encoder.
    """
    quieten(encoder)
    try:
        context = av.CodecContext.create(encoder, "w")
        if not isinstance(context, VideoCodecContext):
            return False
        context.time_base = 1 / _PROBE_RATE
        frame = _set_up_probe(context, options)
        return bool(context.encode(frame) + context.encode(None))
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _holds(muxer: str, family: Family) -> bool:
    return probe_muxer(muxer, family.encoder, family.extra)


def probe_muxer(muxer: str, encoder: str, options: Mapping[str, str]) -> bool:
    """Whether what an encoder writes into a container reads back as the same codec.

    Muxers do not tell in advance: MOV's lists AV1 and refuses it when the header is written. If the encoder refuses
    the probe frame, the answer is yes, since nothing speaks against it.

    Args:
        muxer: FFmpeg's name.
        encoder: FFmpeg's name.
        options: for the encoder.
    """
    quieten(encoder)
    return _probe_muxer(muxer, encoder, tuple(options.items()))


@lru_cache(maxsize=64)
def _probe_muxer(muxer: str, encoder: str, options: tuple[tuple[str, str], ...]) -> bool:
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as output:
            stream = output.add_stream(encoder, rate=_PROBE_RATE)
            assert isinstance(stream, VideoStream)
            try:
                frame = _set_up_probe(stream.codec_context, dict(options))
                packets = stream.encode(frame) + stream.encode(None)
            except (av.error.FFmpegError, ValueError, OSError):
                return True  # a matter between the encoder and the frame
            for packet in packets:
                packet.dts = packet.pts  # of a single frame, x265 leaves it uninitialised
            output.mux(packets)
        memory.seek(0)
        with av.open(memory, "r") as written:
            codecs = [each.codec_context.codec for each in written.streams.video if each.codec_context is not None]
            return [codec.canonical_name for codec in codecs] == [stream.codec_context.codec.canonical_name]
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _set_up_probe(context: VideoCodecContext, options: Mapping[str, str]) -> av.VideoFrame:
    """Configures an encoder for a small grey frame, and returns the frame."""
    context.width = context.height = _PROBE_PX
    context.pix_fmt = choose_layout(Layout("yuv", 8, 2, 2), offered_formats(context.codec)) or "yuv420p"
    context.options = dict(options)
    frame = av.VideoFrame(_PROBE_PX, _PROBE_PX, context.pix_fmt)
    frame.pts = 0
    return frame
