"""Unpaired training examples: crops of rainy and of clear images that have nothing in common.

Example number i is a function of the seed and i alone. Images are decoded when they are needed, so a folder may be
larger than memory; of clips, a few frames are kept decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vderain.errors import InputError
from vderain.rain.composite import draw_light, rain_onto
from vderain.rain.streaks import draw_style, streak_opacity
from vderain.runtime.device import cores
from vderain.runtime.threads import ordered_map
from vderain.train.config import Data
from vderain.train.data.augment import random_crop
from vderain.train.data.images import (
    SUFFIXES_CLIP,
    SUFFIXES_PHOTO,
    Picture,
    ScanReport,
    find_files,
    load_frames,
    load_photo,
    split,
)

CLIP_STEP, CLIP_FRAMES = 5, 60  # every fifth frame of a clip is kept, up to this many
ENLARGED_MAX = 8  # an image that would be enlarged by more than this has no detail to learn from


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
        """Split off a `share` of the images, see `images.split`."""
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


class UnpairedCrops(Dataset[tuple[Tensor, ...]]):
    """Random crops of rainy and of clear images, mirrored half of the time.

    Args:
        rain: rainy images.
        clear: clear images, any number of them.
        crop_px: side of a crop; smaller images are enlarged.
        seed: of the run.
        data: section of the recipe.
        rendered: also render rain onto the clear crop, for a supervised loss.
    """

    def __init__(
        self, rain: ImageIndex, clear: ImageIndex, crop_px: int, seed: int, *, data: Data, rendered: bool
    ) -> None:
        self.rain, self.clear = rain, clear
        self.crop_px, self.seed, self.data, self.rendered = crop_px, seed, data, rendered

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """(3, s, s) uint8 each: rainy, clear, and with `rendered` the clear crop with rain on it."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 3, index))
        rain, clear = (self._crop(images, rng) for images in (self.rain, self.clear))
        if not self.rendered:
            return rain, clear
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        style = draw_style(generator, share_any_direction=self.data.share_any_direction)
        opacity = streak_opacity(style, self.crop_px, self.crop_px, generator)
        rainy = rain_onto(clear.unsqueeze(0).float() / 255, opacity, draw_light(generator))[0]
        return rain, clear, (rainy * 255 + 0.5).byte()

    def _crop(self, images: ImageIndex, rng: np.random.Generator) -> Tensor:
        picture = enlarged(images.picture(int(rng.integers(len(images.pictures)))), self.crop_px)
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)  # (3, H, W)
        return random_crop(pixels, self.crop_px, self.data.colour_jitter, rng)


def enlarged(picture: Picture, side_px: int) -> Picture:
    """Enlarge an (H, W, 3) image whose shorter side is below `side_px`; return others as they are."""
    height_px, width_px = picture.shape[:2]
    if (short_px := min(height_px, width_px)) >= side_px:
        return picture
    scale = side_px / short_px
    size = max(side_px, round(width_px * scale)), max(side_px, round(height_px * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
