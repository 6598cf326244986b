"""Chooses the device and the precision that the network runs in."""

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
class DevicePlacement:
    """A device and the precision of the convolutions on it."""

    device: torch.device
    bf16: bool

    def autocast(self) -> torch.autocast:
        """A context in which convolutions run in this precision on this device."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def __str__(self) -> str:
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"


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
