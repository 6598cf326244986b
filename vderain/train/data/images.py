"""Finds, decodes and augments training images and the frames of clips, as 8-bit RGB.

A bad file never stops a run: it is skipped or converted, and each kind of problem is logged once, with a count.

Augmentation is that of torchvision's `transforms.v2`, which draws from PyTorch's global random number generator. Here
that generator is seeded for each call and restored afterwards, so that example number i stays a function of the seed
and i alone.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from vderain.errors import InputError, VderainError
from vderain.media.colour import to_rgb8
from vderain.restore.frames import Picture
from vderain.runtime.device import cores
from vderain.runtime.threads import ordered_map
from vderain.train.torchvision_import import require_torchvision

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Transform

log = logging.getLogger(__name__)

SUFFIXES_PHOTO = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SUFFIXES_CLIP = {".mp4", ".mov", ".mkv", ".avi", ".webm"}

UNREADABLE = "skipped, cannot be decoded"
DEEP = "converted from 16 bits to 8"
TRANSPARENT = "used without transparency"
CMYK = "converted from CMYK to RGB"
NAMED_MAX = 8  # files named per kind of problem; the rest are only counted
CLIP_STEP, CLIP_FRAMES = 5, 60  # every fifth frame of a clip is kept, up to this many
ENLARGED_MAX = 8  # an image that would be enlarged by more than this has no detail to learn from
HUE_SHARE = 0.2  # a hue that changes as much as brightness turns grass blue

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
    from vderain.media.decode.reader import VideoReader  # recipes of photographs alone need no decoder

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


@dataclass(frozen=True)
class ImageIndex:
    """Images to cut crops from.

    Attributes:
        pictures: a file, decoded when needed, or (H, W, 3) uint8 RGB.
    """

    pictures: list[Path | Picture]

    def picture(self, first: int) -> Picture:
        """Decode image number `first`, or the next one whose file still exists: (H, W, 3) uint8 RGB.

        Raises:
            InputError: none of the files can be read any longer.
        """
        for step in range(len(self.pictures)):
            item = self.pictures[(first + step) % len(self.pictures)]
            picture = load_photo(item) if isinstance(item, Path) else item
            if picture is not None:
                return picture
        raise InputError("the training pictures can no longer be read.", "Check that their folder still exists.")

    def split(self, share: float) -> tuple["ImageIndex", "ImageIndex"]:
        """Split off a `share` of the images, see `split`."""
        kept, held = split(self.pictures, share)
        return ImageIndex(kept), ImageIndex(held)


def index_images(
    folders: Sequence[Path | None], crop_px: int, report: ScanReport, *, kind: str, key: str
) -> ImageIndex:
    """Scan folders and their subfolders for usable images and clips.

    Args:
        folders: to scan; None is left out.
        crop_px: side of a crop.
        report: records files that are skipped or converted.
        kind: "clear" or "rainy", for messages.
        key: recipe key that names the folder, for messages.

    Raises:
        InputError: no folder was given, or nothing in them is usable.
    """
    paths = [path for folder in folders for path in find_files(folder, SUFFIXES_PHOTO)]
    checked = ordered_map(lambda path: _check(path, crop_px), paths, cores())
    pictures: list[Path | Picture] = []
    for path, (usable, own) in zip(paths, checked, strict=True):
        for problem in own.found:
            report.add(problem, path)
        pictures += [path] if usable else []
    for path in (path for folder in folders for path in find_files(folder, SUFFIXES_CLIP)):
        pictures += load_frames(path, report, CLIP_STEP, CLIP_FRAMES)
    if not pictures:
        raise _nothing_found(folders, len(paths), kind, key)
    return ImageIndex(pictures)


def _nothing_found(folders: Sequence[Path | None], scanned: int, kind: str, key: str) -> InputError:
    where = " and ".join(str(folder) for folder in folders if folder)
    if not where:
        return InputError(f"the recipe names no folder of {kind} pictures.", f"Add --set {key}=FOLDER.")
    if scanned:
        return InputError(f"none of {scanned} {kind} pictures in {where} can be used.", "Convert them to PNG.")
    return InputError(f"there is no {kind} picture in {where}.", f"Set {key} to a folder of pictures.")


def _check(path: Path, crop_px: int) -> tuple[bool, ScanReport]:
    """Whether an image is usable, and what is unusual about it."""
    report = ScanReport()
    picture = load_photo(path, report)
    if picture is None:
        return False, report
    short_px = min(picture.shape[:2])
    if short_px * ENLARGED_MAX < crop_px:
        report.add(f"skipped, a side is below {-(-crop_px // ENLARGED_MAX)} pixels", path)
    elif short_px < crop_px:
        report.add(f"enlarged, a side is below the crop's {crop_px} pixels", path)
    return short_px * ENLARGED_MAX >= crop_px, report


def enlarged(picture: Picture, side_px: int) -> Picture:
    """Enlarge an (H, W, 3) image whose shorter side is below `side_px`; return others as they are."""
    height_px, width_px = picture.shape[:2]
    if (short_px := min(height_px, width_px)) >= side_px:
        return picture
    scale = side_px / short_px
    size = max(side_px, round(width_px * scale)), max(side_px, round(height_px * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def jitter_colours(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue at random, by the same amounts in all frames.

    Args:
        frames: (T, 3, H, W) uint8.
        strength: 0..1, the largest relative change of brightness, contrast and saturation.
        rng: random number generator, of which one number is drawn.

    Returns:
        (T, 3, H, W) uint8.

    Raises:
        UsageError: torchvision cannot be imported.
    """
    with _seeded(rng):
        jittered: Tensor = _colour_jitter(strength)(frames)
    return jittered


def random_crop(picture: Tensor, side_px: int, strength: float, rng: np.random.Generator) -> Tensor:
    """Cut a random square, mirror half of them left to right, and jitter its colours.

    Rain falls, so squares are never turned upside down.

    Args:
        picture: (3, H, W) uint8, neither side below `side_px`.
        side_px: side of the square.
        strength: see `jitter_colours`; 0 leaves colours alone.
        rng: random number generator, of which one number is drawn.

    Returns:
        (3, side_px, side_px) uint8.

    Raises:
        UsageError: torchvision cannot be imported.
    """
    with _seeded(rng):
        crop: Tensor = _crop_and_flip(side_px)(picture)
        if strength:
            crop = _colour_jitter(strength)(crop)
    return crop.contiguous()


@cache
def _colour_jitter(strength: float) -> "Transform":
    require_torchvision("data.colour_jitter")
    from torchvision.transforms import v2

    return v2.ColorJitter(strength, strength, strength, HUE_SHARE * strength)


@cache
def _crop_and_flip(side_px: int) -> "Transform":
    require_torchvision("training with [cyclegan]")
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomCrop(side_px), v2.RandomHorizontalFlip()])


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    seed = int(rng.integers(2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
