"""Who does what, and what is done: one SQLite file in OUTDIR, which runs share and no kill can spoil.

A file passes through ``running`` and ``written`` to ``done``. ``written`` says that the result is whole and lies as a
draft beside the ledger; only then does it get its name, so that after a kill between the two the ledger still knows
what the name stands for. Who works holds a lock of the system as long as it lives: work of the dead is free again.
"""

import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from filelock import FileLock, Timeout

from vderain.batch.plan import Item
from vderain.batch.record import COLUMNS, Record, as_bytes
from vderain.errors import OutputError, VderainError
from vderain.video.fingerprint import Fingerprint

NAME = "vderain.sqlite"
TRACK = ".gpx"  # of what lies beside a result
HIDDEN = ".vderain"  # drafts, segments, locks and the journal
VERSION = 1
APPLICATION = 0x76644C31  # vdL1, in the header of the file
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
WAIT_S = 60.0  # for another run's transaction
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
        self.run = uuid.uuid4().hex[:12]
        self._began_s = time.time()
        self._signed_s = 0.0

    def __enter__(self) -> "Ledger":
        with _plainly(self.path):
            self._runs.mkdir(parents=True, exist_ok=True)
            self._own = self._lock(self.run)
            self._own.acquire(blocking=False)
            with FileLock(self.hidden / "opening.lock", timeout=WAIT_S):
                self._db = self._opened()
            self.sign()
        try:
            self._check_machines()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.take_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM runs WHERE run = ?", (self.run,))
        self._db.close()
        self._own.release()
        with suppress(OSError):
            Path(self._own.lock_file).unlink(missing_ok=True)

    # What is known

    def records(self) -> dict[str, Record]:
        """All files by their target, in the order in which they were first seen."""
        with _plainly(self.path):
            return {
                row["target"]: Record.from_row(dict(row)) for row in self._db.execute("SELECT * FROM files ORDER BY id")
            }

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

    def enrol(self, items: list[tuple[Item, Fingerprint]], settings: str, weights: str) -> None:
        """Notes files that are to be done; a result of other settings counts until its file is begun again."""
        with self._transaction():
            for item, seen in items:
                record = self.record(item.target)
                if record is None or record.state in ("waiting", "failed"):
                    self._put(_fresh(item, seen, settings, weights, record))

    def claim(self, item: Item, seen: Fingerprint, settings: str, weights: str) -> Claim:
        """Takes a file, unless another run has it, or has just been through with it."""
        with self._transaction():
            record = self.record(item.target)
            if record and record.run != self.run and record.state in ("running", "written"):
                return "busy"
            if self.is_done(record, seen, settings, weights):
                return "done"
            if record and record.state == "failed" and record.run != self.run and self._is_recent(record):
                return "failed"
            tried = record.attempts if record and record.state in ("waiting", "running", "failed") else 0
            fresh = _fresh(item, seen, settings, weights, record)
            self._put(replace(fresh, state="running", run=self.run, attempts=tried + 1))
            return "mine"

    def free(self, target: str) -> None:
        """Gives a file back unfinished."""
        self._change(target, state="waiting", run="")

    def fail(self, record: Record) -> None:
        """Notes a failure, unless an older result is there, or another run is at it."""
        with self._transaction():
            before = self.record(record.target)
            if before is None or before.state in ("waiting", "failed") or self._has(before):
                self._put(replace(record, state="failed", run=self.run))

    def publish(self, record: Record) -> Record:
        """Gives a draft its name; from then on the file is done, whatever happens.

        Raises:
            OutputError: the name cannot be given.
        """
        with self._transaction():
            self._put(replace(record, state="written", run=self.run))
        return self._finish(record)

    def take_over(self) -> None:
        """Finishes what dead runs had written, and frees what they had begun."""
        for run in self._dead():
            with self._transaction():
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
            with suppress(OSError):
                (self._runs / f"{run}.lock").unlink(missing_ok=True)

    def sign(self) -> None:
        """A sign of life, for runs on other machines."""
        if time.time() - self._signed_s > SIGN_EVERY_S:
            self._signed_s = time.time()
            with self._transaction():
                values = (self.run, socket.gethostname(), os.getpid(), self._signed_s)
                self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", values)

    # Inside

    @property
    def _runs(self) -> Path:
        return self.hidden / "runs"

    def _lock(self, run: str) -> FileLock:
        return FileLock(self._runs / f"{run}.lock")

    def _finish(self, record: Record) -> Record:
        target, draft = self.outdir / record.target, self.outdir / record.draft
        with _plainly(target):
            if draft.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # a track goes first: what is there with the draft is not yet done
                    draft.with_suffix(TRACK).replace(target.with_suffix(TRACK))
                draft.replace(target)
            done = replace(record, state="done", run=self.run, draft="")
            self._note(done)
            with self._transaction():
                self._put(done)
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
        return dead + [row["run"] for row in rows if row["host"] != here and time.time() - row["seen"] > ALIVE_S]

    def _check_machines(self) -> None:
        """SQLite's write-ahead log is shared memory, which two machines do not have."""
        here = socket.gethostname()
        for row in self._db.execute("SELECT * FROM runs WHERE host != ?", (here,)).fetchall():
            if time.time() - row["seen"] <= ALIVE_S:
                raise VderainError(
                    f"a run on {row['host']} is at work in {self.outdir}.",
                    "Wait for it, or choose another folder; several machines share one run with --on ray.",
                )

    def _has(self, record: Record) -> bool:
        return record.run == self.run and record.state in ("running", "written")

    def _is_recent(self, record: Record) -> bool:
        return datetime.fromisoformat(record.finished_at).timestamp() >= self._began_s

    def _put(self, record: Record, conflict: str = "OR REPLACE") -> None:
        row = record.as_row()
        places = ", ".join("CAST(? AS TEXT)" if COLUMNS[name] == "TEXT" else "?" for name in row)
        number = "(SELECT id FROM files WHERE target = CAST(? AS TEXT))"  # a file keeps its place in the order
        self._db.execute(
            f"INSERT {conflict} INTO files (id, {', '.join(row)}) VALUES ({number}, {places})",
            [as_bytes(record.target), *map(as_bytes, row.values())],
        )

    def _change(self, target: str, **values: Any) -> None:
        with self._transaction():
            setting = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(
                f"UPDATE files SET {setting} WHERE target = CAST(? AS TEXT)", [*values.values(), as_bytes(target)]
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _plainly(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    # Opening, and mending

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGED and not isinstance(error, _Foreign):
                raise
            why = str(error) if isinstance(error, _Foreign) else "damaged"
            aside = self._set_aside(why.split()[0])
            connection = self._connected()
            self.said.append(f"{self.path} is {why}: it was kept as {aside.name}, {self._rebuild(connection)}.")
            return connection

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = os.fsdecode
            new = not connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
            if not new:
                _check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if new:
                connection.executescript(_schema())
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, why: str) -> Path:
        """Moves a ledger that cannot be used out of the way, with the log that belongs to it."""
        aside = self.path.with_name(f"{self.path.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}-{self.run[:4]}")
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
        return aside

    def _note(self, record: Record) -> None:
        """A line of the journal for each result that got its name: what a new ledger can be made from."""
        with (self.hidden / "journal.jsonl").open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(record.as_row()) + "\n")

    def _rebuild(self, connection: sqlite3.Connection) -> str:
        """Takes over from the journal what lies on disk as it was noted; says what became of it."""
        lasting: dict[str, Record] = {}
        with suppress(FileNotFoundError), (self.hidden / "journal.jsonl").open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError, KeyError):  # the last line of a run that was killed
                    record = Record.from_row(json.loads(line))
                    lasting[record.target] = record
        self._db = connection
        there = [record for record in lasting.values() if self.is_ours(record)]
        with self._transaction():
            for record in there:
                self._put(record)
        return f"and a new one was made from the {len(there)} results that are noted in the journal and still there"


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


