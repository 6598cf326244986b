"""Adds a video stream to an output, opens its encoder with the user's or the default settings, and encodes frames."""

import difflib
import logging
from fractions import Fraction

import av
from av.codec import Codec
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vderain.errors import OutputError, UsageError
from vderain.media.decode.media_file import Packet, SourceRate, VideoInfo
from vderain.media.encode import CAP_FACTOR, EncodeOptions
from vderain.media.encode.codecs import (
    BITS,
    FAMILIES,
    PRESETS,
    WITH_PRESETS,
    Family,
    family_of,
    quieten,
    with_hdr_metadata,
)
from vderain.media.frame import Frame
from vderain.media.pixel_format import (
    FULL_RANGE,
    LIMITED_RANGE,
    best_pixel_format,
    is_lossy,
    layout_of,
    layout_of_planes,
    nearest_layout,
    to_av_frame,
    with_neutral_chroma,
)

log = logging.getLogger(__name__)

_FRAME_DURATION = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: packets get the durations of their frames
_LAMBDA_PER_QP = 118  # FF_QP2LAMBDA
_FINE_QP = 2  # for old encoders with a fixed quantiser: the finest that does not waste bits
_HARDWARE_CQ = 19  # for NVENC and AMF, whose default is a low bit rate: about the distortion of x264's crf 17
_CAP_BUFFER_S = 2.0  # of bits at the limit, beside the source's own bursts


class FrameEncoder:
    """A `segments.PacketEncoder` with one encoder for all frames.

    Args:
        stream: with its encoder opened.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._time_base = stream.codec_context.time_base  # of the encoder; a muxer may change the stream's
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._count = 0

    def encode(self, frame: Frame, time_s: Fraction) -> list[Packet]:
        """Encodes one frame; see `segments.PacketEncoder`."""
        pts = round(time_s / self._time_base)
        self._durations[pts] = int(frame.duration * frame.time_base / self._time_base)
        self._count += 1
        return self._with_durations(self._stream.encode(self._encoder_frame(frame, pts)))

    def finish(self) -> list[Packet]:
        """The packets that are still inside the encoder."""
        packets = self._stream.encode(None)
        if self._count <= 2 and self._stream.codec_context.name == "libx265":
            for packet in packets:  # with too few frames to reorder, x265 leaves their dts uninitialised
                packet.dts = packet.pts
        return self._with_durations(packets)

    def _encoder_frame(self, frame: Frame, pts: int) -> av.VideoFrame:
        """The frame in the encoder's pixel format; the very same bytes if that is the frame's own layout."""
        context = self._stream.codec_context
        assert context.pix_fmt is not None
        target = nearest_layout(context.pix_fmt)
        planes, colour = frame.planes, frame.colour
        if layout_of_planes(planes, colour).kind == "gray" and target.kind == "yuv":
            planes, colour = with_neutral_chroma(planes, colour, target)
        encoded = to_av_frame(planes, colour)
        if colour.matrix == "rgb" and target.kind == "yuv":
            encoded = encoded.reformat(
                format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
            )
        encoded.pts = pts
        encoded.time_base = self._time_base
        encoded.duration = self._durations[pts]
        return encoded

    def _with_durations(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration or 0) or packet.duration
        return packets


def add_encoder(
    output: OutputContainer,
    codec: str,
    options: EncodeOptions,
    info: VideoInfo,
    rate: SourceRate | None = None,
) -> VideoStream:
    """Adds the video stream, with its encoder opened, to an output.

    Args:
        output: the output container.
        codec: what `codec_choice.choose_codec` returned.
        options: what the user chose.
        info: the source's video stream, with the size of the frames that will be written.
        rate: the source's bit rate for as many pixels, which sets the limit of the output's; None sets none.

    Returns:
        The stream; frames must be converted to its ``codec_context.pix_fmt``.

    Raises:
        UsageError: the quality or an option is unknown to the encoder.
        OutputError: the encoder does not open.
    """
    family = family_of(codec)
    quieten(family.encoder)
    stream = output.add_stream(family.encoder, rate=_rate(info))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    _set_frame_format(context, info, options.lossless)
    context.time_base = stream.time_base = info.time_base
    context.flags |= _FRAME_DURATION
    if family.encoder == "libx265" and output.format.name in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the tag that Apple's players accept
    context.options = _encoder_options(family, options, context, info.tags.chroma_location)
    context.options = with_hdr_metadata(context.options, family.encoder, info.light)
    if rate is not None and not _is_own_choice(options):
        _cap(family, context, rate, info.codec)
    _open(context, codec, options)
    return stream


def _is_own_choice(options: EncodeOptions) -> bool:
    """Whether the user chose the quality or the bit rate."""
    names = {name for name, _ in options.encoder_opts}
    return options.lossless or options.crf is not None or bool(names & {"b", "maxrate", "bufsize", "qp", "cq", "rc"})


def _cap(family: Family, context: VideoCodecContext, rate: SourceRate, source_codec: str) -> None:
    """Limits the bit rate relative to the source's; higher if the source's codec is more efficient."""
    codec = context.codec.canonical_name
    limit = CAP_FACTOR * rate.bits_s * max(1.0, BITS.get(codec, 1.0) / BITS.get(source_codec, 1.0))
    if family.cap is None or limit < 1:
        return
    log.info("At most %.3g Mbit/s on average, %.3g times the source's.", limit / 1e6, limit / rate.bits_s)
    chosen = dict(context.options)
    _join(chosen, dict(family.coarsest))
    if family.cap == "average":
        context.bit_rate = int(limit)
    else:
        burst = rate.burst_bits * limit / rate.bits_s if rate.burst_bits is not None else 0.0
        chosen |= {"maxrate": f"{limit:.0f}", "bufsize": f"{min(burst + _CAP_BUFFER_S * limit, 2**31 - 1):.0f}"}
    context.options = chosen


def _rate(info: VideoInfo) -> Fraction:
    """A hint for the encoder's rate control and level; timing never comes from it."""
    rate = info.average_rate or 1 / info.time_base
    return min(max(rate, Fraction(1)), Fraction(1000)).limit_denominator(1_000_000)


