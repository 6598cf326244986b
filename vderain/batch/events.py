"""What a run tells whoever watches it, and what came of it in the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vderain.batch.plan import Item
from vderain.batch.record import Record
from vderain.batch.workers.task import Progressed


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run found: files to do, files that are done already."""

    items: tuple[Item, ...]
    todo_bytes: int
    done: int


@dataclass(frozen=True, slots=True)
class Started:
    """A file was given to a worker."""

    item: Item
    size_bytes: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt failed, and there will be another."""

    target: str
    error: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A file was done, failed, or was done by another run."""

    record: Record


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning about a file."""

    target: str
    text: str


Event = Planned | Started | Progressed | Retried | Ended | Warned
EventHandler = Callable[[Event], None]


@dataclass(slots=True)
class Summary:
    """What came of a run.

    Attributes:
        ended: this run's files by their targets; one that was done twice, for it changed, is there once.
        skipped: how many were done before.
        waiting: how many were not begun, or not finished.
        seconds: wall-clock time.
        report: the page, or None where none was written.
        stopped: whether somebody asked it to stop.
    """

    ended: dict[str, Record] = field(default_factory=dict)
    skipped: int = 0
    waiting: int = 0
    seconds: float = 0.0
    report: Path | None = None
    stopped: bool = False

    @property
    def done(self) -> list[Record]:
        return [record for record in self.ended.values() if record.state == "done"]

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.ended.values() if record.state == "failed"]
