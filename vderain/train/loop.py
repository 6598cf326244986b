"""The training loop: iterate, log, validate and save, until the schedule ends or a signal arrives."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread

import cv2
import torch
from torch import Tensor

from vderain.errors import InputError, OutputError
from vderain.runtime.device import DevicePlacement, cores
from vderain.runtime.threads import StopFlag
from vderain.train.config import Recipe
from vderain.train.cyclegan import CycleGAN
from vderain.train.data.scenes import Scenes
from vderain.train.distributed import ProcessGroup, local_world_size, place_training, process_group
from vderain.train.glass import Glass
from vderain.train.logger import Event, Examples, Progress, RunLogger, Stepped
from vderain.train.recurrent import Recurrent
from vderain.train.semi_supervised import SemiSupervised
from vderain.train.supervised import Supervised
from vderain.train.trainer import GENERATOR, RESUME, Diverged, Losses, Trainer, learning_rate
from vderain.train.validation import Validator

log = logging.getLogger(__name__)

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
WAITING_MAX = 0.05  # share of the time spent waiting for data, above which a worker is added
EXAMPLES = 8  # crops in the grid of examples


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
) -> Path:
    """Train a generator, in one process or as one of those that torchrun started.

    On Ctrl-C the iteration is finished and the state saved before KeyboardInterrupt is raised.

    Args:
        recipe: settings.
        out: folder for the log, the state and the generator; created if missing.
        resume: continue from the state in `out`.
        device: see `place_training`.
        on_event: called for each iteration, line of the log and validation, in the main process only.

    Returns:
        The file of weights.

    Raises:
        OutputError: `out` holds a run and `resume` is not set, or the final state cannot be saved.
        DeviceError: there is no such device.
        KeyboardInterrupt: a signal asked to stop.
    """
    if not resume and (out / RESUME).exists():
        raise OutputError(f"there is a run in {out} already.", "Add --resume to continue it, or choose another --out.")
    placement = place_training(device, recipe.optimiser.bf16)
    with process_group(placement) as group:
        _configure_threads(recipe)
        trainer = _trainer(recipe, out, group, placement)
        before_s = trainer.load() if resume else 0.0
        run = (_MainRun if group.is_main else _Run)(trainer, before_s, on_event)
        try:
            with _deferred_signals() as stop:
                run(stop)
        finally:
            for loader in trainer.loaders:
                loader.close()
    return out / GENERATOR


def _trainer(recipe: Recipe, out: Path, group: ProcessGroup, placement: DevicePlacement) -> Trainer:
    """The way of training that the sections of a recipe ask for."""
    if recipe.cyclegan is not None:
        return CycleGAN(recipe, out, group, placement)
    if recipe.model.glass:
        return Glass(recipe, out, group, placement)
    if recipe.model.state:
        return Recurrent(recipe, out, group, placement)
    kind = Supervised if recipe.semi_supervised is None else SemiSupervised
    return kind(recipe, out, group, placement)


def _configure_threads(recipe: Recipe) -> None:
    """Set this process's threads: with more threads than cores they would wait for each other at every layer."""
    workers = 1 if recipe.data.workers is None else recipe.data.workers
    free = max(1, cores() // local_world_size() - workers)
    torch.set_num_threads(recipe.run.threads or free)
    cv2.setNumThreads(1)  # OpenCV's threads would not survive the fork of the workers
    torch.set_flush_denormal(True)  # Adam's moments of unused weights become denormal, and several times slower


class _Run:
    """A run as every process goes through it; it writes nothing."""

    def __init__(self, trainer: Trainer, before_s: float, on_event: Callable[[Event], None]) -> None:
        self.trainer, self.recipe, self.on_event = trainer, trainer.recipe, on_event
        self.held = trainer.load_data()
        self._before_s, self._started_s = before_s, time.monotonic()
        self._first_line = True  # every run waits for its first examples, so that is no reason to add workers

    @property
    def seconds(self) -> float:
        """How long the run has taken, including before it was resumed."""
        return self._before_s + time.monotonic() - self._started_s

    def __call__(self, stop: StopFlag) -> None:
        """Train to the end."""
        for _ in self._iterations(stop):
            pass

    def _iterations(self, stop: StopFlag) -> Iterator[list[Event]]:
        """Train to the end of the schedule, and yield the events of each iteration.

        Raises:
            KeyboardInterrupt: one of the processes was asked to stop.
        """
        trainer, settings = self.trainer, self.recipe.optimiser
        batches = trainer.batches()
        since: list[Losses] = []
        events: list[Event] = []
        waited_s, since_s = 0.0, time.monotonic()
        while trainer.iteration < settings.iterations:
            asked_s = time.monotonic()
            batch = next(batches)
            waited_s += time.monotonic() - asked_s
            events = [] if events else [Examples(trainer.iteration, _pairs(*trainer.examples(batch)))]
            since.append(trainer.step(*batch))
            done_s = time.monotonic()
            loss = since[-1]["loss"]
            events.append(Stepped(trainer.iteration, settings.iterations, loss, settings.batch))
            if self._due(self.recipe.run.log_every):
                elapsed_s = done_s - since_s
                events.append(self._progress(since, elapsed_s, waited_s / elapsed_s))
                since, waited_s, since_s = [], 0.0, done_s
            yield events
            since_s += time.monotonic() - done_s  # validating and saving do not count as training time
            if trainer.group.any(stop.is_set()):
                raise KeyboardInterrupt

    def _progress(self, since: list[Losses], elapsed_s: float, waiting: float) -> Progress:
        trainer, settings = self.trainer, self.recipe.optimiser
        if waiting > WAITING_MAX and not self._first_line:
            self._add_workers(waiting)
        self._first_line = False
        means = {name: sum(losses[name] for losses in since) / len(since) for name in since[0]}
        return Progress(
            iteration=trainer.iteration,
            iterations=settings.iterations,
            loss=means.pop("loss"),
            parts=means,
            rate=learning_rate(trainer.iteration, self.recipe),
            crops_per_s=len(since) * settings.batch / elapsed_s,
            waiting=waiting,
        )

    def _add_workers(self, waiting: float) -> None:
        if any([loader.grow() for loader in self.trainer.loaders]):
            workers = sum(loader.workers for loader in self.trainer.loaders)
            log.info("waiting for data %.0f %% of the time: now %d workers", 100 * waiting, workers)

    def _due(self, every: int) -> bool:
        iteration = self.trainer.iteration
        return every > 0 and (iteration % every == 0 or iteration == self.recipe.optimiser.iterations)


class _MainRun(_Run):
    """The main process's run, which also validates, logs and saves."""

    def __init__(self, trainer: Trainer, before_s: float, on_event: Callable[[Event], None]) -> None:
        super().__init__(trainer, before_s, on_event)
        self.validator = _validator(trainer, self.held)

    def __call__(self, stop: StopFlag) -> None:
        """Train to the end.

        Raises:
            OutputError: the final state cannot be saved.
        """
        self.trainer.out.mkdir(parents=True, exist_ok=True)
        self.logger = RunLogger(self.trainer.out, self.trainer.iteration)
        try:
            for events in self._iterations(stop):
                for event in events:
                    self._emit(event)
                self._validate_and_save()
        except Diverged:
            raise  # the state saved before it is the one to keep
        except BaseException:
            self.trainer.save(self.seconds)
            raise
        finally:
            self.logger.close()
        self.trainer.save(self.seconds)

    def _emit(self, event: Event) -> None:
        self.logger(event)
        self.on_event(event)

    def _validate_and_save(self) -> None:
        if self._due(self.recipe.validation.every):
            self._continue_on_error(self._validate)
        if self._due(self.recipe.run.save_every) and self.trainer.iteration < self.recipe.optimiser.iterations:
            self._continue_on_error(lambda: self.trainer.save(self.seconds))

    def _validate(self) -> None:
        if self.validator:
            trainer = self.trainer
            validated = self.validator(trainer.mean, trainer.iteration, trainer.best_db)
            self._emit(validated)
            if validated.best:
                trainer.save_best(self.seconds, validated)

    def _continue_on_error(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (InputError, OutputError) as error:
            log.warning("iteration %d: %s Training continues.", self.trainer.iteration, error.what)


def _validator(trainer: Trainer, held: Scenes) -> Validator | None:
    """None if validation is off, or there is nothing to validate on."""
    recipe = trainer.recipe
    if not recipe.validation.every:
        return None
    if not (held.photos or held.clips or recipe.validation.sets):
        log.warning("too few clear pictures to hold some out: the generator is not validated")
        return None
    return Validator(recipe, held, trainer.placement)


def _pairs(rainy: Tensor, clear: Tensor) -> Tensor:
    """Rainy and clear crops in turn, (2 N, 3, H, W)."""
    return torch.stack([rainy[:EXAMPLES], clear[:EXAMPLES]], 1).flatten(0, 1).clone()


@contextmanager
def _deferred_signals() -> Iterator[StopFlag]:
    """Yield a flag that SIGINT, SIGTERM or SIGHUP sets, so that an iteration is always finished first.

    A state saved in the middle of an iteration could not be resumed exactly.
    """
    stop = StopFlag()
    if current_thread() is not main_thread():  # only the main thread may set signal handlers
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # ignored under nohup and in background jobs
            signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
