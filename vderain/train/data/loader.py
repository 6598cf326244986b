"""Loads training examples by number in worker processes, whose number can grow while the run goes on."""

import signal
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vderain.errors import VderainError
from vderain.runtime.device import cores
from vderain.train.distributed import ProcessGroup, local_world_size

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
        numbers = _Numbers(self._next, self._group.size)
        loader: DataLoader[E | VderainError] = DataLoader(
            _ErrorsAsValues(self._examples),
            batch_size=None,
            sampler=numbers,
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


class _Numbers:
    """An endless sampler: `start`, ``start + step``, and so on."""

    def __init__(self, start: int, step: int) -> None:
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += self.step


def _init_worker(_: int) -> None:
    """Use one thread, and leave Ctrl-C, which reaches all processes, to the training process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Python's own way of ending child processes
