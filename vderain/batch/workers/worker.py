"""Processes one task after another in a worker process, and keeps the model loaded between them."""

import logging
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from vderain.batch.record import FileResult, Thumbnail
from vderain.batch.report.thumbnails import ThumbnailPicker
from vderain.batch.workers.task import Outcome, Task, failed
from vderain.errors import DeviceError, OutputError, VderainError
from vderain.media.frame import Frame, Progress
from vderain.options import Options
from vderain.process import Hooks, LoadedModels, Result, load_models, process

REPORT_EVERY_S = 0.2
LONGEST_STEM = 50  # characters of a draft's name, which leaves room for longer temporary names beside it

ProgressHandler = Callable[[str, Progress], None]


class Worker:
    """Processes tasks, one at a time. The model is loaded for the first task, and again when the options change.

    Args:
        device: used for tasks that leave the choice open.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._options: Options | None = None
        self._models: LoadedModels | None = None

    def __call__(self, task: Task, on_progress: ProgressHandler) -> Outcome:
        """Processes a task; failures become outcomes, whatever they are.

        Args:
            task: the file.
            on_progress: called with the task's target and progress, a few times a second.
        """
        if task.options.device == "auto":
            task = replace(task, options=replace(task.options, device=self._device))
        loading = True
        with _collected_warnings() as warnings:
            try:
                models = self._load(task.options)
                loading = False
                on_progress(task.target, Progress(0, 0.0, None))  # the time of the file itself begins here
                outcome = self._process_draft(task, models, on_progress)
            except VderainError as error:
                # an error in the file stays, while an unforeseen one or a lack of GPU memory may pass
                retryable = type(error) in (VderainError, DeviceError)
                outcome = replace(failed(task.target, error, retryable=retryable), fatal_for_batch=loading)
            except MemoryError:
                cure = "Use fewer --workers, or a smaller --batch-size."
                lack = VderainError("there is not enough memory for this.", cure)
                outcome = failed(task.target, lack, retryable=True)
            except Exception as error:  # no file may stop the others
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                warnings.append("".join(traceback.format_exception(error)))
                cure = "Please report it, with the output of the same command with -v."
                unforeseen = VderainError(f"an error in vderain itself: {reason}.", cure)
                outcome = failed(task.target, unforeseen, retryable=True)
        return replace(outcome, warnings=tuple(warnings))

    def _load(self, options: Options) -> LoadedModels | None:
        if self._options != options:
            self._models, self._options = load_models(options), options
        return self._models

    def _process_draft(self, task: Task, models: LoadedModels | None, on_progress: ProgressHandler) -> Outcome:
        """Processes a file into a draft in a folder of its own, since a worker that timed out may still write."""
        folder = task.outdir / task.work_folder / uuid.uuid4().hex[:8]
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made ({error.strerror}).", "Check the disk.") from error
        target = Path(task.target)
        draft = folder / f"{target.stem[:LONGEST_STEM]}{target.suffix}"
        try:
            return self._process(task, draft, models, on_progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _process(
        self, task: Task, draft: Path, models: LoadedModels | None, on_progress: ProgressHandler
    ) -> Outcome:  # fmt: skip
        work = task.outdir / task.work_folder
        observer = _Observer(task, work / "segments.sqlite", work / "thumbnails.npz", on_progress)
        hooks = Hooks(
            models=models,
            on_frame=observer.on_frame,
            segments=observer.segments,
            segment_frames=task.segment_frames,
        )
        result = process(task.source, draft, task.options, observer.on_progress, hooks)
        return Outcome(
            target=task.target,
            draft="" if result.untouched == "skip" else draft.relative_to(task.outdir).as_posix(),
            result=_file_result(task, result, observer),
        )


class _Observer:
    """Watches `process` at work: picks thumbnails, and passes progress on."""

    def __init__(self, task: Task, segments: Path, saved_thumbnails: Path, on_progress: ProgressHandler) -> None:
        self.segments = segments
        self.last = Progress(0, 0.0, None)
        self._task, self._saved, self._on_progress = task, saved_thumbnails, on_progress
        self._picker: ThumbnailPicker | None = None
        self._reported_s = 0.0

    def on_frame(self, before: Frame, after: Frame, rotation_quarters: int) -> None:
        if self._picker is None:
            self._picker = ThumbnailPicker(rotation_quarters, self._saved)
        self._picker.on_frame(before, after)
        if (self.last.frames + 1) % self._task.segment_frames == 0 and self.segments.exists():
            self._picker.save_state(self._saved)  # before the segment: frames seen twice count once, missed ones never

    def on_progress(self, progress: Progress) -> None:
        self.last, now_s = progress, time.monotonic()
        if now_s - self._reported_s > REPORT_EVERY_S:
            self._reported_s = now_s
            self._on_progress(self._task.target, progress)

    def thumbnails(self) -> tuple[Thumbnail, ...]:
        if self._picker is None:
            return ()
        return self._picker.write(self._task.outdir / self._task.thumbnail_folder, self._task.outdir)


def _file_result(task: Task, result: Result, observer: _Observer) -> FileResult:
    track = (f"GPS track as {Path(task.target).with_suffix(result.gpx.suffix).name}",) if result.gpx else ()
    return FileResult(
        frames=result.frames,
        repeated=result.repeated,
        missing=result.missing,
        dry=result.dry,
        damage=result.damage,
        kept=(*result.kept, *track),
        dropped=result.dropped,
        model=result.model or "",
        device=result.device,
        untouched=result.untouched,
        media_s=observer.last.done_s,
        thumbnails=observer.thumbnails(),
    )


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collects what vderain logs, because the terminal belongs to the first process."""
    warnings: list[str] = []
    logger = logging.getLogger("vderain")
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [_ListHandler(warnings)], False
    try:
        yield warnings
    finally:
        logger.handlers[:], logger.propagate = before


class _ListHandler(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._messages.append(record.getMessage())
