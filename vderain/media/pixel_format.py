"""Converts PyAV video frames to numpy planes and back, and picks the nearest planar pixel format."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from av.codec import Codec

from vderain.media.decode.media_file import UNSPECIFIED, ColourTags, VideoInfo
from vderain.media.frame import Colour, Matrix, Plane

Kind = Literal["yuv", "gray", "rgb"]

FULL_RANGE = 2  # AVCOL_RANGE_JPEG
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG

# AVColorSpace -> our three matrices. FCC (4) differs from BT.601 in the third digit; SMPTE 240M (7) is nearest BT.709.
_MATRICES: dict[int, Matrix] = {
    0: "rgb", 1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020",
}  # fmt: skip
_AVCOL_SPC: dict[Matrix, int] = {"rgb": 0, "bt709": 1, "bt601": 6, "bt2020": 9}

_YUV = re.compile(r"^yuvj?(420|422|444)p(?:(9|10|12|14|16)le)?$")
_GRAY = re.compile(r"^gray(?:(9|10|12|14|16)le)?$")
_RGB = re.compile(r"^gbrp(?:(9|10|12|14|16)le)?$")
_PACKED_RGB = frozenset({"bgr0", "0rgb", "rgb0", "0bgr", "rgb24", "bgr24"})  # 8 bit, no alpha: a pure repacking of gbrp
_DEPTHS_BITS = (8, 10, 12, 14, 16)


@dataclass(frozen=True, slots=True)
class Layout:
    """Arrangement of the planes of a pixel format.

    Attributes:
        kind: YCbCr, grey or RGB planes.
        depth_bits: significant bits of a sample.
        chroma_w, chroma_h: luma samples covered by one chroma sample, horizontally and vertically.
    """

    kind: Kind
    depth_bits: int = 8
    chroma_w: int = 1
    chroma_h: int = 1

    @property
    def name(self) -> str:
        """FFmpeg's name of the planar format with this layout."""
        suffix = f"{self.depth_bits}le" if self.depth_bits > 8 else ""
        if self.kind == "yuv":
            sampling = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}[self.chroma_w, self.chroma_h]
            return f"yuv{sampling}p{suffix}"
        return ("gray" if self.kind == "gray" else "gbrp") + suffix


def layout_of(format_name: str) -> Layout | None:
    """The layout of a pixel format that can be split into planes without loss, else None.

    These are planar YCbCr, grey and GBR of 8 to 16 bits, NV12, and packed 8-bit RGB.
    """
    if format_name == "nv12":
        return Layout("yuv", 8, 2, 2)
    if format_name in _PACKED_RGB:
        return Layout("rgb")
    if match := _YUV.match(format_name):
        chroma_w, chroma_h = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[match[1]]
        return Layout("yuv", int(match[2] or 8), chroma_w, chroma_h)
    if match := _GRAY.match(format_name):
        return Layout("gray", int(match[1] or 8))
    if match := _RGB.match(format_name):
        return Layout("rgb", int(match[1] or 8))
    return None


def nearest_layout(format_name: str) -> Layout:
    """The planar layout that keeps everything of a pixel format but alpha: at least its depth and chroma."""
    if (layout := layout_of(format_name)) is not None:
        return layout
    pixel = av.VideoFormat(format_name, 64, 64)
    colours = [component for component in pixel.components if not component.is_alpha]
    bits = max((component.bits for component in colours), default=8)
    depth_bits = next((depth for depth in _DEPTHS_BITS if depth >= bits), 16)
    if pixel.is_rgb or pixel.has_palette or pixel.is_bayer:
        return Layout("rgb", depth_bits)
    if len(colours) == 1:
        return Layout("gray", depth_bits)
    chroma_w = 2 if pixel.chroma_width(64) <= 32 else 1
    chroma_h = 2 if chroma_w == 2 and pixel.chroma_height(64) <= 32 else 1  # 4:4:0 goes to 4:4:4
    return Layout("yuv", depth_bits, chroma_w, chroma_h)


def is_resampled(format_name: str) -> bool:
    """Whether no layout has a format's chroma subsampling (4:1:1, 4:1:0, 4:4:0), so that chroma is interpolated."""
    layout, pixel = nearest_layout(format_name), av.VideoFormat(format_name, 64, 64)
    chroma = 64 // layout.chroma_w, 64 // layout.chroma_h
    return layout.kind == "yuv" and (pixel.chroma_width(64), pixel.chroma_height(64)) != chroma


def has_alpha(format_name: str) -> bool:
    """Whether a pixel format has an alpha channel."""
    return any(component.is_alpha for component in av.VideoFormat(format_name, 64, 64).components)


