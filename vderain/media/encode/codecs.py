"""Chooses the video codec and its settings, and probes which encoders and muxers work on this machine."""

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Literal

import av
from av.codec import Codec
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vderain.errors import UsageError
from vderain.media.decode.media_file import HdrMetadata, VideoInfo
from vderain.media.pixel_format import Layout, choose_layout, layout_of, nearest_layout

log = logging.getLogger(__name__)

_PROBE_PX = 256  # side of the frame that encoders are probed with: hardware refuses much smaller ones
_PROBE_RATE = Fraction(25)
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
    preset_option: str = "preset"
    extra: Mapping[str, str] = field(default_factory=_options)
    lossless: Mapping[str, str] | None = None
    cap: Literal["buffer", "average"] | None = None
    coarsest: Mapping[str, str] = field(default_factory=_options)
    min_px: tuple[int, int] = (1, 1)

    def is_too_small(self, info: VideoInfo) -> bool:
        """Whether the frames are smaller than the encoder's minimum."""
        return info.width_px < self.min_px[0] or info.height_px < self.min_px[1]

    def is_held_by(self, muxer: str) -> bool:
        """Whether a container, by FFmpeg's muxer name, can hold what the encoder writes."""
        return probe_muxer(muxer, self.encoder, self.extra)


# The default quality is "visually lossless": people keep a restored file as their new original, and rain removal
# leaves fine texture that coarser quantisers smear. x264's documentation puts that threshold at crf 17 or 18; 17 keeps
# a margin. The other scales are set to about the same distortion: x265 spends its bits better (20), SVT-AV1 and libvpx
# count 0..63 (22 and 20).
FAMILIES: dict[str, Family] = {
    "h264": Family(
        "libx264", 17, "medium",
        lossless=_options(qp="0"), cap="buffer", coarsest=MappingProxyType({"crf_max": "22"}),
    ),
    "hevc": Family(
        "libx265", 20, "medium", extra=_options(x265_params="log-level=none"),
        lossless=_options(x265_params="lossless=1"), cap="buffer", coarsest=_options(x265_params="crf-max=25"),
        min_px=(64, 16),  # its blocks are 64 wide: at widths up to 48 it writes out of bounds and crashes
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
# x264 and x265 print their own complaint about an unknown preset to the terminal. They also take its number.
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
WITH_PRESETS = ("libx264", "libx264rgb", "libx265")
_WITHOUT_QUALITY = ("ffv1", "prores")
_FALLBACKS = ("h264", "hevc", "vp9", "av1")  # widely playable codecs, by preference
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
    return FAMILIES[codec].is_held_by(muxer)


def _loses(family: Family, info: VideoInfo) -> bool:
    """Whether the encoder can only take the source's frames with fewer bits or coarser colour."""
    return is_lossy(info, best_pixel_format(av.Codec(family.encoder, "w"), info))


def best_pixel_format(codec: Codec, info: VideoInfo) -> str | None:
    """The pixel format to encode in: the source's own layout if the encoder takes it, else the nearest.

    Args:
        codec: the encoder.
        info: the source's video stream.

    Returns:
        FFmpeg's name, or None if the encoder takes no planar format.
    """
    wanted = nearest_layout(info.pixel_format)
    offered = offered_formats(codec)
    if not offered:
        return wanted.name
    target = wanted
    if codec.name in ("libx264", "libx265") and (info.width_px % wanted.chroma_w or info.height_px % wanted.chroma_h):
        target = Layout("yuv", wanted.depth_bits)  # these two refuse subsampled chroma at odd sizes
    return target.name if target.name in offered else choose_layout(target, offered)


def is_lossy(info: VideoInfo, chosen: str | None) -> bool:
    """Whether a pixel format cannot hold every sample value of the source.

    Args:
        info: the source's video stream.
        chosen: FFmpeg's name of the pixel format, or None for no planar format.
    """
    wanted, have = nearest_layout(info.pixel_format), layout_of(chosen) if chosen else None
    if have is None:
        return True
    same_colour = have.kind == wanted.kind or (wanted.kind, have.kind) == ("gray", "yuv")
    finer = have.chroma_w <= wanted.chroma_w and have.chroma_h <= wanted.chroma_h
    return not same_colour or have.depth_bits < wanted.depth_bits or (wanted.kind == "yuv" and not finer)


def quieten(encoder: str) -> None:
    """Silences SVT-AV1, which prints to the terminal and reads its log level from the environment at first use."""
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")


def offered_formats(codec: Codec) -> list[str]:
    """The pixel formats that an encoder lists; empty if it takes any."""
    return [pixel.name for pixel in codec.video_formats or ()]


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
