"""Workers on this machine: one process each, with its own pipe, that can die or be killed without harm to the others.

Process pools of libraries share one queue. A worker killed while it writes to that queue blocks all others, and they
offer neither progress messages nor a device for each worker.
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

from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent, failed
from vderain.errors import VderainError

SPAWN = multiprocessing.get_context("spawn")  # a process with threads or a GPU context cannot be forked
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class LocalWorkers:
    """Worker processes on this machine. A worker that dies ends its task with a failure, and is replaced.

    Args:
        count: number of workers; None starts one for each device. This process never loads PyTorch: the first worker
            counts the devices.
        device: the user's choice. With ``auto``, workers take the devices in turn and share the cores.
        timeout_s: limit for a task; None means no limit.
    """

    def __init__(self, count: int | None = None, device: str = "auto", timeout_s: float | None = None) -> None:
        count = 1 if count is None and device != "auto" else count
        self._count, self._timeout_s = count, timeout_s
        self._workers = [_WorkerProcess(number, count) for number in range(count or 1)]

    @property
    def idle(self) -> int:
        return sum(worker.task is None for worker in self._workers)

    def start(self, task: Task) -> None:
        next(worker for worker in self._workers if worker.task is None).start(task)

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        busy = {worker.connection: worker for worker in self._workers if worker.task and worker.connection}
        if not busy:
            time.sleep(timeout_s)
        for connection in wait(list(busy), timeout_s):
            message = busy[connection].receive()  # type: ignore[index]  # typed for sockets and handles too
            if isinstance(message, int):
                self._add_workers(message)
            else:
                yield message
        for worker in busy.values():
            if self._timeout_s is not None and worker.working_s > self._timeout_s:
                yield worker.give_up(f"it took longer than {self._timeout_s:g} s.", "Raise --timeout.")

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _add_workers(self, devices: int) -> None:
        """Makes one worker for each device, now that they have been counted."""
        if self._count is None:
            self._workers += [_WorkerProcess(number, devices) for number in range(len(self._workers), devices)]
            self._count = devices


class _WorkerProcess:
    """A worker process, which is started for its first task and after its death.

    Args:
        number: of this worker, from 0.
        count: of all workers; None is one for each device.
    """

    def __init__(self, number: int, count: int | None) -> None:
        self.task: Task | None = None
        self.connection: Connection | None = None
        self._number, self._count = number, count
        self._process: BaseProcess | None = None
        self._working_since_s: float | None = None

    @property
    def working_s(self) -> float:
        """Seconds spent on the task, without the time to start the process."""
        return time.monotonic() - self._working_since_s if self._working_since_s else 0.0

    def start(self, task: Task) -> None:
        if self._process is None or not self._process.is_alive():
            self._start_process()
        self.task, self._working_since_s = task, None
        assert self.connection is not None
        with suppress(OSError):  # dead already: `receive` reports it
            self.connection.send(task)

    def receive(self) -> TaskEvent | int:
        """The worker's next message; the first one is its number of devices."""
        assert self.connection is not None
        try:
            message: TaskEvent | int = self.connection.recv()
        except (EOFError, OSError):
            return self.give_up("its worker died.", _advice(self._exit_code()))
        if isinstance(message, Outcome):
            self.task = self._working_since_s = None
        elif isinstance(message, Progressed):
            self._working_since_s = self._working_since_s or time.monotonic()
        return message

    def give_up(self, what: str, cure: str) -> Outcome:
        """Kills the worker; its task may be tried again."""
        assert self.task is not None
        target = self.task.target
        self.kill()
        return failed(target, VderainError(what, cure), retryable=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self.connection is not None:
            self.connection.close()
        self._process = self.connection = self.task = self._working_since_s = None

    def _start_process(self) -> None:
        self.kill()
        self.connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, self._number, self._count), daemon=True)
        with _signals_blocked():
            self._process.start()
        theirs.close()

    def _exit_code(self) -> int | None:
        assert self._process is not None
        self._process.join(5)
        return self._process.exitcode


def _advice(exit_code: int | None) -> str:
    """What to do about a worker that died with an exit code."""
    if exit_code == -signal.SIGKILL:
        return "Something killed it, maybe the system for lack of memory: use fewer --workers, a smaller --batch-size."
    if exit_code == -signal.SIGSEGV:
        return "A codec crashed on this file: look at it in a player, or convert it first."
    return f"It ended with {exit_code}: try the file alone with `vderain process`."


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks Ctrl-C and other signals in a process that is being started, until it has set its handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, number: int, count: int | None) -> None:
    """The main function of a worker process: sends its number of devices, then processes the tasks it receives."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes, but the first one decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    from vderain.batch.workers.worker import Worker  # imports PyTorch
    from vderain.runtime.device import devices

    names = devices()
    cores = _cores(number, count or len(names))
    if cores:
        os.sched_setaffinity(0, cores)
    worker = Worker(names[number % len(names)])
    with suppress(EOFError, OSError):
        connection.send(len(names))
        while True:
            task = connection.recv()
            connection.send(worker(task, lambda target, progress: connection.send(Progressed(target, progress))))


def _cores(number: int, count: int) -> list[int]:
    """The cores of one of several workers; empty where the system does not support CPU affinity."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[number::count] or [cores[number % len(cores)]]


def _exit_with_parent() -> None:
    """Ends this process when the first one was killed, since the next run will begin its task again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