def _set_frame_format(context: VideoCodecContext, info: VideoInfo, lossless: bool) -> None:
    context.width, context.height = info.width_px, info.height_px
    context.pix_fmt = _pixel_format(context.codec, info, lossless)
    context.sample_aspect_ratio = info.sample_aspect_ratio or Fraction(0, 1)
    context.color_primaries, context.color_trc = info.tags.primaries, info.tags.transfer
    context.colorspace, context.color_range = info.tags.matrix, info.tags.range
    if info.colour.full_range and info.colour.matrix != "rgb":
        context.color_range = FULL_RANGE
    if info.colour.matrix == "rgb" and nearest_layout(context.pix_fmt).kind == "yuv":
        context.colorspace, context.color_range = 1 if info.height_px >= 720 else 6, LIMITED_RANGE


def _pixel_format(codec: Codec, info: VideoInfo, lossless: bool) -> str:
    """The source's own layout if the encoder takes it, else the nearest, which is logged."""
    wanted, chosen = nearest_layout(info.pixel_format), best_pixel_format(codec, info)
    if chosen is None:
        raise UsageError(f"The encoder {codec.name} takes no planar frames.", "Choose another --codec.")
    have = layout_of(chosen)
    if lossless and chosen != wanted.name and (is_lossy(info, chosen) or wanted.kind == "yuv"):
        raise UsageError(f"The encoder {codec.name} cannot keep {wanted.name} frames.", "Choose --codec ffv1.")
    if chosen != wanted.name:
        lossy = have is not None and have.depth_bits < wanted.depth_bits
        log.log(
            logging.WARNING if lossy else logging.INFO,
            "%s does not take %s at this size: the output is %s.", codec.name, wanted.name, chosen,
        )  # fmt: skip
    return chosen


