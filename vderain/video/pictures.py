"""Pictures as clips: one picture, or a folder of numbered ones, enters as Frames and leaves as files of the same names.

Pixels are read and written by OpenCV from bytes, never from paths, so that any name the system allows will do. A camera
held upright stores its picture sideways with an EXIF tag; frames are turned upright, for rain falls downwards there,
and turned back when written beside the same tag.
"""

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError, OutputError, UsageError
from vderain.video.frame import Colour, Frame, Plane

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # hold 16 bits
JPEG_QUALITY = 95
WEBP_QUALITY = 95

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EXIF, XMP, ICC = 0, 1, 2  # cv2.ImageMetadataType, which OpenCV before 4.12 lacks with its functions
HAS_METADATA = hasattr(cv2, "imdecodeWithMetadata") and hasattr(cv2, "imencodeWithMetadata")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded file.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4), in OpenCV's order B, G, R, alpha, turned upright.
        orientation: EXIF orientation 1..8 of the pixels as they were stored.
        metadata: EXIF, XMP and ICC blocks by OpenCV's type numbers.
    """

    pixels: Pixels
    orientation: int
    metadata: tuple[tuple[int, bytes], ...]


def is_pictures(path: Path) -> bool:
    """Whether the path is an existing picture, told by its suffix, or a folder."""
    return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)


class PictureReader:
    """A picture, or the pictures of a folder in natural order (frame2 before frame10), as Frames.

    Args:
        path: a picture or a folder of them; other files and hidden ones in the folder are passed over.
        rate: pictures per second.
        start_s, duration_s: which part of the clip, in seconds; from its start, and to its end, where not given.

    Attributes:
        width_px, height_px: size of the first picture, upright; the others must agree. Known once opened.
        count: how many pictures the part holds.
        names: their file names, in order.
        rate: pictures per second.
        is_folder: False for a single picture.
    """

    def __init__(
        self, path: Path, rate: Fraction = Fraction(30), start_s: float | None = None, duration_s: float | None = None
    ) -> None:
        self.path = path
        self.rate = rate
        self.is_folder = path.is_dir()
        self.width_px = 0
        self.height_px = 0
        self._part = start_s, duration_s
        self._first = 0
        self._paths: tuple[Path, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self._paths)

    @property
    def count(self) -> int:
        return len(self._paths)

    def __enter__(self) -> Self:
        """Lists the pictures and decodes the first one.

        Raises:
            InputError: there is no picture, the first cannot be read, or two would have the same name as PNG.
            UsageError: the asked part lies after the end.
        """
        listed = _listed(self.path) if self.is_folder else (self.path,)
        self._first, end = _part(len(listed), self.rate, *self._part)
        if self._first >= end:
            raise UsageError(
                f"The asked part of {self.path} holds no picture: it lasts {float(len(listed) / self.rate):g} s.",
                "Ask for an earlier start or a longer duration.",
            )
        self._paths = listed[self._first : end]
        self.height_px, self.width_px = self.picture(0).pixels.shape[:2]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is held open between pictures."""

    def frames(self) -> Iterator[Frame]:
        """The pictures, lazily: planes R, G, B, or one grey plane; pts counts the pictures of the whole folder.

        Raises:
            InputError: a picture cannot be read, or its size differs from the first.
        """
        for index, path in enumerate(self._paths):
            pixels = self.picture(index).pixels
            height, width = pixels.shape[:2]
            if (height, width) != (self.height_px, self.width_px):
                raise InputError(
                    f"{path} is {width}x{height} while {self.names[0]} is {self.width_px}x{self.height_px}.",
                    "Put pictures of one size into a folder.",
                )
            colour = Colour("rgb", full_range=True, depth_bits=8 * pixels.itemsize)
            yield Frame(_planes(pixels), colour, self._first + index, 1, 1 / self.rate)

    def picture(self, index: int) -> Picture:
        """The file behind the frame of that order, with its alpha and metadata.

        Raises:
            InputError: it cannot be read.
        """
        return _read(self._paths[index])


