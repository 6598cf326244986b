"""Random augmentation of training images with torchvision's `transforms.v2`.

torchvision draws from PyTorch's global random number generator. Here that generator is seeded for each call and
restored afterwards, so that example number i stays a function of the seed and i alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vderain.train.torchvision_import import require_torchvision

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Transform

HUE_SHARE = 0.2  # a hue that changes as much as brightness turns grass blue


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
