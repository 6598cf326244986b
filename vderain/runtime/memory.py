"""How many frames fit into memory, and settings of the C allocator that keep freed frames from staying resident."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from vderain.runtime.device import cores

HELD_BYTES_PX = 42  # of a frame between two stages: five aligned images, flow, confidence, planes, residual
NETWORK_BYTES_PX = 200  # of a frame inside the network
STAGES = 4  # each holds one frame more than it has workers

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE_BYTES = 4 * 2**20


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
