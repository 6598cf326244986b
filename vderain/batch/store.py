"""The SQLite file behind a ledger: its path enters, a connection to a sound file of this version leaves."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

from vderain.batch.record import COLUMNS, Record, as_bytes

VERSION = 1
APPLICATION = 0x76644C31  # vdL1, in the header of the file
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
WAIT_S = 60.0  # for another run's transaction


def opened(path: Path, noted: Callable[[], list[Record]]) -> tuple[sqlite3.Connection, str]:
    """Opens the file of a ledger; one that cannot be used is set aside.

    Args:
        path: of the file.
        noted: gives what a new file begins with.

    Returns:
        A connection without transactions of its own, and a sentence on what was mended, or an empty one.

    Raises:
        sqlite3.Error: it cannot be opened, or a new one cannot be made.
    """
    lost = "is gone, or was empty"
    try:
        connection = _connected(path)
    except sqlite3.DatabaseError as error:
        why = _why_unusable(error)
        if not why:
            raise
        lost = f"is {why}: it was kept as {_set_aside(path, why.split()[0]).name}"
        connection = _connected(path)
    if _has_tables(connection):
        return connection, ""
    try:
        results = noted()
        _create(connection, results)
    except BaseException:
        connection.close()
        raise
    from_what = f"a new one was made from the {len(results)} results that are noted in the journal and still there"
    return connection, f"{path} {lost}, and {from_what}." if results or "kept" in lost else ""


def read(connection: sqlite3.Connection) -> dict[str, Record]:
    """All records by their target, in the order in which they were first put.

    Raises:
        ValueError: a value is not what it should be.
    """
    rows = connection.execute("SELECT * FROM files ORDER BY id").fetchall()  # or a failure would keep the file open
    return {row["target"]: Record.from_row(dict(row)) for row in rows}


def read_only(path: Path) -> dict[str, Record]:
    """All records, without touching anything; nothing where there is no file that can be read."""
    if not path.exists():
        return {}
    alone = not path.with_name(f"{path.name}-wal").exists()  # else SQLite would make its log's files
    how = "mode=ro&immutable=1" if alone else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=WAIT_S)) as connection:
            connection.row_factory, connection.text_factory = sqlite3.Row, os.fsdecode
            _check(connection)
            return read(connection)
    except sqlite3.Error:
        return {}


def put(connection: sqlite3.Connection, record: Record) -> None:
    """Adds a record, or puts it in the place of that of the same target."""
    row = record.as_row()
    places = ", ".join("CAST(? AS TEXT)" if COLUMNS[name] == "TEXT" else "?" for name in row)
    number = "(SELECT id FROM files WHERE target = CAST(? AS TEXT))"  # a file keeps its place in the order
    connection.execute(
        f"INSERT OR REPLACE INTO files (id, {', '.join(row)}) VALUES ({number}, {places})",
        [as_bytes(record.target), *map(as_bytes, row.values())],
    )


class _Unusable(sqlite3.DatabaseError):
    """A SQLite file that this version cannot use."""


def _connected(path: Path) -> sqlite3.Connection:
    # absolute, for SQLite would take a folder called file:NAME for a URI
    connection = sqlite3.connect(path.absolute(), timeout=WAIT_S, isolation_level=None)
    try:
        connection.row_factory, connection.text_factory = sqlite3.Row, os.fsdecode
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
    """Raises DatabaseError for a file that is not a ledger of this version, or not sound."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise _Unusable("foreign to vderain")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise _Unusable(f"{'newer' if version > VERSION else 'older'} than this version of vderain")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise _Unusable("damaged")
    try:
        read(connection)
    except ValueError as error:
        raise _Unusable("damaged") from error


def _why_unusable(error: sqlite3.DatabaseError) -> str:
    """Why a file is to be set aside; empty for what may pass, such as a lock or a full disk."""
    if isinstance(error, _Unusable):
        return str(error)
    return "damaged" if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED else ""


def _set_aside(path: Path, why: str) -> Path:
    """Moves a file that cannot be used out of the way, with the log that belongs to it."""
    aside = path.with_name(f"{path.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:4]}")
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _create(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Makes the tables and puts records into them, both or neither."""
    columns = ", ".join(f"{name} {kind} NOT NULL" for name, kind in COLUMNS.items())
    with connection:
        for statement in (
            "BEGIN IMMEDIATE",
            f"CREATE TABLE files (id INTEGER PRIMARY KEY, {columns}, UNIQUE (target))",
            "CREATE TABLE runs (run TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, seen REAL NOT NULL)",
            f"PRAGMA application_id = {APPLICATION}",
            f"PRAGMA user_version = {VERSION}",
        ):
            connection.execute(statement)
        for record in records:
            put(connection, record)
