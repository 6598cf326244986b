"""The settings with which each video encoder is used, by name of its codec."""

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

import av

from vderain.errors import UsageError
from vderain.media.decode.media_file import HdrMetadata, VideoInfo

log = logging.getLogger(__name__)

_CHROMATICITY, _CANDELA = 50_000, 10_000  # units of x264's and x265's HDR options: 0.00002 and 0.0001 cd/m2


def _options(**options: str) -> Mapping[str, str]:
    return MappingProxyType({name.replace("_", "-"): value for name, value in options.items()})


@dataclass(frozen=True, slots=True)
class Family:
    """The settings with which one encoder is used.

    Attributes:
        encoder: FFmpeg's name.
        crf: default constant quality on the encoder's own scale, or None if it has none.
        preset: default speed preset, or None.
        fast_preset: a faster one, or None.
        preset_option: the encoder's name for its preset option.
        extra: further options that are always set.
        lossless: options for lossless encoding; None if it has none, empty if it is always lossless.
        cap: how the bit rate is limited beside a quality: a VBV buffer, an average, or not at all.
        coarsest: options that keep that limit from coarsening the quality by more than about 5 crf.
        min_px: the smallest width and height.
    """

    encoder: str
    crf: float | None = None
    preset: str | None = None
    fast_preset: str | None = None
    preset_option: str = "preset"
    extra: Mapping[str, str] = field(default_factory=_options)
    lossless: Mapping[str, str] | None = None
    cap: Literal["buffer", "average"] | None = None
    coarsest: Mapping[str, str] = field(default_factory=_options)
    min_px: tuple[int, int] = (1, 1)

    def is_too_small(self, info: VideoInfo) -> bool:
        """Whether the frames are smaller than the encoder's minimum."""
        return info.width_px < self.min_px[0] or info.height_px < self.min_px[1]


# The default quality is "visually lossless": people keep a restored file as their new original, and rain removal
# leaves fine texture that coarser quantisers smear. x264's documentation puts that threshold at crf 17 or 18; 17 keeps
# a margin. The other scales are set to about the same distortion: x265 spends its bits better (20), SVT-AV1 and libvpx
# count 0..63 (22 and 20).
FAMILIES: dict[str, Family] = {
    "h264": Family(
        "libx264", 17, "medium", "veryfast",
        lossless=_options(qp="0"), cap="buffer", coarsest=MappingProxyType({"crf_max": "22"}),
    ),
    "hevc": Family(
        "libx265", 20, "medium", "veryfast", extra=_options(x265_params="log-level=none"),
        lossless=_options(x265_params="lossless=1"), cap="buffer", coarsest=_options(x265_params="crf-max=25"),
        min_px=(64, 16),  # its blocks are 64 wide: at widths up to 48 it writes out of bounds and crashes
    ),
    "av1": Family(
        "libsvtav1", 22, "6", "10",
        lossless=_options(svtav1_params="lossless=1"), cap="buffer", coarsest=_options(qmax="28"),
        min_px=(4, 4),
    ),
    "vp9": Family(
        "libvpx-vp9", 20, "2", "5", "cpu-used", MappingProxyType({"deadline": "good", "row-mt": "1"}),
        lossless=_options(lossless="1"), cap="average", coarsest=_options(qmax="27"),
    ),
    "ffv1": Family("ffv1", extra=_options(level="3", slicecrc="1"), lossless=_options()),
    "prores": Family("prores_ks"),
}  # fmt: skip
ALIASES = {"h265": "hevc", "x264": "h264", "x265": "hevc", "avc": "h264", "prores_ks": "prores", "svtav1": "av1"}
# x264 and x265 print their own complaint about an unknown preset to the terminal. They also take its number.
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
WITH_PRESETS = ("libx264", "libx264rgb", "libx265")
# Bits that a codec needs relative to H.264 at equal quality.
BITS = {"vp8": 1.0, "hevc": 0.65, "vp9": 0.65, "av1": 0.5}

# Encoders on graphics hardware of NVIDIA, Intel, AMD and Apple; chosen by name, as any other encoder of FFmpeg.
HARDWARE_ENCODERS = tuple(
    f"{codec}_{vendor}" for codec in ("h264", "hevc", "av1") for vendor in ("nvenc", "qsv", "amf", "videotoolbox")
)


def family_of(name: str) -> Family:
    """The settings of a codec.

    Args:
        name: of a codec such as ``h264``, or of any of FFmpeg's video encoders.

    Raises:
        UsageError: there is no such codec or encoder.
    """
    name = ALIASES.get(name, name)
    if name in FAMILIES:
        return FAMILIES[name]
    for family in FAMILIES.values():
        if family.encoder == name:
            return family
    if is_video_encoder(name):
        return Family(name)
    if name == "copy":
        raise UsageError("video frames are always re-encoded, never copied.", "Leave out --codec, or add --lossless.")
    known = [*FAMILIES, *HARDWARE_ENCODERS, *(family.encoder for family in FAMILIES.values())]
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(FAMILIES)}."
    raise UsageError(f"There is no video encoder '{name}'.", cure)


def is_video_encoder(name: str) -> bool:
    """Whether FFmpeg has a video encoder of that name."""
    try:
        return bool(av.Codec(name, "w").type == "video")
    except ValueError:
        return False


def quieten(encoder: str) -> None:
    """Silences SVT-AV1, which prints to the terminal and reads its log level from the environment at first use."""
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")


def with_hdr_metadata(options: Mapping[str, str], encoder: str, light: HdrMetadata | None) -> dict[str, str]:
    """Add HDR10 metadata to an encoder's options, if the encoder can write it.

    Args:
        options: of the encoder; values that the user gave come last and win.
        encoder: FFmpeg's name of it.
        light: mastering display and light levels of the source, if any.

    Returns:
        The options, in a new dict.
    """
    parameters = _hdr_parameters(encoder, light) if light is not None else {}
    name = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(encoder)
    if not parameters or name is None:
        return dict(options)
    text = ":".join(f"{key}={value}" for key, value in parameters.items())
    return {**options, name: f"{text}:{options[name]}" if options.get(name) else text}


def _hdr_parameters(encoder: str, light: HdrMetadata) -> dict[str, str]:
    display, content = {
        "libx264": ("mastering-display", "cll"),
        "libx265": ("master-display", "max-cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }.get(encoder, ("", ""))
    parameters = {}
    if display and light.primaries and light.luminance:
        parameters[display] = _display(light.primaries, light.luminance, decimal=encoder == "libsvtav1")
    if content and light.content:
        parameters[content] = f"{light.content[0]},{light.content[1]}"
    return parameters


def _display(primaries: tuple[Fraction, ...], luminance: tuple[Fraction, Fraction], decimal: bool) -> str:
    def number(value: Fraction, units: int) -> str:
        return f"{float(value):.5f}" if decimal else str(round(value * units))

    points = [
        f"({number(x, _CHROMATICITY)},{number(y, _CHROMATICITY)})"
        for x, y in zip(primaries[::2], primaries[1::2], strict=True)
    ]
    red, green, blue, white = points
    least, most = (number(value, _CANDELA) for value in luminance)
    return f"G{green}B{blue}R{red}WP{white}L({most},{least})"
