"""Owns the choice of encoder: options of a user enter, a configured encoder stream and its pixel format leave."""

import difflib
import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer

from vderain.errors import OutputError, UsageError
from vderain.media.decode.bit_rate import SourceRate
from vderain.media.decode.probe import VideoInfo
from vderain.media.encode.codecs import (
    AUTO_HARDWARE,
    BITS,
    FAMILIES,
    PRESETS,
    WITH_PRESETS,
    Family,
    default_codec,
    family_of,
    hardware_candidates,
    hardware_families,
    is_lossy,
    picture_format,
)
from vderain.media.encode.trial import encodes, quieten
from vderain.media.hdr import with_hdr_metadata
from vderain.media.pixel_format import FULL_RANGE, LIMITED_RANGE, layout_of, nearest_layout

log = logging.getLogger(__name__)

_FRAME_DURATION = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: packets get the durations of their frames
_LAMBDA_PER_QP = 118  # FF_QP2LAMBDA
_FINE_QP = 2  # for old encoders with a fixed quantiser: the finest that does not waste bits
# The output at constant quality may become several times as large as the source, whose own artefacts it then encodes
# with care. CAP_FACTOR limits that; measured in docs/benchmarks.md.
CAP_FACTOR = 1.3
CRF_MAX = 63  # the coarsest on any codec's own scale
_CAP_BUFFER_S = 2.0  # of the limit, beside the source's own unevenness


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the output is encoded; the single home of these defaults.

    Attributes:
        codec: h264, hevc, av1, vp9, ffv1, prores or the name of any FFmpeg video encoder; ``auto-hw`` takes a graphics
            card's encoder where one works. None takes the source's codec, or H.264 where that cannot be encoded.
        crf: constant quality, lower is better, on the codec's own scale; None takes the codec's default, with a limit
            of `CAP_FACTOR` times the source's bit rate.
        preset: speed against size, on the codec's own scale; None takes the codec's default.
        encoder_opts: further options for the encoder, as (name, value).
        lossless: keep every bit of the pictures.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    encoder_opts: tuple[tuple[str, str], ...] = ()
    lossless: bool = False

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= CRF_MAX:
            raise UsageError(f"crf {self.crf:g} is out of range.", f"Give 0 to 51, for av1 and vp9 up to {CRF_MAX}.")
        if self.lossless and self.crf is not None:
            raise UsageError("--lossless has no quality to choose.", "Leave out --crf or --lossless.")


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder that opened here: the name for ``--codec``, FFmpeg's encoder behind it, its default crf."""

    codec: str
    encoder: str
    default_crf: float | None


def working_encoders() -> list[EncoderInfo]:
    """The encoders that really open on this machine, proved by encoding one small picture with each."""
    candidates = FAMILIES | hardware_families()
    return [
        EncoderInfo(name, family.encoder, family.crf)
        for name, family in candidates.items()
        if encodes(family.encoder, family.extra)
    ]


def choose_codec(options: EncodeOptions, muxer: str, info: VideoInfo) -> str:
    """The codec to use: the one asked for, or the source's, or one that fits."""
    if options.codec is not None and options.codec.lower() != AUTO_HARDWARE:
        return options.codec.lower()
    has_quality = options.crf is not None or options.preset is not None or options.codec is not None
    codec = default_codec(info, muxer, has_quality, options.lossless)
    return codec if options.codec is None else _hardware(codec, info)


def _hardware(codec: str, info: VideoInfo) -> str:
    """The first encoder of a graphics card that works, else the codec itself; what was decided is said aloud."""
    tried = list(hardware_candidates(codec))
    for name in tried:
        family = hardware_families(codec)[name]
        pixel_format = picture_format(av.Codec(name, "w"), info)
        if not is_lossy(info, pixel_format) and encodes(family.encoder, family.extra, pixel_format):
            log.warning("%s encodes, on the graphics hardware.", name)
            return name
    why = f"none of {', '.join(tried)} works" if tried else "this FFmpeg has none for that codec"
    log.warning("No hardware encoder for these pictures (%s): %s encodes.", why, FAMILIES[codec].encoder)
    return codec


def add_encoder(
    output: OutputContainer, options: EncodeOptions, info: VideoInfo, time_base: Fraction,
    rate: SourceRate | None = None,
) -> Any:  # fmt: skip
    """Adds the video stream, with its encoder opened, to an output.

    Args:
        output: the output container.
        options: what the user chose.
        info: the source's video stream, with the size of the pictures that will come.
        time_base: seconds in one unit of the pts that will be written.
        rate: what the source spends on as many pixels, from which the limit of the bit rate follows; None sets none.

    Returns:
        The PyAV stream; its ``codec_context.pix_fmt`` is what pictures must be converted to.

    Raises:
        UsageError: codec, quality or an option is unknown, or the container does not hold the codec.
        OutputError: the encoder does not open.
    """
    name = choose_codec(options, output.format.name, info)
    family = family_of(name)
    if family.is_too_small(info):
        least = "x".join(str(side) for side in family.min_px)
        raise UsageError(f"{name.upper()} needs pictures of {least} pixels at least.", "Choose another --codec.")
    if not family.is_held_by(output.format.name):
        raise UsageError(
            f"A .{_suffix(output)} file cannot hold {name} video.", "Choose another --codec, or .mkv, which holds all."
        )
    quieten(family.encoder)
    stream: Any = output.add_stream(family.encoder, rate=_rate(info))
    context = stream.codec_context
    _set_picture(context, info, options.lossless)
    context.time_base = time_base
    stream.time_base = time_base
    context.flags |= _FRAME_DURATION
    if output.format.name == "avi":
        context.max_b_frames = 0  # AVI has no presentation times: pictures must be stored in the order they are shown
    if family.encoder == "libx265" and output.format.name in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the tag that Apple's players accept
    context.options = _encoder_options(family, options, context, info.tags.chroma_location)
    context.options = with_hdr_metadata(context.options, family.encoder, info.light)
    if rate is not None and not _is_own_choice(options):
        _cap(family, context, rate, info.codec)
    _open(context, name, options)
    return stream


