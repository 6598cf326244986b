"""Chooses the device and the precision of the network, and fits the number of frames to the memory."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vderain.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")

HELD_BYTES_PX = 42  # of a frame between two stages: five aligned images, flow, confidence, planes, residual
NETWORK_BYTES_PX = 200  # of a frame inside the network
STAGES = 4  # each holds one frame more than it has workers

N = TypeVar("N", bound=nn.Module)

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class DevicePlacement:
    """A device and the precision of the convolutions on it.

    Attributes:
        device: of PyTorch.
        bf16: whether PyTorch's convolutions run in bf16.
        engine: precision and name of what runs convolutions in place of PyTorch; empty for PyTorch.
    """

    device: torch.device
    bf16: bool
    engine: str = ""

    def autocast(self) -> torch.autocast:
        """A context in which convolutions run in this precision on this device."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, network: N) -> N:
        """Move a network for inference: its convolutions in this precision, all other parameters as they are.

        Args:
            network: changed in place.
        """
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for layer in network.modules():
            if self.bf16 and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.bfloat16()
        return network.eval().requires_grad_(False)

    def __str__(self) -> str:
        return f"{self.device.type}, {self.engine or ('bf16' if self.bf16 else 'fp32')}"


def choose_device(device: str = "auto", precision: str = "auto") -> DevicePlacement:
    """The device and precision to run in.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware multiplies it.

    Raises:
        DeviceError: the device or precision is unknown, or this machine does not have it.
    """
    name, _, index = device.partition(":")
    if name not in DEVICES or (index and (name == "auto" or not index.isdecimal())):
        raise DeviceError(f"there is no device {device!r}.", f"Choose one of {', '.join(DEVICES)}.")
    if precision not in PRECISIONS:
        raise DeviceError(f"there is no precision {precision!r}.", f"Choose one of {', '.join(PRECISIONS)}.")
    if name == "auto":
        name = next((n for n in ("cuda", "mps") if _is_available(n)), "cpu")
    elif not _is_available(name, int(index or 0)):
        raise DeviceError(
            f"this machine has no {device} that PyTorch {torch.__version__} can use.", "Use --device auto."
        )
    chosen = torch.device(f"{name}:{index}" if index else name)
    bf16 = precision == "bf16" or (precision == "auto" and _bf16_is_faster(chosen))
    return DevicePlacement(chosen, bf16)


def devices() -> list[str]:
    """Names of all devices of the kind that ``auto`` chooses: every CUDA GPU, or ``mps``, or ``cpu``."""
    name = choose_device().device.type
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if name == "cuda" else [name]


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def frames_in_flight(frame_px: int) -> int:
    """Frames to process at once on a CPU: one a core, or as many as half of the free memory holds.

    Args:
        frame_px: pixels of a frame.
    """
    available_bytes = free_bytes()
    if available_bytes is None:
        return cores()
    affordable = (available_bytes / 2 / max(1, frame_px) - STAGES * HELD_BYTES_PX) / (
        STAGES * HELD_BYTES_PX + NETWORK_BYTES_PX
    )
    return max(1, min(cores(), int(affordable)))


def free_bytes() -> int | None:
    """Available memory, by the kernel and by the control group; None where neither is known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


def configure_malloc() -> None:
    """Set glibc's malloc up for large, short-lived arrays; does nothing where there is no glibc.

    Frames of many sizes are allocated by one thread and freed by another, so that heaps fragment. Two settings prevent
    it: one heap instead of one for each thread, and large blocks in mappings of their own, returned as soon as they
    are freed. Transparent huge pages, which torch requests where told to, make new mappings cheap.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """Return unused heap pages to the system; does nothing where there is no glibc. Takes some milliseconds."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _is_available(name: str, index: int = 0) -> bool:
    if name == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    return name == "cpu" or torch.backends.mps.is_available()


def _bf16_is_faster(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16; elsewhere it is emulated and several times slower.

    Decided by the processor's feature flags, not by timing, so that two runs on one machine give the same frames.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
