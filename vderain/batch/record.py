"""What is known of one file of a batch: what was to be done, how far it is, what came of it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vderain.batch.report.page import ReportRow
from vderain.batch.report.thumbnails import Thumbnail
from vderain.media.fingerprint import Fingerprint

State = Literal["waiting", "running", "written", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)
LISTS = ("damage", "dropped", "kept")


@dataclass(frozen=True, slots=True)
class Record:
    """One file, as the ledger and its journal have it.

    Attributes:
        target: of the result below OUTDIR; the key.
        source: the file that was read.
        name: its path below the input.
        family: front, rear, or empty.
        size_bytes, mtime_ns, ends: the source's fingerprint.
        settings: what was asked for, as JSON.
        weights: SHA-256 of the model's file, or empty where no network ran.
        state: ``written`` is finished and checked, about to get its name.
        run: who works at it, or did last.
        attempts: how often it was begun since it was last done.
        frames, repeated, dry, missing, seconds: as in `process.Result`.
        media_s: how long the result plays.
        draft: where a written result lies below OUTDIR until it gets its name.
        bytes_out, mtime_out_ns: size and time of the result.
        finished_at: ISO 8601, or empty.
        damage, dropped, kept, device, model: as in `process.Result`.
        error, cure, exit_code: of a failure.
        thumbnails: frames worth showing.
    """

    target: str
    source: str
    name: str
    family: str = ""
    size_bytes: int = 0
    mtime_ns: int = 0
    ends: str = ""
    settings: str = ""
    weights: str = ""
    state: State = "waiting"
    run: str = ""
    attempts: int = 0
    frames: int = 0
    repeated: int = 0
    dry: int = 0
    missing: int = 0
    seconds: float = 0.0
    media_s: float = 0.0
    draft: str = ""
    bytes_out: int = 0
    mtime_out_ns: int = 0
    finished_at: str = ""
    damage: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    device: str = ""
    model: str = ""
    error: str = ""
    cure: str = ""
    exit_code: int = 0
    thumbnails: tuple[Thumbnail, ...] = ()

    @property
    def print(self) -> Fingerprint:
        """What the source was known by."""
        return Fingerprint(self.size_bytes, self.mtime_ns, self.ends)

    def as_row(self) -> dict[str, Any]:
        """Values that SQLite and JSON take; names that are no Unicode keep their bytes as surrogates."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row |= {name: json.dumps(row[name]) for name in LISTS}
        return row | {"thumbnails": json.dumps([asdict(moment) for moment in self.thumbnails])}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> "Record":
        """The way back; what a newer version added is left out.

        Raises:
            ValueError: a value is not what it should be.
        """
        values = {name: row[name] for name in COLUMNS if name in row}
        if values.get("state") not in STATES or not all(
            isinstance(value, KINDS[COLUMNS[name]]) for name, value in values.items()
        ):
            raise ValueError("no record")
        try:
            values |= {name: tuple(json.loads(values.get(name, "[]"))) for name in LISTS}
            values["thumbnails"] = tuple(Thumbnail(**moment) for moment in json.loads(values.get("thumbnails", "[]")))
            return Record(**values)
        except TypeError as error:
            raise ValueError("no record") from error

    def as_report(self) -> ReportRow:
        """The record as the page shows it."""
        state: Any = "running" if self.state == "written" else self.state
        return ReportRow(
            self.name, self.target if self.state == "done" else None, self.family, state, self.attempts, self.frames,
            self.repeated, self.dry, self.missing, self.seconds, self.media_s, self.size_bytes, self.bytes_out,
            self.finished_at, self.damage, self.dropped, self.kept, self.device, self.error, self.cure, self.exit_code,
            self.thumbnails,
        )  # fmt: skip


COLUMNS: dict[str, str] = {
    field.name: {int: "INTEGER", float: "REAL"}.get(type(field.default), "TEXT") for field in fields(Record)
}
KINDS: dict[str, tuple[type, ...]] = {"INTEGER": (int,), "REAL": (int, float), "TEXT": (str,)}


def as_bytes(value: Any) -> Any:
    """Texts as the bytes of the file system: SQLite's own way refuses names that are no Unicode."""
    return os.fsencode(value) if isinstance(value, str) else value