def _is_own_choice(options: EncodeOptions) -> bool:
    """Whether the user chose how many bits are spent."""
    names = {name for name, _ in options.encoder_opts}
    return options.lossless or options.crf is not None or bool(names & {"b", "maxrate", "bufsize", "qp", "cq", "rc"})


def _cap(family: Family, context: Any, rate: SourceRate, source_codec: str) -> None:
    """Limits the bit rate by that of the source; more, where its codec is better than the output's."""
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


def _suffix(output: OutputContainer) -> str:
    return {"matroska": "mkv", "mpegts": "ts"}.get(output.format.name, output.format.name)


def _rate(info: VideoInfo) -> Fraction:
    """A hint for the encoder's rate control and level; timing never comes from it."""
    rate = info.average_rate or 1 / info.time_base
    return min(max(rate, Fraction(1)), Fraction(1000)).limit_denominator(1_000_000)


def _set_picture(context: Any, info: VideoInfo, lossless: bool) -> None:
    context.width, context.height = info.width_px, info.height_px
    context.pix_fmt = _pixel_format(context.codec, info, lossless)
    context.sample_aspect_ratio = info.sample_aspect_ratio or Fraction(0, 1)
    context.color_primaries, context.color_trc = info.tags.primaries, info.tags.transfer
    context.colorspace, context.color_range = info.tags.matrix, info.tags.range
    if info.colour.full_range and info.colour.matrix != "rgb":
        context.color_range = FULL_RANGE
    if info.colour.matrix == "rgb" and nearest_layout(context.pix_fmt).kind == "yuv":
        context.colorspace, context.color_range = 1 if info.height_px >= 720 else 6, LIMITED_RANGE


def _pixel_format(codec: Any, info: VideoInfo, lossless: bool) -> str:
    """The source's own layout where the encoder has it, else the nearest, said aloud."""
    wanted, chosen = nearest_layout(info.pixel_format), picture_format(codec, info)
    if chosen is None:
        raise UsageError(f"The encoder {codec.name} takes no planar pictures.", "Choose another --codec.")
    have = layout_of(chosen)
    if lossless and chosen != wanted.name and (is_lossy(info, chosen) or wanted.kind == "yuv"):
        raise UsageError(f"The encoder {codec.name} cannot keep {wanted.name} pictures.", "Choose --codec ffv1.")
    if chosen != wanted.name:
        lossy = have is not None and have.depth_bits < wanted.depth_bits
        log.log(
            logging.WARNING if lossy else logging.INFO,
            "%s does not take %s at this size: the output is %s.", codec.name, wanted.name, chosen,
        )  # fmt: skip
    return chosen


def _encoder_options(
    family: Family, options: EncodeOptions, context: Any, chroma_location: str | None
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
    """Adds options; lists of an encoder's own parameters grow."""
    for name, value in more.items():
        joins = name.endswith("-params") and name in chosen
        chosen[name] = f"{chosen[name]}:{value}" if joins else value


def _lossless(family: Family) -> dict[str, str]:
    if family.lossless is None:
        raise UsageError(f"The encoder {family.encoder} is not lossless.", "Choose --codec ffv1, h264, hevc or vp9.")
    return dict(family.lossless)


def _quality(family: Family, asked: float | None, known: set[str], context: Any) -> dict[str, str]:
    if asked is not None and family.encoder == "ffv1":
        raise UsageError("ffv1 is lossless and has no quality to choose.", "Leave out --crf.")
    if asked is not None and family.encoder == "prores_ks":
        raise UsageError("prores has no crf.", "Leave out --crf, or choose --encoder-opt profile=lt.")
    crf = asked if asked is not None else family.crf
    if crf is None:
        ours = family.encoder in {each.encoder for each in FAMILIES.values()}
        if not (ours or family.extra or known & {"crf", "cq"}):
            _fix_quantiser(context, _FINE_QP)
        return {}
    if "crf" in known:
        return {"crf": f"{crf:g}"}
    if "cq" in known:
        context.bit_rate = 0  # else the average of FFmpeg's default is kept, and not the quality
        return {"rc": "vbr", "cq": f"{crf:g}"}
    if "qp_i" in known:
        return {"rc": "cqp", "qp_i": f"{crf:g}", "qp_p": f"{crf:g}"}
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
