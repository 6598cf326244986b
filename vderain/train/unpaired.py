"""Unpaired examples: a folder of rainy and one of clear pictures enter, crops that have nothing in common leave.

Example number i is a function of the seed and i alone, as in `windows`. Pictures are decoded when they are needed, so a
folder may be larger than memory; what cannot be decoded is named and passed over.
"""

import logging
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
from vderain.train.scenes import SUFFIXES_PHOTO, Picture, load_photo

log = logging.getLogger(__name__)


class Unpaired(Dataset[tuple[Tensor, ...]]):
    """Crops of rainy and of clear pictures.

    Args:
        rain, clear: folders, searched with their subfolders; of any two sizes.
        crop_px: side of a crop. Smaller pictures are enlarged.
        seed: of the run.
        rendered: also render rain onto the clear crop: pairs of which the truth is known.

    Raises:
        InputError: a folder has no picture.
    """

    def __init__(self, rain: Path | None, clear: Path | None, crop_px: int, seed: int, rendered: bool) -> None:
        self.rain, self.clear = _pictures(rain, "rainy", "data.rain"), _pictures(clear, "clear", "data.photos")
        self.crop_px, self.seed, self.rendered = crop_px, seed, rendered
        self._named: set[Path] = set()

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """(3, s, s) uint8 rainy, clear, and with `rendered` the clear one with rain on it."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 3, index))
        rain, clear = (self._crop(paths, rng) for paths in (self.rain, self.clear))
        if not self.rendered:
            return rain, clear
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        opacity = streak_opacity(draw_style(generator), self.crop_px, self.crop_px, generator)
        wet = rain_onto(clear.unsqueeze(0).float() / 255, opacity, draw_light(generator))[0]
        return rain, clear, (wet * 255 + 0.5).byte()

    def _crop(self, paths: list[Path], rng: np.random.Generator) -> Tensor:
        picture = self._decoded(paths, int(rng.integers(len(paths))))
        height_px, width_px = picture.shape[:2]
        if (short_px := min(height_px, width_px)) < self.crop_px:
            scale = self.crop_px / short_px
            size = max(self.crop_px, round(width_px * scale)), max(self.crop_px, round(height_px * scale))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
            height_px, width_px = picture.shape[:2]
        top, left = rng.integers(height_px - self.crop_px + 1), rng.integers(width_px - self.crop_px + 1)
        cut: NDArray[np.uint8] = picture[top : top + self.crop_px, left : left + self.crop_px]
        cut = cut[:, ::-1] if rng.random() < 0.5 else cut  # rain falls: never upside down
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))

    def _decoded(self, paths: list[Path], first: int) -> Picture:
        """Picture number `first`, or the next one that can be decoded."""
        for step in range(len(paths)):
            path = paths[(first + step) % len(paths)]
            picture = load_photo(path)
            if picture is not None:
                return picture
            if path not in self._named:
                self._named.add(path)
                log.warning("%s cannot be decoded and is passed over", path)
        raise InputError(f"none of {len(paths)} pictures in {paths[0].parent} can be decoded.", "Convert them to PNG.")


def _pictures(folder: Path | None, what: str, key: str) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES_PHOTO) if folder else []
    if not found:
        raise InputError(f"there is no {what} picture in {folder}.", f"Set {key} to a folder of pictures.")
    return found
