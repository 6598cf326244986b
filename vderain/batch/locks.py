"""File locks of a run, and a lock file for drives that have no file locks, as many network drives."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from vderain.errors import VderainError

ALIVE_S = 90.0  # a run on another host is alive for this long after its last heartbeat

try:
    import fcntl
except ImportError:  # Windows, whose locks work on network drives, too
    fcntl = None  # type: ignore[assignment]


def has_file_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked as filelock (flock) and SQLite (POSIX) do.

    Args:
        folder: an existing folder, in which a file is made for a moment.

    Raises:
        OSError: it is not writable.
    """
    if fcntl is None:
        return True
    path = folder / f"{socket.gethostname()}-{os.getpid()}.probe"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        for lock in (fcntl.flock, fcntl.lockf):
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock(descriptor, fcntl.LOCK_UN)
    except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP, ...: the file is new, so it cannot be locked by another process
        return False
    finally:
        os.close(descriptor)
        path.unlink()
    return True


class LockFile:
    """Admits one run to a folder whose drive has no file locks; a context manager.

    The file names the host and the process that made it. A lock of a process that has died on this host, or of another
    host whose last heartbeat is older than `ALIVE_S`, is replaced.

    Args:
        path: the file.

    Raises:
        OSError: on entering, where the file cannot be made.
        VderainError: on entering, where another run is at work.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "LockFile":
        for _ in range(2):
            with suppress(FileExistsError), self._path.open("x", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {socket.gethostname()}")
                return self
            pid, host = self._owner()
            if self._is_alive(pid, host):
                break
            self._path.unlink(missing_ok=True)
        raise VderainError(
            f"a run on {host or 'another machine'} is at work in {self._path.parent.parent}.",
            f"Wait for it, or choose another folder; if there is no such run, remove {self._path}.",
        )

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def heartbeat(self) -> None:
        """Tells other hosts that this run is alive."""
        with suppress(OSError):
            os.utime(self._path)

    def _owner(self) -> tuple[int, str]:
        """Process and host of the run that made the file; 0 and an empty text where that is unknown."""
        with suppress(OSError, ValueError):
            pid, host = self._path.read_text("utf-8").split()
            return int(pid), host
        return 0, ""

    def _is_alive(self, pid: int, host: str) -> bool:
        if host == socket.gethostname() and 0 < pid < 2**31:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            except OSError:  # of another user
                return True
            return pid != os.getpid()  # in a container that was started again, the dead run may have had this number
        with suppress(OSError):
            return abs(time.time() - self._path.stat().st_mtime) <= ALIVE_S
        return False
