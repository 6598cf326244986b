"""Owns what a picture's file holds beside its samples: bytes enter, named parts leave, and go into the copy again.

OpenCV hands EXIF, XMP and colour profiles on. What else there is it does not see: it is found here in the bytes.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vderain.media.image.tiff import directories, rational

_INCH_M = 0.0254
_INT32_MAX = 2**31 - 1

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = 33  # bytes of signature and IHDR
_PNG_NAMES = {
    b"eXIf": "EXIF", b"iCCP": "colour profile", b"tEXt": "text", b"zTXt": "text", b"iTXt": "text",
    b"gAMA": "gamma", b"cHRM": "primaries", b"cICP": "colour tags", b"caBX": "content credentials",
}  # fmt: skip
_PNG_XMP = b"iTXtXML:com.adobe.xmp\0"
_PNG_COPIED = (b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"cICP")

_JPEG = b"\xff\xd8"
_JPEG_SCAN, _JPEG_FRAMES = 0xDA, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_NAMES = {  # marker and signature -> in words
    b"\xe0JFXX": "thumbnail",
    b"\xe1Exif": "EXIF",
    b"\xe1http://ns.adobe.com/x": "XMP",
    b"\xe2ICC_PROFILE": "colour profile",
    b"\xe2MPF": "further pictures (MPF)",
    b"\xebJP": "content credentials",
    b"\xedPhotoshop": "IPTC",
    b"\xfe": "comment",
}
_JPEG_COPIED = (b"\xe1http://ns.adobe.com/xmp/extension", b"\xedPhotoshop", b"\xfe")
_JFIF = b"\xff\xe0\x00\x10JFIF\0"

_WEBP_NAMES = {b"EXIF": "EXIF", b"XMP ": "XMP", b"ICCP": "colour profile"}

_TIFF_NAMES = {
    270: "description", 271: "EXIF", 272: "EXIF", 306: "EXIF", 315: "EXIF", 33432: "EXIF", 34665: "EXIF",
    34853: "EXIF", 700: "XMP", 33723: "IPTC", 34377: "IPTC", 34675: "colour profile",
}  # fmt: skip
_TIFF_SAMPLES = {5: "CMYK", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB"}
_REDUCED, _SAMPLES, _X_DENSITY, _Y_DENSITY, _DENSITY_UNIT = 254, 262, 282, 283, 296

_BMP = b"BM"
_BMP_DENSITY = slice(38, 46)


@dataclass(frozen=True, slots=True)
class Density:
    """Samples a metre, or the relation of both alone where ``metric`` is False."""

    x: int
    y: int
    metric: bool = True

    @property
    def per_inch(self) -> tuple[int, int]:
        return round(self.x * _INCH_M), round(self.y * _INCH_M)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a file holds.

    Attributes:
        pictures: how many; smaller ones for a quick look do not count.
        named: what is in it beside samples, in words.
        density: of the samples, where the file says it.
        samples: CMYK or CIELAB, which are read as R, G, B; None for all others.
        blocks: what OpenCV does not hand on, as it stands in the file; for a copy of the same format.
    """

    pictures: int = 1
    named: frozenset[str] = frozenset()
    density: Density | None = None
    samples: str | None = None
    blocks: tuple[bytes, ...] = ()


def parts_of(data: bytes) -> Parts:
    """What a file holds; what is damaged in it counts as not being there."""
    return next((read(data) for head, read in _READERS.items() if data.startswith(head)), Parts())


def completed(data: bytes, source: Parts) -> bytes:
    """A written PNG, JPEG or BMP with the density of its source, and the blocks of one of the same format."""
    density = source.density
    if data.startswith(_PNG):
        inside = [_png_chunk(b"pHYs", _png_density(density))] if density else []
        inside += [block for block in source.blocks if not block.startswith(b"\xff") and block not in data]
        return data[:_PNG_HEAD] + b"".join(inside) + data[_PNG_HEAD:]
    if data.startswith(_JPEG + _JFIF):
        front = data[:13] + (_jfif_density(density) if density else data[13:18]) + data[18:20]
        return front + b"".join(block for block in source.blocks if block.startswith(b"\xff")) + data[20:]
    if data.startswith(_BMP) and density and density.metric:
        sides = struct.pack("<2i", density.x, density.y)
        return data[: _BMP_DENSITY.start] + sides + data[_BMP_DENSITY.stop :]
    return data


