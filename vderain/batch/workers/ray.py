"""Workers on a Ray cluster: each file is one Ray task, which Ray restarts elsewhere when a node is lost.

All machines see the inputs and OUTDIR under the same paths, and have vderain installed. Only the first process writes
the ledger. A restarted task resumes after the segments that its predecessor left in OUTDIR.
"""

import logging
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent, failed
from vderain.errors import UsageError, VderainError
from vderain.media.frame import Progress

if TYPE_CHECKING:
    from vderain.batch.workers.worker import Worker

SCHEME = "ray"
DEFAULT_PORT = 6379  # of a head node
CONNECT_S = 5.0
CPUS = 4  # of a task; also its batch size
CPUS_BESIDE_GPU = 2  # for decoding, optical flow and encoding
NODE_LOSSES = 3  # that a file survives at least, whatever --retries is
COUNT_EVERY_S = 2.0  # nodes come and go
PROGRESS_EVERY_S = 0.5


@dataclass(slots=True)
class _Running:
    task: Task
    working_since_s: float | None = None


class RayWorkers:
    """A Ray cluster.

    Args:
        address: ``ray`` for the cluster of this machine, or a new one on it; ``ray://HOST:PORT`` for a head node.
        count: limit on concurrent tasks; None is the capacity of the cluster.
        device: the user's choice; ``auto`` takes GPUs where the cluster has some.
        timeout_s: limit for a task; None means no limit.
        retries: how often a file may be restarted after a lost node.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self, address: str, count: int | None = None, device: str = "auto", timeout_s: float | None = None,
        retries: int = 1,
    ) -> None:  # fmt: skip
        self._ray = _connect(address)
        self._count, self._timeout_s = count, timeout_s
        self._resources = self._task_resources(device)
        self._work = self._ray.remote(
            num_cpus=self._resources["CPU"], num_gpus=self._resources["GPU"], max_retries=max(retries, NODE_LOSSES),
            max_calls=0, retry_exceptions=False,
        )(_work)  # fmt: skip
        this_node = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = self._ray.remote(num_cpus=0, scheduling_strategy=this_node)(_ProgressBoard).remote()
        self._running: dict[Any, _Running] = {}  # by reference of the Ray task
        self._capacity, self._counted_s, self._asked_s = 1, 0.0, 0.0
        self._pending_progress: Any = None  # an answer of the progress board that has not arrived yet

    @property
    def idle(self) -> int:
        """Free capacity, and a few tasks more, so that an autoscaling cluster sees that it should grow."""
        if time.monotonic() - self._counted_s > COUNT_EVERY_S:
            self._counted_s = time.monotonic()
            self._capacity = sum(
                int(min(node["Resources"].get(kind, 0) // need for kind, need in self._resources.items() if need))
                for node in self._nodes()
            )
        limit = self._count or self._capacity + max(2, self._capacity // 4)
        return max(0, limit - len(self._running))

    def start(self, task: Task) -> None:
        options = task.options
        if not self._resources["GPU"] and options.batch_size is None:
            options = replace(options, batch_size=self._resources["CPU"])
        self._running[self._work.remote(replace(task, options=options), self._board)] = _Running(task)

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        if not self._running:
            time.sleep(timeout_s)
            return
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout_s)
        for reference in ready:
            yield self._outcome(reference, self._running.pop(reference).task)
        yield from self._progress()
        if self._timeout_s is not None:
            yield from self._cancel_late_tasks(self._timeout_s)

    def close(self) -> None:
        for reference in self._running:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _task_resources(self, device: str) -> dict[str, int]:
        """CPUs and GPUs that one task asks for; no more CPUs than the smallest node has."""
        gpu = device.startswith("cuda") or (device == "auto" and self._ray.cluster_resources().get("GPU", 0) >= 1)
        smallest = min((node["Resources"].get("CPU", 1) for node in self._nodes()), default=1)
        return {"CPU": int(min(CPUS_BESIDE_GPU if gpu else CPUS, max(1, smallest))), "GPU": int(gpu)}

    def _outcome(self, reference: Any, task: Task) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cure = "Try the file alone with `vderain process`; look into Ray's logs of the node."
            return failed(task.target, VderainError(f"its worker died ({_first_line(error)}).", cure))
        return outcome

    def _progress(self) -> Iterable[Progressed]:
        """Progress since the last call; never waits for the board, because the run may have to stop."""
        if self._pending_progress is None:
            if time.monotonic() - self._asked_s >= PROGRESS_EVERY_S:
                self._asked_s, self._pending_progress = time.monotonic(), self._board.take.remote()
            return
        if not self._ray.wait([self._pending_progress], timeout=0)[0]:
            return
        answer, self._pending_progress = self._pending_progress, None
        by_target = {running.task.target: running for running in self._running.values()}
        with suppress(self._ray.exceptions.RayError):
            for target, progress in self._ray.get(answer).items():
                if target in by_target:
                    by_target[target].working_since_s = by_target[target].working_since_s or time.monotonic()
                    yield Progressed(target, progress)

    def _cancel_late_tasks(self, timeout_s: float) -> Iterable[Outcome]:
        """Cancels tasks that have run for too long; the time spent in Ray's queue does not count."""
        for reference, running in list(self._running.items()):
            if running.working_since_s is not None and time.monotonic() - running.working_since_s > timeout_s:
                del self._running[reference]
                self._ray.cancel(reference, force=True)
                late = VderainError(f"it took longer than {timeout_s:g} s.", "Raise --timeout.")
                yield failed(running.task.target, late, retryable=True)


class _ProgressBoard:
    """A Ray actor beside the first process that collects the progress of all tasks."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}

    def post(self, target: str, progress: Progress) -> None:
        self._latest[target] = progress

    def take(self) -> dict[str, Progress]:
        latest, self._latest = self._latest, {}
        return latest


def _work(task: Task, board: Any) -> Outcome:
    """The Ray task. Its process is reused for the next one, with the model in memory."""
    return _worker()(task, lambda target, progress: board.post.remote(target, progress))


@lru_cache(maxsize=1)
def _worker() -> "Worker":
    from vderain.batch.workers.worker import Worker

    return Worker()


def _connect(address: str) -> Any:
    """Connects to a cluster and returns the ``ray`` module."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UsageError("--on ray needs Ray, which is not installed.", "pip install 'vderain[ray]'") from error
    head = address.removeprefix(SCHEME).removeprefix("://") or None
    if head is not None:
        head = head if ":" in head else f"{head}:{DEFAULT_PORT}"
        _check_reachable(head)
    dashboard = False if head is None else None
    with _signal_handlers_kept():
        try:
            ray.init(address=head, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
        except Exception as error:  # Ray raises many kinds
            what = f"there is no Ray cluster at {address} ({_first_line(error)})."
            raise UsageError(what, "See docs/batch.md.") from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restores the signal handlers afterwards: Ray installs its own for SIGTERM."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_reachable(head: str) -> None:
    """Checks that something listens at an address; Ray itself would try for minutes.

    Raises:
        UsageError: nothing does.
    """
    host, _, port = head.partition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        what = f"there is no Ray cluster at {head} ({error.strerror or error})."
        raise UsageError(what, "See docs/batch.md.") from error
