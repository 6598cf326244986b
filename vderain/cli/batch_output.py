"""Shows what a batch does: its progress as a live table, lines or JSON events, and its summary."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vderain.batch.events import Ended, Event, Planned, Retried, Started, Summary, Warned
from vderain.batch.record import Record
from vderain.batch.workers.task import Progressed
from vderain.cli.console import (
    EVENT_EVERY_S,
    counted,
    err,
    format_size,
    format_time,
    out,
    print_error,
    show,
)
from vderain.runtime.text import one_line

SPEED_OVER_S = 30.0  # the speed shown is the mean over this time


class _Current:
    """A file that a worker processes."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes = name, size_bytes
        self.frames, self.share = 0, 0.0


class BatchDisplay:
    """Counts events, and shows failures only (``--quiet``). Subclasses show more.

    Attributes:
        items: number of files to process.
        ended: how many of them are done or have failed.
        failed: how many failed.
        current: files in work, by target.
    """

    def __init__(self) -> None:
        self.items = self.ended = self.failed = 0
        self.current: dict[str, _Current] = {}
        self._bytes = self._bytes_ended = 0
        self._begin_s: float | None = None  # of the first frame: workers have to start, and load a model
        self._frames: list[tuple[float, int]] = []  # time, and frames since the time before

    def tell(self, event: Event) -> None:
        """Count an event, and show it."""
        self._count(event)
        self._show(event)

    def close(self, summary: Summary) -> None:
        """Show the result of the run."""

    @property
    def fps(self) -> float:
        """Frames per second of all workers together, over the last `SPEED_OVER_S`."""
        now_s = time.monotonic()
        self._frames = [(when_s, count) for when_s, count in self._frames if now_s - when_s < SPEED_OVER_S]
        return sum(count for _, count in self._frames) / max(1e-3, min(SPEED_OVER_S, self._elapsed_s))

    @property
    def left_s(self) -> float | None:
        """Remaining time, estimated from the sizes of the inputs."""
        done = self._bytes_ended + sum(each.share * each.size_bytes for each in self.current.values())
        return self._elapsed_s * (self._bytes - done) / done if done > 0 and self._bytes else None

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s if self._begin_s else 0.0

    def _show(self, event: Event) -> None:
        if isinstance(event, Ended) and event.record.failure is not None:
            failure = event.record.failure
            print_error(failure.error, failure.cure, f"{event.record.item.name}: ")

    def _count(self, event: Event) -> None:
        match event:
            case Planned():
                self.items += len(event.items)
                self._bytes += event.todo_bytes
            case Started():
                self.current[event.item.target] = _Current(one_line(event.item.name), event.size_bytes)
            case Progressed():
                self._count_progress(event)
            case Retried():
                self.current.pop(event.target, None)
            case Ended():
                self._count_ended(event.record)

    def _count_progress(self, event: Progressed) -> None:
        now_s, progress = time.monotonic(), event.progress
        self._begin_s = self._begin_s or now_s
        current = self.current.get(event.target)
        if current is not None:
            self._frames.append((now_s, progress.frames - current.frames))
            current.frames = progress.frames
            current.share = min(1.0, progress.done_s / progress.total_s) if progress.total_s else 0.0

    def _count_ended(self, record: Record) -> None:
        current = self.current.pop(record.target, None)
        self.ended += 1
        self.failed += record.state == "failed"
        self._bytes_ended += record.fingerprint.size_bytes
        if current is not None and record.state == "done":
            self._frames.append((time.monotonic(), max(0, record.result.frames - current.frames)))


