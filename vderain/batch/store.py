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
from uuid import uuid4

from vderain.batch.record import Record

VERSION = 2
APPLICATION_ID = 0x76644C31  # vdL1, in the header of the file
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
WAIT_S = 60.0  # for another run's transaction


def connect(path: Path, recovered: Callable[[], list[Record]]) -> tuple[sqlite3.Connection, str]:
    """Opens the file of a ledger. A file that cannot be used is renamed, and a new one takes its place.

    Args:
        path: the file.
        recovered: returns the records that a new file begins with.

    Returns:
        A connection in autocommit mode, and a sentence about a repair, or an empty string.

    Raises:
        sqlite3.Error: it cannot be opened, or a new one cannot be made.
    """
    loss = "is gone, or was empty"
    try:
        connection = _connect(path)
    except sqlite3.DatabaseError as error:
        reason = _reason_unusable(error)
        if not reason:
            raise
        loss = f"is {reason}: it was kept as {_set_aside(path, reason.split()[0]).name}"
        connection = _connect(path)
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
        ValueError: a row is not a record.
    """
    rows = connection.execute("SELECT record FROM files ORDER BY id").fetchall()  # all, or an error keeps the file open
    records = [Record.from_json(row["record"]) for row in rows]
    return {record.target: record for record in records}


def read_only(path: Path) -> dict[str, Record]:
    """All records, without changing anything; empty where there is no usable file."""
    if not path.exists():
        return {}
    unshared = not path.with_name(f"{path.name}-wal").exists()  # else SQLite would create the files of its log
    mode = "mode=ro&immutable=1" if unshared else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=WAIT_S)) as connection:
            connection.row_factory = sqlite3.Row
            _check(connection)
            return read(connection)
    except sqlite3.Error:
        return {}


def get(connection: sqlite3.Connection, target: str) -> Record | None:
    """The record of one file, or None."""
    row = connection.execute("SELECT record FROM files WHERE target = ?", (os.fsencode(target),)).fetchone()
    return Record.from_json(row["record"]) if row else None


def held(connection: sqlite3.Connection, run: str) -> list[Record]:
    """The files that a run holds."""
    rows = connection.execute("SELECT record FROM files WHERE run = ?", (run,)).fetchall()
    return [Record.from_json(row["record"]) for row in rows]


def put(connection: sqlite3.Connection, record: Record) -> None:
    """Adds a record, or replaces the one of the same target."""
    holder = record.run if record.state in ("running", "written") else ""
    connection.execute(
        "INSERT INTO files (target, run, record) VALUES (?, ?, ?) "
        "ON CONFLICT (target) DO UPDATE SET run = excluded.run, record = excluded.record",
        (os.fsencode(record.target), holder, record.to_json()),
    )


class _UnusableError(sqlite3.DatabaseError):
    """An SQLite file that this version cannot use."""


def _connect(path: Path) -> sqlite3.Connection:
    # absolute, because SQLite would read a folder called file:NAME as a URI
    connection = sqlite3.connect(path.absolute(), timeout=WAIT_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        if _has_tables(connection):
            _check(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone() is not None


def _check(connection: sqlite3.Connection) -> None:
    """Raises `sqlite3.DatabaseError` where the file is not an intact ledger of this version."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise _UnusableError("foreign to vderain")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise _UnusableError(f"{'newer' if version > VERSION else 'older'} than this version of vderain")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise _UnusableError("damaged")
    try:
        read(connection)
    except ValueError as error:
        raise _UnusableError("damaged") from error


def _reason_unusable(error: sqlite3.DatabaseError) -> str:
    """Why a file has to be set aside; empty for what may pass, such as a lock or a full disk."""
    if isinstance(error, _UnusableError):
        return str(error)
    return "damaged" if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED else ""


def _set_aside(path: Path, reason: str) -> Path:
    """Renames an unusable file, with its log."""
    aside = path.with_name(f"{path.name}.{reason}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:4]}")
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _create(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Creates the tables and stores records, in one transaction."""
    with connection:
        for statement in (
            "BEGIN IMMEDIATE",
            # target is a BLOB: file names need not be valid Unicode; run holds the file, or is empty
            "CREATE TABLE files (id INTEGER PRIMARY KEY, target BLOB NOT NULL UNIQUE, run TEXT NOT NULL, "
            "record TEXT NOT NULL)",
            "CREATE INDEX files_run ON files (run)",
            "CREATE TABLE runs (run TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, "
            "heartbeat REAL NOT NULL)",
            f"PRAGMA application_id = {APPLICATION_ID}",
            f"PRAGMA user_version = {VERSION}",
        ):
            connection.execute(statement)
        for record in records:
            put(connection, record)
