"""Records of a batch: the identity of a file, its state, and its result or failure.

The ledger and its journal store a record as one line of JSON. JSON escapes file names that are not valid Unicode, which
SQLite would refuse.
"""

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vderain import __version__
from vderain.batch.plan import Item
from vderain.errors import InputError, VderainError
from vderain.options import DryAction
from vderain.runtime.files import Fingerprint

State = Literal["waiting", "running", "written", "done", "failed"]
HIDDEN = ".vderain"  # the folder below OUTDIR for drafts, segments, locks and the journal
WORK = f"{HIDDEN}/work"  # drafts and segments
THUMBNAILS = "report"  # the folder of the images of the report
GPX_SUFFIX = ".gpx"
LARGEST = 2.0**62  # SQLite's integers have 64 bits
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
        untouched: what was done with a dry file instead: copied, linked or skipped; None where it was restored.
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
    untouched: DryAction | None = None
    media_s: float = 0.0
    thumbnails: tuple[Thumbnail, ...] = ()

    @property
    def rainiest(self) -> Thumbnail | None:
        return max(self.thumbnails, key=lambda thumbnail: thumbnail.removed, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a file failed: the parts of a `VderainError`, and the version of vderain that raised it."""

    error: str
    cure: str
    exit_code: int
    version: str = ""

    @staticmethod
    def of(error: VderainError) -> "Failure":
        return Failure(error=error.what, cure=error.cure, exit_code=error.exit_code, version=__version__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One file of a batch.

    Attributes:
        item: the file and the place of its result, which is the key of the record.
        fingerprint: of the source when its processing began.
        settings: the options that affect the result, as JSON.
        dry: what is done with the file if it is dry.
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
    dry: DryAction = "skip"
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

    def is_of_same_work(self, other: "Record") -> bool:
        """Whether both are about the same source, settings and weights."""
        return (self.fingerprint, self.settings, self.weights) == (other.fingerprint, other.settings, other.weights)

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

        A ledger may be damaged or written by someone else. Every value is checked, and every path must lie where a
        batch would put it.

        Raises:
            ValueError: this is not a record.
        """
        try:
            record = _reader(Record)(json.loads(text))
            _check_paths(record)
            if record.finished_at and not 1970 <= datetime.fromisoformat(record.finished_at).year < 9000:
                raise ValueError(f"impossible date {record.finished_at}")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a record of a batch: {error}") from error
        assert isinstance(record, Record)
        return record


def is_done(outdir: Path, known: Record | None, wanted: Record) -> bool:
    """Whether a file needs no work.

    Args:
        outdir: the folder of results.
        known: the file's record in the ledger.
        wanted: the file as it is now, with the settings and weights asked for.

    Returns:
        Whether an intact result of the same source, settings and weights exists, or the file is dry and was skipped.
    """
    if known is None or known.state != "done" or not known.is_of_same_work(wanted):
        return False
    if known.result.untouched not in (None, wanted.dry) and (known.result.untouched, wanted.dry) != ("copy", "skip"):
        return False  # a copy is there for the doubtful files of a run that skips dry ones
    return known.result.untouched == "skip" or known.is_intact(outdir)


def is_known_to_fail(known: Record | None, wanted: Record) -> bool:
    """Whether this version has found before that the source itself is damaged, so that another attempt is useless.

    Args:
        known: the file's record in the ledger.
        wanted: the file as it is now, with the settings and weights asked for.
    """
    return (
        known is not None
        and known.state == "failed"
        and known.failure is not None
        and (known.failure.exit_code, known.failure.version) == (InputError.exit_code, __version__)
        and known.is_of_same_work(wanted)
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
        with open(self._path, "a+b", buffering=0, opener=_no_link) as file:
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


_NO_NAMES = frozenset({"", ".", ".."})  # of files; an absolute path begins with an empty one


def _no_link(path: str, flags: int) -> int:
    """Opens a file, unless it is a link, which may lead out of OUTDIR."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A function that turns a value of JSON into the given type.

    Args:
        kind: a dataclass, or a type of one of the fields of the dataclasses in this module.

    Returns:
        The function. It raises KeyError, TypeError or ValueError for a value of another type, and for a number that is
        not finite or too large.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
        return lambda value: kind(**{name: read(value[name]) for name, read in readers.items() if name in value})
    if origin is tuple:
        read = _reader(arguments[0])
        return lambda values: tuple(map(read, _checked(values, list)))
    if origin in (UnionType, Union):  # X | None
        read = _reader(arguments[0])
        return lambda value: None if value is None else read(value)
    if origin is Literal:
        return lambda value: arguments[arguments.index(value)]
    if kind is Path:
        return lambda value: Path(_checked(value, str))
    if kind is str:
        return lambda value: value if type(value) is str else _checked(value, str)
    numbers = int if kind is int else (int, float)
    return lambda value: kind(value) if isinstance(value, numbers) and abs(value) < LARGEST else _checked(value, ())


def _checked(value: Any, kind: type | tuple[type, ...]) -> Any:
    if isinstance(value, kind):
        return value
    raise TypeError(f"{value!r:.50} is of another type, or too large")


def _check_paths(record: Record) -> None:
    """Checks that no path leads out of OUTDIR, and that a draft lies among the drafts.

    Raises:
        ValueError: one does, or no file can have this name.
    """
    thumbnails = [name for each in record.result.thumbnails for name in (each.before, each.after)]
    for path in (record.target, *filter(None, [record.draft]), *thumbnails):
        if os.path.splitdrive(path)[0] or not _NO_NAMES.isdisjoint(path.replace(os.sep, "/").split("/")):
            raise ValueError(f"a path that leads out of the folder of results: {path!r:.200}")
        if "\0" in path or not os.fsencode(path):
            raise ValueError(f"an impossible path: {path!r:.200}")
    if b"\0" in os.fsencode(record.item.source):
        raise ValueError("a NUL in a path")
    if record.draft and not record.draft.startswith(f"{HIDDEN}/"):
        raise ValueError(f"a draft in the wrong place: {record.draft!r:.200}")
    if record.run and not is_run_id(record.run):
        raise ValueError(f"not the name of a run: {record.run!r:.50}")


def is_run_id(text: object) -> bool:
    """Whether a text identifies a run; it becomes the name of a file."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{12}", text) is not None
