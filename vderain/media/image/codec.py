"""One picture: a file's bytes enter, pixels and metadata leave, and the way back.

Pixels are read and written by OpenCV from bytes, never from paths, so that any name the system allows will do. A camera
held upright stores its picture sideways with an EXIF tag; pixels are turned upright, for rain falls downwards there,
and turned back when written beside the same tag.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError, OutputError
from vderain.media.frame import Frame, Plane
from vderain.media.image.metadata import Density, Parts, completed, parts_of
from vderain.media.image.tiff import directories

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_TIFF_SUFFIXES = (".tif", ".tiff")
DEEP_SUFFIXES = (".png", *_TIFF_SUFFIXES)  # hold 16 bits
JPEG_QUALITY = 95
WEBP_QUALITY = 95

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EXIF, XMP, ICC = 0, 1, 2  # cv2.ImageMetadataType, which OpenCV before 4.12 lacks with its functions
_ORIENTATION = 0x0112  # EXIF's tag
HAS_METADATA = hasattr(cv2, "imdecodeWithMetadata") and hasattr(cv2, "imencodeWithMetadata")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded file.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4), in OpenCV's order B, G, R, alpha, turned upright.
        orientation: EXIF orientation 1..8 of the pixels as they were stored.
        metadata: EXIF, XMP and ICC blocks by OpenCV's type numbers.
        parts: what else the file holds.
    """

    pixels: Pixels
    orientation: int
    metadata: tuple[tuple[int, bytes], ...]
    parts: Parts


def read_picture(path: Path) -> Picture:
    """A file, whatever its suffix says.

    Raises:
        InputError: it cannot be read, or is not one picture of 8 or 16 bits.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its name and permissions.") from error
    if not data.size:
        raise InputError(f"{path} is empty (0 bytes).", "Copy it again from where it came.")
    with _quiet():
        pixels, metadata = _decoded(data)
    if pixels is None:
        raise InputError(f"{path} is damaged, or not a picture.", "Open it in a viewer, or copy it again.")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} holds {pixels.dtype} samples.", "Save it with 8 or 16 bits a sample.")
    parts = parts_of(data.tobytes())
    if parts.pictures > 1:
        raise InputError(
            f"{path} holds {parts.pictures} pictures.", "Save them as a video, or as the files of a folder, first."
        )
    orientation = next((exif_orientation(block) for kind, block in metadata if kind == EXIF), 1)
    return Picture(_turned(pixels, orientation), orientation, metadata, parts)


def _decoded(data: NDArray[np.uint8]) -> tuple[Pixels | None, tuple[tuple[int, bytes], ...]]:
    """Pixels as stored, or None where the bytes are no picture, and the metadata blocks."""
    try:
        if not HAS_METADATA:
            turned = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # by OpenCV, since nobody else sees the tag
            is_jpeg = bytes(data[:2]) == b"\xff\xd8"
            return _pixels(cv2.imdecode(data, turned if is_jpeg else cv2.IMREAD_UNCHANGED)), ()
        decoded, kinds, blocks = cv2.imdecodeWithMetadata(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None, ()
    pairs = zip((int(kind) for kind in kinds), (np.asarray(block, np.uint8).tobytes() for block in blocks), strict=True)
    # XMP of PNG comes with its terminator, which would grow at each copy.
    return _pixels(decoded), tuple((kind, block.rstrip(b"\0") if kind == XMP else block) for kind, block in pairs)


def _pixels(decoded: object) -> Pixels | None:
    return decoded if isinstance(decoded, np.ndarray) and decoded.size else None


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (TIFF header and first directory), 1 where there is none or nonsense."""
    value = next(directories(exif), {}).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """The stored pixels as they are to be seen (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.copy()  # contiguous again


def _turned_back(pixels: Pixels, orientation: int) -> Pixels:
    """The inverse: quarter turns undo each other, the rest undo themselves."""
    return _turned(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def planes_of(pixels: Pixels) -> tuple[Plane, ...]:
    """R, G and B, or grey; without alpha."""
    if pixels.ndim == 2:
        return (pixels,)
    return tuple(pixels[..., i].copy() for i in (2, 1, 0))


def encoded_picture(frame: Frame, source: Picture, suffix: str, target: Path) -> bytes:
    """A frame as a file, with the alpha channel and whatever the format takes of the picture it came from.

    Args:
        frame: planes R, G, B or grey, 8 or 16 bit.
        source: the picture it came from.
        suffix: of the format; 16 bits become 8 where it holds no more.
        target: named in errors.

    Raises:
        OutputError: the format cannot hold it.
    """
    pixels = _with_alpha(frame.planes, source.pixels)
    if pixels.dtype == np.uint16 and suffix not in DEEP_SUFFIXES:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    with _quiet():
        turned_back = _turned_back(pixels, source.orientation)
        data = _encode_with_metadata(turned_back, source, suffix) or _encode(pixels, source, suffix)
    if not data:
        raise OutputError(f"{target} cannot hold a picture of {frame.width_px}x{frame.height_px}.", "Write PNG.")
    return completed(data, source.parts)


def dropped(source: Picture, suffix: str, data: bytes) -> list[str]:
    """What of a picture is not in the file of that format that was written of it, in words."""
    has_alpha = source.pixels.shape[2:] == (4,)
    transparency = ["transparency"] if has_alpha and suffix in _JPEG_SUFFIXES else []
    return transparency + sorted(source.parts.named - parts_of(data).named)


def changed(source: Picture, suffix: str) -> list[str]:
    """What of a picture is in another form in a file of that format, in words."""
    is_flattened = source.pixels.dtype == np.uint16 and suffix not in DEEP_SUFFIXES
    samples = [f"{source.parts.samples} samples written as RGB"] if source.parts.samples else []
    return samples + (["16 bits a sample written as 8"] if is_flattened else [])


def _with_alpha(planes: tuple[Plane, ...], source: Pixels) -> Pixels:
    """The planes in OpenCV's order, with the alpha channel of the source where it has one."""
    if len(planes) == 1:
        return planes[0]
    copies = planes[0].shape[1] // source.shape[1]  # two where before and after are beside each other
    alpha = [np.tile(source[..., 3], (1, copies))] if source.shape[2:] == (4,) else []
    merged: Pixels = np.stack([*planes[::-1], *alpha], axis=-1)
    return merged


