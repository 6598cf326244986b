"""Decodes and encodes single still images with OpenCV, 8 or 16 bits a sample, with their alpha channel and metadata.

Pixels are decoded from and encoded to bytes, never paths, so that any file name works. A camera held upright stores
its image sideways with an EXIF orientation. Pixels are rotated upright for the network, because rain falls down there,
and rotated back when they are written with the same EXIF block.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError, OutputError
from vderain.media.frame import Frame, Plane
from vderain.media.image.metadata import EXIF, ICC, Metadata, insert_metadata, is_truncated_png, read_metadata

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES_16_BIT = (".png", *_TIFF_SUFFIXES)
JPEG_QUALITY = 95
WEBP_QUALITY = 95
MAX_PIXELS = 2**28  # the largest camera sensors have 200 million; the network could not hold more either

_UNSUPPORTED = {  # formats that phones and browsers write: (offset, signature) -> name
    (4, b"ftyphei"): "HEIC", (4, b"ftypmif1"): "HEIC", (4, b"ftypavif"): "AVIF",
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"): "JPEG 2000", (0, b"\xff\x4f\xff\x51"): "JPEG 2000",
    (0, b"\0\0\0\x0cJXL \r\n\x87\n"): "JPEG XL", (0, b"\xff\x0a"): "JPEG XL",
}  # fmt: skip

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_stderr_lock = Lock()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image file.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16, in OpenCV's order B, G, R, alpha, rotated upright.
        metadata: what else the file holds.
    """

    pixels: Pixels
    metadata: Metadata


def refuse_unsupported_image(path: Path) -> None:
    """Refuses HEIC, AVIF, JPEG 2000 and JPEG XL files by their first bytes, whatever the suffix.

    Raises:
        InputError: the file is one of these.
    """
    with suppress(OSError), path.open("rb") as file:  # what cannot be opened is reported when it is read
        head = file.read(16)
        for (offset, signature), name in _UNSUPPORTED.items():
            if head.startswith(signature, offset):
                raise InputError(
                    f"{path} is a {name} image, which vderain does not read.",
                    f"Convert it first, for example with ImageMagick: magick {path.name} {path.stem}.png",
                )


def read_image(path: Path) -> DecodedImage:
    """Decodes an image file, whatever its suffix.

    Raises:
        InputError: the file cannot be read, or is not a single image of 8 or 16 bits a sample.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its name and permissions.") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes).", "Copy it again from its origin.")
    with _silence_codecs():
        metadata = read_metadata(data)
    _check_announced(path, metadata)
    with _silence_codecs():
        pixels = None if is_truncated_png(data) else _decode(data)
    if pixels is None:
        refuse_unsupported_image(path)
        raise InputError(f"{path} is damaged or not an image.", "Open it in a viewer, or copy it again.")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} holds {pixels.dtype} samples.", "Save it with 8 or 16 bits a sample.")
    return DecodedImage(_rotate_upright(pixels, metadata.orientation), metadata)


def _check_announced(path: Path, metadata: Metadata) -> None:
    """Refuses by the header alone what would take too much memory, or lose all but its first page."""
    width_px, height_px = metadata.size_px or (0, 0)
    if width_px * height_px > MAX_PIXELS:
        raise InputError(
            f"{path} announces {width_px}x{height_px} pixels; the limit is {MAX_PIXELS:,} pixels.",
            "Scale it down or cut it first, or copy it again if it is damaged.",
        )
    if metadata.images > 1:
        raise InputError(
            f"{path} holds {metadata.images} images.", "Save them as a video, or as separate files in a folder, first."
        )


def _decode(data: bytes) -> Pixels | None:
    """Pixels as stored; None if OpenCV cannot decode them."""
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return decoded if decoded is not None and decoded.size else None  # type: ignore[return-value]


def _rotate_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels as they are to be displayed (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.copy()  # contiguous again


def _rotate_back(pixels: Pixels, orientation: int) -> Pixels:
    """The inverse: 6 and 8 undo each other, each other orientation undoes itself."""
    return _rotate_upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def planes_of(pixels: Pixels) -> tuple[Plane, ...]:
    """Planes R, G and B, or grey, of pixels in OpenCV's order; alpha is left out."""
    if pixels.ndim == 2:
        return (pixels,)
    return tuple(pixels[..., i].copy() for i in (2, 1, 0))


def encode_image(frame: Frame, source: DecodedImage, suffix: str, target: Path) -> bytes:
    """Encodes a frame with the alpha channel and the metadata of the image it came from.

    Args:
        frame: planes R, G, B or grey, 8 or 16 bits.
        source: the image it came from.
        suffix: of the format; 16 bits become 8 where it holds no more.
        target: file name for the error message.

    Raises:
        OutputError: the format cannot hold the image.
    """
    pixels = _with_alpha(frame.planes, source.pixels)
    if pixels.dtype == np.uint16 and suffix not in SUFFIXES_16_BIT:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    with _silence_codecs():
        data = _encode_with_blocks(pixels, source.metadata, suffix) or _encode(pixels, source.metadata, suffix)
    if not data:
        raise OutputError(f"{target} cannot hold an image of {frame.width_px}x{frame.height_px}.", "Write PNG.")
    return insert_metadata(data, source.metadata)


