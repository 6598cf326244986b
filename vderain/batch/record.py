"""Records of a batch: the identity of a file, its state, and its result or failure.

The ledger and its journal store a record as one line of JSON. JSON escapes file names that are not valid Unicode, which
SQLite would refuse.
"""

import errno
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from vderain.batch.plan import Item
from vderain.errors import VderainError
from vderain.runtime.files import Fingerprint

State = Literal["waiting", "running", "written", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)
UNKNOWN = Fingerprint(0, 0, "")  # of a source that could not be read


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A frame of the report, before and after.

    Attributes:
        time_s: seconds from the beginning of the file.
        removed: mean light removed over the frame, in levels of 255.
        before, after: JPEG files, relative to OUTDIR, with forward slashes.
    """

    time_s: float
    removed: float
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What was made of a file.

    Attributes:
        frames, repeated, missing, dry, damage, kept, dropped, model, device: as in `process.Result`.
        media_s: duration of the result in seconds.
        thumbnails: the rainiest frames, in order of time.
    """

    frames: int = 0
    repeated: int = 0
    missing: int = 0
    dry: int = 0
    damage: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    model: str = ""
    device: str = ""
    media_s: float = 0.0
    thumbnails: tuple[Thumbnail, ...] = ()

    @property
    def rainiest(self) -> Thumbnail | None:
        return max(self.thumbnails, key=lambda thumbnail: thumbnail.removed, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a file failed: the parts of a `VderainError`."""

    error: str
    cure: str
    exit_code: int

    @staticmethod
    def of(error: VderainError) -> "Failure":
        return Failure(error=error.what, cure=error.cure, exit_code=error.exit_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One file of a batch.

    Attributes:
        item: the file and the place of its result, which is the key of the record.
        fingerprint: of the source when its processing began.
        settings: the options that affect the result, as JSON.
        weights: SHA-256 of the weights, or empty where no network runs.
        state: ``written`` means complete and verified, but not yet renamed to its final name.
        run: the run that works on the file, or worked on it last.
        attempts: how often processing has begun since the file was last done.
        draft: path of a written result below OUTDIR, until it has its final name.
        result, failure: of a file that is done, or has failed.
        bytes_out, mtime_out_ns: size and time of the result; how a result is recognised as written by vderain.
        seconds: wall-clock time.
        finished_at: ISO 8601, or empty.
    """

    item: Item
    fingerprint: Fingerprint = UNKNOWN
    settings: str = ""
    weights: str = ""
    state: State = "waiting"
    run: str = ""
    attempts: int = 0
    draft: str = ""
    result: FileResult = field(default_factory=FileResult)
    failure: Failure | None = None
    bytes_out: int = 0
    mtime_out_ns: int = 0
    seconds: float = 0.0
    finished_at: str = ""

    @property
    def target(self) -> str:
        return self.item.target

    @property
    def is_open(self) -> bool:
        """Whether this file can still become done: it is being worked on, or its source exists."""
        return self.state in ("running", "written") or (self.state != "done" and os.path.lexists(self.item.source))

    def is_intact(self, outdir: Path) -> bool:
        """Whether the file under the target's name is the one that this record describes."""
        with suppress(OSError):
            stat = (outdir / self.target).stat()
            return (stat.st_size, stat.st_mtime_ns) == (self.bytes_out, self.mtime_out_ns)
        return False

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str | bytes) -> "Record":
        """Reads what `to_json` wrote; fields that a newer version added are ignored.

        Raises:
            ValueError: this is not a record.
        """
        try:
            values = json.loads(text)
            if values["state"] not in STATES:
                raise ValueError(f"unknown state {values['state']!r}")
            source, result, failure = Path(values["item"]["source"]), values["result"], values["failure"]
            lists = {name: tuple(value) for name, value in result.items() if isinstance(value, list)}
            thumbnails = tuple(Thumbnail(**_known(Thumbnail, each)) for each in result["thumbnails"])
            parts = {
                "item": Item(**_known(Item, values["item"]) | {"source": source}),
                "fingerprint": Fingerprint(**_known(Fingerprint, values["fingerprint"])),
                "result": FileResult(**_known(FileResult, result) | lists | {"thumbnails": thumbnails}),
                "failure": Failure(**_known(Failure, failure)) if failure else None,
            }
            return Record(**_known(Record, values) | parts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a record of a batch: {error}") from error


def is_done(outdir: Path, known: Record | None, wanted: Record) -> bool:
    """Whether a file needs no work.

    Args:
        outdir: the folder of results.
        known: the file's record in the ledger.
        wanted: the file as it is now, with the settings and weights asked for.

    Returns:
        Whether an intact result of the same source, settings and weights exists.
    """
    return (
        known is not None
        and known.state == "done"
        and (known.fingerprint, known.settings, known.weights) == (wanted.fingerprint, wanted.settings, wanted.weights)
        and known.is_intact(outdir)
    )


class Journal:
    """An append-only file with one line of JSON for each finished result; a lost ledger is rebuilt from it.

    Args:
        path: the file, which may not exist yet; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Record) -> None:
        """Adds a line in a single write, because other runs append to the same file.

        Raises:
            OSError: the disk is full.
        """
        line = record.to_json().encode("ascii") + b"\n"
        with self._path.open("a+b", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line  # after a line cut off by a kill or a full disk
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def records(self) -> dict[str, Record]:
        """The last record of each target; incomplete lines are skipped."""
        records: dict[str, Record] = {}
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    record = Record.from_json(line)
                    records[record.target] = record
        return records


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
