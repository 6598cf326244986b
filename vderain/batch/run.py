"""Runs a batch: hands the files of a plan to workers, records their outcomes in the ledger, and emits events."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vderain.batch.events import Ended, EventHandler, Planned, Retried, Started, Summary, Warned
from vderain.batch.ledger import Ledger
from vderain.batch.plan import Item
from vderain.batch.policy import RetryPolicy
from vderain.batch.record import Failure, FileResult, Record, is_known_to_fail
from vderain.batch.result_folder import ResultFolder, thumbnail_folder, work_folder
from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent, Workers
from vderain.errors import InputError, OutputError, UsageError, VderainError
from vderain.media.encode import CAP_FACTOR
from vderain.options import Options, settings, weights
from vderain.runtime.files import fingerprint
from vderain.runtime.threads import StopFlag

POLL_S = 0.1
RECOVER_EVERY_S = 0.5  # between looks at the files of concurrent runs


class Run:
    """One run over the files of a plan.

    Args:
        ledger: open ledger of the folder of results.
        options: the user's choices for each file.
        policy: how to treat failures.
        emit: receives every event.
        stop: ends the run when set; unfinished files can be resumed by another run.
    """

    def __init__(
        self, *, ledger: Ledger, options: Options, policy: RetryPolicy, emit: EventHandler, stop: StopFlag
    ) -> None:  # fmt: skip
        self.ledger, self.options, self.policy, self.emit, self.stop = ledger, options, policy, emit, stop
        self.outdir = ledger.outdir
        self._folder = ResultFolder(ledger)
        self.settings, self.weights = settings(options), weights(options)
        self.summary = Summary()
        self._waiting: dict[str, Record] = {}  # by target, in the order of the plan
        self._elsewhere: dict[str, Record] = {}  # a concurrent run is processing these
        self._running: dict[str, _Running] = {}
        self._attempts: Counter[str] = Counter()
        self._started_s = time.monotonic()
        self._recovered_s = 0.0

    @property
    def todo(self) -> Sequence[Item]:
        """The files that wait for a worker, in order."""
        return [record.item for record in self._waiting.values()]

    def add(self, items: Iterable[Item]) -> None:
        """Queues the files that are not done yet; counts the others as skipped, or as failed where they are damaged."""
        known = self.ledger.records()
        todo: list[Record] = []
        unreadable: list[tuple[Item, InputError]] = []
        damaged: list[Record] = []
        retry = self.policy.retry_failed or self.options.overwrite
        done = 0
        for item in items:
            try:  # reading a long list from a slow card takes time, which a stopped run does not have
                wanted = self._wanted(item) if not self.stop.is_set() else self._unread(item)
            except InputError as error:
                unreadable.append((item, error))
                continue
            before = known.get(item.target)
            if self.ledger.is_done(before, wanted):
                done += 1
            elif before is not None and is_known_to_fail(before, wanted) and not retry:
                damaged.append(before)
            else:
                todo.append(wanted)
        if todo:
            self.ledger.register(todo)
        queued = self._waiting | self._elsewhere
        new = [wanted for wanted in todo if wanted.target not in queued]
        self._waiting |= {wanted.target: wanted for wanted in todo if wanted.target not in self._elsewhere}
        self.summary.skipped += done
        planned = (*(each.item for each in (*new, *damaged)), *(item for item, _ in unreadable))
        self.emit(Planned(planned, sum(each.fingerprint.size_bytes for each in (*new, *damaged)), done))
        for record in damaged:
            self.summary.known += record.target not in self.summary.ended
            self._end(record)
        for item, reason in unreadable:
            self._fail_unreadable(item, reason)

    def work(
        self, workers: Workers, poll_new_files: Callable[[], Iterable[Item] | None] = lambda: None,
        on_idle: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        """Processes all queued files.

        Args:
            workers: carry out the tasks.
            poll_new_files: called regularly; returns further files, or None once there will be no more.
            on_idle: called whenever everything is done and more files may come.
        """
        more_expected, idle = True, False
        while not self.stop.is_set():
            if more_expected:
                new = poll_new_files()
                more_expected = new is not None
                if new:
                    self.add(new)
            self._start_tasks(workers)
            if not (self._running or self._waiting or self._elsewhere or more_expected):
                break
            if self._running:
                idle = False
            elif not (self._waiting or idle):
                idle = True
                on_idle()
            for event in workers.poll(POLL_S):
                self._handle(event)
            if self.policy.fail_fast and len(self.summary.failed) > self.summary.known:
                break
            self._recheck_elsewhere()
            self.ledger.heartbeat()

    def check_space(self) -> None:
        """Checks before any work that the disk has room for the results.

        Raises:
            VderainError: it has not.
        """
        sizes = [record.fingerprint.size_bytes for record in self._waiting.values()]
        need_bytes = CAP_FACTOR * (sum(sizes) + max(sizes, default=0))  # one result lies beside its own segments
        free_bytes = shutil.disk_usage(self.outdir).free
        if free_bytes < need_bytes:
            raise VderainError(
                f"{self.outdir} has {free_bytes / 1e9:.1f} GB free, and about {need_bytes / 1e9:.1f} GB are needed.",
                "Free some space, choose another folder with -o, or begin with some of the files (--include).",
            )

    def close(self, workers: Workers | None = None) -> Summary:
        """Stops the workers, releases unfinished files, and sums up."""
        if workers is not None:
            workers.close()
        for target in self._running:
            with suppress(OutputError):  # a full disk: the next run finds that this one is dead
                self.ledger.release(target)
            self._folder.remove_drafts(target)
        self.summary.waiting = len(self._running) + len(self._waiting) + len(self._elsewhere)
        self.summary.stopped = self.stop.is_set()
        self.summary.seconds = time.monotonic() - self._started_s
        if not (self.summary.waiting or self.summary.stopped):
            self._folder.remove_abandoned_work()
        return self.summary

    def write_report(self, title: str, choices: dict[str, str]) -> Path:
        """Writes the report about all files that are done, may still be done, or have failed in this run.

        Args:
            title: headline.
            choices: what the user chose, by name, for display.

        Raises:
            OutputError: it cannot be written.
        """
        from vderain.batch.report.page import write_report  # Jinja is needed only at the end

        records = [
            record
            for record in self.ledger.records().values()
            if record.state == "done" or record.is_open or record.target in self.summary.ended
        ]
        self.summary.report = write_report(self.outdir, records, title, choices)
        return self.summary.report

    def _wanted(self, item: Item) -> Record:
        """The record of a file to process, as it is now."""
        return replace(self._unread(item), fingerprint=fingerprint(item.source))

    def _unread(self, item: Item) -> Record:
        return Record(item=item, settings=self.settings, dry=self.options.dry, weights=self.weights)

    def _start_tasks(self, workers: Workers) -> None:
        """Hands waiting files to idle workers."""
        while self._waiting and workers.idle and not self.stop.is_set():
            item = self._waiting.pop(next(iter(self._waiting))).item
            try:
                wanted = self._wanted(item)  # once more: it may have waited for hours
            except InputError as error:
                self._fail_unreadable(item, error)
                continue
            if item.target in self._running:  # it has changed while it is being processed
                self._elsewhere[item.target] = wanted
                continue
            claim = self.ledger.claim(wanted)
            if claim == "busy":
                self._elsewhere[item.target] = wanted
            elif claim == "mine":
                self._start_task(workers, wanted)
            else:
                self._accept_other_runs_record(item)

    def _start_task(self, workers: Workers, wanted: Record) -> None:
        item = wanted.item
        self._attempts[item.target] += 1
        running = _Running(wanted)
        try:
            self._folder.check_target(item, self.options)
        except VderainError as error:
            self._fail(running, Failure.of(error))
            return
        self._running[item.target] = running
        self.emit(Started(item, wanted.fingerprint.size_bytes, self._attempts[item.target]))
        self._folder.remove_drafts(item.target)
        workers.start(
            Task(
                target=item.target,
                source=item.source,
                outdir=self.outdir.absolute(),  # FFmpeg would read a folder called file:NAME as a URL
                work_folder=work_folder(item.target),
                thumbnail_folder=thumbnail_folder(item.target),
                options=replace(self.options, overwrite=True),  # of the draft; the target has been checked
                segment_frames=self.policy.segment_frames,
            )
        )

    def _handle(self, event: TaskEvent) -> None:
        """Acts on what a worker reports."""
        running = self._running.get(event.target)
        if running is None:
            return
        if isinstance(event, Progressed):
            running.working_since_s = running.working_since_s or time.monotonic()
            self.emit(event)
            return
        del self._running[event.target]
        if event.failure and event.fatal_for_batch:
            self.ledger.release(event.target)
            raise UsageError(event.failure.error, event.failure.cure)
        for text in event.warnings:
            self.emit(Warned(event.target, text))
        if event.failure is None and event.result.untouched == "skip":
            record = replace(self._finished(running), failure=None, result=event.result)
            shutil.rmtree(self.outdir / work_folder(event.target), ignore_errors=True)
            self._end(self.ledger.skip(record))
        elif event.failure is None:
            self._publish(running, event)
        elif event.retryable and self._attempts[event.target] <= self.policy.retries:
            self.emit(Retried(event.target, event.failure.error, self._attempts[event.target]))
            self.ledger.release(event.target)
            self._waiting.setdefault(event.target, running.wanted)
        else:
            self._fail(running, event.failure)

    def _publish(self, running: "_Running", outcome: Outcome) -> None:
        """Gives a result its final name, and removes what lay beside the draft."""
        draft = self.outdir / outcome.draft
        stat = draft.stat()
        record = replace(
            self._finished(running), failure=None, draft=outcome.draft, result=outcome.result,
            bytes_out=stat.st_size, mtime_out_ns=stat.st_mtime_ns,
        )  # fmt: skip
        try:
            self._folder.check_target(record.item, self.options)  # once more: a file may have appeared there meanwhile
            record = self.ledger.publish(record)
        except OutputError as error:
            self._folder.remove_drafts(record.target)
            self._fail(running, Failure.of(error))
            return
        shutil.rmtree(draft.parent.parent, ignore_errors=True)
        self._folder.remove_old_thumbnails(record)
        self._end(record)

    def _fail(self, running: "_Running", failure: Failure) -> None:
        record = replace(self._finished(running), state="failed", failure=failure, result=FileResult())
        self.ledger.fail(record)
        with suppress(OSError):
            (self.outdir / work_folder(record.target)).rmdir()  # stays where it holds segments
        self._end(record)

    def _fail_unreadable(self, item: Item, error: VderainError) -> None:
        unread = self._unread(item)
        self.ledger.register([unread])
        self._fail(_Running(unread), Failure.of(error))

    def _end(self, record: Record) -> None:
        self.summary.ended[record.target] = record
        self.emit(Ended(record))

    def _finished(self, running: "_Running") -> Record:
        """The ledger's record of a file whose processing has ended just now."""
        record = self.ledger.record(running.wanted.target)
        assert record is not None
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return replace(record, seconds=running.working_s, finished_at=finished_at)

    def _accept_other_runs_record(self, item: Item) -> None:
        """A concurrent run has ended this file since this run began."""
        record = self.ledger.record(item.target)
        assert record is not None
        if record.state == "failed":
            self._end(record)
        else:
            self.summary.skipped += 1
            self.emit(Ended(record))

    def _recheck_elsewhere(self) -> None:
        """Queues the files of concurrent runs again: their runs may be dead, or done with them."""
        if not self._elsewhere or time.monotonic() - self._recovered_s < RECOVER_EVERY_S:
            return
        self._recovered_s = time.monotonic()
        self.ledger.recover()
        self._waiting |= self._elsewhere
        self._elsewhere.clear()


@dataclass(slots=True)
class _Running:
    """A file that a worker has; the clock starts when the worker, which may have to be started, begins with it."""

    wanted: Record
    working_since_s: float | None = None

    @property
    def working_s(self) -> float:
        return time.monotonic() - self.working_since_s if self.working_since_s else 0.0
