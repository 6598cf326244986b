"""The SQLite file of a ledger: opening it, setting a damaged one aside, and reading and writing its records.

SQLite in WAL mode with ``synchronous=FULL`` survives kills and power cuts, but not a bad sector or a deleted file.
Results would then be unknown files, which a batch never replaces. A lost ledger is therefore rebuilt from the journal.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from vderain.batch.record import LARGEST, Record, is_run_id

VERSION = 2
APPLICATION_ID = 0x76644C31  # vdL1, in the header of the file
SCHEMA = (
    # target is a BLOB: file names need not be valid Unicode; run holds the file, or is empty
    "CREATE TABLE files (id INTEGER PRIMARY KEY, target BLOB NOT NULL UNIQUE, run TEXT NOT NULL, record TEXT NOT NULL)",
    "CREATE INDEX files_run ON files (run)",
    "CREATE TABLE runs (run TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, heartbeat REAL NOT NULL)",
)
ENVIRONMENT = (  # errors that do not lie in the file
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
)  # fmt: skip
WAIT_S = 60.0  # for another run's transaction


class RunRow(NamedTuple):
    """A run in the ledger.

    Attributes:
        run: its name.
        host, pid: where it runs.
        heartbeat: when it was last known to be alive, in seconds since the epoch.
    """

    run: str
    host: str
    pid: int
    heartbeat: float


def connect(path: Path, recovered: Callable[[], list[Record]], shared: bool) -> tuple[sqlite3.Connection, str]:
    """Opens the file of a ledger. A file that cannot be used is renamed, and a new one takes its place.

    Args:
        path: the file.
        recovered: returns the records that a new file begins with.
        shared: whether SQLite locks the file; without, no other process may use it meanwhile.

    Returns:
        A connection in autocommit mode, and a sentence about a repair, or an empty string.

    Raises:
        sqlite3.Error: it cannot be opened, or a new one cannot be made.
    """
    loss = "is gone, or was empty"
    try:
        connection = _connect(path, shared)
    except (sqlite3.Error, ValueError) as error:
        reason = _reason_unusable(error)
        if not reason:
            raise
        loss = f"is {reason}: it was kept as {_set_aside(path, reason.split()[0]).name}"
        connection = _connect(path, shared)
    if _has_tables(connection):
        return connection, ""
    try:
        results = recovered()
        _create(connection, results)
    except BaseException:
        connection.close()
        raise
    source = f"a new one was made from the {len(results)} results that are in the journal and still on disk"
    return connection, f"{path} {loss}, and {source}." if results or "kept" in loss else ""


def read(connection: sqlite3.Connection) -> dict[str, Record]:
    """All records by target, in the order in which they were first stored.

    Raises:
        sqlite3.DatabaseError: a row is not a record.
    """
    rows = connection.execute("SELECT * FROM files ORDER BY id").fetchall()  # all, or an error keeps the file open
    return {record.target: record for record in map(_record, rows)}


def read_only(path: Path) -> dict[str, Record]:
    """All records, without changing anything; empty where there is no usable file."""
    if not path.exists():
        return {}
    unshared = not path.with_name(f"{path.name}-wal").exists()  # else SQLite would create the files of its log
    mode = "mode=ro&immutable=1" if unshared else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=WAIT_S)) as connection:
            connection.row_factory = sqlite3.Row
            return _check(connection)
    except (sqlite3.Error, ValueError):
        return {}


def get(connection: sqlite3.Connection, target: str) -> Record | None:
    """The record of one file, or None."""
    row = connection.execute("SELECT * FROM files WHERE target = ?", (os.fsencode(target),)).fetchone()
    return _record(row) if row else None


def held(connection: sqlite3.Connection, run: str) -> list[Record]:
    """The files that a run holds."""
    return list(map(_record, connection.execute("SELECT * FROM files WHERE run = ?", (run,)).fetchall()))


def runs(connection: sqlite3.Connection) -> list[RunRow]:
    """The runs that have registered and not signed off.

    Raises:
        sqlite3.DatabaseError: a row is not that of a run.
    """
    rows = [RunRow(*row) for row in connection.execute("SELECT run, host, pid, heartbeat FROM runs").fetchall()]
    for row in rows:
        if not (is_run_id(row.run) and isinstance(row.heartbeat, float) and abs(row.heartbeat) < LARGEST):
            raise _UnusableError("damaged")
    return rows


def holders(connection: sqlite3.Connection) -> set[str]:
    """The runs that hold files."""
    return {record.run for record in map(_record, connection.execute("SELECT * FROM files WHERE run != ''").fetchall())}


def put(connection: sqlite3.Connection, record: Record) -> None:
    """Adds a record, or replaces the one of the same target."""
    connection.execute(
        "INSERT INTO files (target, run, record) VALUES (?, ?, ?) "
        "ON CONFLICT (target) DO UPDATE SET run = excluded.run, record = excluded.record",
        (os.fsencode(record.target), _holder(record), record.to_json()),
    )


def _holder(record: Record) -> str:
    return record.run if record.state in ("running", "written") else ""


def _record(row: sqlite3.Row) -> Record:
    """The record in a row of the table of files.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    try:
        record = Record.from_json(row["record"])
    except ValueError as error:
        raise _UnusableError("damaged") from error
    if (row["target"], row["run"]) != (os.fsencode(record.target), _holder(record)):
        raise _UnusableError("damaged")
    return record


class _UnusableError(sqlite3.DatabaseError):
    """An SQLite file that this version cannot use."""


def _connect(path: Path, shared: bool) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + ("" if shared else "?vfs=unix-none")
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        if not shared:
            connection.execute(
                "PRAGMA locking_mode = EXCLUSIVE"
            )  # else the write-ahead log of an earlier run needs shared memory
        if _has_tables(connection):
            _check(connection)
        connection.execute(f"PRAGMA journal_mode = {'WAL' if shared else 'DELETE'}")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone() is not None


def _check(connection: sqlite3.Connection) -> dict[str, Record]:
    """All records. Raises `sqlite3.DatabaseError` where the file is not an intact ledger of this version."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise _UnusableError("foreign to vderain")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise _UnusableError(f"{'newer' if version > VERSION else 'older'} than this version of vderain")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise _UnusableError("damaged")
    if {row["sql"] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")} != set(SCHEMA):
        raise _UnusableError("damaged")
    runs(connection)
    return read(connection)


def _reason_unusable(error: sqlite3.Error | ValueError) -> str:
    """Why a file has to be set aside; empty for what may pass, such as a lock or a full disk."""
    if isinstance(error, _UnusableError):
        return str(error)
    return "" if getattr(error, "sqlite_errorcode", 0) & 0xFF in ENVIRONMENT else "damaged"


def _set_aside(path: Path, reason: str) -> Path:
    """Renames an unusable file, with its log."""
    aside = path.with_name(f"{path.name}.{reason}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:4]}")
    for ending in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _create(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Creates the tables and stores records, in one transaction."""
    with connection:
        for statement in (
            "BEGIN IMMEDIATE",
            *SCHEMA,
            f"PRAGMA application_id = {APPLICATION_ID}",
            f"PRAGMA user_version = {VERSION}",
        ):
            connection.execute(statement)
        for record in records:
            put(connection, record)