class _Lines(BatchDisplay):
    """Prints a line to stderr for each file that ended, and a summary."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def _show(self, event: Event) -> None:
        super()._show(event)
        match event:
            case Ended() if event.record.state == "done":
                left = f", {format_time(self.left_s)} left" if self.left_s else ""
                self._print(f"{self.ended} of {self.items}: {_done_line(event.record)}{left}")
            case Retried():
                self._print(f"vderain: {event.target}: {event.error} It is tried again.")
            case Warned():
                lines = event.text.strip().splitlines()
                first, *rest = lines if self._verbose else lines[-1:]  # the last line of a traceback names the error
                self._print(f"vderain: {event.target}: {first}", *rest)

    def _print(self, *lines: str) -> None:
        err.print("\n".join(map(one_line, lines)), markup=False)

    def close(self, summary: Summary) -> None:
        _print_summary(summary)


class _JsonEvents(BatchDisplay):
    """Prints a JSON object to stdout for each event."""

    def __init__(self) -> None:
        super().__init__()
        self._shown_s: dict[str, float] = {}  # by target: when progress was printed last

    def _show(self, event: Event) -> None:
        super()._show(event)
        facts = self._facts(event)
        if facts is not None:
            out.print(json.dumps(facts, default=str), markup=False)

    def _facts(self, event: Event) -> dict[str, Any] | None:
        match event:
            case Planned():
                return {
                    "event": "planned", "files": len(event.items), "done": event.done, "bytes": event.todo_bytes,
                }  # fmt: skip
            case Started(item=item):
                return {
                    "event": "began", "target": item.target, "source": str(item.source), "group": item.group,
                    "attempt": event.attempt,
                }  # fmt: skip
            case Progressed():
                return self._progress_facts(event)
            case Ended():
                return {"event": "ended", **_record_facts(event.record)}
        return {"event": "retried" if isinstance(event, Retried) else "said", **asdict(event)}

    def _progress_facts(self, event: Progressed) -> dict[str, Any] | None:
        now_s = time.monotonic()
        if now_s - self._shown_s.get(event.target, 0.0) < EVENT_EVERY_S:
            return None
        self._shown_s[event.target] = now_s
        current = self.current.get(event.target)
        return {
            "event": "progress", "target": event.target, "frames": event.progress.frames,
            "share": round(current.share, 3) if current else None, "fps": round(self.fps, 2),
            "left_s": round(self.left_s, 1) if self.left_s is not None else None,
        }  # fmt: skip

    def close(self, summary: Summary) -> None:
        facts = {
            "event": "summary", "done": len(summary.done), "dry": len(summary.dry),
            "failed": len(summary.failed), "skipped": summary.skipped,
            "known": summary.known,
            "waiting": summary.waiting, "seconds": round(summary.seconds, 3), "report": summary.report,
            "interrupted": summary.stopped,
        }  # fmt: skip
        out.print(json.dumps(facts, default=str), markup=False)


class _Live(_Lines):
    """Shows a table of the files in work at the bottom of a terminal, below the lines."""

    def __enter__(self) -> "_Live":
        from rich.live import Live

        self._screen = Live(console=err, get_renderable=self._table, refresh_per_second=4, transient=True)
        self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.stop()

    def close(self, summary: Summary) -> None:
        self._screen.stop()
        super().close(summary)

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        left = f", {format_time(self.left_s)} left" if self.left_s is not None else ""
        failures = f", {self.failed} failed" if self.failed else ""
        title = f"{self.ended} of {counted(self.items, 'file')}{failures}, {self.fps:.1f} frames/s{left}"
        table = Table(title=title, title_justify="left", box=None, show_header=False, expand=True, padding=(0, 1, 0, 0))
        table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=3)
        table.add_column(justify="right", width=5)
        for each in list(self.current.values()):
            bar = ProgressBar(total=1.0, completed=each.share)
            table.add_row(Text(each.name, overflow="ellipsis", no_wrap=True), bar, f"{each.share:.0%}")
        return table


@contextmanager
def batch_display(quiet: bool, as_json: bool, verbose: bool) -> Iterator[BatchDisplay]:
    """Choose a display by the flags, and by whether stderr is a terminal."""
    if as_json:
        yield _JsonEvents()
    elif quiet:
        yield BatchDisplay()
    elif not err.is_terminal:
        yield _Lines(verbose)
    else:
        with _Live(verbose) as live:
            yield live


def _record_facts(record: Record) -> dict[str, Any]:
    """A record as the flat JSON object of the event ``ended``."""
    item, failure = record.item, record.failure
    result = {name: value for name, value in asdict(record.result).items() if name != "thumbnails"}
    return {
        "target": item.target, "source": str(item.source), "name": item.name, "group": item.group,
        "size_bytes": record.fingerprint.size_bytes, "weights": record.weights, "state": record.state,
        "attempts": record.attempts, **result, "bytes_out": record.bytes_out, "seconds": record.seconds,
        "finished_at": record.finished_at, "error": failure.error if failure else "",
        "cure": failure.cure if failure else "", "exit_code": failure.exit_code if failure else 0,
    }  # fmt: skip


def _done_line(record: Record) -> str:
    from vderain.media.frame import listing

    result = record.result
    if result.untouched:
        done = {"copy": "copied", "link": "linked", "skip": "skipped"}[result.untouched]
        bad = result.repeated + result.missing
        damage = f", {counted(bad, 'frame')} damaged or missing" if bad else ""
        return f"{record.target}: dry, {done}{damage}, in {format_time(record.seconds)}"
    damage = f", {counted(result.repeated, 'damaged frame')} concealed" if result.repeated else ""
    damage += f", {counted(result.missing, 'frame')} missing" if result.missing else ""
    lost = f", not kept: {listing(result.dropped)}" if result.dropped else ""
    rate = result.frames / max(1e-6, record.seconds)
    frames = counted(result.frames, "frame")
    return f"{record.target}: {frames}{damage}{lost} in {format_time(record.seconds)} ({rate:.1f} frames/s)"


def _print_summary(summary: Summary) -> None:
    ended = [*summary.done, *summary.failed]
    if ended:
        out.print(_table_by_group(ended))
    known = f" ({summary.known} known to be damaged)" if summary.known else ""
    dry = f" ({len(summary.dry)} dry and left untouched)" if summary.dry else ""
    parts = [f"{len(summary.done)} done{dry}", f"{len(summary.failed)} failed{known}"]
    parts += [f"{summary.skipped} done before"] if summary.skipped else []
    parts += [f"{summary.waiting} still to do"] if summary.waiting else []
    stopped = "interrupted: " if summary.stopped else ""
    page = f" The report is {summary.report}." if summary.report else ""
    again = " Run the same command again to continue." if summary.waiting else ""
    again += " Damaged files are tried again with --retry-failed." if summary.known else ""
    show(f"{stopped}{', '.join(parts)} in {format_time(summary.seconds)}.{page}{again}")


def _table_by_group(records: list[Record]) -> Table:
    """A row of sums for each group (a camera or folder). On narrow terminals only the first column gets shorter."""
    from rich import box
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="ellipsis")
    for name in ("done", "failed", "frames", "damaged", "dry", "length", "in", "out"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = sorted({record.item.group for record in records})
    for group in groups:
        table.add_row(
            Text(one_line(group or "files")), *_sums([record for record in records if record.item.group == group])
        )
    if len(groups) > 1:
        table.add_row("all", *_sums(records))
    return table


def _sums(records: list[Record]) -> list[str]:
    done = [record for record in records if record.state == "done"]
    results = [record.result for record in done]
    return [
        str(len(done)), str(len(records) - len(done)), str(sum(r.frames for r in results)),
        str(sum(r.repeated + r.missing for r in results)), str(sum(r.dry for r in results)),
        format_time(sum(r.media_s for r in results)),
        format_size(sum(r.fingerprint.size_bytes for r in done)),
        format_size(sum(r.bytes_out for r in done if r.result.untouched != "skip")),
    ]  # fmt: skip
