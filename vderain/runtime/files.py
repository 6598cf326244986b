"""Temporary names of outputs, fingerprints of inputs, and the errors of the file system."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vderain.errors import InputError, OutputError

_LONGEST = 255  # bytes of a name, on nearly all systems
END_BYTES = 65536  # the head holds the codec settings, the tail an MP4's index or the last frames
DISK_ERRORS = frozenset({5, 27, 28, 30, 122})  # EIO, EFBIG, ENOSPC, EROFS, EDQUOT


def temporary_path(path: Path, ending: str) -> Path:
    """``.NAME`` and an ending in the same folder; a hash instead of a name that is too long for both.

    Args:
        path: of the output.
        ending: says what the file is, such as ``.partial``.
    """
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.parent / name


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


def output_error(target: Path, error: Exception) -> OutputError:
    """The OutputError for a failure of FFmpeg or the operating system.

    Args:
        target: the file that could not be written.
        error: an OSError, or one of FFmpeg's with the same ``errno``.
    """
    number = getattr(error, "errno", None)
    if number in (28, 122):  # ENOSPC, EDQUOT
        return OutputError(
            f"The disk is full: '{target}' was not written.", "Free some space or choose another folder."
        )
    if number in (errno.ENOENT, errno.ENOTDIR):
        return OutputError(
            f"The folder '{target.absolute().parent}' does not exist.", "Create it, or choose another output."
        )
    if number == errno.ENAMETOOLONG:
        return OutputError(f"'{target}' cannot be written (its name is too long).", "Choose a shorter name with -o.")
    if number in DISK_ERRORS:
        return OutputError(f"'{target}' cannot be written ({os.strerror(number or 5)}).", "Check the disk.")
    if isinstance(error, PermissionError):
        return OutputError(f"'{target.parent}' may not be written to.", "Choose another folder for the output.")
    return OutputError(f"'{target}' cannot be written ({error}).", "Try another container or codec, such as .mkv.")
