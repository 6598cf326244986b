"""Writes the HTML report of a batch: static pages without scripts, with pictures beside them, that open from disk.

A content security policy allows nothing but the page's own style sheet and its pictures. The template engine escapes
file names and everything else that comes from outside.
"""

import base64
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vderain import __version__
from vderain.batch.record import Record
from vderain.errors import OutputError
from vderain.runtime.files import publish, temporary_path, write_new
from vderain.runtime.text import one_line

NAME = "report.html"
HERE = Path(__file__).parent
FILES_PER_PAGE = 500  # what a browser lays out without delay
NEIGHBOURS = 5  # pages before and after, which a page has links to
_PARTIAL = ".partial"
_PARTIAL_S = 3600.0  # no page takes that long
LINES = 12  # of damage for one file; a broken card can have thousands
LABELS = {"failed": "failed", "running": "running", "written": "running", "waiting": "waiting", "done": "done"}
ORDER = list(LABELS)  # failures first


def write_report(outdir: Path, records: Sequence[Record], title: str, choices: Mapping[str, str]) -> Path:
    """Writes the report. Each page gets its name only when it is complete.

    Args:
        outdir: an existing folder, which all paths are relative to.
        records: the files; failed ones are listed first, the others in this order.
        title: headline.
        choices: what the user chose, by name.

    Returns:
        The first page.

    Raises:
        OutputError: a page cannot be written.
    """
    ranked = sorted(records, key=lambda record: ORDER.index(record.state))
    parts = [ranked[first : first + FILES_PER_PAGE] for first in range(0, len(ranked), FILES_PER_PAGE)] or [[]]
    names = [page_name(number) for number in range(1, len(parts) + 1)]
    template, style = _template(), (HERE / "report.css").read_text("utf-8")
    shared = {
        "title": title, "choices": choices, "total": _totals(records), "pages": names, "line_limit": LINES,
        "style": Markup(style), "style_hash": _csp_hash(style), "version": __version__,
        "now": datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip
    for index, (name, part) in enumerate(zip(names, parts, strict=True)):
        _write_page(outdir / name, template.render(shared, records=part, page=name, linked=_linked(names, index)))
    _remove_stale_pages(outdir, names)
    return outdir / NAME


def page_name(number: int) -> str:
    """``report.html``, ``report-2.html``, ``report-3.html``, ..."""
    return NAME if number == 1 else f"report-{number}.html"


def _linked(names: Sequence[str], index: int) -> list[tuple[int, str]]:
    """Number and name of the pages to link: the first, the neighbours, and the last."""
    near = range(max(0, index - NEIGHBOURS), min(len(names), index + NEIGHBOURS + 1))
    return [(each + 1, names[each]) for each in sorted({0, *near, len(names) - 1})]


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_clean,
    )  # fmt: skip
    environment.filters |= FILTERS
    return environment.get_template(NAME)


def _clean(value: Any) -> Any:
    """Text without characters that a browser would act on. Markup is of the page itself."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _totals(records: Sequence[Record]) -> dict[str, Any]:
    results = [record.result for record in records]
    return {
        "files": len(records),
        "states": Counter(LABELS[record.state] for record in records),
        "frames": sum(result.frames for result in results),
        "dry": sum(result.dry for result in results),
        "repeated": sum(result.repeated for result in results),
        "missing": sum(result.missing for result in results),
        "media_s": sum(result.media_s for result in results),
        "seconds": sum(record.seconds for record in records),
        "bytes_in": sum(record.fingerprint.size_bytes for record in records if record.state == "done"),
        "bytes_out": sum(record.bytes_out for record in records if _has_result(record)),
    }


def _has_result(record: Record) -> bool:
    return record.state == "done" and record.result.untouched != "skip"


def _write_page(page: Path, text: str) -> None:
    partial = temporary_path(page, f".{secrets.token_hex(4)}{_PARTIAL}")  # two runs may write one report
    try:
        try:
            write_new(partial, text.encode())
            publish(partial, page, overwrite=True)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{page} cannot be written: {error.strerror}.", "Check the space left.") from error


def _remove_stale_pages(outdir: Path, names: Sequence[str]) -> None:
    """Removes further pages of a longer report, and what a run left that was killed while it wrote one."""
    stale = [
        path for path in outdir.glob("report-*.html")
        if path.name not in names and path.stem.removeprefix("report-").isdecimal()
    ]  # fmt: skip
    with suppress(OSError):
        killed_before = time.time() - _PARTIAL_S
        stale += [path for path in outdir.glob(f".report*.html.*{_PARTIAL}") if path.lstat().st_mtime < killed_before]
    for path in stale:
        with suppress(OSError):
            path.unlink()


def _csp_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _link(path: str) -> str:
    """A relative path as a URL; file names need not be valid Unicode."""
    return "./" + quote(os.fsencode(path.replace(os.sep, "/")))


def _clock(seconds: float) -> str:
    """Formats a duration: 4.0 s, 0:12, 12:31 or 1:02:03."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _size(count: int) -> str:
    """Formats bytes in decimal units."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _share(part: float, whole: float) -> str:
    """Formats a percentage; 100 means all and 0 means none, exactly."""
    if not whole or part in (0, whole):
        return "100 %" if whole and part else "0 %"
    return f"{min(99, max(1, round(100 * part / whole)))} %"


def _when(iso: str) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return iso


# Mean light removed from the rainiest frame, in levels of 255, and its name for the reader of the report.
RAIN = ((4.0, "heavy"), (1.0, "moderate"), (0.05, "light"), (0.0, "none"))

FILTERS: dict[str, Callable[..., Any]] = {
    "clock": _clock, "link": _link, "share": _share, "size": _size, "when": _when,
    "count": lambda number: f"{number:,}",
    "label": LABELS.__getitem__,
    "has_result": _has_result,
    "rain": lambda removed: next(word for least, word in RAIN if removed >= least),
    "plural": lambda count, noun: f"{count:,} {noun}" + "s" * (count != 1),
}  # fmt: skip
