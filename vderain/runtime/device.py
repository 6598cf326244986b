"""Where the network runs and in which precision: chosen once, said once; asking for what is not there is an error."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vderain.errors import DeviceError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda", "mps")
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class DevicePlacement:
    """A device and the precision of the convolutions on it."""

    device: torch.device
    bf16: bool

    def __str__(self) -> str:
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"


def choose_device(device: str = "auto", precision: str = "auto") -> DevicePlacement:
    """The best device there is, or the one asked for.

    Raises:
        DeviceError: the device asked for is not there or is none we know.
    """
    name, _, index = device.partition(":")
    if name not in DEVICES or (index and (name == "auto" or not index.isdecimal())):
        raise DeviceError(f"there is no device {device!r}.", f"Choose one of {', '.join(DEVICES)}.")
    if precision not in PRECISIONS:
        raise DeviceError(f"there is no precision {precision!r}.", f"Choose one of {', '.join(PRECISIONS)}.")
    if name == "auto":
        name = next((n for n in ("cuda", "mps") if _present(n)), "cpu")
    elif not _present(name, int(index or 0)):
        raise DeviceError(
            f"this machine has no {device} that PyTorch {torch.__version__} can use.", "Use --device auto."
        )
    place = torch.device(f"{name}:{index}" if index else name)
    return DevicePlacement(place, precision == "bf16" or (precision == "auto" and _bf16_is_faster(place)))


def devices() -> list[str]:
    """The devices that `auto` would choose from: every GPU of the best kind there is, else the processor."""
    name = choose_device().device.type
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if name == "cuda" else [name]


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


HELD_BYTES_PX = 42  # of a frame between two stages: five aligned pictures, flow, trust, planes, residual
NETWORK_BYTES_PX = 200  # of a frame inside the network
STAGES = 4  # each holds one frame more than it has workers


def frames_in_flight(frame_px: int) -> int:
    """Frames to work on at once on a CPU: one a core, or as many as half of the free memory holds.

    Args:
        frame_px: pixels of a frame.
    """
    free_bytes = _free_bytes()
    if free_bytes is None:
        return cores()
    affordable = (free_bytes / 2 / max(1, frame_px) - STAGES * HELD_BYTES_PX) / (
        STAGES * HELD_BYTES_PX + NETWORK_BYTES_PX
    )
    return max(1, min(cores(), int(affordable)))


def _free_bytes() -> int | None:
    """Memory that can still be had, by the kernel and by the control group; None where neither says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


def _present(name: str, index: int = 0) -> bool:
    if name == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    return name == "cpu" or torch.backends.mps.is_available()


def _bf16_is_faster(device: torch.device) -> bool:
    """Where the processor multiplies bf16 in hardware; elsewhere it is emulated and several times slower.

    Judged by what the processor says, not by a trial, so that two runs on one machine give the same pictures.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
