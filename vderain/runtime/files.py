"""Files of a run: drafts of outputs, which get their name when complete; fingerprints of inputs; errors of the disk.

A draft lies beside its target, so that publishing it is one step of the file system. Its name is unpredictable, and it
is created exclusively: neither a link nor a file that lies in the way is ever opened. While a run lives, it holds a
lock on its draft. A second run on the same target finds the lock and stops; a draft without a lock was left by a run
that was killed, and is removed.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vderain.errors import InputError, OutputError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be renamed
    fcntl = None  # type: ignore[assignment]

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


_TOKEN_BYTES = 4
_OWNER = 0o600
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_FOLDER_LOCK_S = 5.0  # another run holds it for milliseconds; what holds it for longer is another program
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Draft:
    """A file or folder that gets its name when it is complete; a context manager, which removes it otherwise.

    Args:
        target: the final name.
        overwrite: whether a file of that name may be replaced.
        like: the input; its output is never more readable than the input is.

    Attributes:
        path: the temporary name.
    """

    def __init__(self, target: Path, overwrite: bool = True, like: Path | None = None) -> None:
        self.target = target
        self._overwrite, self._like = overwrite, like
        self._ending = f".partial{target.suffix.lower()}"
        self.path = temporary_path(target, f".{secrets.token_hex(_TOKEN_BYTES)}{self._ending}")
        self._is_created = False
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def create(self, *, folder: bool = False) -> None:
        """Creates the draft, empty and locked; does nothing if it exists already.

        Args:
            folder: whether it is a folder instead of a file.

        Raises:
            OutputError: another run is writing the target, a file has its name, or the folder cannot be written to.
        """
        if self._is_created:
            return
        try:
            with _locked_folder(self.path.parent) as is_locked:  # of two runs the second sees the first one's draft
                self._check_others(remove_stale=is_locked)
                if not self._overwrite and os.path.lexists(self.target) and not self.target.is_dir():
                    raise self._exists()
                self._make(folder)
        except OSError as error:
            raise output_error(self.target, error) from error

    def publish(self) -> None:
        """Gives the draft its final name, once its content is on the disk.

        Raises:
            OutputError: the content cannot be written, or a file has appeared under the name and must not be replaced.
        """
        try:
            publish(self.path, self.target, self._overwrite)
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            raise output_error(self.target, error) from error
        self._is_created = False
        self._unlock()

    def discard(self) -> None:
        """Removes the draft unless it was published; errors are ignored."""
        if self._is_created:
            with suppress(OSError):
                _remove(self.path)
        self._unlock()

    def _make(self, folder: bool) -> None:
        allowed = stat.S_IMODE(self._like.stat().st_mode) if self._like else 0o777
        if folder:
            self.path.mkdir(0o700 | allowed & 0o777)
            self._is_created = True
            self._lock = os.open(self.path, os.O_RDONLY) if fcntl else None
        else:
            self._lock = os.open(self.path, _NEW_FILE, _OWNER | allowed & 0o666)
            self._is_created = True
        if fcntl is None:
            self._unlock()
        elif self._lock is not None:
            _try_lock(self._lock)

    def _check_others(self, remove_stale: bool) -> None:
        """Finds drafts of other runs on the target.

        Args:
            remove_stale: whether to remove those of runs that were killed.

        Raises:
            OutputError: the run that writes a draft is alive.
        """
        prefix = self.path.name.removesuffix(self._ending)[: -2 * _TOKEN_BYTES]
        name = re.compile(f"{re.escape(prefix)}[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(self._ending)}")
        for path in [path for path in self.path.parent.iterdir() if name.fullmatch(path.name)]:
            with suppress(OSError):
                descriptor = os.open(path, _LOOK)
                try:
                    is_free = _try_lock(descriptor)
                    if is_free and remove_stale:
                        _remove(path)
                finally:
                    os.close(descriptor)
                if is_free is False:
                    raise OutputError(
                        f"another run is writing '{self.target}'.",
                        "Wait until it has ended, or choose another name with -o.",
                    )

    def _exists(self) -> OutputError:
        return OutputError(
            f"{self.target} exists already.", "Add --overwrite to replace it, or choose another name with -o."
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def publish(path: Path, target: Path, overwrite: bool) -> None:
    """Gives a complete file or folder its final name, once its content is on the disk.

    Args:
        path: in the same file system.
        target: its name from then on.
        overwrite: whether a file of that name may be replaced.

    Raises:
        FileExistsError: there is one that must not be replaced.
        OSError: it cannot be renamed.
    """
    synchronise(path)
    if path.is_dir():
        if target.is_dir():
            target.rmdir()  # fails unless it is empty; not every system renames onto a folder
        path.rename(target)
    elif overwrite:
        path.replace(target)
    else:
        _rename_without_replacing(path, target)
    _synchronise_folder(target.parent)


def _rename_without_replacing(path: Path, target: Path) -> None:
    if os.name == "nt":
        path.rename(target)  # which replaces nothing on Windows
        return
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        if not path.samefile(target):  # else a run was killed here, behind the link
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):  # such drives, as FAT, leave a short time for a file to appear
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        path.rename(target)
        return
    path.unlink()


def write_new(path: Path, data: bytes, like: Path | None = None) -> None:
    """Writes a file that does not exist yet, through to the disk.

    Args:
        path: the file.
        data: its content.
        like: the input, than which the file is not more readable; None takes the usual permissions.

    Raises:
        OSError: it exists, or cannot be written.
    """
    mode = _OWNER | (stat.S_IMODE(like.stat().st_mode) if like else 0o666) & 0o666
    with os.fdopen(os.open(path, _NEW_FILE, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def synchronise(path: Path) -> None:
    """Waits until the content of a file or folder is on the disk.

    Without it, a power cut soon after the renaming could leave an empty file under the final name.

    Raises:
        OSError: the disk does not take it.
    """
    if path.is_dir():
        _synchronise_folder(path)
        return
    with path.open("rb+" if os.name == "nt" else "rb") as file:  # a link to a file may not be writable
        os.fsync(file.fileno())


def _synchronise_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows and some network drives do not offer it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool | None:
    """Locks a file. Returns False if another process holds the lock, and None if the drive has no file locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def has_posix_locks(path: Path) -> bool:
    """Whether a file can be locked as SQLite does; many network drives offer no such locks.

    Args:
        path: a file that this process has not open, because closing it ends the locks of the whole process.
    """
    if fcntl is None:
        return True  # Windows, whose locks work on network drives, too
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)  # another process holds one
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _locked_folder(folder: Path) -> Iterator[bool]:
    """Keeps other runs from creating drafts in a folder; gives False where it cannot be locked."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline_s = time.monotonic() + _FOLDER_LOCK_S
        while (is_locked := _try_lock(descriptor)) is False and time.monotonic() < deadline_s:
            time.sleep(0.01)
        yield bool(is_locked)
    finally:
        os.close(descriptor)
