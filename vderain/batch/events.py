"""Events that a run emits while it works, and its summary at the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vderain.batch.plan import Item
from vderain.batch.record import Record
from vderain.batch.workers.task import Progressed


@dataclass(frozen=True, slots=True)
class Planned:
    """Files were found.

    Attributes:
        items: the files to process.
        todo_bytes: the sum of their sizes.
        done: how many files were done already.
    """

    items: tuple[Item, ...]
    todo_bytes: int
    done: int


@dataclass(frozen=True, slots=True)
class Started:
    """A worker was given a file."""

    item: Item
    size_bytes: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt failed and will be repeated."""

    target: str
    error: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A file is done or has failed, in this run or in a concurrent one."""

    record: Record


@dataclass(frozen=True, slots=True)
class Warned:
    """A worker logged a warning about a file."""

    target: str
    text: str


Event = Planned | Started | Progressed | Retried | Ended | Warned
EventHandler = Callable[[Event], None]


@dataclass(slots=True)
class Summary:
    """The result of a run.

    Attributes:
        ended: records of this run's files by target; a file that was processed twice counts once.
        skipped: how many files were done before.
        known: how many of those that failed were known to be damaged, and not processed again.
        waiting: how many files were not started or not finished.
        seconds: wall-clock time.
        report: first page of the report, or None where none was written.
        stopped: whether the user stopped the run.
    """

    ended: dict[str, Record] = field(default_factory=dict)
    skipped: int = 0
    known: int = 0
    waiting: int = 0
    seconds: float = 0.0
    report: Path | None = None
    stopped: bool = False

    @property
    def done(self) -> list[Record]:
        return [record for record in self.ended.values() if record.state == "done"]

    @property
    def dry(self) -> list[Record]:
        """Those of `done` that are dry and were left untouched."""
        return [record for record in self.done if record.result.untouched]

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.ended.values() if record.state == "failed"]