def lost_parts(source: DecodedImage, suffix: str, data: bytes) -> list[str]:
    """Names what an image holds and the file written from it does not.

    Args:
        source: the original.
        suffix: of the format written.
        data: the file written.
    """
    has_alpha = source.pixels.shape[2:] == (4,)
    transparency = ["transparency"] if has_alpha and suffix in _JPEG_SUFFIXES else []
    with _silence_codecs():
        return transparency + sorted(source.metadata.names - read_metadata(data).names)


def changed_parts(source: DecodedImage, suffix: str) -> list[str]:
    """Names what a file of this format holds in another form than the original."""
    model = source.metadata.colour_model
    is_reduced = source.pixels.dtype == np.uint16 and suffix not in SUFFIXES_16_BIT
    return ([f"{model} samples written as RGB"] if model else []) + (
        ["16 bits a sample written as 8"] if is_reduced else []
    )


def _with_alpha(planes: tuple[Plane, ...], source: Pixels) -> Pixels:
    """The planes in OpenCV's order, with the alpha channel of the source if it has one."""
    if len(planes) == 1:
        return planes[0]
    copies = planes[0].shape[1] // source.shape[1]  # 2 for before and after side by side
    alpha = [np.tile(source[..., 3], (1, copies))] if source.shape[2:] == (4,) else []
    merged: Pixels = np.stack([*planes[::-1], *alpha], axis=-1)
    return merged


def _encode_with_blocks(upright: Pixels, metadata: Metadata, suffix: str) -> bytes:
    """Pixels as stored with EXIF, XMP and ICC; empty if there are none or the format does not take them."""
    pixels = _rotate_back(upright, metadata.orientation)
    blocks = [(kind, block) for kind, block in metadata.blocks if _fits(kind, block, pixels, suffix)]
    if not blocks or suffix not in (".png", ".webp", *_JPEG_SUFFIXES):
        return b""
    kinds, arrays = [kind for kind, _ in blocks], [np.frombuffer(block, np.uint8) for _, block in blocks]
    try:
        done, data = cv2.imencodeWithMetadata(suffix, pixels, kinds, arrays, _parameters(suffix, metadata))
    except cv2.error:
        return b""
    return bytes(data) if done and data is not None else b""


def _fits(kind: int, block: bytes, pixels: Pixels, suffix: str) -> bool:
    """False for a colour profile of another colour space than the pixels: OpenCV converts CMYK to RGB."""
    if kind != ICC:
        return kind == EXIF or suffix == ".webp"  # elsewhere `insert_metadata` writes XMP
    return block[16:20] == (b"GRAY" if pixels.ndim == 2 else b"RGB ")  # ICC.1:2022, 7.2.6


def _encode(pixels: Pixels, metadata: Metadata, suffix: str) -> bytes:
    try:
        done, data = cv2.imencode(suffix, pixels, _parameters(suffix, metadata))
    except cv2.error:
        return b""
    return bytes(data) if done else b""


def _parameters(suffix: str, metadata: Metadata) -> list[int]:
    if suffix in _JPEG_SUFFIXES:
        full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_chroma]
    if suffix in _TIFF_SUFFIXES and metadata.density_dpi:
        x_dpi, y_dpi = (round(dpi) for dpi in metadata.density_dpi)
        unit = [cv2.IMWRITE_TIFF_RESUNIT, cv2.IMWRITE_TIFF_RESOLUTION_UNIT_INCH]
        return [*unit, cv2.IMWRITE_TIFF_XDPI, x_dpi, cv2.IMWRITE_TIFF_YDPI, y_dpi]
    return [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY] if suffix == ".webp" else []


@contextmanager
def _silence_codecs() -> Iterator[None]:
    """Keeps OpenCV's log, Pillow's warnings and the lines of libpng and libjpeg off the terminal.

    The two libraries write to file descriptor 2 themselves, so it is redirected while they run. Our own InputError
    names the file, theirs do not.
    """
    with _stderr_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        stderr = _redirect_stderr()
        try:
            yield
        finally:
            cv2.utils.logging.setLogLevel(level)
            if stderr is not None:
                os.dup2(stderr, 2)
                os.close(stderr)


def _redirect_stderr() -> int | None:
    """Points file descriptor 2 at the null device; returns a duplicate of the old one, None if it is closed."""
    try:
        stderr = os.dup(2)
    except OSError:
        return None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return stderr
