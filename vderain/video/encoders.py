"""Owns the choice of encoder: options of a user enter, a configured encoder stream and its pixel format leave."""

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import av
from av.container import OutputContainer

from vderain.errors import OutputError, UsageError
from vderain.video.info import StreamInfo
from vderain.video.light import with_light
from vderain.video.planes import FULL_RANGE, LIMITED_RANGE, Layout, choose_layout, layout_of, nearest_layout

log = logging.getLogger(__name__)

_FRAME_DURATION = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: packets get the durations of their frames
_LAMBDA_PER_QP = 118  # FF_QP2LAMBDA
# libx265 accepts narrower pictures (its block is 64 wide), writes beyond its memory at widths up to 48, and crashes.
_X265_MIN_PX = (64, 16)
_FINE_QP = 2  # for old encoders with a fixed quantiser: the finest that does not waste bits


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the output is encoded; the single home of these defaults.

    Attributes:
        codec: h264, hevc, av1, vp9, ffv1 or the name of any FFmpeg video encoder; None takes H.264, which every player
            and editor reads, or VP9 where the container holds no H.264 (.webm).
        crf: constant quality, lower is better, on the codec's own scale; None takes the codec's default below.
        preset: speed against size, on the codec's own scale; None takes the codec's default below.
        encoder_opts: further options for the encoder, as (name, value).
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    encoder_opts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Family:
    """How one codec is asked for constant quality."""

    encoder: str
    crf: float | None
    preset: str | None = None
    preset_option: str = "preset"
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


# The default quality is "visually lossless": people hold what they restore for the new original, and rain removal
# leaves fine texture that coarser quantisers smear. crf 17 or 18 is where x264's own documentation puts that threshold;
# 17 keeps a margin. The other scales are set to about the same distortion: x265 spends its bits better (20), SVT-AV1
# and libvpx count 0..63 (22 and 20).
_FAMILIES: dict[str, _Family] = {
    "h264": _Family("libx264", 17, "medium"),
    "hevc": _Family("libx265", 20, "medium", extra={"x265-params": "log-level=none"}),
    "av1": _Family("libsvtav1", 22, "6"),
    "vp9": _Family("libvpx-vp9", 20, "2", "cpu-used", {"deadline": "good", "row-mt": "1"}),
    "ffv1": _Family("ffv1", None, extra={"level": "3", "slicecrc": "1"}),
}
_ALIASES = {"h265": "hevc", "x264": "h264", "x265": "hevc", "avc": "h264"}
_HARDWARE = ("h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_qsv", "hevc_qsv", "h264_videotoolbox", "hevc_videotoolbox")


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder that opened here: the name for ``--codec``, FFmpeg's encoder behind it, its default crf."""

    codec: str
    encoder: str
    default_crf: float | None


def working_encoders() -> list[EncoderInfo]:
    """The encoders that really open on this machine, proved by encoding one small picture with each."""
    candidates = [*_FAMILIES.items(), *((name, _Family(name, None)) for name in _HARDWARE)]
    return [EncoderInfo(name, family.encoder, family.crf) for name, family in candidates if _encodes(family.encoder)]


def _encodes(encoder: str) -> bool:
    _quiet(encoder)
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.width, context.height = 256, 256  # hardware refuses much smaller pictures
        context.pix_fmt = choose_layout(Layout("yuv", 8, 2, 2), _formats(context.codec)) or "yuv420p"
        context.time_base = Fraction(1, 25)
        if encoder == "libx265":
            context.options = {"x265-params": "log-level=none"}
        picture = av.VideoFrame(256, 256, context.pix_fmt)
        picture.pts = 0
        return bool(context.encode(picture) + context.encode(None))
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def choose_codec(options: EncodeOptions, output: OutputContainer) -> str:
    """The codec to use: the one asked for, else H.264 where the container holds it, else VP9."""
    if options.codec is not None:
        return options.codec.lower()
    return "vp9" if output.format.name == "webm" else "h264"


def add_encoder(output: OutputContainer, options: EncodeOptions, info: StreamInfo, time_base: Fraction) -> Any:
    """Adds the video stream, with its encoder opened, to an output.

    Args:
        output: the output container.
        options: what the user chose.
        info: the source's video stream.
        time_base: seconds in one unit of the pts that will be written.

    Returns:
        The PyAV stream; its ``codec_context.pix_fmt`` is what pictures must be converted to.

    Raises:
        UsageError: codec, quality or an option is unknown, or the container does not hold the codec.
        OutputError: the encoder does not open.
    """
    name = choose_codec(options, output)
    family = _family(name)
    if family.encoder == "libx265" and (info.width_px < _X265_MIN_PX[0] or info.height_px < _X265_MIN_PX[1]):
        raise UsageError(
            f"HEVC needs pictures of {_X265_MIN_PX[0]}x{_X265_MIN_PX[1]} pixels at least.", "Choose another --codec."
        )
    _quiet(family.encoder)
    try:
        stream: Any = output.add_stream(family.encoder, rate=_rate(info))
    except ValueError as error:
        raise UsageError(
            f"A .{_suffix(output)} file cannot hold {name} video.", "Choose another --codec, or .mkv, which holds all."
        ) from error
    context = stream.codec_context
    _set_picture(context, info)
    context.time_base = time_base
    stream.time_base = time_base
    context.flags |= _FRAME_DURATION
    if output.format.name == "avi":
        context.max_b_frames = 0  # AVI has no presentation times: pictures must be stored in the order they are shown
    if family.encoder == "libx265" and output.format.name in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the tag that Apple's players accept
    context.options = _encoder_options(family, options, context, info.tags.chroma_location)
    context.options = with_light(context.options, family.encoder, info.light)
    _open(context, name, options)
    return stream


