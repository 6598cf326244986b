"""What lies in the folders of a run: pictures and clips of any kind enter, those that can be used leave as 8-bit RGB.

Nothing in a folder stops a run: what cannot be used, and what is used other than it is, is counted and named once, at
the start.
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

UNREADABLE = "passed over, cannot be decoded"
DEEP = "used in 8 bits, held in 16"
TRANSPARENT = "used without their transparency"
CMYK = "used as RGB, held as CMYK"
NAMED_MAX = 8  # of one kind; the rest is counted

T = TypeVar("T")


class ScanReport:
    """What was found in some folders that somebody should know of."""

    def __init__(self) -> None:
        self.found: dict[str, list[Path]] = {}

    def note(self, kind: str, path: Path) -> None:
        self.found.setdefault(kind, []).append(path)

    def tell(self) -> None:
        """Say it, a line a kind."""
        for kind, paths in self.found.items():
            names = ", ".join(str(path) for path in paths[:NAMED_MAX])
            more = f" and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
            log.warning("%s (%d): %s%s", kind, len(paths), names, more)


def find_files(folder: Path | None, suffixes: set[str]) -> list[Path]:
    """Those of a folder and its subfolders, in an order that does not change."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file()) if folder else []


def load_photo(path: Path, survey: ScanReport | None = None) -> Picture | None:
    """(H, W, 3) RGB of any bit depth, colour model or transparency, upright, or None for what is no picture."""
    try:
        data = np.fromfile(path, np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):  # may not be read; larger than OpenCV allows
        bgr = None
    if bgr is None:
        if survey:
            survey.note(UNREADABLE, path)
        return None
    if survey:
        for kind in kinds(data.tobytes()):
            survey.note(kind, path)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def load_frames(path: Path, survey: ScanReport, step: int = 1, most: int | None = None) -> list[Picture]:
    """Every `step`-th frame of a clip, `most` at most; none of what is no clip."""
    try:
        with VideoReader(path) as reader:
            stop = None if most is None else step * most
            return [to_rgb8(frame) for frame in islice(reader.frames(), 0, stop, step)]
    except VderainError:
        survey.note(UNREADABLE, path)
        return []


def kinds(data: bytes) -> Iterator[str]:
    """In what a picture file is unlike 8-bit RGB, by its header."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":  # PNG specification, 11.2.2: depth and colour type of IHDR
        if data[24:25] == b"\x10":
            yield DEEP
        if data[25] in (4, 6):
            yield TRANSPARENT
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # RFC 9649: the flags of VP8X, the bit of VP8L
        flags = data[20] if data[12:16] == b"VP8X" else data[24] if data[12:16] == b"VP8L" else 0
        if flags & 0x10:
            yield TRANSPARENT
    elif data[:2] == b"\xff\xd8" and _jpeg_components(data) == 4:
        yield CMYK


def _jpeg_components(data: bytes) -> int:
    """Of the first frame header (ITU-T T.81, B.2.2); 0 where there is none."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def split(items: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """Most of some items, and about a `share` of them, evenly spread; a lone item is not given away."""
    count = min(len(items) - 1, max(1, round(len(items) * share))) if share and items else 0
    taken = {(2 * i + 1) * len(items) // (2 * count) for i in range(count)}
    kept = [item for number, item in enumerate(items) if number not in taken]
    return kept, [items[number] for number in sorted(taken)]
