"""The ledger of a batch: an SQLite database in OUTDIR with one record for each file, shared by concurrent runs.

A file is ``waiting``, ``running``, ``written``, and then ``done`` or ``failed``. ``written`` means that the result is
complete and verified, but still a draft. Only then is it renamed. After a kill between the two steps the ledger still
knows who wrote the file of that name. Each run holds a file lock while it lives. A run whose lock is free is dead, and
its files can be claimed again. On a drive without file locks, a lock file admits one run at a time.

What the ledger says is checked, because it may be damaged or come from someone else. Nothing outside OUTDIR is written.
"""

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from vderain.batch import store
from vderain.batch.locks import ALIVE_S, LockFile, has_file_locks
from vderain.batch.record import GPX_SUFFIX, HIDDEN, THUMBNAILS, WORK, Journal, Record, is_done
from vderain.errors import OutputError, VderainError
from vderain.runtime.files import publish

NAME = "vderain.sqlite"
NO_LOCKS = (
    "{outdir} is on a drive without file locks: only one run at a time can use it, and if a run on another machine is "
    "killed, the next one can begin {seconds:.0f} s later."
)
HEARTBEAT_S = 20.0

Claim = Literal["mine", "busy", "done", "failed"]


class Ledger:
    """One run's connection to the ledger of a folder of results; a context manager.

    Args:
        outdir: an existing folder.

    Attributes:
        warnings: what was found on opening, in sentences: a damaged ledger that was repaired, a drive without locks.
        run: identifies this run.

    Raises:
        VderainError: on entering, where the folder is not writable, a run on another host uses it, or a link in it
            leads elsewhere.
    """

    def __init__(self, outdir: Path) -> None:
        self.outdir, self.path, self.hidden = outdir, outdir / NAME, outdir / HIDDEN
        self.warnings: list[str] = []
        self.run = uuid.uuid4().hex[:12]
        self._journal = Journal(self.hidden / "journal.jsonl")
        self._started_s = time.time()
        self._heartbeat_s = 0.0
        self._lock_file: LockFile | None = None  # on a drive without file locks

    def __enter__(self) -> "Ledger":
        with ExitStack() as stack:
            self._refuse_links()
            with _output_errors(self.path):
                self._locks.mkdir(parents=True, exist_ok=True)
                if has_file_locks(self._locks):
                    stack.callback(self._remove_lock, self.run)
                    stack.enter_context(self._lock(self.run).acquire(blocking=False))
                    opening: AbstractContextManager[object] = FileLock(self._opening, timeout=store.WAIT_S)
                else:
                    self._lock_file = stack.enter_context(LockFile(self.hidden / "run.lock"))
                    self.warnings.append(NO_LOCKS.format(outdir=self.outdir, seconds=ALIVE_S))
                    opening = nullcontext()
                with opening:
                    self._db, repaired = store.connect(self.path, self._intact_results, self._lock_file is None)
            stack.callback(self._db.close)
            self.warnings += [repaired] if repaired else []
            self.heartbeat()
            stack.callback(self._sign_off)
            self._refuse_other_hosts()
            self.recover()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def records(self) -> dict[str, Record]:
        """All records by target, in the order in which the files were first planned."""
        with _output_errors(self.path):
            return store.read(self._db)

    def record(self, target: str) -> Record | None:
        """The record of one file, or None."""
        with _output_errors(self.path):
            return store.get(self._db, target)

    def is_done(self, known: Record | None, wanted: Record) -> bool:
        """See `record.is_done`."""
        return is_done(self.outdir, known, wanted)

    def register(self, wanted: Iterable[Record]) -> None:
        """Adds files to process; an older result keeps its record until processing begins again."""
        with self.transaction():
            for each in wanted:
                known = self.record(each.target)
                if known is None or known.state in ("waiting", "failed"):
                    store.put(self._db, _with_output_of(known, each))

    def claim(self, wanted: Record) -> Claim:
        """Assigns a file to this run.

        Returns:
            ``mine``, or ``busy`` where another run is processing the file, or the state that another run has brought
            the file to since this run began.
        """
        with self.transaction():
            known = self.record(wanted.target)
            if known and known.run != self.run and known.state in ("running", "written"):
                return "busy"
            if self.is_done(known, wanted):
                return "done"
            if known and known.state == "failed" and known.run != self.run and self._is_recent(known):
                return "failed"
            attempts = known.attempts if known and known.state in ("waiting", "running", "failed") else 0
            claimed = replace(wanted, state="running", run=self.run, attempts=attempts + 1)
            store.put(self._db, _with_output_of(known, claimed))
            return "mine"

    def release(self, target: str) -> None:
        """Returns an unfinished file to the waiting ones."""
        with self.transaction():
            known = self.record(target)
            if known is not None:
                store.put(self._db, replace(known, state="waiting", run=""))

    def fail(self, record: Record) -> None:
        """Records a failure, unless there is an older result or another run has the file."""
        with self.transaction():
            known = self.record(record.target)
            if known is None or known.state in ("waiting", "failed") or self._is_mine(known):
                store.put(self._db, replace(record, state="failed", run=self.run))

    def publish(self, record: Record) -> Record:
        """Renames a draft to its final name; from then on the file is done, whatever happens.

        A file that has the name already is replaced: `ResultFolder.check_target` has said that it may be.

        Raises:
            OutputError: it cannot be renamed.
        """
        replaces = os.path.lexists(self.outdir / record.target)
        with self.transaction():
            store.put(self._db, replace(record, state="written", run=self.run))
        return self._finish(record, replaces)

    def skip(self, record: Record) -> Record:
        """Records that a file is dry and needs no result; an older result stays where it is."""
        done = replace(record, state="done", run=self.run, draft="")
        with self.transaction():
            store.put(self._db, done)
        return done

    def recover(self) -> None:
        """Publishes what dead runs had written, and releases what they had not."""
        for run in self._dead_runs():
            written: list[Record] = []
            with self.transaction():
                for record in store.held(self._db, run):
                    if record.state == "written":
                        written.append(replace(record, run=self.run))
                        store.put(self._db, written[-1])
                    else:
                        store.put(self._db, replace(record, state="waiting", run=""))
                self._db.execute("DELETE FROM runs WHERE run = ?", (run,))
            for record in written:
                there = (self.outdir / record.draft).exists() or record.is_intact(self.outdir)
                if there and self._is_inside(record.draft) and self._is_inside(record.target):
                    self._finish_of_dead_run(record)
                else:
                    self.release(record.target)
            self._remove_lock(run)

    def heartbeat(self) -> None:
        """Tells runs on other hosts that this run is alive; writes at most every `HEARTBEAT_S` seconds."""
        if time.time() - self._heartbeat_s > HEARTBEAT_S:
            self._heartbeat_s = time.time()
            if self._lock_file is not None:
                self._lock_file.heartbeat()
            with self.transaction():
                values = (self.run, socket.gethostname(), os.getpid(), self._heartbeat_s)
                self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside become visible together or not at all; other runs wait meanwhile."""
        with _output_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @property
    def _locks(self) -> Path:
        return self.hidden / "runs"

    @property
    def _opening(self) -> Path:
        return self.hidden / "opening.lock"

    def _lock(self, run: str) -> FileLock:
        return FileLock(self._locks / f"{run}.lock")

    def _remove_lock(self, run: str) -> None:
        with suppress(OSError):
            (self._locks / f"{run}.lock").unlink(missing_ok=True)

    def _sign_off(self) -> None:
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM runs WHERE run = ?", (self.run,))

    def _intact_results(self) -> list[Record]:
        """The results in the journal that are still on disk as they were written."""
        return [record for record in self._journal.records().values() if record.is_intact(self.outdir)]

    def _finish_of_dead_run(self, record: Record) -> None:
        """Publishes a draft, unless another file has appeared under the name since; then the file is done again."""
        older = self._journal.records().get(record.target)
        try:
            self._finish(record, replaces=older is not None and older.is_intact(self.outdir))
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            self.release(record.target)

    def _finish(self, record: Record, replaces: bool) -> Record:
        target, draft = self.outdir / record.target, self.outdir / record.draft
        with _output_errors(target):
            if draft.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # the GPS track first: while the draft exists, nothing is done yet
                    draft.with_suffix(GPX_SUFFIX).replace(target.with_suffix(GPX_SUFFIX))
                publish(draft, target, overwrite=replaces)
            done = replace(record, state="done", run=self.run, draft="")
            self._journal.append(done)
            with self.transaction():
                store.put(self._db, done)
        return done

    def _dead_runs(self) -> list[str]:
        """Runs on this host whose lock is free, and runs on other hosts without a recent heartbeat."""
        host, dead = socket.gethostname(), []
        with _output_errors(self.path):
            runs = [row for row in store.runs(self._db) if row.run != self.run]
            unregistered = store.holders(self._db) - {row.run for row in runs} - {self.run}
        if self._lock_file is not None:  # which admits no other run
            return [row.run for row in runs] + sorted(unregistered)
        for run in [row.run for row in runs if row.host == host] + sorted(unregistered):
            with suppress(Timeout):
                self._lock(run).acquire(blocking=False).lock.release()
                dead.append(run)
        return dead + [row.run for row in runs if row.host != host and not _is_alive(row)]

    def _refuse_other_hosts(self) -> None:
        """SQLite's write-ahead log lives in shared memory, which two hosts do not have."""
        with _output_errors(self.path):
            runs = store.runs(self._db)
        for row in runs:
            if row.host != socket.gethostname() and _is_alive(row):
                raise VderainError(
                    f"a run on {row.host} is at work in {self.outdir}.",
                    "Wait for it, or choose another folder; several machines share one run with --on ray.",
                )

    def _refuse_links(self) -> None:
        """A link in place of a folder of ours could lead out of OUTDIR."""
        for path in (self.hidden, self._locks, self.outdir / WORK, self.outdir / THUMBNAILS, self._opening):
            if path.is_symlink():
                raise OutputError(f"{path} is a link.", "Remove it: vderain writes to folders of its own there only.")

    def _is_inside(self, path: str) -> bool:
        """Whether a path below OUTDIR stays there with all links followed."""
        real = os.path.realpath((self.outdir / path).parent)
        return Path(real).is_relative_to(os.path.realpath(self.outdir))

    def _is_mine(self, record: Record) -> bool:
        return record.run == self.run and record.state in ("running", "written")

    def _is_recent(self, record: Record) -> bool:
        return datetime.fromisoformat(record.finished_at).timestamp() >= self._started_s


def read_only(outdir: Path) -> dict[str, Record]:
    """Reads the ledger of a folder without writing anything; empty where there is none that can be read."""
    return store.read_only(outdir / NAME)


def _is_alive(run: store.RunRow) -> bool:
    """Whether another host's run sent a heartbeat less than `ALIVE_S` ago; a larger clock skew counts as dead."""
    return bool(abs(time.time() - run.heartbeat) <= ALIVE_S)


def _with_output_of(known: Record | None, wanted: Record) -> Record:
    """Keeps the size and time of an older result, by which it is recognised and may be replaced."""
    return replace(wanted, bytes_out=known.bytes_out, mtime_out_ns=known.mtime_out_ns) if known else wanted


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turns errors of the file system and of SQLite into an OutputError."""
    try:
        yield
    except (OSError, Timeout) as error:
        raise OutputError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}).",
            "Check the disk, or choose another folder with -o.",
        ) from error
    except (sqlite3.DatabaseError, UnicodeError) as error:  # SQLite quotes damaged text in its messages
        raise OutputError(
            f"{path} cannot be used ({error}).", "Check the space and the disk, and run the same command again."
        ) from error
