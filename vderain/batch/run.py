"""A run over many files: a plan, a ledger and workers enter; what happens is told, and what came of it leaves."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Event

from vderain.batch.events import Ended, EventHandler, Planned, Retried, Started, Summary, Warned
from vderain.batch.ledger import HIDDEN, TRACK, Ledger
from vderain.batch.plan import Item
from vderain.batch.policy import RetryPolicy
from vderain.batch.record import Record
from vderain.batch.report.page import write_report
from vderain.batch.report.thumbnails import forget_others
from vderain.batch.workers.task import Outcome, Progressed, Task, Workers, failure
from vderain.errors import InputError, OutputError, UsageError, VderainError
from vderain.media.encode.encoder import CAP_FACTOR
from vderain.media.fingerprint import Fingerprint, fingerprint
from vderain.media.gps import is_gpx_of_ours
from vderain.options import Options, settings, weights

POLL_S = 0.1
ELSEWHERE_S = 0.5  # between looks at what another run is doing
WORK = f"{HIDDEN}/work"
UNSEEN = Fingerprint(0, 0, "")  # of a file that cannot be read, or was not looked at
REPORT = "report"  # folder of pictures beside the page


def _key(target: str) -> str:
    """A name for a folder that belongs to a result."""
    return sha256(os.fsencode(target)).hexdigest()[:16]


class Run:
    """One run over the files of a plan.

    Args:
        ledger: entered.
        options: the user's choices for each file.
        manner: how to go on.
        tell: is told what happens.
        stop: ends the run when set; what is begun can go on another time.
    """

    def __init__(self, ledger: Ledger, options: Options, manner: RetryPolicy, tell: EventHandler, stop: Event) -> None:
        self.ledger, self.options, self.manner, self.tell, self.stop = ledger, options, manner, tell, stop
        self.settings, self.weights = settings(options), weights(options)
        self.summary = Summary()
        self._todo: dict[str, _Waiting] = {}  # by target, in the order of the plan
        self._elsewhere: dict[str, _Waiting] = {}
        self._begun: dict[str, _Begun] = {}
        self._attempts: Counter[str] = Counter()
        self._began_s = time.monotonic()
        self._looked_s = 0.0

    @property
    def outdir(self) -> Path:
        return self.ledger.outdir

    @property
    def todo(self) -> Sequence[Item]:
        return [waiting.item for waiting in self._todo.values()]

    def add(self, items: Iterable[Item]) -> None:
        """Looks which files are done already and notes the others as waiting."""
        known = self.ledger.records()
        fresh: list[_Waiting] = []
        unreadable: list[tuple[Item, InputError]] = []
        done = 0
        for item in items:
            try:
                seen = fingerprint(item.source) if not self.stop.is_set() else UNSEEN  # a slow card, a long list
            except InputError as error:
                unreadable.append((item, error))
                continue
            if self.ledger.is_done(known.get(item.target), seen, self.settings, self.weights):
                done += 1
            else:
                fresh.append(_Waiting(item, seen))
        if fresh:
            self.ledger.register([(each.item, each.seen) for each in fresh], self.settings, self.weights)
        waiting = self._todo | self._elsewhere
        new = [each for each in fresh if each.item.target not in waiting]
        self._todo |= {each.item.target: each for each in fresh if each.item.target not in self._elsewhere}
        self.summary.skipped += done
        planned = (*(each.item for each in new), *(item for item, _ in unreadable))
        self.tell(Planned(planned, sum(each.seen.size_bytes for each in new), done))
        for item, reason in unreadable:
            self._unreadable(item, reason)

    def work(
        self, workers: Workers, more: Callable[[], Iterable[Item] | None] = lambda: None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Does what is to be done.

        Args:
            workers: who does it.
            more: looked at again and again: further files, or None where no more will come.
            rest: called whenever all is done and more may come.
        """
        coming = worked = True
        while not self.stop.is_set():
            if coming:
                found = more()
                coming = found is not None
                if found:
                    self.add(found)
            self._begin(workers)
            if not (self._begun or self._todo or self._elsewhere or coming):
                break
            if self._begun:
                worked = True
            elif worked and not self._todo:
                worked = False
                rest()
            for poll in workers.poll(POLL_S):
                self._take(poll)
            if self.manner.fail_fast and self.summary.failed:
                break
            self._look_elsewhere()
            self.ledger.sign()

    def check_space(self) -> None:
        """Finds out before any work whether the results will find room.

        Raises:
            VderainError: they would not.
        """
        sizes = [waiting.seen.size_bytes for waiting in self._todo.values()]
        need_bytes = CAP_FACTOR * (sum(sizes) + max(sizes, default=0))  # one beside its pieces
        free_bytes = shutil.disk_usage(self.outdir).free
        if free_bytes < need_bytes:
            raise VderainError(
                f"{self.outdir} has {free_bytes / 1e9:.1f} GB free, and about {need_bytes / 1e9:.1f} GB are needed.",
                "Free some space, choose another folder with -o, or begin with some of the files (--include).",
            )

    def close(self, workers: Workers | None = None) -> Summary:
        """Stops, gives back what is not finished, and sums up; the page is `Run.report`."""
        if workers is not None:
            workers.close()
        for target in self._begun:
            with suppress(OutputError):  # a full disk: the next run finds that this one has ended
                self.ledger.free(target)
            self._clear(target)
        self.summary.waiting = len(self._begun) + len(self._todo) + len(self._elsewhere)
        self.summary.stopped = self.stop.is_set()
        self.summary.seconds = time.monotonic() - self._began_s
        if not (self.summary.waiting or self.summary.stopped):
            self._tidy()
        return self.summary

    def report(self, title: str, told: dict[str, str]) -> Path:
        """Writes the page about all that is done, or may still be, or has failed in this run."""
        known = self.ledger.records().values()
        rows = [
            record.as_report()
            for record in known
            if record.state == "done" or _is_open(record) or record.target in self.summary.ended
        ]
        self.summary.report = write_report(self.outdir, rows, title, told)
        return self.summary.report

    # Inside

    def _begin(self, workers: Workers) -> None:
        """Gives work to whoever has none."""
        while self._todo and workers.idle and not self.stop.is_set():
            item = self._todo.pop(next(iter(self._todo))).item
            try:
                seen = fingerprint(item.source)  # of now: hours may have passed
            except InputError as error:
                self._unreadable(item, error)
                continue
            if item.target in self._begun:  # it changed while it is worked on
                self._elsewhere[item.target] = _Waiting(item, seen)
                continue
            claim = self.ledger.claim(item, seen, self.settings, self.weights)
            if claim == "busy":
                self._elsewhere[item.target] = _Waiting(item, seen)
            elif claim == "mine":
                self._begin_one(workers, item, seen)
            else:
                self._settled_elsewhere(item)

    def _begin_one(self, workers: Workers, item: Item, seen: Fingerprint) -> None:
        self._attempts[item.target] += 1
        begun = _Begun(item, seen)
        try:
            self._check_place(item)
        except VderainError as error:
            self._failed(begun, failure(item.target, error))
            return
        self._begun[item.target] = begun
        self.tell(Started(item, seen.size_bytes, self._attempts[item.target]))
        self._clear(item.target)
        key = _key(item.target)
        options = replace(self.options, overwrite=True)  # of the draft; whether the target may be was asked
        workers.begin(
            Task(
                item.target,
                item.source,
                self.outdir.absolute(),  # FFmpeg would take a folder called file:NAME for a URL
                f"{WORK}/{key}",
                f"{REPORT}/{key}",
                options,
                self.manner.segment_frames,
            )
        )

    def _tidy(self) -> None:
        """Removes what is left of files of which nothing will come any more."""
        with suppress(OutputError), self.ledger.transaction():  # a full disk: a later run does it
            kept = {_key(target) for target, record in self.ledger.records().items() if _is_open(record)}
            for path in (self.outdir / WORK).glob("*/"):
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def _clear(self, target: str) -> None:
        """Removes drafts that nobody will finish; what is kept of a file's segments stays."""
        for path in (self.outdir / WORK / _key(target)).glob("*/"):
            shutil.rmtree(path, ignore_errors=True)

    def _check_place(self, item: Item) -> None:
        """Finds before the work what forbids the name of its result.

        Raises:
            OutputError: something is there that is not ours, or nothing can be.
        """
        target = self.outdir / item.target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            there = target.exists() or target.is_symlink()
        except OSError as error:
            raise OutputError(f"{target} cannot be written ({error.strerror}).", "Check the disk.") from error
        if target.is_dir():
            raise OutputError(f"{target} is a directory.", "Rename it, or choose another folder with -o.")
        if there and not self.options.overwrite:
            record = self.ledger.record(item.target)
            if record is None or not self.ledger.is_ours(record):
                raise OutputError(
                    f"{target} exists already, and is not a result that the ledger knows.",
                    "Add --overwrite to replace it, or choose another folder with -o.",
                )
        track = target.with_suffix(TRACK)
        if self.options.gpx and not self.options.overwrite and track.exists() and not is_gpx_of_ours(track):
            raise OutputError(
                f"{track} exists already, and was not written by vderain.",
                "Add --overwrite to replace it, or choose another folder with -o.",
            )

    def _take(self, poll: Progressed | Outcome) -> None:
        begun = self._begun.get(poll.target)
        if begun is None:
            return
        if isinstance(poll, Progressed):
            begun.working_s = begun.working_s or time.monotonic()
            self.tell(poll)
            return
        del self._begun[poll.target]
        if poll.fatal_for_batch:
            self.ledger.free(poll.target)
            raise UsageError(poll.error, poll.cure)
        for text in poll.said:
            self.tell(Warned(poll.target, text))
        if not poll.error:
            self._finished(begun, poll)
        elif poll.again and self._attempts[poll.target] <= self.manner.retries:
            self.tell(Retried(poll.target, poll.error, self._attempts[poll.target]))
            self.ledger.free(poll.target)
            self._todo.setdefault(poll.target, _Waiting(begun.item, begun.seen))
        else:
            self._failed(begun, poll)

    def _finished(self, begun: "_Begun", outcome: Outcome) -> None:
        draft = self.outdir / outcome.draft
        facts = draft.stat()
        record = replace(
            self._record(begun), draft=outcome.draft, bytes_out=facts.st_size, mtime_out_ns=facts.st_mtime_ns,
            media_s=outcome.media_s, thumbnails=outcome.thumbnails, frames=outcome.frames, repeated=outcome.repeated,
            dry=outcome.dry, missing=outcome.missing, damage=outcome.damage, dropped=outcome.dropped,
            kept=outcome.kept, device=outcome.device, model=outcome.model,
        )  # fmt: skip
        try:
            self._check_place(begun.item)  # once more: the work took its time
            record = self.ledger.publish(record)
        except OutputError as error:
            self._clear(record.target)
            self._failed(begun, failure(record.target, error))
            return
        shutil.rmtree(draft.parent.parent, ignore_errors=True)
        forget_others(self.outdir / REPORT / _key(record.target), self.outdir, record.thumbnails)
        self._ended(record)

    def _failed(self, begun: "_Begun", outcome: Outcome) -> None:
        record = replace(
            self._record(begun), state="failed", error=outcome.error, cure=outcome.cure, exit_code=outcome.exit_code
        )
        self.ledger.fail(record)
        with suppress(OSError):
            (self.outdir / WORK / _key(record.target)).rmdir()  # unless segments are in it
        self._ended(record)

    def _ended(self, record: Record) -> None:
        self.summary.ended[record.target] = record
        self.tell(Ended(record))

    def _record(self, begun: "_Begun") -> Record:
        before = self.ledger.record(begun.item.target)
        assert before is not None
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        seconds = time.monotonic() - begun.working_s if begun.working_s else 0.0
        return replace(before, seconds=seconds, finished_at=now)

    def _unreadable(self, item: Item, error: VderainError) -> None:
        self.ledger.register([(item, UNSEEN)], self.settings, self.weights)
        self._failed(_Begun(item, UNSEEN), failure(item.target, error))

    def _settled_elsewhere(self, item: Item) -> None:
        """Another run has been through with it since this one began."""
        record = self.ledger.record(item.target)
        assert record is not None
        if record.state == "failed":
            self._ended(record)
        else:
            self.summary.skipped += 1
            self.tell(Ended(record))

    def _look_elsewhere(self) -> None:
        """Takes what another run had and has no longer."""
        if not self._elsewhere or time.monotonic() - self._looked_s < ELSEWHERE_S:
            return
        self._looked_s = time.monotonic()
        self.ledger.recover()
        self._todo |= self._elsewhere
        self._elsewhere.clear()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A file that is to be done, as it was when it was last looked at."""

    item: Item
    seen: Fingerprint


@dataclass(slots=True)
class _Begun:
    """A file that was given to a worker; since when it works at it, for a worker may have to be started first."""

    item: Item
    seen: Fingerprint
    working_s: float | None = None


def _is_open(record: Record) -> bool:
    """Whether something may still come of a file that is not done: somebody is at it, or its source is there."""
    return record.state in ("running", "written") or (record.state != "done" and os.path.lexists(record.source))
