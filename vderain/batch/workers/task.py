"""What goes to workers and what comes back from them; nothing heavy is imported for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vderain.batch.report.thumbnails import Thumbnail
from vderain.errors import VderainError
from vderain.media.clip import Progress
from vderain.options import Options


@dataclass(frozen=True, slots=True)
class Task:
    """A file to do, and where.

    Attributes:
        target: of the result below OUTDIR; names the task.
        source: the file.
        outdir: the folder of results.
        work: folder below OUTDIR for what is not finished.
        thumbnails: folder below OUTDIR for pictures of the rainiest frames.
        options: the user's choices.
        segment_frames: see `process`.
    """

    target: str
    source: Path
    outdir: Path
    work: str
    thumbnails: str
    options: Options
    segment_frames: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a task is."""

    target: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task.

    Attributes:
        target: names the task.
        draft: where the result lies below OUTDIR, checked but without its name; empty after a failure.
        frames, repeated, missing, dry, damage, kept, dropped, model, device: as in `process.Result`.
        media_s: how long the result plays.
        thumbnails: frames worth showing.
        said: warnings on the way.
        error, cure, exit_code: of a failure.
        again: whether another attempt may end otherwise.
        fatal_for_batch: whether all other files would fail for it, too: there is no such model, no such device.
    """

    target: str
    draft: str = ""
    frames: int = 0
    repeated: int = 0
    missing: int = 0
    dry: int = 0
    damage: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    model: str = ""
    device: str = ""
    media_s: float = 0.0
    thumbnails: tuple[Thumbnail, ...] = ()
    said: tuple[str, ...] = ()
    error: str = ""
    cure: str = ""
    exit_code: int = 0
    again: bool = False
    fatal_for_batch: bool = False


def failure(target: str, error: VderainError, again: bool = False) -> Outcome:
    """A failure as an outcome."""
    return Outcome(target, error=error.what, cure=error.cure, exit_code=error.exit_code, again=again)


TaskEvent = Progressed | Outcome


class Workers(Protocol):
    """Whoever does tasks, here or elsewhere."""

    @property
    def idle(self) -> int:
        """How many tasks can be begun now."""

    def begin(self, task: Task) -> None:
        """Begins a task; what happens to it is told by `happened`."""

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        """What happened since; waits for something for a while."""

    def close(self) -> None:
        """Stops all work at once."""
