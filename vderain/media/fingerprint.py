"""What a file is known by: a path enters, its size, time and a hash of both its ends leave."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vderain.errors import InputError

END_BYTES = 65536  # the head names the codec and its settings, the tail an MP4's index or a recording's last pictures


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file as it was: one that differs in any of these is another.

    Attributes:
        size_bytes: of the file.
        mtime_ns: when it was last written to.
        ends: SHA-256 of its first and last 64 KiB, in hexadecimal.
    """

    size_bytes: int
    mtime_ns: int
    ends: str


def fingerprint(path: Path) -> Fingerprint:
    """What a file is known by; reads 128 KiB of it at most.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe is to wait for somebody to write
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
