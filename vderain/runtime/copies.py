"""Copies a file byte for byte, or lets the copy share its data: by a reflink, else by a hard link."""

import os
from collections.abc import Callable
from pathlib import Path

from vderain.errors import InputError
from vderain.runtime.files import Draft, output_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FICLONE = 0x40049409  # ioctl_ficlone(2): Btrfs, XFS and others
_CHUNK_BYTES = 1 << 20


def copy_file(source: Path, draft: Draft, *, share: bool) -> None:
    """Fills a draft with the bytes of a file and publishes it; the copy has the time of the file.

    Args:
        source: the file.
        draft: of the output.
        share: store the data once where the file system can: by a reflink, else a hard link, else copy.

    Raises:
        InputError: the source cannot be read, or changes meanwhile.
        OutputError: the copy cannot be written.
    """
    source = source.resolve()
    with draft:
        draft.create()
        if not (share and (_reflinked(source, draft.path) or _hard_linked(source, draft.path))):
            _copy(source, draft)
        draft.publish()


def _copy(source: Path, draft: Draft) -> None:
    try:
        with source.open("rb") as file:
            before = os.fstat(file.fileno())
            _write(file.read, draft)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"'{source}' cannot be read ({error.strerror}).", "Check the disk.") from error
    written_bytes = draft.path.stat().st_size
    if (before.st_size, before.st_mtime_ns, written_bytes) != (after.st_size, after.st_mtime_ns, before.st_size):
        raise InputError(f"'{source}' changed while it was copied.", "Wait until it is complete, and run again.")
    _set_time(draft.path, before)


def _write(read: Callable[[int], bytes], draft: Draft) -> None:
    """Writes what a function reads, and tells errors of the output from those of the input."""
    try:
        output = draft.path.open("r+b")
    except OSError as error:
        raise output_error(draft.target, error) from error
    with output:
        while data := read(_CHUNK_BYTES):
            try:
                output.write(data)
                output.flush()
            except OSError as error:
                raise output_error(draft.target, error) from error


def _reflinked(source: Path, copy: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with source.open("rb") as file, copy.open("r+b") as output:
            fcntl.ioctl(output.fileno(), _FICLONE, file.fileno())
            _set_time(copy, os.fstat(file.fileno()))
    except OSError:
        return False
    return True


def _hard_linked(source: Path, copy: Path) -> bool:
    if os.name == "nt" and not os.access(source, os.W_OK):
        return False  # it could not be written through to the disk
    link = copy.with_name(f"{copy.name}.link")
    try:
        os.link(source, link)
    except OSError:
        return False
    link.replace(copy)
    return True


def _set_time(copy: Path, facts: os.stat_result) -> None:
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