def _encoder_options(
    family: Family, options: EncodeOptions, context: VideoCodecContext, chroma_location: str | None
) -> dict[str, str]:
    """The encoder's private options: the defaults of the family, then the user's."""
    known = {option.name for option in context.supported_options.private}
    chosen = dict(family.extra)
    if chroma_location is not None:
        chosen["chroma_sample_location"] = chroma_location
    preset = options.preset or (family.fast_preset if options.fast_preset else None) or family.preset
    if preset is not None:
        if family.preset_option not in known:
            raise UsageError(f"The encoder {family.encoder} has no presets.", "Leave out --preset.")
        chosen[family.preset_option] = preset
    if options.lossless:
        _join(chosen, _lossless(family))
    else:
        chosen |= _quality(family, options.crf, known, context)
    _join(chosen, dict(options.encoder_opts))
    name = chosen.get("preset", PRESETS[0])
    if family.encoder in WITH_PRESETS and name not in (*PRESETS, *"0123456789"):
        raise UsageError(f"The encoder {family.encoder} has no preset '{name}'.", f"Choose {', '.join(PRESETS)}.")
    return chosen


def _join(chosen: dict[str, str], more: dict[str, str]) -> None:
    """Adds options in place; ``-params`` lists are appended to."""
    for name, value in more.items():
        joins = name.endswith("-params") and name in chosen
        chosen[name] = f"{chosen[name]}:{value}" if joins else value


def _lossless(family: Family) -> dict[str, str]:
    if family.lossless is None:
        raise UsageError(f"The encoder {family.encoder} is not lossless.", "Choose --codec ffv1, h264, hevc or vp9.")
    return dict(family.lossless)


def _quality(family: Family, asked: float | None, known: set[str], context: VideoCodecContext) -> dict[str, str]:
    """The option for constant quality, under the encoder's own name; set on the context if it has none."""
    if asked is not None and family.encoder == "ffv1":
        raise UsageError("ffv1 is lossless and has no quality to choose.", "Leave out --crf.")
    if asked is not None and family.encoder == "prores_ks":
        raise UsageError("prores has no crf.", "Leave out --crf, or choose --encoder-opt profile=lt.")
    quality = asked if asked is not None else family.crf
    if quality is None and family.encoder not in {each.encoder for each in FAMILIES.values()}:
        quality = _HARDWARE_CQ if known & {"cq", "qp_i"} else None if "crf" in known else _FINE_QP
    if quality is None:
        return {}
    if "crf" in known:
        return {"crf": f"{quality:g}"}
    if "cq" in known:
        context.bit_rate = 0  # else FFmpeg's default average bit rate is kept, and not the quality
        return {"rc": "vbr", "cq": f"{quality:g}"}
    if "qp_i" in known:
        return {"rc": "cqp", "qp_i": f"{quality:g}", "qp_p": f"{quality:g}"}
    context.qscale = True
    context.global_quality = round(quality * _LAMBDA_PER_QP)
    return {}


def _open(context: VideoCodecContext, name: str, options: EncodeOptions) -> None:
    known = [o.name for o in (*context.supported_options.private, *context.supported_options.generic)]
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        if options.crf is not None or options.preset is not None or options.encoder_opts:
            raise UsageError(
                f"The encoder for {name} refuses these settings.", "Check --crf, --preset and --encoder-opt."
            ) from error
        raise OutputError(
            f"The encoder for {name} does not open for {context.width}x{context.height} frames.",
            "Choose another --codec; 'vderain info' lists those that work here.",
        ) from error
    for option in context.options:  # those that the encoder did not consume
        near = difflib.get_close_matches(option, known, n=1)
        raise UsageError(
            f"The encoder for {name} has no option '{option}'.", f"Did you mean {near[0]}?" if near else "Leave it out."
        )
