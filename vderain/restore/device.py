"""Where the network runs and in which precision: chosen once, said once; asking for what is not there is an error."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from vderain.errors import DeviceError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda", "mps")
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class Place:
    """A device and the precision of the convolutions on it."""

    device: torch.device
    bf16: bool

    def __str__(self) -> str:
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"


def choose_place(device: str = "auto", precision: str = "auto") -> Place:
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
    return Place(place, precision == "bf16" or (precision == "auto" and _bf16_is_faster(place)))


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
