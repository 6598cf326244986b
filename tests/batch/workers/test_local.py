"""Workers of this machine, with something that takes no seconds to start in place of PyTorch."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vderain.batch.workers import local as pool
from vderain.batch.workers.local import STOPPING, LocalWorkers, _Place
from vderain.batch.workers.task import Outcome, Progressed, Task
from vderain.media.clip import Progress
from vderain.options import Options

TASK = Task("a.mp4", Path("a.mp4"), Path("out"), "work", "moments", Options(), 300)


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
    monkeypatch.setattr(pool, "_serve", count_blocked)
    place = _Place(0, 1)
    place.begin(TASK)
    assert place._process is not None
    assert place._process.pid is not None
    os.kill(place._process.pid, signal.SIGINT)
    assert place.receive() == len(STOPPING)
    place.kill()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOPPING), "nor is it kept from the first process"


def test_a_timeout_begins_when_the_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_serve", hang)
    workers = LocalWorkers(1, timeout_s=0.3)
    workers.begin(TASK)
    told = []
    while not any(isinstance(poll, Outcome) for poll in told):
        told += list(workers.poll(0.1))
    assert [type(poll) for poll in told] == [Progressed, Outcome]
    assert told[1].error == "it took longer than 0.3 s."
    workers.close()
