"""Who does what, and what is done: one SQLite file in OUTDIR, which runs share and no kill can spoil.

A file passes through ``running`` and ``written`` to ``done``. ``written`` says that the result is whole and lies as a
draft beside the ledger; only then does it get its name, so that after a kill between the two the ledger still knows
what the name stands for. Who works holds a lock of the system as long as it lives: work of the dead is free again.
"""

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from vderain.batch import store
from vderain.batch.journal import Journal
from vderain.batch.plan import Item
from vderain.batch.record import Record, as_bytes
from vderain.errors import OutputError, VderainError
from vderain.media.fingerprint import Fingerprint

NAME = "vderain.sqlite"
TRACK = ".gpx"  # of what lies beside a result
HIDDEN = ".vderain"  # drafts, segments, locks and the journal
ALIVE_S = 90.0  # after a sign of life, a run on another machine is taken for alive
SIGN_EVERY_S = 20.0

Claim = Literal["mine", "busy", "done", "failed"]


class Ledger:
    """One run's view of the ledger of a folder of results.

    Args:
        outdir: an existing folder.

    Attributes:
        said: what was found wrong and mended on opening, in sentences.
        run: this run.

    Raises:
        VderainError: on entering, where the folder cannot be written to, or a run on another machine uses it.
    """

    def __init__(self, outdir: Path) -> None:
        self.outdir, self.path, self.hidden = outdir, outdir / NAME, outdir / HIDDEN
        self.said: list[str] = []
        self._journal = Journal(self.hidden / "journal.jsonl")
        self.run = uuid.uuid4().hex[:12]
        self._began_s = time.time()
        self._signed_s = 0.0

    def __enter__(self) -> "Ledger":
        with ExitStack() as leaving:
            with _plainly(self.path):
                self._runs.mkdir(parents=True, exist_ok=True)
                own = self._lock(self.run)
                leaving.callback(self._unlock, self.run)
                leaving.enter_context(own.acquire(blocking=False))
                with FileLock(self.hidden / "opening.lock", timeout=store.WAIT_S):
                    self._db, mended = store.opened(self.path, self._noted)
            leaving.callback(self._db.close)
            self.said += [mended] if mended else []
            self.sign()
            leaving.callback(self._sign_off)
            self._check_machines()
            self.recover()
            self._leaving = leaving.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    # What is known

    def records(self) -> dict[str, Record]:
        """All files by their target, in the order in which they were first seen."""
        with _plainly(self.path):
            return store.read(self._db)

    def record(self, target: str) -> Record | None:
        """What is known of one file."""
        with _plainly(self.path):
            row = self._db.execute("SELECT * FROM files WHERE target = CAST(? AS TEXT)", (as_bytes(target),)).fetchone()
        return Record.from_row(dict(row)) if row else None

    def is_done(self, record: Record | None, seen: Fingerprint, settings: str, weights: str) -> bool:
        """Whether a result is there, is ours, and is of this source with these settings and weights."""
        return is_done(self.outdir, record, seen, settings, weights)

    def is_ours(self, record: Record) -> bool:
        """Whether what lies under the target's name is what was written there."""
        return is_ours(self.outdir, record)

    # Who does what

    def register(self, items: list[tuple[Item, Fingerprint]], settings: str, weights: str) -> None:
        """Notes files that are to be done; a result of other settings counts until its file is begun again."""
        with self.transaction():
            for item, seen in items:
                record = self.record(item.target)
                if record is None or record.state in ("waiting", "failed"):
                    store.put(self._db, _fresh(item, seen, settings, weights, record))

    def claim(self, item: Item, seen: Fingerprint, settings: str, weights: str) -> Claim:
        """Takes a file, unless another run has it, or has just been through with it."""
        with self.transaction():
            record = self.record(item.target)
            if record and record.run != self.run and record.state in ("running", "written"):
                return "busy"
            if self.is_done(record, seen, settings, weights):
                return "done"
            if record and record.state == "failed" and record.run != self.run and self._is_recent(record):
                return "failed"
            tried = record.attempts if record and record.state in ("waiting", "running", "failed") else 0
            fresh = _fresh(item, seen, settings, weights, record)
            store.put(self._db, replace(fresh, state="running", run=self.run, attempts=tried + 1))
            return "mine"

    def free(self, target: str) -> None:
        """Gives a file back unfinished."""
        self._change(target, state="waiting", run="")

    def fail(self, record: Record) -> None:
        """Notes a failure, unless an older result is there, or another run is at it."""
        with self.transaction():
            before = self.record(record.target)
            if before is None or before.state in ("waiting", "failed") or self._has(before):
                store.put(self._db, replace(record, state="failed", run=self.run))

    def publish(self, record: Record) -> Record:
        """Gives a draft its name; from then on the file is done, whatever happens.

        Raises:
            OutputError: the name cannot be given.
        """
        with self.transaction():
            store.put(self._db, replace(record, state="written", run=self.run))
        return self._finish(record)

    def recover(self) -> None:
        """Finishes what dead runs had written, and frees what they had begun."""
        for run in self._dead():
            with self.transaction():
                rows = self._db.execute("SELECT * FROM files WHERE run = ? AND state = 'written'", (run,)).fetchall()
                written = [Record.from_row(dict(row)) for row in rows]
                self._db.execute("UPDATE files SET run = ? WHERE run = ? AND state = 'written'", (self.run, run))
                self._db.execute(
                    "UPDATE files SET state = 'waiting', run = '' WHERE run = ? AND state = 'running'", (run,)
                )
                self._db.execute("DELETE FROM runs WHERE run = ?", (run,))
            for record in written:
                if (self.outdir / record.draft).exists() or self.is_ours(record):
                    self._finish(record)
                else:
                    self.free(record.target)
            self._unlock(run)

    def sign(self) -> None:
        """A sign of life, for runs on other machines."""
        if time.time() - self._signed_s > SIGN_EVERY_S:
            self._signed_s = time.time()
            with self.transaction():
                values = (self.run, socket.gethostname(), os.getpid(), self._signed_s)
                self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is noted in it is noted at once or not at all, and no other run begins or ends a file meanwhile."""
        with _plainly(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    # Inside

    @property
    def _runs(self) -> Path:
        return self.hidden / "runs"

    def _lock(self, run: str) -> FileLock:
        return FileLock(self._runs / f"{run}.lock")

    def _unlock(self, run: str) -> None:
        """Removes the lock of a run that has ended."""
        with suppress(OSError):
            (self._runs / f"{run}.lock").unlink(missing_ok=True)

    def _sign_off(self) -> None:
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM runs WHERE run = ?", (self.run,))

    def _noted(self) -> list[Record]:
        """What the journal has of results that lie on disk as they were noted."""
        return [record for record in self._journal.noted().values() if self.is_ours(record)]

    def _finish(self, record: Record) -> Record:
        target, draft = self.outdir / record.target, self.outdir / record.draft
        with _plainly(target):
            if draft.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # a track goes first: what is there with the draft is not yet done
                    draft.with_suffix(TRACK).replace(target.with_suffix(TRACK))
                draft.replace(target)
            done = replace(record, state="done", run=self.run, draft="")
            self._journal.note(done)
            with self.transaction():
                store.put(self._db, done)
        return done

    def _dead(self) -> list[str]:
        """Runs of this machine whose lock is free, and those of others that have been silent for long."""
        here, dead = socket.gethostname(), []
        with _plainly(self.path):
            rows = self._db.execute("SELECT * FROM runs WHERE run != ?", (self.run,)).fetchall()
            held = self._db.execute("SELECT DISTINCT run FROM files WHERE state IN ('running', 'written')").fetchall()
        known = {row["run"] for row in rows}
        strays = {row["run"] for row in held} - known - {self.run, ""}
        for run in [row["run"] for row in rows if row["host"] == here] + sorted(strays):
            with suppress(Timeout):
                self._lock(run).acquire(blocking=False).lock.release()
                dead.append(run)
        return dead + [row["run"] for row in rows if row["host"] != here and not _is_alive(row)]

    def _check_machines(self) -> None:
        """SQLite's write-ahead log is shared memory, which two machines do not have."""
        here = socket.gethostname()
        for row in self._db.execute("SELECT * FROM runs WHERE host != ?", (here,)).fetchall():
            if _is_alive(row):
                raise VderainError(
                    f"a run on {row['host']} is at work in {self.outdir}.",
                    "Wait for it, or choose another folder; several machines share one run with --on ray.",
                )

    def _has(self, record: Record) -> bool:
        return record.run == self.run and record.state in ("running", "written")

    def _is_recent(self, record: Record) -> bool:
        return datetime.fromisoformat(record.finished_at).timestamp() >= self._began_s

    def _change(self, target: str, **values: Any) -> None:
        with self.transaction():
            setting = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(
                f"UPDATE files SET {setting} WHERE target = CAST(? AS TEXT)", [*values.values(), as_bytes(target)]
            )