def colour_of(layout: Layout, format_name: str, matrix_tag: int, range_tag: int, size_px: tuple[int, int]) -> Colour:
    """The meaning of code values by the tags of a frame or stream; guessed from the size where they are unspecified.

    Args:
        layout: the layout of the planes that are delivered.
        format_name: FFmpeg's name of the format that was decoded (``yuvj...`` means full range).
        matrix_tag: FFmpeg's AVColorSpace.
        range_tag: FFmpeg's AVColorRange.
        size_px: (width, height); players assume BT.709 for untagged video from 720 lines or 1280 columns on.
    """
    if layout.kind == "rgb":
        return Colour("rgb", full_range=True, depth_bits=layout.depth_bits)
    width_px, height_px = size_px
    guess: Matrix = "bt709" if height_px >= 720 or width_px >= 1280 else "bt601"
    matrix = _MATRICES.get(matrix_tag, guess)
    if matrix == "rgb":  # YCbCr tagged as RGB: the tag is wrong, not the planes
        matrix = guess
    full_range = range_tag == FULL_RANGE or format_name.startswith("yuvj")
    return Colour(matrix, full_range, layout.depth_bits, layout.chroma_w, layout.chroma_h)


def frame_colour(frame: av.VideoFrame, stream: av.VideoStream) -> Colour:
    """The meaning of a frame's code values.

    Args:
        frame: decoded.
        stream: its stream, whose tags count where the frame has none.
    """
    name = frame.format.name
    tags = colour_tags(frame, stream)
    return colour_of(nearest_layout(name), name, tags.matrix, tags.range, (frame.width, frame.height))


def colour_tags(frame: av.VideoFrame, stream: av.VideoStream) -> ColourTags:
    """A decoded frame's own colour tags; its stream's where it has none."""
    context = stream.codec_context

    def pick(of_frame: int, of_stream: int, silent: int) -> int:
        return int(of_frame if of_frame != silent else of_stream)

    return ColourTags(
        primaries=pick(frame.color_primaries, context.color_primaries, UNSPECIFIED),
        transfer=pick(frame.color_trc, context.color_trc, UNSPECIFIED),
        matrix=pick(frame.colorspace, context.colorspace, UNSPECIFIED),
        range=pick(frame.color_range, context.color_range, 0),
    )


def matrix_tag(colour: Colour) -> int:
    """FFmpeg's AVColorSpace for a colour's matrix."""
    return _AVCOL_SPC[colour.matrix]


def planes_of(frame: av.VideoFrame) -> tuple[Plane, ...]:
    """Copies the planes of a PyAV frame, without conversion where its format is planar.

    Args:
        frame: a decoded frame in any format.

    Returns:
        (Y, Cb, Cr), (R, G, B) or (Y,), contiguous; uint8 up to 8 bits, else uint16.
    """
    name = frame.format.name
    if name == "nv12":
        chroma = _rows(frame, 1, 2 * _half(frame.width), _half(frame.height), np.uint8)
        luma = _rows(frame, 0, frame.width, frame.height, np.uint8)
        return luma, np.ascontiguousarray(chroma[:, 0::2]), np.ascontiguousarray(chroma[:, 1::2])
    layout = nearest_layout(name)
    if layout_of(name) is None or name in _PACKED_RGB:
        full = name.startswith("yuvj") or frame.color_range == FULL_RANGE
        target = layout.name.replace("yuv", "yuvj") if full and layout.depth_bits == 8 else layout.name
        frame = frame.reformat(format=target)
    dtype = np.uint8 if layout.depth_bits <= 8 else np.uint16
    planes = [_rows(frame, i, *size, dtype) for i, size in enumerate(_sizes(layout, frame.width, frame.height))]
    return _rgb_from_gbr(planes) if layout.kind == "rgb" else tuple(planes)


def to_av_frame(planes: tuple[Plane, ...], colour: Colour) -> av.VideoFrame:
    """Copies planes into a new PyAV frame of the same layout, byte for byte.

    Args:
        planes: as in ``Frame.planes``.
        colour: their meaning.
    """
    layout = layout_of_planes(planes, colour)
    height_px, width_px = planes[0].shape
    frame = av.VideoFrame(width_px, height_px, layout.name)
    ordered = (planes[1], planes[2], planes[0]) if layout.kind == "rgb" else planes
    dtype = np.uint8 if layout.depth_bits <= 8 else np.uint16
    for i, ((w, h), plane) in enumerate(zip(_sizes(layout, width_px, height_px), ordered, strict=True)):
        _line_buffer(frame, i, dtype)[:h, :w] = plane
    frame.color_range = FULL_RANGE if colour.full_range else LIMITED_RANGE
    frame.colorspace = matrix_tag(colour)
    return frame


