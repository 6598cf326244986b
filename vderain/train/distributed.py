"""Data-parallel training under torchrun: the process group, its collectives, and the device of each process.

All processes hold the same weights and work on their shares of each batch. Random numbers are drawn for the whole
batch by every process, so a run is the same whatever their number; item k of a batch belongs to process k modulo it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vderain.errors import UsageError
from vderain.runtime.device import DevicePlacement, choose_device

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those that train together.

    Attributes:
        rank: number of this process; only number 0 writes files.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process validates, logs and saves."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of a batch."""
        return items[self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """Mean over all processes of a tensor that has the same shape in each of them."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else float(self.mean(torch.tensor(float(flag)))) > 0

    def all_gather(self, shard: Tensor) -> Tensor:
        """The whole batch, (b * size, ...), in its order, from every process's share, (b, ...)."""
        if self.size == 1:
            return shard
        shards = [torch.empty_like(shard) for _ in range(self.size)]
        dist.all_gather(shards, shard.contiguous())
        return torch.stack(shards, 1).flatten(0, 1)

    def broadcast(self, value: Tensor, source: int) -> Tensor:
        """The tensor of process number `source`; the others pass one of the same shape and type."""
        if self.size == 1:
            return value
        value = value.clone()  # gloo may use its memory after the caller has freed it
        dist.broadcast(value, source)
        return value

    def average_gradients(self, networks: Iterable[nn.Module]) -> None:
        """Replace the gradients of networks by their mean over all processes.

        DistributedDataParallel expects one forward pass before each backward pass; CycleGAN has several.
        """
        if self.size == 1:
            return
        gradients = [p.grad for net in networks for p in net.parameters() if p.grad is not None]
        mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(mean, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


SINGLE_PROCESS = ProcessGroup()


def is_distributed() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def local_world_size() -> int:
    """Number of processes of the run on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def place_training(device: str = "cpu", bf16: bool | None = None) -> DevicePlacement:
    """Choose the device and the precision to train in.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` is CUDA if there is any, else the CPU. Under
            torchrun ``cuda`` is a GPU of its own for each process.
        bf16: whether convolutions run in bf16; None: if the device multiplies bf16 in hardware.

    Raises:
        DeviceError: there is no such device.
        UsageError: ``mps`` was asked for under torchrun.
    """
    precision = "auto" if bf16 is None else "bf16" if bf16 else "fp32"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and is_distributed():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    placement = choose_device(device, precision)
    if placement.device.type == "mps" and is_distributed():
        raise UsageError("several processes cannot train on mps.", "Train without torchrun, or on the CPU.")
    if placement.device.type == "cuda":
        torch.cuda.set_device(placement.device)  # NCCL uses the current device
    return placement


@contextmanager
def process_group(placement: DevicePlacement) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, and leave them at the end.

    Without torchrun this is a group of one. NCCL connects GPUs; gloo connects CPUs.

    Args:
        placement: of this process.
    """
    if not is_distributed():
        yield SINGLE_PROCESS
        return
    # Windows are always exchanged in CPU memory, also when networks are on GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if placement.device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
