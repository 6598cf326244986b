"""A run of training: a recipe enters, weights leave; a stopped run goes on where it was."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from vderain.errors import OutputError, VderainError
from vderain.restore.device import cores
from vderain.train.config import Recipe
from vderain.train.cyclegan import CycleGAN
from vderain.train.supervised import Supervised
from vderain.train.trainer import GENERATOR, RESUME, Losses, Trainer, learning_rate


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a training log.

    Attributes:
        iteration, iterations: done, and in all.
        loss: mean since the last line.
        parts: the losses it is the sum of, where there are several.
        rate: of the optimisers.
        crops_per_s: examples, all told.
        waiting: share of the time that was spent waiting for data.
    """

    iteration: int
    iterations: int
    loss: float
    parts: Losses
    rate: float
    crops_per_s: float
    waiting: float


def train(recipe: Recipe, out: Path, resume: bool, report: Callable[[Progress], None]) -> Path:
    """Train a generator by a recipe.

    Args:
        recipe: what to do.
        out: folder for the log, the resume state and the generator; made where missing.
        resume: go on from the state in `out`.
        report: is told of progress every `run.log_every` iterations.

    Returns:
        The file of weights. On Ctrl-C the state is saved before KeyboardInterrupt goes on its way.

    Raises:
        OutputError: `out` holds a run, and `resume` was not asked for.
    """
    if not resume and (out / RESUME).exists():
        raise OutputError(f"there is a run in {out} already.", "Add --resume to go on, or choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    # More threads than cores would wait for each other at every layer; OpenCV's would not survive the workers' fork.
    torch.set_num_threads(recipe.run.threads or max(1, cores() - recipe.data.workers))
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)  # moments of a weight at rest decay to denormals, which cost several times as much
    trainer: Trainer = (Supervised if recipe.cyclegan is None else CycleGAN)(recipe, out)
    before_s = trainer.load() if resume else 0.0
    saved, started_s = trainer.iteration, time.monotonic()
    try:
        for progress in _run(trainer):
            report(progress)
            with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: getattr(progress, name) for name in Progress.__slots__}) + "\n")
            if trainer.iteration - saved >= recipe.run.save_every:
                trainer.save(before_s + time.monotonic() - started_s)
                saved = trainer.iteration
    except VderainError:
        raise  # a loss that is not finite: the state before it is the one to keep
    except BaseException:
        trainer.save(before_s + time.monotonic() - started_s)
        raise
    trainer.save(before_s + time.monotonic() - started_s)
    return out / GENERATOR


def _run(trainer: Trainer) -> Iterator[Progress]:
    """Train to the end of the schedule, telling where it stands now and then."""
    recipe = trainer.recipe
    settings = recipe.optimiser
    batches = trainer.batches()
    since: list[Losses] = []
    waited_s, since_s = 0.0, time.monotonic()
    while trainer.iteration < settings.iterations:
        asked_s = time.monotonic()
        batch = next(batches)
        waited_s += time.monotonic() - asked_s
        since.append(trainer.step(*batch))
        if trainer.iteration % recipe.run.log_every == 0 or trainer.iteration == settings.iterations:
            elapsed_s = time.monotonic() - since_s
            means = {name: sum(losses[name] for losses in since) / len(since) for name in since[0]}
            yield Progress(
                trainer.iteration, settings.iterations, means.pop("loss"), means,
                learning_rate(trainer.iteration, recipe), len(since) * settings.batch / elapsed_s, waited_s / elapsed_s,
            )  # fmt: skip
            since, waited_s, since_s = [], 0.0, time.monotonic()
