"""Owns the choice of a codec: what the user asked for and what the source is enter, a family of settings leaves."""

import difflib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import av

from vderain.errors import UsageError
from vderain.media.decode.probe import VideoInfo
from vderain.media.encode.trial import holds, offered_formats
from vderain.media.pixel_format import Layout, choose_layout, layout_of, nearest_layout

log = logging.getLogger(__name__)

AUTO_HARDWARE = "auto-hw"


def _options(**options: str) -> Mapping[str, str]:
    return MappingProxyType({name.replace("_", "-"): value for name, value in options.items()})


@dataclass(frozen=True, slots=True)
class Family:
    """How one encoder is asked for constant quality.

    Attributes:
        encoder: FFmpeg's name.
        crf: default quality on the encoder's own scale, or None where it has none.
        preset: default speed preset, or None.
        preset_option: what the encoder calls it.
        extra: further options, always set.
        lossless: options that make it keep every bit; None where it cannot, empty where it always does.
        cap: how a limit on the bit rate is set beside a quality: as a buffer model, as an average, or not at all.
        coarsest: options that keep that limit from making the picture coarser than a crf about 5 higher.
        min_px: the smallest width and height.
    """

    encoder: str
    crf: float | None = None
    preset: str | None = None
    preset_option: str = "preset"
    extra: Mapping[str, str] = field(default_factory=_options)
    lossless: Mapping[str, str] | None = None
    cap: Literal["buffer", "average"] | None = None
    coarsest: Mapping[str, str] = field(default_factory=_options)
    min_px: tuple[int, int] = (1, 1)

    def is_too_small(self, info: VideoInfo) -> bool:
        """Whether pictures of a size are below what the encoder takes."""
        return info.width_px < self.min_px[0] or info.height_px < self.min_px[1]

    def is_held_by(self, muxer: str) -> bool:
        """Whether a container of FFmpeg's name has a place for what the encoder writes."""
        return holds(muxer, self.encoder, self.extra)


# The default quality is "visually lossless": people hold what they restore for the new original, and rain removal
# leaves fine texture that coarser quantisers smear. crf 17 or 18 is where x264's own documentation puts that threshold;
# 17 keeps a margin. The other scales are set to about the same distortion: x265 spends its bits better (20), SVT-AV1
# and libvpx count 0..63 (22 and 20).
FAMILIES: dict[str, Family] = {
    "h264": Family(
        "libx264", 17, "medium",
        lossless=_options(qp="0"), cap="buffer", coarsest=MappingProxyType({"crf_max": "22"}),
    ),
    "hevc": Family(
        "libx265", 20, "medium", extra=_options(x265_params="log-level=none"),
        lossless=_options(x265_params="lossless=1"), cap="buffer", coarsest=_options(x265_params="crf-max=25"),
        min_px=(64, 16),  # its block is 64 wide: at widths up to 48 it writes beyond its memory, and crashes
    ),
    "av1": Family(
        "libsvtav1", 22, "6",
        lossless=_options(svtav1_params="lossless=1"), cap="buffer", coarsest=_options(qmax="28"),
        min_px=(4, 4),
    ),
    "vp9": Family(
        "libvpx-vp9", 20, "2", "cpu-used", MappingProxyType({"deadline": "good", "row-mt": "1"}),
        lossless=_options(lossless="1"), cap="average", coarsest=_options(qmax="27"),
    ),
    "ffv1": Family("ffv1", extra=_options(level="3", slicecrc="1"), lossless=_options()),
    "prores": Family("prores_ks"),
}  # fmt: skip
ALIASES = {"h265": "hevc", "x264": "h264", "x265": "hevc", "avc": "h264", "prores_ks": "prores", "svtav1": "av1"}
_OF_SOURCE = {"vp8": "vp9"} | {name: name for name in FAMILIES}
# x264 and x265 say on the terminal by themselves what they think of another name. They take its number, too.
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
WITH_PRESETS = ("libx264", "libx264rgb", "libx265")
_WITHOUT_QUALITY = ("ffv1", "prores")
_FALLBACKS = ("h264", "hevc", "vp9", "av1")  # what players read, in that order
# How many bits a codec needs for the picture that H.264 makes of one.
BITS = {"vp8": 1.0, "hevc": 0.65, "vp9": 0.65, "av1": 0.5}

_VENDORS = ("nvenc", "qsv", "amf", "videotoolbox")  # NVIDIA, Intel, AMD, Apple
_HARDWARE_CODECS = ("h264", "hevc", "av1")