def _encode_with_metadata(pixels: Pixels, source: Picture, suffix: str) -> bytes:
    """Pixels as stored with the blocks that fit; empty where there are none, or the format refuses them."""
    blocks = [(kind, block) for kind, block in source.metadata if _fits(kind, block, pixels)]
    if not HAS_METADATA or not blocks or suffix not in (".png", ".webp", *_JPEG_SUFFIXES):
        return b""
    arrays, how = [np.frombuffer(block, np.uint8) for _, block in blocks], _parameters(suffix, source.parts.density)
    try:
        done, data = cv2.imencodeWithMetadata(suffix, pixels, [k for k, _ in blocks], arrays, how)
    except cv2.error:
        return b""
    return bytes(data) if done and data is not None else b""


def _fits(kind: int, block: bytes, pixels: Pixels) -> bool:
    """False for a colour profile of another colour space than the pixels: OpenCV turns CMYK into R, G, B."""
    if kind != ICC:
        return True
    return block[16:20] == (b"GRAY" if pixels.ndim == 2 else b"RGB ")  # ICC.1:2022, 7.2.6


def _encode(pixels: Pixels, source: Picture, suffix: str) -> bytes:
    try:
        done, data = cv2.imencode(suffix, pixels, _parameters(suffix, source.parts.density))
    except cv2.error:
        return b""
    return bytes(data) if done else b""


def _parameters(suffix: str, density: Density | None) -> list[int]:
    if suffix in _JPEG_SUFFIXES:
        full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_chroma]
    if suffix in _TIFF_SUFFIXES and density and density.metric:
        x, y = density.per_inch
        unit = [cv2.IMWRITE_TIFF_RESUNIT, cv2.IMWRITE_TIFF_RESOLUTION_UNIT_INCH]
        return [*unit, cv2.IMWRITE_TIFF_XDPI, x, cv2.IMWRITE_TIFF_YDPI, y]
    return [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY] if suffix == ".webp" else []


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV reports damage on stderr as well; ours is the report that names the file."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