def is_done(outdir: Path, record: Record | None, seen: Fingerprint, settings: str, weights: str) -> bool:
    """See `Ledger.is_done`."""
    return (
        record is not None
        and record.state == "done"
        and record.print == seen
        and (record.settings, record.weights) == (settings, weights)
        and is_ours(outdir, record)
    )


def is_ours(outdir: Path, record: Record) -> bool:
    """See `Ledger.is_ours`."""
    with suppress(OSError):
        facts = (outdir / record.target).stat()
        return (facts.st_size, facts.st_mtime_ns) == (record.bytes_out, record.mtime_out_ns)
    return False


def read_only(outdir: Path) -> dict[str, Record]:
    """What the ledger of a folder knows, without touching anything; nothing where there is none that can be read."""
    return store.read_only(outdir / NAME)


def _is_alive(run: sqlite3.Row) -> bool:
    """Whether a run of another machine has given a sign of life; one from the future is of a clock that was wrong."""
    return bool(abs(time.time() - run["seen"]) <= ALIVE_S)


def _fresh(item: Item, seen: Fingerprint, settings: str, weights: str, before: Record | None) -> Record:
    """A file to do; of what was before only that is kept by which an older result is known for ours."""
    return Record(
        item.target, str(item.source), item.name, item.group, seen.size_bytes, seen.mtime_ns, seen.ends, settings,
        weights, bytes_out=before.bytes_out if before else 0, mtime_out_ns=before.mtime_out_ns if before else 0,
    )  # fmt: skip


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Turns what the disk and SQLite raise into one line."""
    try:
        yield
    except (OSError, Timeout) as error:
        raise OutputError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}).",
            "Check the disk, or choose another folder with -o.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise OutputError(
            f"{path} cannot be used ({error}).", "Check the space and the disk, and run the same command again."
        ) from error