class PictureWriter:
    """Frames to a picture or a folder of PNG, under a temporary name until all is well.

    The order of frames tells whose alpha channel and metadata they take: the first written belongs to the first of
    ``like.names``. A folder is never written into an existing one; a single picture replaces what had its name.

    Args:
        target: a folder where the reader had one, else a file, whose suffix tells the format.
        like: the opened reader the frames come from.
    """

    def __init__(self, target: Path, like: PictureReader) -> None:
        self.target = target
        self._like = like
        self._partial = target.parent / f".{target.name}.partial"
        self._written = 0

    def __enter__(self) -> Self:
        """Makes the temporary folder, or checks that the file can be made.

        Raises:
            OutputError: the target is of the wrong kind, exists, or cannot be written.
        """
        self._check_kind()
        self._discard()  # of a run that was killed
        try:
            if self._like.is_folder:
                self._partial.mkdir()
            else:
                self._partial.touch()
        except OSError as error:
            raise _unwritable(self.target, error) from error
        return self

    def write(self, frame: Frame) -> None:
        """Encodes one frame.

        Args:
            frame: planes R, G, B or grey, of the reader's size, 8 or 16 bit.

        Raises:
            OutputError: the format cannot hold it, or the disk refuses it.
            ValueError: more frames than the reader has.
        """
        if self._written >= self._like.count:
            raise ValueError(f"{self._like.path} has {self._like.count} pictures, and all are written")
        path = self._partial / self._name(self._written) if self._like.is_folder else self._partial
        suffix = ".png" if self._like.is_folder else self.target.suffix.lower()
        data = _encoded(frame, self._like.picture(self._written), suffix, self.target)
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _unwritable(self.target, error) from error
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Moves the result to its name, or removes what was begun if anything failed.

        Raises:
            OutputError: it cannot be moved, or nothing was written.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _name(self, index: int) -> str:
        return Path(self._like.names[index]).stem + ".png"

    def _check_kind(self) -> None:
        suffix = self.target.suffix.lower()
        if self._like.is_folder and self.target.exists() and not _is_empty_folder(self.target):
            raise OutputError(f"{self.target} exists already.", "Name a folder that does not exist yet.")
        if self._like.is_folder and suffix in SUFFIXES:
            raise OutputError(f"{self._like.path} is a folder, {self.target} one picture.", "Name a folder.")
        if not self._like.is_folder and self.target.is_dir():
            raise OutputError(f"{self.target} is a folder.", "Name the picture to write.")
        if not self._like.is_folder and suffix not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise OutputError(f"{self.target.name} does not end like a picture.", f"End it with one of {known}.")

    def _finish(self) -> None:
        if not self._written:
            raise OutputError(f"{self.target} received no picture, and was not made.")
        try:
            if self._like.is_folder and self.target.is_dir():
                self.target.rmdir()  # empty, as checked; not every system renames onto it
            self._partial.replace(self.target)
        except OSError as error:
            raise _unwritable(self.target, error) from error

    def _discard(self) -> None:
        with suppress(OSError):
            if self._partial.is_dir():
                shutil.rmtree(self._partial)
            else:
                self._partial.unlink(missing_ok=True)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A key that sorts runs of digits by their number: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _listed(folder: Path) -> tuple[Path, ...]:
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not found:
        raise InputError(f"{folder} holds no picture.", f"Give a folder of files ending with {', '.join(SUFFIXES)}.")
    stem, times = Counter(p.stem for p in found).most_common(1)[0]
    if times > 1:
        raise InputError(f"{folder} holds {times} pictures named {stem}.", "Keep one of them.")
    return tuple(sorted(found, key=lambda p: natural_key(p.name)))


def _part(count: int, rate: Fraction, start_s: float | None, duration_s: float | None) -> tuple[int, int]:
    """First and end of the pictures shown in start_s <= t < start_s + duration_s."""
    start = Fraction(str(start_s or 0))  # by its digits: 0.1 s at 10 pictures a second is the second picture
    first = max(0, math.ceil(start * rate))
    end = count if duration_s is None else min(count, math.ceil((start + Fraction(str(duration_s))) * rate))
    return first, end


def _read(path: Path) -> Picture:
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
    orientation = next((exif_orientation(block) for kind, block in metadata if kind == EXIF), 1)
    return Picture(_turned(pixels, orientation), orientation, metadata)


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
    if exif[:2] not in (b"II", b"MM"):
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], "little" if exif[:2] == b"II" else "big")

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 1000), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


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


def _planes(pixels: Pixels) -> tuple[Plane, ...]:
    if pixels.ndim == 2:
        return (pixels,)
    return tuple(pixels[..., i].copy() for i in (2, 1, 0))


def _encoded(frame: Frame, source: Picture, suffix: str, target: Path) -> bytes:
    pixels = _with_alpha(frame.planes, source.pixels)
    if pixels.dtype == np.uint16 and suffix not in DEEP_SUFFIXES:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    with _quiet():
        data = _encode_with_metadata(_turned_back(pixels, source.orientation), source, suffix) or _encode(
            pixels, suffix
        )
    if not data:
        raise OutputError(f"{target} cannot hold a picture of {frame.width_px}x{frame.height_px}.", "Write PNG.")
    return data


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
    if not HAS_METADATA or not blocks or suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        return b""
    arrays = [np.frombuffer(block, np.uint8) for _, block in blocks]
    try:
        done, data = cv2.imencodeWithMetadata(suffix, pixels, [k for k, _ in blocks], arrays, _parameters(suffix))
    except cv2.error:
        return b""
    return bytes(data) if done and data is not None else b""


def _fits(kind: int, block: bytes, pixels: Pixels) -> bool:
    """False for a colour profile of another colour space than the pixels: OpenCV turns CMYK into R, G, B."""
    if kind != ICC:
        return True
    return block[16:20] == (b"GRAY" if pixels.ndim == 2 else b"RGB ")  # ICC.1:2022, 7.2.6


def _encode(pixels: Pixels, suffix: str) -> bytes:
    try:
        done, data = cv2.imencode(suffix, pixels, _parameters(suffix))
    except cv2.error:
        return b""
    return bytes(data) if done else b""


def _parameters(suffix: str) -> list[int]:
    if suffix in (".jpg", ".jpeg"):
        full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_chroma]
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


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _unwritable(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{target} cannot be written: {reason}.", "Check the folder it lies in, and the space left.")