def _hardware(codec: str, vendor: str) -> Family:
    """The settings of a vendor's encoder, at about the distortion of the software one."""
    name, crf = f"{codec}_{vendor}", {"h264": 19, "hevc": 22, "av1": 26}[codec]
    if vendor == "nvenc":
        whole = _options(rc="constqp", qp="0", tune="lossless")
        return Family(name, crf, "p5", extra=_options(rc="vbr", tune="hq"), lossless=whole)
    if vendor == "amf":
        qp = str(crf)
        return Family(name, extra=MappingProxyType({"rc": "cqp", "qp_i": qp, "qp_p": qp, "quality": "quality"}))
    return Family(name, 70 if vendor == "videotoolbox" else crf)  # Apple counts 1..100, and more is better


def hardware_families(codec: str | None = None) -> dict[str, Family]:
    """The encoders of graphics cards by name, those of one codec only where it is given."""
    codecs = _HARDWARE_CODECS if codec is None else (codec,) if codec in _HARDWARE_CODECS else ()
    return {f"{codec}_{vendor}": _hardware(codec, vendor) for codec in codecs for vendor in _VENDORS}


def family_of(name: str) -> Family:
    """The settings of a codec by its name or that of any of FFmpeg's video encoders.

    Raises:
        UsageError: there is none of that name.
    """
    name = ALIASES.get(name, name)
    known = FAMILIES | hardware_families()
    if name in known and (name in FAMILIES or is_video_encoder(name)):
        return known[name]
    for family in FAMILIES.values():
        if family.encoder == name:
            return family
    if is_video_encoder(name):
        return Family(name)
    if name == "copy":
        raise UsageError("pictures are always encoded anew, and never copied.", "Leave out --codec, or add --lossless.")
    sensible = [*known, AUTO_HARDWARE, *(family.encoder for family in FAMILIES.values())]
    near = difflib.get_close_matches(name, sensible, n=1)
    cure = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(FAMILIES)}."
    raise UsageError(f"There is no video encoder '{name}'.", cure)


def is_video_encoder(name: str) -> bool:
    try:
        return bool(av.Codec(name, "w").type == "video")
    except ValueError:
        return False


def default_codec(info: VideoInfo, muxer: str, has_quality: bool, lossless: bool) -> str:
    """The codec of the source, or the first of those that players read which fits.

    Args:
        info: the source's video stream.
        muxer: FFmpeg's name of the container that has to hold it.
        has_quality: leave out codecs whose quality or speed cannot be chosen, because the user chose one.
        lossless: leave out those that cannot keep every bit.
    """
    family = _OF_SOURCE.get(info.codec)
    if has_quality and family in _WITHOUT_QUALITY:
        family = None
    names = dict.fromkeys((family, *_FALLBACKS, *(["ffv1"] if lossless else [])))
    candidates = [name for name in names if name and not FAMILIES[name].is_too_small(info)]
    candidates = [name for name in candidates if not lossless or FAMILIES[name].lossless is not None]
    candidates.sort(key=lambda name: _loses(FAMILIES[name], info))  # stable: first those that keep the pictures whole
    chosen = next((name for name in candidates if _fits(muxer, name)), "h264")
    if chosen != info.codec:
        log.info("The source is %s, which is not encoded here or does not fit: the output is %s.", info.codec, chosen)
    return chosen


def _fits(muxer: str, codec: str) -> bool:
    if codec == "ffv1" and muxer not in ("matroska", "nut", "avi"):
        return False  # MP4 may hold it, but nothing plays that
    return FAMILIES[codec].is_held_by(muxer)


def _loses(family: Family, info: VideoInfo) -> bool:
    """Whether an encoder takes the source's pictures with fewer bits or less colour only."""
    return is_lossy(info, picture_format(av.Codec(family.encoder, "w"), info))


def picture_format(codec: Any, info: VideoInfo) -> str | None:
    """What an encoder takes: the source's own layout where it can, else the nearest; None where it takes no planes."""
    wanted = nearest_layout(info.pixel_format)
    offered = offered_formats(codec)
    if not offered:
        return wanted.name
    target = wanted
    if codec.name in ("libx264", "libx265") and (info.width_px % wanted.chroma_w or info.height_px % wanted.chroma_h):
        target = Layout("yuv", wanted.depth_bits)  # these two refuse subsampled chroma at odd sizes
    return target.name if target.name in offered else choose_layout(target, offered)


def is_lossy(info: VideoInfo, chosen: str | None) -> bool:
    """Whether a pixel format cannot hold all that the source's pictures hold."""
    wanted, have = nearest_layout(info.pixel_format), layout_of(chosen) if chosen else None
    if have is None:
        return True
    same_colour = have.kind == wanted.kind or (wanted.kind, have.kind) == ("gray", "yuv")
    finer = have.chroma_w <= wanted.chroma_w and have.chroma_h <= wanted.chroma_h
    return not same_colour or have.depth_bits < wanted.depth_bits or (wanted.kind == "yuv" and not finer)


def hardware_candidates(codec: str) -> Iterator[str]:
    """Names of the encoders of graphics cards for a codec, that this FFmpeg knows."""
    return (name for name in hardware_families(codec) if is_video_encoder(name))
