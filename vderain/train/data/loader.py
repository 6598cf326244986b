"""Examples by number: a data set enters, its examples leave in order, made by processes that can become more."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vderain.errors import VderainError
from vderain.runtime.device import cores
from vderain.train.distributed import ProcessGroup, neighbours

PREFETCHED = 16  # examples that each process makes ahead


class ExampleLoader:
    """Our share of the examples, one after the other without end: every `ranks.count`-th.

    Args:
        examples: number i is a function of i alone.
        start: the first to be made by any process of the run.
        workers: processes that make them; 0 makes them here, None begins with one and lets `grow` add others.
        ranks: who we are.
    """

    def __init__(self, examples: Dataset[Any], start: int, workers: int | None, ranks: ProcessGroup) -> None:
        self._examples, self._ranks = examples, ranks
        self._next = start + (ranks.rank - start) % ranks.count
        self._grows = workers is None
        self.workers = 1 if workers is None else workers
        self._made = self._loader()

    def __next__(self) -> Any:
        """The next example.

        Raises:
            VderainError: it cannot be made, or a process that makes examples is gone.
        """
        try:
            example = next(self._made)
        except RuntimeError as error:  # the loader has no class of its own for it
            if "worker (pid" not in str(error):
                raise
            raise VderainError(
                "a process that prepares training pictures was killed.",
                "Where memory ran out, take a smaller data.pool or data.workers=0; go on with --resume.",
            ) from error
        if isinstance(example, VderainError):
            raise example
        self._next += self._ranks.count
        return example

    def grow(self) -> bool:
        """Add a process if that is wanted and a core is left for it; examples and their order stay what they are."""
        if not self._grows or self.workers >= cores() // neighbours() - 1:
            return False
        self.workers += 1
        self._made = self._loader()
        return True

    def close(self) -> None:
        """End the processes; torch takes those that Python ends when it leaves for accidents."""
        self._made = iter(())

    def _loader(self) -> Iterator[Any]:
        numbers = _Count(self._next, self._ranks.count)
        loader = DataLoader(
            _Told(self._examples), batch_size=None, sampler=numbers, num_workers=self.workers,
            prefetch_factor=PREFETCHED if self.workers else None, worker_init_fn=_calm if self.workers else None,
        )  # fmt: skip
        return iter(loader)


class _Told(Dataset[Any]):
    """Hands failures over as they are; raised in another process they would arrive with its whole trace as message."""

    def __init__(self, examples: Dataset[Any]) -> None:
        self.examples = examples

    def __getitem__(self, index: int) -> Any:
        try:
            return self.examples[index]
        except VderainError as error:
            return error


class _Count:
    """Whole numbers from a start."""

    def __init__(self, start: int, step: int) -> None:
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += self.step


def _calm(_: int) -> None:
    """One thread each; when to stop is for the training process to say, and Ctrl-C reaches all of them."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how Python ends those that it leaves behind
