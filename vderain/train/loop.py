"""A run of training: a recipe enters, weights leave; a stopped run goes on where it was."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from threading import current_thread, main_thread

import cv2
import torch

from vderain.errors import InputError, OutputError
from vderain.runtime.device import cores
from vderain.train.config import Recipe
from vderain.train.cyclegan import CycleGAN
from vderain.train.data.scenes import Scenes
from vderain.train.distributed import ProcessGroup, joined, neighbours
from vderain.train.logger import Event, Progress, RunLogger, Stepped
from vderain.train.semi_supervised import SemiSupervised
from vderain.train.supervised import Supervised
from vderain.train.trainer import GENERATOR, RESUME, Diverged, Losses, Trainer, learning_rate
from vderain.train.validation import Validator

log = logging.getLogger(__name__)

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
WAITING_MAX = 0.05  # share of the time spent waiting for data, beyond which one more process makes it


def train(recipe: Recipe, out: Path, resume: bool, report: Callable[[Event], None]) -> Path:
    """Train a generator by a recipe, alone or as one of the processes that torchrun started.

    Args:
        recipe: what to do.
        out: folder for the log, the resume state and the generator; made where missing.
        resume: go on from the state in `out`.
        report: is told of every iteration, of progress and of scores; in the first process only.

    Returns:
        The file of weights. On Ctrl-C the iteration is finished and the state saved before KeyboardInterrupt goes on
        its way.

    Raises:
        OutputError: `out` holds a run, and `resume` was not asked for; or the disk refused the state at the end.
    """
    if not resume and (out / RESUME).exists():
        raise OutputError(f"there is a run in {out} already.", "Add --resume to go on, or choose another --out.")
    with joined() as ranks:
        _settle(recipe)
        trainer = _trainer(recipe, out, ranks)
        before_s = trainer.load() if resume else 0.0
        run = (_Recorded if ranks.first else _Run)(trainer, before_s, report)
        try:
            with _postponed() as stop:
                run(stop)
        finally:
            for feed in trainer.feeds:
                feed.close()
    return out / GENERATOR


def _trainer(recipe: Recipe, out: Path, ranks: ProcessGroup) -> Trainer:
    """The way of training that the sections of a recipe ask for."""
    if recipe.cyclegan is not None:
        return CycleGAN(recipe, out, ranks)
    return (Supervised if recipe.dashcam is None else SemiSupervised)(recipe, out, ranks)


def _settle(recipe: Recipe) -> None:
    """Threads of this process: more than cores would wait for each other at every layer."""
    feeding = 1 if recipe.data.workers is None else recipe.data.workers
    torch.set_num_threads(recipe.run.threads or max(1, cores() // neighbours() - feeding))
    cv2.setNumThreads(1)  # OpenCV's would not survive the fork of the feeding processes
    torch.set_flush_denormal(True)  # moments of a weight at rest decay to denormals, which cost several times as much


class _Run:
    """A run as all its processes go through it; this one writes nothing."""

    def __init__(self, trainer: Trainer, before_s: float, report: Callable[[Event], None]) -> None:
        self.trainer, self.recipe, self.report = trainer, trainer.recipe, report
        self.held = trainer.material()
        self._before_s, self._started_s = before_s, time.monotonic()
        self._under_way = False  # until the first line of the log: everyone waits for the first examples

    @property
    def seconds(self) -> float:
        """How long the run has taken, those before included."""
        return self._before_s + time.monotonic() - self._started_s

    def __call__(self, stop: Flag) -> None:
        for _ in self._iterations(stop):
            pass

    def _iterations(self, stop: Flag) -> Iterator[list[Event]]:
        """Train to the end of the schedule, telling of each iteration, and of progress where a line of it is due.

        Raises:
            KeyboardInterrupt: one of the processes was asked to stop.
        """
        trainer, settings = self.trainer, self.recipe.optimiser
        batches = trainer.batches()
        since: list[Losses] = []
        waited_s, since_s = 0.0, time.monotonic()
        while trainer.iteration < settings.iterations:
            asked_s = time.monotonic()
            batch = next(batches)
            waited_s += time.monotonic() - asked_s
            since.append(trainer.step(*batch))
            done_s = time.monotonic()
            events: list[Event] = [Stepped(trainer.iteration, settings.iterations, since[-1]["loss"], settings.batch)]
            if self._due(self.recipe.run.log_every):
                events.append(self._progress(since, done_s - since_s, waited_s / (done_s - since_s)))
                since, waited_s, since_s = [], 0.0, done_s
            yield events
            since_s += time.monotonic() - done_s  # looking at the generator and saving it are no part of the pace
            if trainer.ranks.any(stop.is_set()):
                raise KeyboardInterrupt

    def _progress(self, since: list[Losses], elapsed_s: float, waiting: float) -> Progress:
        trainer, settings = self.trainer, self.recipe.optimiser
        if waiting > WAITING_MAX and self._under_way and any([feed.grow() for feed in trainer.feeds]):
            workers = sum(feed.workers for feed in trainer.feeds)
            log.info("waiting for data %.0f %% of the time: %d processes make it now", 100 * waiting, workers)
        self._under_way = True
        means = {name: sum(losses[name] for losses in since) / len(since) for name in since[0]}
        return Progress(
            trainer.iteration, settings.iterations, means.pop("loss"), means,
            learning_rate(trainer.iteration, self.recipe), len(since) * settings.batch / elapsed_s, waiting,
        )  # fmt: skip

    def _due(self, every: int) -> bool:
        iteration = self.trainer.iteration
        return every > 0 and (iteration % every == 0 or iteration == self.recipe.optimiser.iterations)


class _Recorded(_Run):
    """The first process of a run: it judges, logs and saves as well."""

    def __init__(self, trainer: Trainer, before_s: float, report: Callable[[Event], None]) -> None:
        super().__init__(trainer, before_s, report)
        self.validator = _validator(self.recipe, self.held)

    def __call__(self, stop: Flag) -> None:
        """Train to the end.

        Raises:
            OutputError: the disk refuses the state at the end.
        """
        self.trainer.out.mkdir(parents=True, exist_ok=True)
        self.logbook = RunLogger(self.trainer.out, self.trainer.iteration)
        try:
            for events in self._iterations(stop):
                for event in events:
                    self._tell(event)
                self._look_and_save()
        except Diverged:
            raise  # the state before it is the one to keep
        except BaseException:
            self.trainer.save(self.seconds)
            raise
        self.trainer.save(self.seconds)

    def _tell(self, event: Event) -> None:
        self.logbook.note(event)
        self.report(event)

    def _look_and_save(self) -> None:
        """Judge and save the generator where that is due; what fails there does not end a run."""
        if self._due(self.recipe.validation.every):
            self._unfailing(self._look)
        if self._due(self.recipe.run.save_every) and self.trainer.iteration < self.recipe.optimiser.iterations:
            self._unfailing(lambda: self.trainer.save(self.seconds))

    def _look(self) -> None:
        if self.validator:
            validated = self.validator(self.trainer.mean, self.trainer.iteration, self.trainer.best_db)
            self._tell(validated)
            if validated.best:
                self.trainer.save_best(self.seconds, validated)

    def _unfailing(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (InputError, OutputError) as error:
            log.warning("iteration %d: %s Training goes on.", self.trainer.iteration, error.what)


def _validator(recipe: Recipe, held: Scenes) -> Validator | None:
    """None where it is not wanted, or there is nothing to judge by."""
    if not recipe.validation.every:
        return None
    if not (held.photos or held.clips or recipe.validation.sets):
        log.warning("too few clear pictures to hold some out: the generator is not judged on the way")
        return None
    return Validator(recipe, held)


@contextmanager
def _postponed() -> Iterator[Flag]:
    """A flag that Ctrl-C sets, or a polite kill: a state saved in the middle of an iteration would not be exact."""
    stop = Flag()
    if current_thread() is not main_thread():  # signals are none of its business
        yield stop
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and shells' background jobs have it
            signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