def _png(data: bytes) -> Parts:
    pictures, named, density, blocks = 1, set(), None, []
    for chunk in _png_chunks(data):
        kind, content = chunk[4:8], chunk[8:-4]
        is_xmp = chunk[4:].startswith(_PNG_XMP)
        if kind == b"acTL":
            pictures = _big(content[:4])
        elif kind == b"pHYs":
            density = _density(_big(content[:4]), _big(content[4:8]), 1 if content[8:] == b"\1" else None)
        elif kind in _PNG_NAMES:
            named.add("XMP" if is_xmp else _PNG_NAMES[kind])
        if kind in _PNG_COPIED and not is_xmp:
            blocks.append(chunk)
    return Parts(pictures, _with_density(named, density), density, None, tuple(blocks))


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + _big(data[at : at + 4])
        yield data[at:end]
        at = end


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def _png_density(density: Density) -> bytes:
    return struct.pack(">2IB", density.x, density.y, density.metric)


def _jpeg(data: bytes) -> Parts:
    named, density, samples, blocks = set(), None, None, []
    for segment in _jpeg_segments(data):
        content = segment[4:]
        known = segment[1:2] + content  # marker and signature
        named |= {name for head, name in _JPEG_NAMES.items() if known.startswith(head)}
        if segment.startswith(_JFIF):
            unit_m = {b"\1": _INCH_M, b"\2": 0.01}.get(content[7:8])
            density = _density(_big(content[8:10]), _big(content[10:12]), unit_m)
        elif segment[1] in _JPEG_FRAMES and content[5:6] == b"\4":
            samples = "CMYK"
        if known.startswith(_JPEG_COPIED):
            blocks.append(segment)
    return Parts(1, _with_density(named, density), density, samples, tuple(blocks))


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """What stands before the first scan."""
    at = len(_JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _JPEG_SCAN:
        end = at + 2 + _big(data[at + 2 : at + 4])
        yield data[at:end]
        at = end


def _jfif_density(density: Density) -> bytes:
    """Unit and sides: an inch, a centimetre where that is exact, or none."""
    x, y = density.x, density.y
    if not density.metric:
        unit, sides = 0, (x, y)
    elif x % 100 or y % 100:
        unit, sides = 1, density.per_inch
    else:
        unit, sides = 2, (x // 100, y // 100)
    return struct.pack(">B2H", unit, *(min(side, 0xFFFF) for side in sides))


def _webp(data: bytes) -> Parts:
    if data[8:12] != b"WEBP":
        return Parts()
    kinds, at = [], 12
    while at + 8 <= len(data):
        kinds.append(data[at : at + 4])
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return Parts(max(1, kinds.count(b"ANMF")), frozenset(_WEBP_NAMES[kind] for kind in kinds if kind in _WEBP_NAMES))


def _tiff(data: bytes) -> Parts:
    found = list(directories(data))
    if not found:
        return Parts()
    first = found[0]
    whole = [each for each in found if not each.get(_REDUCED, 0) & 1]
    unit_m = {2: _INCH_M, 3: 0.01}.get(first.get(_DENSITY_UNIT, 2))
    x, y = (rational(data, first.get(tag, len(data))) for tag in (_X_DENSITY, _Y_DENSITY))
    density = _density(x, y, unit_m)
    named = {name for tag, name in _TIFF_NAMES.items() if tag in first}
    return Parts(max(1, len(whole)), _with_density(named, density), density, _TIFF_SAMPLES.get(first.get(_SAMPLES, 2)))


def _bmp(data: bytes) -> Parts:
    x, y = struct.unpack("<2i", data[_BMP_DENSITY].ljust(8, b"\0"))
    density = _density(x, y, 1)
    return Parts(1, _with_density(set(), density), density)


def _density(x: float, y: float, unit_m: float | None) -> Density | None:
    """None where nothing is said, which a relation of one to one does not, or nonsense."""
    sides = round(x / (unit_m or 1)), round(y / (unit_m or 1))
    if not all(0 < side <= _INT32_MAX for side in sides) or (unit_m is None and x == y):
        return None
    return Density(*sides, unit_m is not None)


def _with_density(named: set[str], density: Density | None) -> frozenset[str]:
    return frozenset(named | ({"density"} if density else set()))


def _big(number: bytes) -> int:
    return int.from_bytes(number)


_READERS: dict[bytes, Callable[[bytes], Parts]] = {
    _PNG: _png, _JPEG: _jpeg, b"RIFF": _webp, b"II": _tiff, b"MM": _tiff, _BMP: _bmp,
}  # fmt: skip
