"""Watches the inputs of a batch, and returns new files once they are complete."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import watchfiles

from vderain.batch.plan import Item, Selection, make_plan, watched_folders
from vderain.batch.policy import SETTLE_S

SCAN_EVERY_S = 1.0  # at most, while something changes
SCAN_ANYWAY_S = 60.0  # network drives do not report changes made by other machines
DEBOUNCE_MS = 400


class Watcher:
    """Scans the inputs whenever something in them has changed; a context manager.

    A file is complete when its size and time have not changed for a while. A file that changes later is returned again.

    Args:
        selection: which files to look for.
        outdir: the folder of results.
        on_problem: receives what went wrong and what to do about it, once for each problem.
        settle_s: seconds without changes after which a file is complete.
    """

    def __init__(
        self, selection: Selection, outdir: Path, on_problem: Callable[[str, str], None], settle_s: float = SETTLE_S
    ) -> None:
        self._selection, self._outdir, self._on_problem, self._settle_s = selection, outdir, on_problem, settle_s
        self._changed, self._stop = threading.Event(), threading.Event()
        self._scanned_s = 0.0
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # size and time of a file, unchanged since
        self._returned: dict[str, tuple[int, int]] = {}
        self._reported: set[str] = set()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Watcher":
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2)

    def __call__(self) -> Iterable[Item]:
        """The files that have become complete since the last call."""
        now_s = time.monotonic()
        settling = any(self._returned.get(target) != stat for target, (stat, _) in self._seen.items())
        due = self._changed.is_set() or settling or now_s - self._scanned_s > SCAN_ANYWAY_S
        if not due or now_s - self._scanned_s < min(SCAN_EVERY_S, self._settle_s):
            return []
        self._changed.clear()
        self._scanned_s = now_s
        return [item for item in self._scan() if self._is_complete(item)]

    def _scan(self) -> list[Item]:
        plan = make_plan(self._selection, self._outdir, keep_going=True)  # a folder may be gone for a while
        for problem in plan.problems:
            self._report(problem.what, problem.cure)
        return plan.items

    def _is_complete(self, item: Item) -> bool:
        try:
            facts = item.source.stat()
        except OSError:
            return False
        stat, now_s = (facts.st_size, facts.st_mtime_ns), time.monotonic()
        before, since_s = self._seen.get(item.target, (None, now_s))
        if before != stat:
            is_old = time.time() - facts.st_mtime > self._settle_s
            since_s = now_s - self._settle_s if is_old and before is None else now_s
            self._seen[item.target] = stat, since_s
        if self._returned.get(item.target) == stat or now_s - since_s < self._settle_s:
            return False
        self._returned[item.target] = stat
        return True

    def _listen(self) -> None:
        """Sets the flag whenever something happens below the inputs."""
        try:
            for _ in watchfiles.watch(
                *watched_folders(self._selection), watch_filter=None, debounce=DEBOUNCE_MS, stop_event=self._stop,
                rust_timeout=500, raise_interrupt=False, ignore_permission_denied=True,
            ):  # fmt: skip
                self._changed.set()
        except Exception as error:  # too many watches, or a drive that cannot be watched
            self._report(
                f"the inputs cannot be watched ({error}).", f"They are scanned every {SCAN_ANYWAY_S:.0f} s instead."
            )

    def _report(self, what: str, cure: str) -> None:
        if what not in self._reported:
            self._reported.add(what)
            self._on_problem(what, cure)