def layout_of_planes(planes: tuple[Plane, ...], colour: Colour) -> Layout:
    """The layout of planes with this colour."""
    if len(planes) == 1:
        return Layout("gray", colour.depth_bits)
    if colour.matrix == "rgb":
        return Layout("rgb", colour.depth_bits)
    return Layout("yuv", colour.depth_bits, colour.chroma_w, colour.chroma_h)


def with_neutral_chroma(planes: tuple[Plane, ...], colour: Colour, layout: Layout) -> tuple[tuple[Plane, ...], Colour]:
    """Grey as YCbCr with neutral chroma; luma is untouched, where a scaler would stretch its range.

    Args:
        planes: (Y,), Y is (H, W), uint8 or uint16.
        colour: its meaning.
        layout: the YCbCr layout to make.

    Returns:
        (Y, Cb, Cr) and their colour.
    """
    luma = planes[0]
    _, size, _ = _sizes(layout, luma.shape[1], luma.shape[0])
    chroma = np.full((size[1], size[0]), 1 << (colour.depth_bits - 1), dtype=luma.dtype)
    dressed = Colour(colour.matrix, colour.full_range, colour.depth_bits, layout.chroma_w, layout.chroma_h)
    return (luma, chroma, chroma), dressed


def choose_layout(wanted: Layout, offered: Iterable[str]) -> str | None:
    """The offered pixel format that loses least of a layout, or None.

    Args:
        wanted: the layout.
        offered: FFmpeg's names of pixel formats.
    """
    names = [name for name in offered if layout_of(name) is not None and not name.startswith(("yuvj", "nv"))]
    return min(names, key=lambda name: _loss(wanted, name), default=None)


def _loss(wanted: Layout, name: str) -> float:
    """A rank for comparison only: kind weighs most, then lost bits, then lost chroma, then unneeded size."""
    offered = nearest_layout(name)
    kinds = {("gray", "yuv"): 1.0, ("rgb", "yuv"): 200.0, ("gray", "rgb"): 300.0, ("yuv", "rgb"): 300.0}
    loss = 0.0 if wanted.kind == offered.kind else kinds.get((wanted.kind, offered.kind), 1000.0)
    missing_bits = wanted.depth_bits - offered.depth_bits
    loss += 20.0 * missing_bits if missing_bits > 0 else -0.5 * missing_bits
    for have, want in ((offered.chroma_w, wanted.chroma_w), (offered.chroma_h, wanted.chroma_h)):
        finer_is_waste = 0.0 if wanted.kind == "gray" else 2.0
        loss += 15.0 if have > want and wanted.kind != "gray" else finer_is_waste * (want > have)
    if wanted.kind == "gray" and offered.chroma_w == 1:
        loss += 1.0  # 4:2:0 is what every player shows, and its empty chroma costs nothing
    return loss + (0.5 if name in _PACKED_RGB else 0.0)


def _half(size_px: int) -> int:
    return -(-size_px // 2)


def _sizes(layout: Layout, width_px: int, height_px: int) -> list[tuple[int, int]]:
    """(width, height) of each plane, in samples."""
    if layout.kind == "gray":
        return [(width_px, height_px)]
    chroma = (-(-width_px // layout.chroma_w), -(-height_px // layout.chroma_h))
    return [(width_px, height_px), chroma, chroma]


def _line_buffer(frame: av.VideoFrame, index: int, dtype: type[np.generic]) -> Any:
    """A writable view of one plane with its padding: (lines, samples in a line)."""
    plane: Any = frame.planes[index]
    line_samples = plane.line_size // np.dtype(dtype).itemsize
    flat = np.frombuffer(plane, dtype=dtype)
    return flat[: flat.size // line_samples * line_samples].reshape(-1, line_samples)


def _rows(frame: av.VideoFrame, index: int, width: int, height: int, dtype: type[np.generic]) -> Any:
    """A contiguous copy of one plane without its padding, so that the decoder gets its buffer back."""
    return _line_buffer(frame, index, dtype)[:height, :width].copy()


def _rgb_from_gbr(planes: list[Plane]) -> tuple[Plane, ...]:
    return planes[2], planes[0], planes[1]


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


def offered_formats(codec: Codec) -> list[str]:
    """The pixel formats that an encoder lists; empty if it takes any."""
    return [pixel.name for pixel in codec.video_formats or ()]
