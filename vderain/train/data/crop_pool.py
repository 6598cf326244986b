"""Recent training windows, of which crops are cut: a window is dear to make and good for several crops."""

from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vderain.train.distributed import ALONE, ProcessGroup


class Croppable(Protocol):
    """A square training example that crops can be cut from."""

    @classmethod
    def empty(cls, side_px: int) -> Self:
        """One to be written over."""

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Its parts, cut and perhaps mirrored left to right; bytes stand for 0..1."""


W = TypeVar("W", bound=Croppable)


class Packed(Dataset[Tensor]):
    """Several examples in one piece: between processes every tensor is a journey of its own.

    Args:
        examples: dataclasses of tensors.
        together: so many are an item.
    """

    def __init__(self, examples: Dataset[Any], together: int) -> None:
        self.examples, self.together = examples, together

    def __getitem__(self, index: int) -> Tensor:
        first = index * self.together
        return packed([self.examples[number] for number in range(first, first + self.together)])


def packed(examples: Sequence[Croppable]) -> Tensor:
    """(examples, bytes) uint8, the tensors of each one after the other."""
    parts = (part.contiguous().view(-1).view(torch.uint8) for example in examples for part in _parts(example))
    return torch.cat(list(parts)).view(len(examples), -1)


def unpacked(piece: Tensor, like: W) -> list[W]:
    """What was packed, in memory of its own; `like` has its shapes and types."""
    parts = _parts(like)
    sizes = [part.numel() * part.element_size() for part in parts]

    def example(own: Tensor) -> W:
        cuts = zip(torch.split(own, sizes), parts, strict=True)
        return type(like)(*(cut.clone().view(part.dtype).view(part.shape) for cut, part in cuts))

    return [example(own) for own in piece]


def _parts(example: Croppable) -> list[Tensor]:
    return [getattr(example, field.name) for field in fields(example)]  # type: ignore[arg-type]


class WindowPool(Generic[W]):
    """The last `size` windows, and batches of random crops of them.

    Args:
        size: windows kept.
        side_px: of a window.
    """

    def __init__(self, size: int, side_px: int) -> None:
        self.size, self.side_px = size, side_px
        self._windows: deque[W] = deque(maxlen=size)  # by age: the same after a resume, wherever it began
        self._batch: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, window: W) -> None:
        """Keep a window; it takes the place of the oldest when the pool is full."""
        self._windows.append(window)

    def batch(
        self, count: int, crop_px: int, generator: torch.Generator, ranks: ProcessGroup = ALONE
    ) -> tuple[Tensor, ...]:
        """Cut random crops, half of them mirrored left to right (rain falls: never upside down).

        Returns:
            The parts of `Croppable.crop` of our share, (B, ...) each, bytes as 0..1; the next batch is written over it.
        """
        places = [self._place(crop_px, generator) for _ in range(count)]
        crops = [window.crop(rows, columns, flip) for window, rows, columns, flip in ranks.share(places)]
        columns = (torch.stack(column) for column in zip(*crops, strict=True))
        return tuple(self._light(place, column) for place, column in enumerate(columns))

    def _light(self, place: int, column: Tensor) -> Tensor:
        """Bytes as 0..1, where those of the last batch were: to be given memory takes longer than to divide."""
        if column.dtype != torch.uint8:
            return column
        if place not in self._batch or self._batch[place].shape != column.shape:
            self._batch[place] = torch.empty(column.shape)
        return self._batch[place].copy_(column).div_(255)

    def _place(self, side_px: int, generator: torch.Generator) -> tuple[W, slice, slice, bool]:
        """A window, rows and columns of a crop of it, and whether to mirror it."""

        def rng(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        window = self._windows[rng(len(self._windows))]
        top, left = rng(self.side_px - side_px + 1), rng(self.side_px - side_px + 1)
        return window, slice(top, top + side_px), slice(left, left + side_px), bool(rng(2))
