"""Recent training windows, of which crops are cut: a window is dear to make and good for several crops."""

from collections import deque
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from vderain.train.ranks import ALONE, Ranks


class Croppable(Protocol):
    """A square training example that crops can be cut from."""

    @classmethod
    def empty(cls, side_px: int) -> Self:
        """One to be written over."""

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Its parts, cut and perhaps mirrored left to right; bytes stand for 0..1."""


W = TypeVar("W", bound=Croppable)


class WindowPool(Generic[W]):
    """The last `size` windows, and batches of random crops of them.

    Args:
        size: windows kept.
        side_px: of a window.
    """

    def __init__(self, size: int, side_px: int) -> None:
        self.size, self.side_px = size, side_px
        self._windows: deque[W] = deque(maxlen=size)  # by age: the same after a resume, wherever it began

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, window: W) -> None:
        """Keep a window; it takes the place of the oldest when the pool is full."""
        self._windows.append(window)

    def batch(self, count: int, crop_px: int, generator: torch.Generator, ranks: Ranks = ALONE) -> tuple[Tensor, ...]:
        """Cut random crops, half of them mirrored left to right (rain falls: never upside down).

        Returns:
            The parts of `Croppable.crop` of our share, (B, ...) each, bytes as 0..1.
        """
        places = [self._place(crop_px, generator) for _ in range(count)]
        crops = [window.crop(rows, columns, flip) for window, rows, columns, flip in ranks.share(places)]
        columns = (torch.stack(column) for column in zip(*crops, strict=True))
        return tuple(column.float() / 255 if column.dtype == torch.uint8 else column for column in columns)

    def _place(self, side_px: int, generator: torch.Generator) -> tuple[W, slice, slice, bool]:
        """A window, rows and columns of a crop of it, and whether to mirror it."""

        def chance(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        window = self._windows[chance(len(self._windows))]
        top, left = chance(self.side_px - side_px + 1), chance(self.side_px - side_px + 1)
        return window, slice(top, top + side_px), slice(left, left + side_px), bool(chance(2))
