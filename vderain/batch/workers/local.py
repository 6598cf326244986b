"""Workers of this machine, each a process: tasks enter, what happened to them leaves, a worker's death included.

This process itself never loads PyTorch: a worker says how many devices there are.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent, failure
from vderain.errors import VderainError

SPAWN = multiprocessing.get_context("spawn")  # forked copies of a process with threads or a GPU do not work
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class LocalWorkers:
    """Processes of this machine.

    A worker that dies is an outcome of its task, and another takes its place.

    Args:
        count: of workers; None is one for each device.
        device: as the user chose it: with ``auto``, workers take the devices in turn, and share out the cores.
        timeout_s: after which a task is stopped; None waits for ever.
    """

    def __init__(self, count: int | None = None, device: str = "auto", timeout_s: float | None = None) -> None:
        count = 1 if count is None and device != "auto" else count
        self._count, self._timeout_s = count, timeout_s
        self._places = [_Place(number, count) for number in range(count or 1)]

    @property
    def idle(self) -> int:
        return sum(place.task is None for place in self._places)

    def begin(self, task: Task) -> None:
        next(place for place in self._places if place.task is None).begin(task)

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        busy = {place.connection: place for place in self._places if place.task is not None}
        if not busy:
            time.sleep(timeout_s)
        for connection in wait([connection for connection in busy if connection], timeout_s):
            poll = busy[connection].receive()  # type: ignore[index]
            if isinstance(poll, int):
                self._grow(poll)
            else:
                yield poll
        for place in busy.values():
            if self._timeout_s is not None and place.runs_s > self._timeout_s:
                yield place.give_up(f"it took longer than {self._timeout_s:g} s.", "Give it more --timeout.")

    def close(self) -> None:
        for place in self._places:
            place.kill()

    def _grow(self, devices: int) -> None:
        """To one worker for each device, now that somebody has counted them."""
        if self._count is None:
            self._places += [_Place(number, devices) for number in range(len(self._places), devices)]
            self._count = devices


class _Place:
    """Room for one worker."""

    def __init__(self, number: int, count: int | None) -> None:
        self.task: Task | None = None
        self.connection: Connection | None = None
        self._number, self._count = number, count
        self._process: BaseProcess | None = None
        self._working_s: float | None = None  # since when

    @property
    def runs_s(self) -> float:
        """How long the worker has been at its task, without the time in which it was started."""
        return time.monotonic() - self._working_s if self._working_s else 0.0

    def begin(self, task: Task) -> None:
        if self._process is None or not self._process.is_alive():
            self._start()
        self.task, self._working_s = task, None
        assert self.connection is not None
        with suppress(OSError):  # dead already: `receive` finds out
            self.connection.send(task)

    def receive(self) -> TaskEvent | int:
        """What the worker says; its count of devices comes first."""
        assert self.connection is not None
        try:
            poll: TaskEvent | int = self.connection.recv()
        except (EOFError, OSError):
            return self.give_up("its worker died.", _advice(self._ended()))
        if isinstance(poll, Outcome):
            self.task = self._working_s = None
        elif isinstance(poll, Progressed):
            self._working_s = self._working_s or time.monotonic()
        return poll

    def give_up(self, what: str, cure: str) -> Outcome:
        """Kills the worker; its task may be tried again."""
        assert self.task is not None
        target = self.task.target
        self.kill()
        return failure(target, VderainError(what, cure), again=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self.connection is not None:
            self.connection.close()
        self._process = self.connection = self.task = self._working_s = None

    def _start(self) -> None:
        self.kill()
        self.connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, self._number, self._count), daemon=True)
        with _held_back():
            self._process.start()
        theirs.close()

    def _ended(self) -> int | None:
        assert self._process is not None
        self._process.join(5)
        return self._process.exitcode


def _advice(code: int | None) -> str:
    """What a worker's exit code says about its death."""
    if code == -signal.SIGKILL:
        return "Something killed it, maybe the system for lack of memory: use fewer --workers, a smaller --batch-size."
    if code == -signal.SIGSEGV:
        return "A codec crashed on this file: look at it in a player, or convert it first."
    return f"It ended with {code}: try the file alone with `vderain process`."


@contextmanager
def _held_back() -> Iterator[None]:
    """A process begun in it gets no signal to stop before it says what it does with them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, number: int, count: int | None) -> None:
    """A worker's life: it does what comes, and ends with whoever sends it."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: only the first process decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from vderain.batch.workers.worker import Worker  # PyTorch, which the first process does without
    from vderain.runtime.device import devices

    names = devices()
    cores = _share(number, count or len(names))
    if cores:
        os.sched_setaffinity(0, cores)
    worker = Worker(names[number % len(names)])
    with suppress(EOFError, OSError):
        connection.send(len(names))
        while True:
            task = connection.recv()
            connection.send(worker(task, lambda target, progress: connection.send(Progressed(target, progress))))


def _share(number: int, count: int) -> list[int]:
    """The cores that a worker may use; none where the system does not let one choose."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[number::count] or [cores[number % len(cores)]]


def _end_with_parent() -> None:
    """Nobody waits for the work of a worker whose parent was killed, and the next run begins it again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
