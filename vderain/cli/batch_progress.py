"""Shows the progress of a batch: as a live table, plain lines or JSON events."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import singledispatchmethod
from typing import Any

from rich.table import Table

from vderain.batch.events import Ended, Event, Planned, Retried, Started, Summary, Warned
from vderain.batch.record import Record
from vderain.batch.workers.task import Progressed
from vderain.cli.console import EVENT_EVERY_S, counted, err, format_time, one_line, out, print_error

SPEED_OVER_S = 30.0  # frames a second are those of the last while


class BatchDisplay:
    """Keeps count of what happens; says nothing but failures.

    Attributes:
        items: how many files are to be done.
        ended: how many of them are done or failed.
        failed: how many failed.
    """

    def __init__(self) -> None:
        self.items = self.ended = self.failed = self.skipped = 0
        self.now: dict[str, _Current] = {}
        self._bytes = self._bytes_ended = 0
        self._working_s: float | None = None  # since when: the first worker has to be started, and loads a model
        self._frames: list[tuple[float, int]] = []  # when, how many since the last time

    def tell(self, told: Event) -> None:
        """Counts, and shows."""
        self._count(told)
        self._show(told)

    def close(self, summary: Summary) -> None:
        """Says what came of it all."""

    @property
    def fps(self) -> float:
        """Frames a second, of all workers together, in the last while."""
        now_s = time.monotonic()
        self._frames = [(when_s, count) for when_s, count in self._frames if now_s - when_s < SPEED_OVER_S]
        return sum(count for _, count in self._frames) / max(1e-3, min(SPEED_OVER_S, self._elapsed_s))

    @property
    def left_s(self) -> float | None:
        """Time left, by the bytes of the inputs."""
        done = self._bytes_ended + sum(current.share * current.size_bytes for current in self.now.values())
        return self._elapsed_s * (self._bytes - done) / done if done > 0 and self._bytes else None

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._working_s if self._working_s else 0.0

    def _show(self, told: Event) -> None:
        if isinstance(told, Ended) and told.record.state == "failed":
            failure = told.record.failure
            assert failure is not None
            print_error(failure.error, failure.cure, f"{told.record.item.name}: ")

    @singledispatchmethod
    def _count(self, told: Any) -> None:
        """Nothing to count."""

    @_count.register
    def _(self, told: Planned) -> None:
        self.items += len(told.items)
        self.skipped += told.done
        self._bytes += told.todo_bytes

    @_count.register
    def _(self, told: Started) -> None:
        self.now[told.item.target] = _Current(one_line(told.item.name), told.size_bytes)

    @_count.register
    def _(self, told: Progressed) -> None:
        self._working_s = self._working_s or time.monotonic()
        current = self.now.get(told.target)
        if current is not None:
            progress = told.progress
            self._frames.append((time.monotonic(), progress.frames - current.frames))
            current.frames = progress.frames
            current.share = min(1.0, progress.done_s / progress.total_s) if progress.total_s else 0.0

    @_count.register
    def _(self, told: Retried) -> None:
        self.now.pop(told.target, None)

    @_count.register
    def _(self, told: Ended) -> None:
        current = self.now.pop(told.record.target, None)
        self.ended += 1
        self.failed += told.record.state == "failed"
        self._bytes_ended += told.record.fingerprint.size_bytes
        if current is not None and told.record.state == "done":
            self._frames.append((time.monotonic(), max(0, told.record.result.frames - current.frames)))


class _Current:
    """A file that is worked on."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes = name, size_bytes
        self.frames, self.share = 0, 0.0


class Quietly(BatchDisplay):
    """Failures only."""


