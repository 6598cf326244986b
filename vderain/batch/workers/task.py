"""The messages between a run and its workers, and the protocol of workers. Imports nothing heavy."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vderain.batch.record import Failure, FileResult
from vderain.errors import VderainError
from vderain.media.frame import Progress
from vderain.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A file to process.

    Attributes:
        target: path of the result below OUTDIR; identifies the task.
        source: the file to read.
        outdir: the folder of results.
        work_folder: folder below OUTDIR for drafts and segments.
        thumbnail_folder: folder below OUTDIR for the report's pictures.
        options: the user's choices.
        segment_frames: see `process`.
    """

    target: str
    source: Path
    outdir: Path
    work_folder: str
    thumbnail_folder: str
    options: Options
    segment_frames: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Progress of a task."""

    target: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a task: a result or a failure.

    Attributes:
        target: identifies the task.
        draft: path of the verified result below OUTDIR, before it has its final name; empty after a failure, and
            for a dry file that was skipped.
        result: what was made; empty after a failure.
        failure: why the task failed, or None.
        warnings: logged by the worker.
        retryable: whether another attempt may succeed.
        fatal_for_batch: whether every other file would fail in the same way: a missing model or device.
    """

    target: str
    draft: str = ""
    result: FileResult = field(default_factory=FileResult)
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    retryable: bool = False
    fatal_for_batch: bool = False


def failed(target: str, error: VderainError, *, retryable: bool = False) -> Outcome:
    """An outcome that reports an error.

    Args:
        target: identifies the task.
        error: what happened.
        retryable: whether another attempt may succeed.
    """
    return Outcome(target=target, failure=Failure.of(error), retryable=retryable)


TaskEvent = Progressed | Outcome


class Workers(Protocol):
    """Processes that carry out tasks, on this machine or elsewhere."""

    @property
    def idle(self) -> int:
        """How many tasks can be started now."""

    def start(self, task: Task) -> None:
        """Starts a task; `poll` reports what happens to it."""

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        """Reports what has happened since the last call, waiting for a first event for at most `timeout_s`."""

    def close(self) -> None:
        """Kills all workers at once."""