def peek(outdir: Path) -> dict[str, Record]:
    """What the ledger of a folder knows, without touching anything; nothing where there is none that can be read."""
    path = outdir / NAME
    if not path.exists():
        return {}
    alone = not path.with_name(f"{NAME}-wal").exists()  # else SQLite would make its log's files
    how = "mode=ro&immutable=1" if alone else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=WAIT_S)) as db:
            db.row_factory, db.text_factory = sqlite3.Row, os.fsdecode
            _check(db)
            return {row["target"]: Record.from_row(dict(row)) for row in db.execute("SELECT * FROM files ORDER BY id")}
    except (sqlite3.Error, ValueError):
        return {}


class _Foreign(sqlite3.DatabaseError):
    """A sound SQLite file that this version cannot use."""


def _check(connection: sqlite3.Connection) -> None:
    """Raises DatabaseError for a file that is not a ledger of this version, or not sound."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise _Foreign("foreign to vderain")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise _Foreign(f"{'newer' if version > VERSION else 'older'} than this version of vderain")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _Foreign("damaged")


def _schema() -> str:
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in COLUMNS.items())
    return f"""
        BEGIN IMMEDIATE;
        CREATE TABLE files (id INTEGER PRIMARY KEY, {columns}, UNIQUE (target));
        CREATE TABLE runs (run TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, seen REAL NOT NULL);
        PRAGMA application_id = {APPLICATION};
        PRAGMA user_version = {VERSION};
        COMMIT;
    """


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
