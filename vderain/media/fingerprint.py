"""Identifies a file by its size, modification time and a hash of its first and last bytes."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vderain.errors import InputError

END_BYTES = 65536  # the head holds the codec settings, the tail an MP4's index or the last frames


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity of a file's content; a file that differs in any of these has changed.

    Attributes:
        size_bytes: size of the file.
        mtime_ns: time of the last modification, in nanoseconds since the epoch.
        ends: SHA-256 of its first and last 64 KiB, in hexadecimal.
    """

    size_bytes: int
    mtime_ns: int
    ends: str


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a regular file; reads at most 128 KiB of it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block until someone writes to it
            raise InputError(f"'{path}' is a pipe or a device.", "Save the video to a file first.")
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            ends = hashlib.sha256(file.read(END_BYTES))
            if facts.st_size > END_BYTES:
                file.seek(max(END_BYTES, facts.st_size - END_BYTES))
                ends.update(file.read(END_BYTES))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}).", "Check the path and the disk.") from error
    return Fingerprint(facts.st_size, facts.st_mtime_ns, ends.hexdigest())
