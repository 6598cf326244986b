"""Files that appear while a run goes on: a selection enters; again and again, the files that are complete leave."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import watchfiles

from vderain.batch.plan import Item, Selection, make_plan, roots
from vderain.batch.policy import SETTLE_S

LOOK_EVERY_S = 1.0  # at most, while something changes
LOOK_ANYWAY_S = 60.0  # network drives do not tell of what other machines write
DEBOUNCE_MS = 400


class Watcher:
    """Looks at the inputs whenever something in them changed.

    A file is complete when its size and time have not changed for a while. One that changes later comes again.

    Args:
        selection: what is meant.
        outdir: the folder of results.
        complain: is told once of each thing that cannot be looked at.
        settle_s: how long a file must rest.
    """

    def __init__(
        self, selection: Selection, outdir: Path, complain: Callable[[str, str], None], settle_s: float = SETTLE_S
    ) -> None:
        self._selection, self._outdir, self._complain, self._settle_s = selection, outdir, complain, settle_s
        self._changed, self._stop = threading.Event(), threading.Event()
        self._looked_s = 0.0
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # size and time of a file, and since when
        self._given: dict[str, tuple[int, int]] = {}  # of the files that were handed out
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Watcher":
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2)

    def __call__(self) -> Iterable[Item]:
        """The files that have become complete since the last time."""
        now_s = time.monotonic()
        resting = any(self._given.get(name) != known for name, (known, _) in self._seen.items())
        due = self._changed.is_set() or resting or now_s - self._looked_s > LOOK_ANYWAY_S
        if not due or now_s - self._looked_s < min(LOOK_EVERY_S, self._settle_s):
            return []
        self._changed.clear()
        self._looked_s = now_s
        return [item for item in self._found() if self._is_complete(item)]

    def _found(self) -> list[Item]:
        plan = make_plan(self._selection, self._outdir, go_on=True)  # without a folder that is gone for a while
        for problem in plan.problems:
            self._say(problem.what, problem.cure)
        return plan.items

    def _is_complete(self, item: Item) -> bool:
        try:
            facts = item.source.stat()
        except OSError:
            return False
        known, now_s = (facts.st_size, facts.st_mtime_ns), time.monotonic()
        before, since_s = self._seen.get(item.target, (None, now_s))
        if before != known:
            old = time.time() - facts.st_mtime > self._settle_s
            since_s = now_s - self._settle_s if old and before is None else now_s
            self._seen[item.target] = known, since_s
        if self._given.get(item.target) == known or now_s - since_s < self._settle_s:
            return False
        self._given[item.target] = known
        return True

    def _listen(self) -> None:
        """Sets the flag when something happens below the inputs."""
        try:
            for _ in watchfiles.watch(
                *roots(self._selection), watch_filter=None, debounce=DEBOUNCE_MS, stop_event=self._stop,
                rust_timeout=500, raise_interrupt=False, ignore_permission_denied=True,
            ):  # fmt: skip
                self._changed.set()
        except Exception as error:  # of the system: too many watches, a kind of drive that has none
            self._say(f"the inputs cannot be watched ({error}).", f"They are looked at every {LOOK_ANYWAY_S:.0f} s.")

    def _say(self, what: str, cure: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._complain(what, cure)
