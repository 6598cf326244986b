"""Workers of a Ray cluster, one task a file: tasks enter, what happened to them leaves; lost nodes are Ray's to mend.

All machines see the inputs and OUTDIR under the same paths, and have vderain. The ledger is written by the first
process alone. A file that is begun again elsewhere goes on behind its finished pieces, which lie in OUTDIR.
"""

import logging
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent, failure
from vderain.errors import UsageError, VderainError
from vderain.media.clip import Progress

if TYPE_CHECKING:
    from vderain.batch.workers.worker import Worker

SCHEME = "ray"
PORT = 6379  # of a head, unless it says otherwise
CONNECT_S = 5.0
CPUS = 4  # of a task: that many frames are worked on side by side
CPUS_BESIDE_GPU = 2  # decode, align and encode
NODES_LOST = 3  # that a file survives, whatever --retries says of other deaths
COUNT_EVERY_S = 2.0  # nodes come and go
ASK_EVERY_S = 0.5  # for progress


@dataclass(slots=True)
class _Begun:
    """A task that Ray has."""

    task: Task
    working_s: float | None = None  # since when somebody works at it


class RayWorkers:
    """A Ray cluster.

    Args:
        address: ``ray`` for the cluster this machine belongs to, or a new one here; ``ray://HOST:PORT`` names the head.
        count: tasks at once; None is as many as the cluster has room for.
        device: as the user chose it; ``auto`` takes GPUs where the cluster has some.
        timeout_s: after which a task is stopped; None waits for ever.
        retries: how often a file may cost a worker its life.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        address: str,
        count: int | None = None,
        device: str = "auto",
        timeout_s: float | None = None,
        retries: int = 1,
    ) -> None:
        self._ray = _connected(address)
        self._count, self._device, self._timeout_s = count, device, timeout_s
        gpu = device.startswith("cuda") or (device == "auto" and self._ray.cluster_resources().get("GPU", 0) >= 1)
        smallest = min((node["Resources"].get("CPU", 1) for node in self._nodes()), default=1)
        self._need = {"CPU": int(min(CPUS_BESIDE_GPU if gpu else CPUS, max(1, smallest))), "GPU": int(gpu)}
        remote = self._ray.remote(
            num_cpus=self._need["CPU"], num_gpus=self._need["GPU"], max_retries=max(retries, NODES_LOST),
            max_calls=0, retry_exceptions=False,
        )  # fmt: skip
        self._work = remote(_work)
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._news = self._ray.remote(num_cpus=0, scheduling_strategy=here)(_News).remote()
        self._begun: dict[Any, _Begun] = {}
        self._room, self._counted_s, self._asked_s = 1, 0.0, 0.0
        self._answer: Any = None  # of `_news`, still to come

    @property
    def idle(self) -> int:
        """Room, and a few waiting tasks more, so that a cluster that can grow sees what for."""
        if time.monotonic() - self._counted_s > COUNT_EVERY_S:
            self._counted_s = time.monotonic()
            self._room = sum(
                int(min(node["Resources"].get(kind, 0) // need for kind, need in self._need.items() if need))
                for node in self._nodes()
            )
        return max(0, (self._count or self._room + max(2, self._room // 4)) - len(self._begun))

    def begin(self, task: Task) -> None:
        options = task.options
        if not self._need["GPU"] and options.batch_size is None:
            options = replace(options, batch_size=self._need["CPU"])
        self._begun[self._work.remote(replace(task, options=options), self._news)] = _Begun(task)

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        if not self._begun:
            time.sleep(timeout_s)
            return
        ready, _ = self._ray.wait(list(self._begun), num_returns=len(self._begun), timeout=timeout_s)
        for reference in ready:
            yield self._outcome(reference, self._begun.pop(reference).task)
        yield from self._progress()
        if self._timeout_s is not None:
            yield from self._late(self._timeout_s)

    def close(self) -> None:
        for reference in self._begun:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._begun.clear()
        self._ray.shutdown()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _outcome(self, reference: Any, task: Task) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            cure = "Try the file alone with `vderain process`; look into Ray's logs of the node."
            return failure(task.target, VderainError(f"its worker died ({reason}).", cure))
        return outcome

    def _progress(self) -> Iterable[Progressed]:
        """What has come in since the last time; nobody waits for it, since a stop may be asked for meanwhile."""
        if self._answer is None:
            if time.monotonic() - self._asked_s >= ASK_EVERY_S:
                self._asked_s, self._answer = time.monotonic(), self._news.take.remote()
            return
        if not self._ray.wait([self._answer], timeout=0)[0]:
            return
        answer, self._answer = self._answer, None
        by_target = {begun.task.target: begun for begun in self._begun.values()}
        with suppress(self._ray.exceptions.RayError):
            for target, progress in self._ray.get(answer).items():
                if target in by_target:
                    by_target[target].working_s = by_target[target].working_s or time.monotonic()
                    yield Progressed(target, progress)

    def _late(self, timeout_s: float) -> Iterable[Outcome]:
        """Stops tasks that somebody has been working at for too long; those that wait for room may wait."""
        for reference, begun in list(self._begun.items()):
            if begun.working_s is not None and time.monotonic() - begun.working_s > timeout_s:
                del self._begun[reference]
                self._ray.cancel(reference, force=True)
                late = VderainError(f"it took longer than {timeout_s:g} s.", "Give it more --timeout.")
                yield failure(begun.task.target, late, again=True)


class _News:
    """An actor beside the first process: workers tell it how far they are."""

    def __init__(self) -> None:
        self._moved: dict[str, Progress] = {}

    def moved(self, target: str, progress: Progress) -> None:
        self._moved[target] = progress

    def take(self) -> dict[str, Progress]:
        taken, self._moved = self._moved, {}
        return taken


def _work(task: Task, news: Any) -> Outcome:
    """What runs on a node; its process lives on for the next task, with the model in it."""
    return _worker()(task, lambda target, progress: news.moved.remote(target, progress))


@lru_cache(maxsize=1)
def _worker() -> "Worker":
    from vderain.batch.workers.worker import Worker

    return Worker()


def _connected(address: str) -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UsageError("--on ray needs Ray, which is not installed.", "pip install 'vderain[ray]'") from error
    where = address.removeprefix(SCHEME).removeprefix("://") or None
    if where is not None and ":" not in where:
        where = f"{where}:{PORT}"
    if where is not None:
        _check_heard(where)
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=where, log_to_driver=False, logging_level=logging.ERROR,
            include_dashboard=False if where is None else None,
        )  # fmt: skip
    except Exception as error:  # Ray raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"there is no Ray cluster at {address} ({reason}).", "See docs/batch.md.") from error
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)  # Ray takes SIGTERM for itself
    return ray


def _check_heard(where: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        UsageError: nobody listens there.
    """
    host, _, port = where.partition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"there is no Ray cluster at {where} ({reason}).", "See docs/batch.md.") from error
