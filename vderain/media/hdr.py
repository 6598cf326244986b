"""Reads HDR10 static metadata from decoded frames and passes it to the encoders that can store it.

PyAV cannot hand it to an encoder or a muxer as such. x264, x265 and SVT-AV1 take it as text and write it into their
bitstream. The terms are those of SMPTE ST 2086 and CTA-861.3.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import av

from vderain.media.pyav_types import frame_side_data

_CHROMATICITY, _CANDELA = 50_000, 10_000  # units of the text that x264 and x265 take: 0.00002 and 0.0001 cd/m2


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """The static metadata of HDR.

    Attributes:
        primaries: x and y of the mastering display's red, green, blue and white, or None.
        luminance: its least and greatest luminance in cd/m2, or None.
        content: greatest light level of a pixel and of a frame's mean in cd/m2 (MaxCLL, MaxFALL), or None.
    """

    primaries: tuple[Fraction, ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    content: tuple[int, int] | None = None


def hdr_metadata_of(frame: av.VideoFrame) -> HdrMetadata | None:
    """Reads it from a decoded frame (FFmpeg's AVMasteringDisplayMetadata and AVContentLightMetadata)."""
    sides = {side.type.name: bytes(side) for side in frame_side_data(frame)}
    mastering, content = sides.get("MASTERING_DISPLAY_METADATA"), sides.get("CONTENT_LIGHT_LEVEL")
    primaries = luminance = None
    if mastering is not None:
        numbers = struct.unpack("=22i", mastering[:88])
        ratios = [Fraction(n, d or 1) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
        primaries = tuple(ratios[:8]) if numbers[20] else None
        luminance = (ratios[8], ratios[9]) if numbers[21] else None
    levels = struct.unpack("=2I", content[:8]) if content is not None else None
    if primaries is None and luminance is None and levels is None:
        return None
    return HdrMetadata(primaries, luminance, levels and (levels[0], levels[1]))


def with_hdr_metadata(options: Mapping[str, str], encoder: str, light: HdrMetadata | None) -> dict[str, str]:
    """An encoder's options with the metadata added, where it has words for it; the user's own come last and win."""
    said = _said(encoder, light) if light is not None else {}
    name = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(encoder)
    if not said or name is None:
        return dict(options)
    text = ":".join(f"{key}={value}" for key, value in said.items())
    return {**options, name: f"{text}:{options[name]}" if options.get(name) else text}


def _said(encoder: str, light: HdrMetadata) -> dict[str, str]:
    display, content = {
        "libx264": ("mastering-display", "cll"),
        "libx265": ("master-display", "max-cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }.get(encoder, ("", ""))
    said = {}
    if display and light.primaries and light.luminance:
        said[display] = _display(light.primaries, light.luminance, decimal=encoder == "libsvtav1")
    if content and light.content:
        said[content] = f"{light.content[0]},{light.content[1]}"
    return said


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
