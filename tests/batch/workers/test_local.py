"""Workers of this machine, with something that takes no seconds to start in place of PyTorch."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vderain.batch.workers import local
from vderain.batch.workers.local import STOPPING, LocalWorkers, _WorkerProcess
from vderain.batch.workers.task import Outcome, Progressed, Task
from vderain.media.frame import Progress
from vderain.options import Options

TASK = Task(
    target="a.mp4", source=Path("a.mp4"), outdir=Path("out"), work_folder="work", thumbnail_folder="thumbnails",
    options=Options(), segment_frames=300,
)  # fmt: skip


def count_blocked(connection: Connection, number: int, count: int | None) -> None:
    """Stands in for a worker: says how many of the signals to stop have to wait."""
    connection.send(len(signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOPPING)))


def hang(connection: Connection, number: int, count: int | None) -> None:
    """Stands in for a worker: starts slowly, begins with a task, and never ends it."""
    time.sleep(1)
    connection.send(1)
    connection.send(Progressed(connection.recv().target, Progress(0, 0.0, None)))
    time.sleep(600)


def test_ctrl_c_does_not_reach_a_worker_that_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would write a traceback to the terminal."""
    monkeypatch.setattr(local, "_serve", count_blocked)
    worker = _WorkerProcess(0, 1)
    worker.start(TASK)
    assert worker._process is not None
    assert worker._process.pid is not None
    os.kill(worker._process.pid, signal.SIGINT)
    assert worker.receive() == len(STOPPING)
    worker.kill()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOPPING), "nor is it kept from the first process"


def test_a_timeout_begins_when_the_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_serve", hang)
    workers = LocalWorkers(1, timeout_s=0.3)
    workers.start(TASK)
    events = []
    while not any(isinstance(event, Outcome) for event in events):
        events += list(workers.poll(0.1))
    assert [type(event) for event in events] == [Progressed, Outcome]
    assert events[1].failure.error == "it took longer than 0.3 s."
    workers.close()
