"""A drive without file locks: one run at a time, whose lock file is replaced when it is dead."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from vderain.batch.ledger import Ledger
from vderain.batch.locks import LockFile, has_file_locks
from vderain.batch.plan import Item
from vderain.batch.record import HIDDEN, Record
from vderain.errors import VderainError

RECORD = Record(item=Item(Path("/card/a.mp4"), "a.mp4", "a.mp4", ""))
LOCK = f"{HIDDEN}/run.lock"


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_usual_drive_has_file_locks(tmp_path: Path) -> None:
    assert has_file_locks(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_batch_works_without_file_locks_and_says_what_is_lost(tmp_path: Path, without_locks: None) -> None:
    with Ledger(tmp_path) as ledger:
        (said,) = ledger.warnings
        assert "on a drive without file locks: only one run at a time" in said
        assert ledger.claim(RECORD) == "mine"
        (tmp_path / LOCK).write_text(f"{os.getppid()} {socket.gethostname()}")  # as if another process had made it
        with pytest.raises(VderainError, match="is at work"), Ledger(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()
    with Ledger(tmp_path) as ledger:  # the first one has ended without releasing its file
        assert ledger.claim(RECORD) == "mine"


def test_a_ledger_moves_between_drives_with_and_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for has_locks in (True, False, True):
        monkeypatch.setattr("vderain.batch.ledger.has_file_locks", lambda folder, has_locks=has_locks: has_locks)
        with Ledger(tmp_path) as ledger:
            assert ledger.claim(RECORD) == "mine"
            assert len(ledger.warnings) == (not has_locks)


@pytest.mark.parametrize("owner", ["dead here", "alive elsewhere", "silent elsewhere", "illegible"])
def test_a_lock_file_is_replaced_when_its_run_is_dead(tmp_path: Path, owner: str) -> None:
    path = tmp_path / HIDDEN / "run.lock"
    path.parent.mkdir()
    path.write_text({
        "dead here": f"{dead_process()} {socket.gethostname()}", "alive elsewhere": "1 elsewhere",
        "silent elsewhere": "1 elsewhere", "illegible": "",
    }[owner])  # fmt: skip
    if owner == "silent elsewhere":
        os.utime(path, (time.time() - 1000,) * 2)
    if owner in ("dead here", "silent elsewhere"):
        with LockFile(path):
            assert path.read_text() == f"{os.getpid()} {socket.gethostname()}"
        assert not path.exists()
    else:
        with pytest.raises(VderainError, match="is at work"), LockFile(path):
            pass
        assert path.exists()
