"""Owns how bright HDR is meant to be: a picture's mastering metadata enters, and goes into encoders and containers.

PyAV has no way to hand it to an encoder or to a muxer. Three encoders take it as text, and write it into their stream.
For the container, a stream is read from a Matroska header of a few bytes that says it, and serves as the template of
the output's stream. The terms are those of SMPTE ST 2086 and CTA-861.3.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import av

_CODEC_IDS = {  # FFmpeg's names -> Matroska's
    "h264": "V_MPEG4/ISO/AVC", "hevc": "V_MPEGH/ISO/HEVC", "av1": "V_AV1", "vp9": "V_VP9", "ffv1": "V_FFV1",
    "prores": "V_PRORES",
}  # fmt: skip
_CHROMATICITY, _CANDELA = 50_000, 10_000  # units of the text that x264 and x265 take: 0.00002 and 0.0001 cd/m2
_COPIED = (
    "width", "height", "pix_fmt", "sample_aspect_ratio", "color_primaries", "color_trc", "colorspace", "color_range",
    "framerate", "codec_tag",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """The static metadata of HDR.

    Attributes:
        primaries: x and y of the mastering display's red, green, blue and white, or None.
        luminance: its least and greatest luminance in cd/m2, or None.
        content: greatest light level of a pixel and of a picture's mean in cd/m2 (MaxCLL, MaxFALL), or None.
    """

    primaries: tuple[Fraction, ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    content: tuple[int, int] | None = None


def hdr_metadata_of(picture: Any) -> HdrMetadata | None:
    """What a decoded picture carries of it (FFmpeg's AVMasteringDisplayMetadata and AVContentLightMetadata)."""
    sides = {side.type.name: bytes(side) for side in picture.side_data}
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


def add_hdr_stream(output: Any, encoded: Any, light: HdrMetadata) -> Any | None:
    """Adds a stream to an output that says how bright it is meant to be, and takes the packets of an encoder.

    Args:
        output: the output container.
        encoded: a stream of a scratch container, whose encoder is open already.
        light: what to say.

    Returns:
        The stream; None where no template can be made for this codec.
    """
    context = encoded.codec_context
    codec_id = _CODEC_IDS.get(context.codec.canonical_name)
    if codec_id is None:
        return None
    with av.open(BytesIO(_header(codec_id, context.width, context.height, light))) as template:
        stream: Any = output.add_stream_from_template(template.streams.video[0], opaque=True)
    for name in _COPIED:
        if (value := getattr(context, name)) is not None:
            setattr(stream.codec_context, name, value)
    if context.extradata:
        stream.codec_context.extradata = context.extradata
    stream.time_base = encoded.time_base
    return stream


def _header(codec_id: str, width_px: int, height_px: int, light: HdrMetadata) -> bytes:
    """A Matroska file of one video track and no pictures (RFC 9559)."""
    colour = b""
    if light.content:
        colour += _element("55BC", _whole(light.content[0])) + _element("55BD", _whole(light.content[1]))
    numbers = [*(light.primaries or ()), *(reversed(light.luminance) if light.luminance else ())]
    first = 0x55D1 if light.primaries else 0x55D9
    mastering = b"".join(_element(f"{first + i:X}", struct.pack(">d", float(n))) for i, n in enumerate(numbers))
    colour += _element("55D0", mastering) if mastering else b""
    video = _element("B0", _whole(width_px)) + _element("BA", _whole(height_px)) + _element("55B0", colour)
    numbered = _element("D7", _whole(1)) + _element("73C5", _whole(1)) + _element("83", _whole(1))
    track = _element("AE", numbered + _element("86", codec_id.encode()) + _element("E0", video))
    info = _element("1549A966", _element("2AD7B1", _whole(1_000_000)))
    head = _element(
        "1A45DFA3", _element("4282", b"matroska") + _element("4287", _whole(4)) + _element("4285", _whole(2))
    )
    cluster = _element("1F43B675", _element("E7", _whole(0)))  # FFmpeg reads tracks up to the first of these
    return head + _element("18538067", info + _element("1654AE6B", track) + cluster)


def _element(identity: str, content: bytes) -> bytes:
    return bytes.fromhex(identity) + struct.pack(">Q", len(content) | 1 << 56) + content


def _whole(number: int) -> bytes:
    return number.to_bytes(4, "big")