def _family(name: str) -> _Family:
    name = _ALIASES.get(name, name)
    if name in _FAMILIES:
        return _FAMILIES[name]
    if _is_video_encoder(name):
        return _Family(name, None)
    encoders = sorted(codec for codec in av.codecs_available if _is_video_encoder(codec))
    near = difflib.get_close_matches(name, [*_FAMILIES, *encoders], n=1, cutoff=0.4)
    cure = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(_FAMILIES)}."
    raise UsageError(f"There is no video encoder '{name}'.", cure)


def _is_video_encoder(name: str) -> bool:
    try:
        return bool(av.Codec(name, "w").type == "video")
    except ValueError:
        return False


def _formats(codec: Any) -> list[str]:
    return [pixel.name for pixel in codec.video_formats or ()]


def _suffix(output: OutputContainer) -> str:
    return {"matroska": "mkv", "mpegts": "ts"}.get(output.format.name, output.format.name)


def _rate(info: StreamInfo) -> Fraction:
    """A hint for the encoder's rate control and level; timing never comes from it."""
    rate = info.average_rate or 1 / info.time_base
    return min(max(rate, Fraction(1)), Fraction(1000)).limit_denominator(1_000_000)


def _set_picture(context: Any, info: StreamInfo) -> None:
    context.width, context.height = info.width_px, info.height_px
    context.pix_fmt = _pixel_format(context.codec, info)
    context.sample_aspect_ratio = info.sample_aspect_ratio or Fraction(0, 1)
    context.color_primaries, context.color_trc = info.tags.primaries, info.tags.transfer
    context.colorspace, context.color_range = info.tags.matrix, info.tags.range
    if info.colour.full_range and info.colour.matrix != "rgb":
        context.color_range = FULL_RANGE
    if info.colour.matrix == "rgb" and nearest_layout(context.pix_fmt).kind == "yuv":
        context.colorspace, context.color_range = 1 if info.height_px >= 720 else 6, LIMITED_RANGE


def _pixel_format(codec: Any, info: StreamInfo) -> str:
    """The source's own layout where the encoder has it, else the nearest, said aloud."""
    wanted = nearest_layout(info.pixel_format)
    offered = _formats(codec)
    if not offered:
        return wanted.name
    target = wanted
    if codec.name in ("libx264", "libx265") and (info.width_px % wanted.chroma_w or info.height_px % wanted.chroma_h):
        target = Layout("yuv", wanted.depth_bits)  # these two refuse subsampled chroma at odd sizes
    chosen = target.name if target.name in offered else choose_layout(target, offered)
    if chosen is None:
        raise UsageError(f"The encoder {codec.name} takes no planar pictures.", "Choose another --codec.")
    if chosen != wanted.name:
        have = layout_of(chosen)
        lossy = have is not None and have.depth_bits < wanted.depth_bits
        log.log(
            logging.WARNING if lossy else logging.INFO,
            "%s does not take %s at this size: the output is %s.", codec.name, wanted.name, chosen,
        )  # fmt: skip
    return chosen


def _encoder_options(
    family: _Family, options: EncodeOptions, context: Any, chroma_location: str | None
) -> dict[str, str]:
    """The encoder's private options: defaults of the family, then the user's."""
    known = {option.name for option in context.supported_options.private}
    chosen = dict(family.extra)
    if chroma_location is not None:
        chosen["chroma_sample_location"] = chroma_location
    preset = options.preset or family.preset
    if preset is not None:
        if family.preset_option not in known:
            raise UsageError(f"The encoder {family.encoder} has no presets.", "Leave out --preset.")
        chosen[family.preset_option] = preset
    crf = options.crf if options.crf is not None else family.crf
    if crf is not None:
        chosen.update(_quality(family.encoder, crf, known, context))
    elif family.encoder not in (f.encoder for f in _FAMILIES.values()) and not known & {"crf", "cq"}:
        _fix_quantiser(context, _FINE_QP)
    for name, value in options.encoder_opts:
        joins = name == "x265-params" and name in chosen
        chosen[name] = f"{chosen[name]}:{value}" if joins else value
    return chosen


def _quality(encoder: str, crf: float, known: set[str], context: Any) -> dict[str, str]:
    if encoder == "ffv1":
        raise UsageError("ffv1 is lossless and has no quality to choose.", "Leave out --crf.")
    if "crf" in known:
        return {"crf": f"{crf:g}"}
    if "cq" in known:
        return {"rc": "vbr", "cq": f"{crf:g}"}
    _fix_quantiser(context, crf)
    return {}


def _fix_quantiser(context: Any, qp: float) -> None:
    context.qscale = True
    context.global_quality = round(qp * _LAMBDA_PER_QP)


def _open(context: Any, name: str, options: EncodeOptions) -> None:
    known = [o.name for o in (*context.supported_options.private, *context.supported_options.generic)]
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        if options.crf is not None or options.preset is not None or options.encoder_opts:
            raise UsageError(
                f"The encoder for {name} refuses these settings.", "Check --crf, --preset and --encoder-opt."
            ) from error
        raise OutputError(
            f"The encoder for {name} does not open for {context.width}x{context.height} pictures.",
            "Choose another --codec; 'vderain info' lists those that work here.",
        ) from error
    for option in context.options:  # what the encoder did not consume
        near = difflib.get_close_matches(option, known, n=1)
        raise UsageError(
            f"The encoder for {name} has no option '{option}'.", f"Did you mean {near[0]}?" if near else "Leave it out."
        )


def _quiet(encoder: str) -> None:
    """SVT-AV1 writes to the terminal by itself and listens only to the environment."""
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")
