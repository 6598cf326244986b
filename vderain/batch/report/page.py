"""The page of a batch: what is known of each file enters, OUTDIR/report.html leaves, which opens from disk.

The page is whole in itself. It asks for nothing but the pictures beside it, and its own policy would not let it: only
the one script and the one style sheet whose hashes it names may run. Whatever comes from outside, names of files above
all, is escaped by the template engine. Cells and details are filled in here; the script only sorts, filters and opens.
"""

import base64
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vderain import __version__
from vderain.batch.report.thumbnails import Thumbnail
from vderain.errors import OutputError

NAME = "report.html"
HERE = Path(__file__).parent
LISTED = 12  # lines of damage of one file; a broken card can have thousands
PAGE = 1000  # files shown before one asks for more: what a browser lays out at once without lag
SHOWN_FIRST = 5  # of the rainiest frames of all files
STALE_S = 60  # of a temporary file: its writer was killed

State = Literal["done", "failed", "skipped", "waiting", "running"]
STATES: tuple[State, ...] = ("done", "failed", "skipped", "running", "waiting")


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One file of the batch.

    Attributes:
        source: path relative to the input's root.
        target: path relative to OUTDIR; None where there is none.
        group: ``front``, ``rear``, or empty.
        state: how far it is.
        attempts: how often it was begun.
        frames: written.
        repeated: frames that stand in for damaged ones.
        dry: frames left as they are because it does not rain in them.
        missing: frames that are not in a truncated or overwritten file.
        seconds: wall-clock time it took.
        media_s: how long it plays.
        bytes_in, bytes_out: sizes of the files.
        finished_at: ISO 8601, or empty.
        damage: what was broken, in words.
        dropped, kept: what of the file could not be kept, and what was.
        device: where it ran, in words.
        error, cure: what went wrong and what to do; or why it was skipped.
        exit_code: what `process` would have ended with.
        thumbnails: frames worth showing.
    """

    source: str
    target: str | None
    group: str
    state: State
    attempts: int
    frames: int
    repeated: int
    dry: int
    missing: int
    seconds: float
    media_s: float
    bytes_in: int
    bytes_out: int
    finished_at: str
    damage: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]
    device: str
    error: str
    cure: str
    exit_code: int
    thumbnails: tuple[Thumbnail, ...]


def write_report(outdir: Path, rows: Sequence[ReportRow], title: str, settings: Mapping[str, str]) -> Path:
    """Writes the page, under a temporary name until it is whole.

    Args:
        outdir: an existing folder; targets and moments are relative to it.
        rows: the files, in the order they are first shown in.
        title: headline of the page.
        settings: what the batch was told, in words.

    Returns:
        The page.

    Raises:
        OutputError: it cannot be written.
    """
    page, partial = outdir / NAME, outdir / f".{NAME}.{os.getpid()}.partial"
    text = _rendered(rows, title, settings)
    try:
        _clear_away(outdir)
        with partial.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the page
        partial.replace(page)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{page} cannot be written: {error.strerror}.", "Check the space left.") from error
    return page


@dataclass(frozen=True)
class _Totals:
    """Sums over all files."""

    rows: Sequence[ReportRow]

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.rows)

    @cached_property
    def groups(self) -> Counter[str]:
        return Counter(row.group for row in self.rows if row.group)

    @cached_property
    def marks(self) -> Counter[str]:
        return Counter(mark for row in self.rows for mark in _marks(row))

    @cached_property
    def rainiest(self) -> list[tuple[ReportRow, Thumbnail]]:
        """The best moment of each of a few files."""
        best = [(row, moment) for row in self.rows if (moment := _best(row)) is not None]
        return sorted(best, key=lambda pair: -pair[1].removed)[:SHOWN_FIRST]

    @cached_property
    def bytes_in(self) -> int:
        """Of those files that came out."""
        return sum(row.bytes_in for row in self.rows if row.bytes_out)

    def sum(self, field: str) -> float:
        values: list[float] = [getattr(row, field) for row in self.rows]
        return sum(values)


def _rendered(rows: Sequence[ReportRow], title: str, settings: Mapping[str, str]) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    style, script = ((HERE / name).read_text("utf-8") for name in ("report.css", "report.js"))
    return environment.get_template(NAME).render(
        rows=rows, title=title, settings=settings, total=_Totals(rows), states=STATES, listed=LISTED, page=PAGE,
        style=Markup(style), style_hash=_hash(style), script=Markup(script), script_hash=_hash(script),
        version=__version__, now=datetime.now().astimezone().isoformat(timespec="seconds"),
    )  # fmt: skip


def _clear_away(outdir: Path) -> None:
    """Removes temporary pages of writers that were killed."""
    for path in outdir.glob(f".{NAME}.*.partial"):
        with suppress(OSError):  # another writer is done with it
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def _hash(text: str) -> str:
    """As a content security policy names a script or a style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _best(row: ReportRow) -> Thumbnail | None:
    return max(row.thumbnails, key=lambda moment: moment.removed, default=None)


def _marks(row: ReportRow) -> list[str]:
    """What the page can be filtered by, besides the state."""
    damaged = bool(row.damage or row.repeated or row.missing)
    return ["damaged"] * damaged + ["not-kept"] * bool(row.dropped)


def _folder(path: str) -> str:
    parent, slash, _ = path.replace(os.sep, "/").rpartition("/")
    return parent + slash


def _link(path: str) -> str:
    """A relative path as an address; any name a file system allows, even one that is no Unicode."""
    return "./" + quote(os.fsencode(path.replace(os.sep, "/")))


def _clock(seconds: float) -> str:
    """0:07, 12:31 or 1:02:03; below ten seconds with a tenth."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _lasting(seconds: float) -> str:
    """Two units at most: 12 s, 4 min 05 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(whole / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _size(count: int) -> str:
    """Bytes with decimal units, as discs are sold."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _share(part: float, whole: float) -> str:
    """A percentage that is 100 only of all and 0 only of none."""
    if not whole or part in (0, whole):
        return "100 %" if whole and part else "0 %"
    return f"{min(99, max(1, round(100 * part / whole)))} %"


def _when(iso: str) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return iso


FILTERS: dict[str, Callable[..., Any]] = {
    "best": _best, "marks": _marks, "folder": _folder, "link": _link, "clock": _clock, "lasting": _lasting,
    "size": _size, "share": _share, "when": _when,
    "count": lambda number: f"{number:,}",
    "levels": lambda removed: f"{removed:.1f}" if removed >= 0.05 else "0",
    "name": lambda path: path.replace(os.sep, "/").rpartition("/")[2],
    "plural": lambda count, one: f"{count:,} {one}" + "s" * (count != 1),
}  # fmt: skip
