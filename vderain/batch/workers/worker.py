"""One file, wherever it is worked on: a task enters a process that keeps its model loaded, an outcome leaves."""

import logging
import os
import shutil
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vderain.batch.report.thumbnails import ThumbnailPicker
from vderain.batch.workers.task import Outcome, Task, failure
from vderain.errors import DeviceError, OutputError, VderainError
from vderain.media.clip import Progress
from vderain.media.frame import Frame
from vderain.options import Options
from vderain.process import LoadedModels, Result, load_models, process

REPORT_EVERY_S = 0.2
LONGEST = 50  # characters of a draft's name: what is written beside it on the way has a longer one

Tell = Callable[[str, Progress], None]


class Worker:
    """Does one task after the other; a model is loaded when it is first needed, and kept.

    Args:
        device: where tasks run that leave it open.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._options: Options | None = None
        self._loaded: LoadedModels | None = None

    def __call__(self, task: Task, tell: Tell) -> Outcome:
        """Does a task; failures are outcomes, too.

        Args:
            task: what to do.
            tell: is told how far the task is, a few times a second.
        """
        options = task.options
        if options.device == "auto":
            options = replace(options, device=self._device)
        loading = True
        with _Listening() as said:
            try:
                loaded = self._model(options)
                loading = False
                tell(task.target, Progress(0, 0.0, None))  # from here on the time is the file's own
                outcome = self._done(replace(task, options=options), loaded, tell)
            except VderainError as error:
                # what a file is does not change; what was unforeseen, and a device's memory, may
                outcome = failure(task.target, error, type(error) in (VderainError, DeviceError))
                outcome = replace(outcome, fatal_for_batch=loading)
            except MemoryError:
                cure = "Use fewer --workers, or a smaller --batch-size."
                outcome = failure(task.target, VderainError("there is not enough memory for this.", cure), again=True)
            except Exception as error:  # whatever one file does must not stop the others
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                said.append("".join(traceback.format_exception(error)))
                cure = "Please report it, with the output of the same command with -v."
                outcome = failure(task.target, VderainError(f"an error in vderain itself: {reason}.", cure), again=True)
        return replace(outcome, said=tuple(said))

    def _done(self, task: Task, loaded: LoadedModels | None, tell: Tell) -> Outcome:
        folder = task.outdir / task.work / uuid.uuid4().hex[:8]  # its own: a worker given up for dead may still write
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made ({error.strerror}).", "Check the disk.") from error
        target = Path(task.target)
        draft = folder / f"{target.stem[:LONGEST]}{target.suffix}"
        try:
            return self._processed(task, draft, loaded, tell)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _processed(self, task: Task, draft: Path, loaded: LoadedModels | None, tell: Tell) -> Outcome:
        store, kept = (task.outdir / task.work / name for name in ("segments.sqlite", "moments.npz"))
        keepers: list[ThumbnailPicker] = []
        last = Progress(0, 0.0, None)
        told_s = 0.0

        def see(before: Frame, after: Frame, turns: int) -> None:
            if not keepers:
                keepers.append(ThumbnailPicker(turns, kept))
            keepers[0].see(before, after)
            if (last.frames + 1) % task.segment_frames == 0 and store.exists():
                keepers[0].keep(kept)  # before the piece itself: what was seen twice counts once

        def report(progress: Progress) -> None:
            nonlocal last, told_s
            last, now_s = progress, time.monotonic()
            if now_s - told_s > REPORT_EVERY_S:
                told_s = now_s
                tell(task.target, progress)

        result = process(
            task.source, draft, task.options, report, loaded, see, store, task.segment_frames
        )  # fmt: skip
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the file
        thumbnails = keepers[0].save(task.outdir / task.thumbnails, task.outdir) if keepers else ()
        return Outcome(
            task.target, draft.relative_to(task.outdir).as_posix(), result.frames, result.repeated, result.missing,
            result.dry, result.damage, _kept(result, Path(task.target)), result.dropped, result.model or "",
            result.device, last.done_s, thumbnails,
        )  # fmt: skip

    def _model(self, options: Options) -> LoadedModels | None:
        if self._options != options:
            self._loaded, self._options = load_models(options), options
        return self._loaded


def _kept(result: Result, target: Path) -> tuple[str, ...]:
    """What was kept, with the name that the track will have."""
    return (*result.kept, f"GPS track as {target.with_suffix(result.gpx.suffix).name}") if result.gpx else result.kept


class _Listening:
    """Collects the warnings of a task instead of writing them to a terminal that is not ours."""

    def __enter__(self) -> list[str]:
        self._said: list[str] = []
        self._logger = logging.getLogger("vderain")
        self._handler = _Collector(self._said)
        self._before = self._logger.handlers[:], self._logger.propagate
        self._logger.handlers[:], self._logger.propagate = [self._handler], False
        return self._said

    def __exit__(self, *_: object) -> None:
        self._logger.handlers[:], self._logger.propagate = self._before


class _Collector(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._said.append(record.getMessage())
