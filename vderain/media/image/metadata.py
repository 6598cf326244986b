"""Reads the metadata of still images with Pillow, and inserts what OpenCV does not write into encoded files.

OpenCV decodes and encodes pixels, and writes EXIF and colour profiles. XMP, density, and the
text, comments and other blocks that a copy in the same format keeps are inserted into the bytes that it wrote.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

EXIF, XMP, ICC = 0, 1, 2  # cv2.ImageMetadataType
_BLOCKS = {EXIF: ("exif", "EXIF"), XMP: ("xmp", "XMP"), ICC: ("icc_profile", "colour profile")}  # Pillow's key, name
_ORIENTATION = 0x0112  # EXIF tag
_INCH_M = 0.0254

_PNG, _PNG_HEADER_BYTES = b"\x89PNG\r\n\x1a\n", 33  # signature; signature and IHDR
_JPEG, _JFIF = b"\xff\xd8", b"\xff\xe0\x00\x10JFIF\0"
_BMP, _BMP_DENSITY = b"BM", slice(38, 46)
_XMP_CHUNK, _XMP_SEGMENT = b"iTXtXML:com.adobe.xmp\0", b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_BYTES = 65_500  # of XMP in one JPEG segment, less its signature

_NAMES = {  # how a PNG chunk or a JPEG segment begins -> what it holds
    b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"gAMA": "gamma", b"cHRM": "primaries", b"cICP": "colour tags",
    b"caBX": "content credentials", b"APP11JP": "content credentials", b"APP13Photoshop": "IPTC", b"COM": "comment",
    b"APP0JFXX": "thumbnail", b"APP2MPF": "further pictures (MPF)",
}  # fmt: skip
_COPIED_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"cICP")
_COPIED_SEGMENTS = {b"APP1http://ns.adobe.com/xmp/extension": 0xE1, b"APP13Photoshop": 0xED, b"COM": 0xFE}  # marker
_TIFF_NAMES = {
    270: "description", 271: "EXIF", 272: "EXIF", 306: "EXIF", 315: "EXIF", 33432: "EXIF", 34665: "EXIF",
    34853: "EXIF", 700: "XMP", 33723: "IPTC", 34377: "IPTC", 34675: "colour profile",
}  # fmt: skip
_TIFF_SUBFILE_TYPE = 254  # bit 0 marks a reduced copy of another page
_TIFF_X_RESOLUTION = 282
_COLOUR_MODELS = {"CMYK": "CMYK", "LAB": "CIELAB"}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an image file holds beside its pixels.

    Attributes:
        size_px: (width, height) that the header announces; None if unknown.
        images: pages or animation frames. Reduced copies do not count.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
        blocks: EXIF, XMP and ICC blocks as (``cv2.ImageMetadataType``, bytes).
        density_dpi: horizontal and vertical pixels per inch; None if the file does not state them.
        colour_model: ``CMYK`` or ``CIELAB``, which OpenCV decodes to RGB; None for all others.
        names: every kind of metadata in the file, for messages.
        segments: PNG chunks or JPEG segments that a copy in the same format keeps, byte for byte.
    """

    size_px: tuple[int, int] | None = None
    images: int = 1
    orientation: int = 1
    blocks: tuple[tuple[int, bytes], ...] = ()
    density_dpi: tuple[float, float] | None = None
    colour_model: str | None = None
    names: frozenset[str] = frozenset()
    segments: tuple[bytes, ...] = ()


def read_metadata(data: bytes) -> Metadata:
    """The metadata of an encoded image; damaged metadata is named ``unreadable metadata``.

    Args:
        data: a whole PNG, JPEG, WebP, TIFF or BMP file. Any other yields empty metadata.
    """
    # The plugins, not Image.open: its limit of 179 million pixels is below what some telephones write.
    plugin = next((plugin for signature, plugin in _PLUGINS.items() if data.startswith(signature)), None)
    if plugin is None:
        return Metadata()
    try:
        with plugin(BytesIO(data)) as image:
            return _metadata(image, data)
    except Exception:  # Pillow raises a dozen kinds on damage; the pixels may be intact all the same
        size_px = struct.unpack(">2I", data[16:24]) if data.startswith(_PNG) and len(data) >= 24 else None
        return Metadata(size_px, names=frozenset({"unreadable metadata"}))


