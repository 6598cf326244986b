"""Processes that train together, as torchrun starts them: each has its share of a batch, all have the same weights.

Whatever is drawn by chance is drawn for the whole batch by every process, so that a run is the same run whatever their
number; example number k of a batch belongs to process k modulo their number.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Who we are among the processes of a run.

    Attributes:
        rank: our number; number 0 alone writes files.
        count: of processes; alone there is nobody to talk to, and nothing is copied.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Our part of a batch."""
        return items[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """Over all processes: any shape, the same for all of them."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def any(self, flag: bool) -> bool:
        """Whether it is set for one of the processes at least."""
        return flag if self.count == 1 else float(self.mean(torch.tensor(float(flag)))) > 0

    def gathered(self, share: Tensor) -> Tensor:
        """The whole batch, in its order, of every process's share: (b, ...) to (b * count, ...)."""
        if self.count == 1:
            return share
        shares = [torch.empty_like(share) for _ in range(self.count)]
        dist.all_gather(shares, share.contiguous())
        return torch.stack(shares, 1).flatten(0, 1)

    def broadcast(self, value: Tensor, owner: int) -> Tensor:
        """What the owner has; the others give a tensor of the same shape."""
        if self.count == 1:
            return value
        value = value.clone()  # gloo may hold it for longer than its owner does
        dist.broadcast(value, owner)
        return value

    def average_gradients(self, networks: Iterable[nn.Module]) -> None:
        """The mean of all processes' gradients: that of a batch is the mean of those of its equal shares.

        DistributedDataParallel expects one forward pass of one network before each backward pass; a cycle has many.
        """
        if self.count == 1:
            return
        gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
        mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(mean, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = ProcessGroup()


@contextmanager
def joined() -> Iterator[ProcessGroup]:
    """Meet the other processes that torchrun started, and part from them at the end; without torchrun we are alone."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def neighbours() -> int:
    """Processes of the run on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
