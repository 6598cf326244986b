"""Finds and decodes training images and clips, as 8-bit RGB, and reports files that are unusable or unusual.

A bad file never stops a run: it is skipped or converted, and each kind of problem is logged once, with a count.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import VderainError
from vderain.media.colour import to_rgb8
from vderain.media.decode.reader import VideoReader

log = logging.getLogger(__name__)

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
SUFFIXES_PHOTO = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SUFFIXES_CLIP = {".mp4", ".mov", ".mkv", ".avi", ".webm"}

UNREADABLE = "skipped, cannot be decoded"
DEEP = "converted from 16 bits to 8"
TRANSPARENT = "used without transparency"
CMYK = "converted from CMYK to RGB"
NAMED_MAX = 8  # files named per kind of problem; the rest are only counted

T = TypeVar("T")


class ScanReport:
    """Files that were skipped or converted while folders were scanned, by kind of problem."""

    def __init__(self) -> None:
        self.found: dict[str, list[Path]] = {}

    def add(self, kind: str, path: Path) -> None:
        """Record one file under a kind of problem."""
        self.found.setdefault(kind, []).append(path)

    def log(self) -> None:
        """Log one warning per kind of problem."""
        for kind, paths in self.found.items():
            names = ", ".join(str(path) for path in paths[:NAMED_MAX])
            more = f" and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
            log.warning("%s (%d): %s%s", kind, len(paths), names, more)


def find_files(folder: Path | None, suffixes: set[str]) -> list[Path]:
    """All files with one of these suffixes in a folder and its subfolders, sorted by path."""
    if folder is None:
        return []
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def load_photo(path: Path, report: ScanReport | None = None) -> Picture | None:
    """Decode one image.

    Args:
        path: an image of any bit depth, colour model or transparency.
        report: records what had to be converted or could not be read; None records nothing.

    Returns:
        (H, W, 3) uint8 RGB, rotated as its EXIF orientation says, or None if it cannot be decoded.
    """
    try:
        data = np.fromfile(path, np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):  # no permission; larger than OpenCV allows
        bgr = None
    if bgr is None:
        if report:
            report.add(UNREADABLE, path)
        return None
    if report:
        for kind in conversions(data.tobytes()):
            report.add(kind, path)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def load_frames(path: Path, report: ScanReport, step: int = 1, limit: int | None = None) -> list[Picture]:
    """Decode frames of a clip.

    Args:
        path: a video.
        report: records the file if it cannot be decoded.
        step: keep every `step`-th frame.
        limit: keep at most this many frames; None keeps all.

    Returns:
        (H, W, 3) uint8 RGB each; empty if the file cannot be decoded.
    """
    try:
        with VideoReader(path) as reader:
            stop = None if limit is None else step * limit
            return [to_rgb8(frame) for frame in islice(reader.frames(), 0, stop, step)]
    except VderainError:
        report.add(UNREADABLE, path)
        return []


def conversions(data: bytes) -> Iterator[str]:
    """What decoding to 8-bit RGB loses, read from an image file's header.

    Sources: PNG specification 11.2.2 (IHDR), RFC 9649 (WebP flags), ITU-T T.81 B.2.2 (JPEG frame header).
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if data[24:25] == b"\x10":  # bit depth
            yield DEEP
        if data[25] in (4, 6):  # colour types with alpha
            yield TRANSPARENT
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        flags = data[20] if data[12:16] == b"VP8X" else data[24] if data[12:16] == b"VP8L" else 0
        if flags & 0x10:
            yield TRANSPARENT
    elif data[:2] == b"\xff\xd8" and _jpeg_components(data) == 4:
        yield CMYK


def _jpeg_components(data: bytes) -> int:
    """Number of components in a JPEG's first frame header; 0 if there is none."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def split(items: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """Split off an evenly spaced part.

    Args:
        items: any number of items.
        share: 0..1, the part to split off: at least one item if there are two or more, none if it is 0.

    Returns:
        The remaining items, and those split off.
    """
    count = min(len(items) - 1, max(1, round(len(items) * share))) if share and items else 0
    taken = {(2 * i + 1) * len(items) // (2 * count) for i in range(count)}
    kept = [item for number, item in enumerate(items) if number not in taken]
    return kept, [items[number] for number in sorted(taken)]