def is_truncated_png(data: bytes) -> bool:
    """Whether a PNG chunk announces more bytes than the file holds; OpenCV would allocate up to 4 GB for it."""
    return data.startswith(_PNG) and any(chunk.stop > len(data) for chunk in _png_chunks(data))


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block, 1 if it is absent or invalid."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(_ORIENTATION)
    except Exception:  # as above
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def insert_metadata(data: bytes, source: Metadata) -> bytes:
    """Adds density, text, comments and the like to an encoded PNG, JPEG or BMP.

    Args:
        data: a file that OpenCV encoded.
        source: metadata of the original; its segments fit only a file of the same format.
    """
    dpi = source.density_dpi
    per_metre = [round(side / _INCH_M) for side in dpi or ()]
    # OpenCV would write XMP without the signature that other programs look for.
    xmp = [block for kind, block in source.blocks if kind == XMP]
    if data.startswith(_PNG):
        added = [_chunk(b"pHYs" + struct.pack(">2IB", *per_metre, 1))] if dpi else []
        added += [_chunk(_XMP_CHUNK + bytes(4) + block) for block in xmp]
        copied = [chunk for chunk in source.segments if not chunk.startswith(b"\xff") and chunk not in data]
        return data[:_PNG_HEADER_BYTES] + b"".join(added + copied) + data[_PNG_HEADER_BYTES:]
    if data.startswith(_JPEG + _JFIF):
        unit_and_sides = struct.pack(">B2H", 1, *(min(round(side), 0xFFFF) for side in dpi)) if dpi else data[13:18]
        added = [_segment(0xE1, _XMP_SEGMENT + block) for block in xmp if len(block) < _SEGMENT_BYTES]
        added += [segment for segment in source.segments if segment.startswith(b"\xff")]
        return data[:13] + unit_and_sides + data[18:20] + b"".join(added) + data[20:]
    if data.startswith(_BMP) and dpi:
        return data[: _BMP_DENSITY.start] + struct.pack("<2i", *per_metre) + data[_BMP_DENSITY.stop :]
    return data


def _metadata(image: Image.Image, data: bytes) -> Metadata:
    names, segments, images = set[str](), list[bytes](), getattr(image, "n_frames", 1)
    if isinstance(image, PngImageFile):
        chunks = [data[at] for at in _png_chunks(data) if not data[at].startswith(_XMP_CHUNK)]
        names = _named(chunks)
        segments = [_chunk(chunk) for chunk in chunks if chunk.startswith(_COPIED_CHUNKS)]
    elif isinstance(image, JpegImageFile):
        names = _named([name.encode() + content for name, content in image.applist])
        segments = list(_jpeg_segments(image))
    elif isinstance(image, TiffImageFile):
        names = {name for tag, name in _TIFF_NAMES.items() if tag in image.tag_v2}
        images = _full_size_pages(image)
    found = {kind: image.info.get(key) for kind, (key, _) in _BLOCKS.items()}
    blocks = {kind: block for kind, block in found.items() if isinstance(block, bytes)}
    density = _density_dpi(image)
    names |= {_BLOCKS[kind][1] for kind in blocks} | ({"density"} if density else set())
    return Metadata(
        size_px=image.size,
        images=images,
        orientation=exif_orientation(blocks.get(EXIF, b"")),
        blocks=tuple((kind, block.removeprefix(b"Exif\0\0")) for kind, block in blocks.items()),
        density_dpi=density,
        colour_model=_COLOUR_MODELS.get(image.mode),
        names=frozenset(names),
        segments=tuple(segments),
    )


def _named(segments: list[bytes]) -> set[str]:
    return {name for head, name in _NAMES.items() if any(segment.startswith(head) for segment in segments)}


def _density_dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if isinstance(image, JpegImageFile) and not image.info.get("jfif_unit"):
        return None  # Pillow has taken it from EXIF, or set 72
    if isinstance(image, TiffImageFile) and _TIFF_X_RESOLUTION not in image.tag_v2:
        return None  # Pillow has set 1
    if not isinstance(dpi, tuple) or not all(0.5 <= side < 2**31 * _INCH_M for side in dpi):  # so is NaN
        return None
    return float(dpi[0]), float(dpi[1])


def _full_size_pages(image: TiffImageFile) -> int:
    count = 0
    for page in range(image.n_frames):
        image.seek(page)
        count += not image.tag_v2.get(_TIFF_SUBFILE_TYPE, 0) & 1
    image.seek(0)
    return max(1, count)


def _png_chunks(data: bytes) -> Iterator[slice]:
    """Where kind and content of every chunk are; Pillow stops at the pixels, but text may follow them."""
    start, kind = len(_PNG), b""
    while start + 8 <= len(data) and kind != b"IEND":
        kind, end = data[start + 4 : start + 8], start + 8 + int.from_bytes(data[start : start + 4])
        yield slice(start + 4, end)
        start = end + 4


def _chunk(kind_and_content: bytes) -> bytes:
    length, crc = len(kind_and_content) - 4, zlib.crc32(kind_and_content)
    return struct.pack(">I", length) + kind_and_content + struct.pack(">I", crc)


def _jpeg_segments(image: JpegImageFile) -> Iterator[bytes]:
    for name, content in image.applist:
        for head, marker in _COPIED_SEGMENTS.items():
            if (name.encode() + content).startswith(head):
                yield _segment(marker, content)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


_PLUGINS: dict[bytes, Callable[[BytesIO], Image.Image]] = {
    _PNG: PngImageFile, _JPEG: JpegImageFile, b"RIFF": WebPImageFile, b"II": TiffImageFile, b"MM": TiffImageFile,
    _BMP: BmpImageFile,
}  # fmt: skip