class Lines(BatchDisplay):
    """A line on stderr for each file that ended, and a summary."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def _show(self, told: Event) -> None:
        super()._show(told)
        if isinstance(told, Ended) and told.record.state == "done":
            left = f", {format_time(self.left_s)} left" if self.left_s else ""
            err.print(one_line(f"{self.ended} of {self.items}: {_done(told.record)}{left}"), markup=False)
        elif isinstance(told, Retried):
            err.print(one_line(f"vderain: {told.target}: {told.error} It is tried again."), markup=False)
        elif isinstance(told, Warned):
            lines = told.text.strip().splitlines()
            lines = lines if self._verbose else lines[-1:]  # of a trace, what it was
            err.print("\n".join(map(one_line, [f"vderain: {told.target}: {lines[0]}", *lines[1:]])), markup=False)

    def close(self, summary: Summary) -> None:
        _say(summary)


class Events(BatchDisplay):
    """JSON lines on stdout."""

    def __init__(self) -> None:
        super().__init__()
        self._moved_s: dict[str, float] = {}

    def _show(self, told: Event) -> None:
        super()._show(told)
        event = self._event(told)
        if event is not None:
            out.print(json.dumps(event, default=str), markup=False)

    def _event(self, told: Event) -> dict[str, Any] | None:
        if isinstance(told, Planned):
            return {"event": "planned", "files": len(told.items), "done": told.done, "bytes": told.todo_bytes}
        if isinstance(told, Started):
            facts = {"target": told.item.target, "source": str(told.item.source), "group": told.item.group}
            return {"event": "began", **facts, "attempt": told.attempt}
        if isinstance(told, Progressed):
            return self._progress(told)
        if isinstance(told, Ended):
            return {"event": "ended", **_facts(told.record)}
        return {"event": "retried" if isinstance(told, Retried) else "said", **asdict(told)}

    def _progress(self, told: Progressed) -> dict[str, Any] | None:
        now_s = time.monotonic()
        if now_s - self._moved_s.get(told.target, 0.0) < EVENT_EVERY_S:
            return None
        self._moved_s[told.target] = now_s
        current = self.now.get(told.target)
        share = round(current.share, 3) if current else None
        left_s = round(self.left_s, 1) if self.left_s is not None else None
        facts = {"target": told.target, "frames": told.progress.frames, "share": share}
        return {"event": "progress", **facts, "fps": round(self.fps, 2), "left_s": left_s}

    def close(self, summary: Summary) -> None:
        counts = {"done": len(summary.done), "failed": len(summary.failed), "skipped": summary.skipped}
        counts["known"] = summary.known
        rest = {"waiting": summary.waiting, "seconds": round(summary.seconds, 3), "report": summary.report}
        stopped = {"interrupted": summary.stopped}
        out.print(json.dumps({"event": "summary", **counts, **rest, **stopped}, default=str), markup=False)


class Live(Lines):
    """A table that stays at the foot of a terminal."""

    def __enter__(self) -> "Live":
        from rich.live import Live as Screen

        self._screen = Screen(console=err, get_renderable=self._table, refresh_per_second=4, transient=True)
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
        for current in list(self.now.values()):
            bar = ProgressBar(total=1.0, completed=current.share)
            table.add_row(Text(current.name, overflow="ellipsis", no_wrap=True), bar, f"{current.share:.0%}")
        return table


@contextmanager
def batch_display(quiet: bool, as_json: bool, verbose: bool) -> Iterator[BatchDisplay]:
    """The way of watching that fits where stderr goes."""
    if as_json:
        yield Events()
    elif quiet:
        yield Quietly()
    elif not err.is_terminal:
        yield Lines(verbose)
    else:
        with Live(verbose) as live:
            yield live


def _facts(record: Record) -> dict[str, Any]:
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


def _done(record: Record) -> str:
    result = record.result
    damage = f", {counted(result.repeated, 'damaged frame')} bridged" if result.repeated else ""
    damage += f", {counted(result.missing, 'frame')} missing" if result.missing else ""
    lost = f", not kept: {', '.join(result.dropped)}" if result.dropped else ""
    rate = result.frames / max(1e-6, record.seconds)
    frames = counted(result.frames, "frame")
    return f"{record.target}: {frames}{damage}{lost} in {format_time(record.seconds)} ({rate:.1f} frames/s)"


def _say(summary: Summary) -> None:
    """The table and the line at the end."""
    ended = [*summary.done, *summary.failed]
    if ended:
        out.print(_by_camera(ended))
    known = f" ({summary.known} known to be damaged)" if summary.known else ""
    parts = [f"{len(summary.done)} done", f"{len(summary.failed)} failed{known}"]
    parts += [f"{summary.skipped} done before"] if summary.skipped else []
    parts += [f"{summary.waiting} still to do"] if summary.waiting else []
    stopped = "interrupted: " if summary.stopped else ""
    page = f" The report is {summary.report}." if summary.report else ""
    again = " Run the same command again to go on." if summary.waiting else ""
    again += " Damaged files are tried again with --retry-failed." if summary.known else ""
    out.print(f"{stopped}{', '.join(parts)} in {format_time(summary.seconds)}.{page}{again}", markup=False)


def _by_camera(records: list[Record]) -> Table:
    from rich import box

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(("", "done", "failed", "frames", "bridged", "dry", "plays", "in", "out")):
        table.add_column(name, justify="right" if number else "left")
    groups = sorted({record.item.group for record in records})
    for group in groups:
        table.add_row(group or "files", *_sums([record for record in records if record.item.group == group]))
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
        f"{sum(r.fingerprint.size_bytes for r in done) / 1e6:.1f} MB", f"{sum(r.bytes_out for r in done) / 1e6:.1f} MB",
    ]  # fmt: skip
