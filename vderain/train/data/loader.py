"""Loads training examples in worker processes, and cuts batches of random crops from a pool of recent ones."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import count
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vderain.errors import VderainError
from vderain.runtime.device import cores
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup, local_world_size

PREFETCH = 16  # examples that each worker prepares ahead

E = TypeVar("E")


class ExampleLoader(Generic[E]):
    """Endless iterator over this process's share of the examples: every `group.size`-th one.

    Args:
        examples: example number i must be a function of i alone.
        start: number of the first example of the run, over all processes.
        workers: worker processes; 0 prepares examples in this process, None starts one and lets `grow` add more.
        group: processes that train together.
    """

    def __init__(self, examples: Dataset[E], start: int, workers: int | None, group: ProcessGroup) -> None:
        self._examples, self._group = examples, group
        self._next = start + (group.rank - start) % group.size
        self._can_grow = workers is None
        self.workers = 1 if workers is None else workers
        self._iterator = self._start()

    def __next__(self) -> E:
        """The next example.

        Raises:
            VderainError: the example cannot be made, or a worker process was killed.
        """
        try:
            example = next(self._iterator)
        except RuntimeError as error:  # DataLoader has no exception class for a dead worker
            if "worker (pid" not in str(error):
                raise
            raise VderainError(
                "a process that prepares training pictures was killed.",
                "If memory ran out, use a smaller data.pool or data.workers=0; continue with --resume.",
            ) from error
        if isinstance(example, VderainError):
            raise example
        self._next += self._group.size
        return example

    def grow(self) -> bool:
        """Add a worker if that is allowed and a core is free; examples and their order do not change.

        Returns:
            Whether one was added.
        """
        if not self._can_grow or self.workers >= cores() // local_world_size() - 1:
            return False
        self.workers += 1
        self._iterator = self._start()
        return True

    def close(self) -> None:
        """Stop the workers before Python exits, which torch would report as a crash."""
        self._iterator = iter(())

    def _start(self) -> Iterator[E | VderainError]:
        loader: DataLoader[E | VderainError] = DataLoader(
            _ErrorsAsValues(self._examples),
            batch_size=None,
            sampler=count(self._next, self._group.size),
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            worker_init_fn=_init_worker if self.workers else None,
        )
        return iter(loader)


class _ErrorsAsValues(Dataset[E | VderainError]):
    """Returns errors instead of raising them: DataLoader would put the worker's traceback into the message."""

    def __init__(self, examples: Dataset[E]) -> None:
        self.examples = examples

    def __getitem__(self, index: int) -> E | VderainError:
        try:
            return self.examples[index]
        except VderainError as error:
            return error


def _init_worker(_: int) -> None:
    """Use one thread, and leave Ctrl-C, which reaches all processes, to the training process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Python's own way of ending child processes


class Croppable(Protocol):
    """A square training example, a dataclass of tensors, that crops can be cut from."""

    @classmethod
    def empty(cls, side_px: int) -> Self:
        """An uninitialised example of the right shapes and types."""

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut all parts.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.

        Returns:
            The parts; uint8 stands for 0..1.
        """


W = TypeVar("W", bound=Croppable)


class Packed(Dataset[Tensor]):
    """Packs several examples into one tensor, because each tensor sent between processes has a fixed cost.

    Args:
        examples: dataclasses of tensors.
        per_item: examples in an item.
    """

    def __init__(self, examples: Dataset[Any], per_item: int) -> None:
        self.examples, self.per_item = examples, per_item

    def __getitem__(self, index: int) -> Tensor:
        first = index * self.per_item
        return pack([self.examples[number] for number in range(first, first + self.per_item)])


def pack(examples: Sequence[Croppable]) -> Tensor:
    """Concatenate the bytes of all tensors of each example: (len(examples), bytes) uint8."""
    parts = (part.contiguous().view(-1).view(torch.uint8) for each in examples for part in _parts(each))
    return torch.cat(list(parts)).view(len(examples), -1)


def unpack(packed: Tensor, like: W) -> list[W]:
    """Undo `pack`.

    Args:
        packed: (N, bytes) uint8.
        like: an example with the shapes and types.

    Returns:
        N examples, each in memory of its own.
    """
    parts = _parts(like)
    sizes = [part.numel() * part.element_size() for part in parts]

    def example(row: Tensor) -> W:
        cuts = zip(torch.split(row, sizes), parts, strict=True)
        return type(like)(*(cut.clone().view(part.dtype).view(part.shape) for cut, part in cuts))

    return [example(row) for row in packed]


def _parts(example: Croppable) -> list[Tensor]:
    return [getattr(example, field.name) for field in fields(example)]  # type: ignore[arg-type]


class WindowPool(Generic[W]):
    """The latest windows, and batches of random crops of them.

    Args:
        size: windows to keep.
        side_px: side of a window.
    """

    def __init__(self, size: int, side_px: int) -> None:
        self.size, self.side_px = size, side_px
        self._windows: deque[W] = deque(maxlen=size)  # in order of age, so that a resumed run has the same
        self._batch: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, window: W) -> None:
        """Add a window, in place of the oldest one if the pool is full."""
        self._windows.append(window)

    def batch(
        self, count: int, crop_px: int, rng: torch.Generator, group: ProcessGroup = SINGLE_PROCESS
    ) -> tuple[Tensor, ...]:
        """Cut random crops and mirror half of them left to right. Rain falls, so none is turned upside down.

        Args:
            count: crops in the batch of all processes.
            crop_px: side of a crop.
            rng: random number generator, in the same state in all processes.
            group: processes that train together.

        Returns:
            The parts of `Croppable.crop` of this process's share, (B, ...) each, uint8 scaled to 0..1. The next
            batch reuses their memory.
        """
        places = [self._draw_crop(crop_px, rng) for _ in range(count)]
        crops = [window.crop(rows, columns, flip) for window, rows, columns, flip in group.shard(places)]
        parts = (torch.stack(part) for part in zip(*crops, strict=True))
        return tuple(self._scaled(number, part) for number, part in enumerate(parts))

    def _scaled(self, number: int, part: Tensor) -> Tensor:
        """Scale uint8 to 0..1 in the memory of the last batch: allocating would take longer than dividing."""
        if part.dtype != torch.uint8:
            return part
        if number not in self._batch or self._batch[number].shape != part.shape:
            self._batch[number] = torch.empty(part.shape)
        return self._batch[number].copy_(part).div_(255)

    def _draw_crop(self, crop_px: int, rng: torch.Generator) -> tuple[W, slice, slice, bool]:
        """Draw a window, rows and columns of a crop, and whether to mirror it."""

        def draw(below: int) -> int:
            return int(torch.randint(below, (), generator=rng))

        window = self._windows[draw(len(self._windows))]
        top, left = draw(self.side_px - crop_px + 1), draw(self.side_px - crop_px + 1)
        return window, slice(top, top + crop_px), slice(left, left + crop_px), bool(draw(2))
