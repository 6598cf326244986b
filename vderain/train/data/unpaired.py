"""Unpaired examples: folders of rainy and of clear material enter, crops that have nothing in common leave.

Example number i is a function of the seed and i alone, as in `windows`. Pictures are decoded when they are needed, so a
folder may be larger than memory; of a clip some frames are kept.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vderain.errors import InputError
from vderain.rain.composite import draw_light, rain_onto
from vderain.rain.streaks import draw_style, streak_opacity
from vderain.runtime.device import cores
from vderain.runtime.threads import ordered_map
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

CLIP_STEP, CLIP_FRAMES = 5, 60  # every fifth frame of a clip, and so many at most
SLIVER = 8  # a picture enlarged by more than this holds nothing to learn


@dataclass(frozen=True)
class ImageIndex:
    """Pictures to cut crops from, each a file or already decoded."""

    pictures: list[Path | Picture]

    def picture(self, first: int) -> Picture:
        """Number `first`, or the next one whose file is still there.

        Raises:
            InputError: no file is.
        """
        for step in range(len(self.pictures)):
            item = self.pictures[(first + step) % len(self.pictures)]
            picture = load_photo(item) if isinstance(item, Path) else item
            if picture is not None:
                return picture
        raise InputError("the pictures of this run can no longer be read.", "Look where their folder has gone.")

    def split(self, share: float) -> tuple["ImageIndex", "ImageIndex"]:
        """Most of the pictures, and some of them: see `material.split`."""
        kept, held = split(self.pictures, share)
        return ImageIndex(kept), ImageIndex(held)


def index_images(what: str, key: str, folders: list[Path | None], crop_px: int, survey: ScanReport) -> ImageIndex:
    """Look through folders, and their subfolders, for what can be used.

    Args:
        what: the pictures are, for messages.
        key: of the recipe.
        folders: with pictures, clips or both.
        crop_px: side of a crop.
        survey: is told of what is unusual.

    Raises:
        InputError: there is nothing.
    """
    paths = [path for folder in folders for path in find_files(folder, SUFFIXES_PHOTO)]
    usable = ordered_map(lambda path: _usable(path, crop_px), paths, cores())
    pictures: list[Path | Picture] = []
    for path, (fits, own) in zip(paths, usable, strict=True):
        for kind in own.found:
            survey.note(kind, path)
        pictures += [path] if fits else []
    for path in (path for folder in folders for path in find_files(folder, SUFFIXES_CLIP)):
        pictures += load_frames(path, survey, CLIP_STEP, CLIP_FRAMES)
    where = " and ".join(str(folder) for folder in folders if folder)
    if paths and not pictures:
        raise InputError(f"none of {len(paths)} pictures in {where} can be decoded.", "Convert them to PNG.")
    if not pictures:
        raise InputError(f"there is no {what} picture in {where or None}.", f"Set {key} to a folder of pictures.")
    return ImageIndex(pictures)


def _usable(path: Path, crop_px: int) -> tuple[bool, ScanReport]:
    survey = ScanReport()
    picture = load_photo(path, survey)
    if picture is None:
        return False, survey
    short_px = min(picture.shape[:2])
    if short_px * SLIVER < crop_px:
        survey.note(f"passed over, a side below {-(-crop_px // SLIVER)} pixels", path)
    elif short_px < crop_px:
        survey.note(f"enlarged, a side below the crop's {crop_px} pixels", path)
    return short_px * SLIVER >= crop_px, survey


class Unpaired(Dataset[tuple[Tensor, ...]]):
    """Crops of rainy and of clear pictures.

    Args:
        rain, clear: of any two sizes.
        crop_px: side of a crop. Smaller pictures are enlarged.
        seed: of the run.
        rendered: also render rain onto the clear crop: pairs of which the truth is known.
    """

    def __init__(self, rain: ImageIndex, clear: ImageIndex, crop_px: int, seed: int, rendered: bool) -> None:
        self.rain, self.clear = rain, clear
        self.crop_px, self.seed, self.rendered = crop_px, seed, rendered

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """(3, s, s) uint8 rainy, clear, and with `rendered` the clear one with rain on it."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 3, index))
        rain, clear = (self._crop(gallery, rng) for gallery in (self.rain, self.clear))
        if not self.rendered:
            return rain, clear
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        opacity = streak_opacity(draw_style(generator), self.crop_px, self.crop_px, generator)
        raindrop_score = rain_onto(clear.unsqueeze(0).float() / 255, opacity, draw_light(generator))[0]
        return rain, clear, (raindrop_score * 255 + 0.5).byte()

    def _crop(self, gallery: ImageIndex, rng: np.random.Generator) -> Tensor:
        picture = enlarged(gallery.picture(int(rng.integers(len(gallery.pictures)))), self.crop_px)
        height_px, width_px = picture.shape[:2]
        top, left = rng.integers(height_px - self.crop_px + 1), rng.integers(width_px - self.crop_px + 1)
        cut: NDArray[np.uint8] = picture[top : top + self.crop_px, left : left + self.crop_px]
        cut = cut[:, ::-1] if rng.random() < 0.5 else cut  # rain falls: never upside down
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))


def enlarged(picture: Picture, side_px: int) -> Picture:
    """So that its shorter side is at least `side_px`; as it is where that holds already."""
    height_px, width_px = picture.shape[:2]
    if (short_px := min(height_px, width_px)) >= side_px:
        return picture
    scale = side_px / short_px
    size = max(side_px, round(width_px * scale)), max(side_px, round(height_px * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
