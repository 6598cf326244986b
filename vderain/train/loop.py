"""The first stage of training: rendered windows enter, a generator leaves; a stopped run goes on where it was."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from vderain.errors import CheckpointError, InputError, OutputError, VderainError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.restore.device import cores
from vderain.train.config import Recipe
from vderain.train.losses import supervised_loss
from vderain.train.pool import WindowPool
from vderain.train.scenes import CENTRE, load_scenes
from vderain.train.windows import Window, WindowMaker

log = logging.getLogger(__name__)

RESUME = "resume.safetensors"
GENERATOR = "generator.safetensors"
GRADIENT_NORM_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a training log."""

    iteration: int
    iterations: int
    loss: float
    rate: float
    crops_per_s: float
    waiting: float


def learning_rate(iteration: int, recipe: Recipe) -> float:
    """Warm up, hold, then decay linearly to zero (the schedule of CycleGAN)."""
    optimiser = recipe.optimiser
    left = optimiser.iterations - iteration
    up = min(1.0, (iteration + 1) / max(1, optimiser.warmup))
    down = min(1.0, left / max(1, optimiser.decay))
    return optimiser.rate * min(up, down)


class Trainer:
    """A generator, its running mean, its optimiser, and where they stand."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out, self.iteration = recipe, out, 0
        torch.manual_seed(recipe.run.seed)
        config = UNetConfig(recipe.model.window, recipe.model.widths, recipe.model.stem)
        self.generator = UNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.model.start is not None:
            self.generator.load_state_dict(_start(recipe.model.start, config))
        self.mean = UNet(config)
        self.mean.load_state_dict(self.generator.state_dict())
        self.adam = torch.optim.Adam(self.generator.parameters(), lr=recipe.optimiser.rate, betas=(0.9, 0.99))

    def step(self, rainy: Tensor, trust: Tensor, clear: Tensor, dry: Tensor) -> float:
        """One move of the weights.

        Raises:
            VderainError: the loss is not finite.
        """
        settings = self.recipe.optimiser
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.iteration, self.recipe)
        centre = rainy[:, 3 * CENTRE : 3 * CENTRE + 3]
        seen = rainy if self.recipe.model.window > 1 else centre
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            residual = self.generator(seen, trust)
        restored = centre + residual.float()
        loss = supervised_loss(
            restored, centre, clear, dry,
            foot=settings.foot, untouched_weight=settings.untouched_weight, block_weight=settings.block_weight,
            dry_weight=settings.dry_weight,
        )  # fmt: skip
        if not math.isfinite(value := loss.item()):
            raise VderainError(f"the loss became {value} at iteration {self.iteration}.", "Lower optimiser.rate.")
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), GRADIENT_NORM_MAX)
        self.adam.step()
        self._follow()
        self.iteration += 1
        return value

    def _follow(self) -> None:
        """The running mean follows; early on it follows closely, since it starts from nothing."""
        keep = min(self.recipe.optimiser.ema, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for mean, value in zip(self.mean.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)

    def save(self, seconds: float) -> None:
        """Write what a resumed run needs, and the running mean as a generator that can be used at once."""
        tensors = {f"generator.{k}": v for k, v in self.generator.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
        partial = self.out / f".{RESUME}.partial"
        metadata = {"iteration": str(self.iteration), "seconds": str(seconds)}
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
        partial.replace(self.out / RESUME)
        save_checkpoint(self.out / GENERATOR, self.mean, self.facts(seconds))

    def load(self) -> float:
        """Go on from a saved run; returns the seconds it had run.

        Raises:
            InputError: there is nothing to go on from.
            CheckpointError: what there is, is corrupt or of another network.
        """
        path = self.out / RESUME
        if not path.is_file():
            raise InputError(f"there is no {path} to resume from.", "Start without --resume.")
        try:
            return self._load(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is corrupt, or the state of another network.", "Start without --resume, or in another folder."
            ) from error

    def _load(self, path: Path) -> float:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        self.generator.load_state_dict(_under("generator.", tensors))
        self.mean.load_state_dict(_under("mean.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("adam.", tensors).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.adam.load_state_dict({"state": state, "param_groups": self.adam.state_dict()["param_groups"]})
        self.iteration = int(metadata["iteration"])
        return float(metadata["seconds"])

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the header of the weights says about how they came to be; nothing of folders on this machine."""
        return {
            "licence": self.recipe.card.licence,
            "data": self.recipe.card.data,
            "recipe": self.recipe.model_dump(mode="json", exclude={"card": True, "data": {"photos", "clips"}}),
            "command": f"vderain train configs/{self.recipe.name}.toml",
            "iterations": self.iteration,
            "hours": round(seconds / 3600, 2),
            "hardware": f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }


def _start(model: str, config: UNetConfig) -> dict[str, Tensor]:
    """Weights of a trained generator, to go on from.

    Raises:
        CheckpointError: there is no such model, or its network is another.
    """
    generator = load_checkpoint(model).generator
    if generator.config != config:
        cure = f"Set model.window, model.widths and model.stem to those of {generator.config}."
        raise CheckpointError(f"{model} is another network than the recipe's.", cure)
    return generator.state_dict()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


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
    trainer = Trainer(recipe, out)
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
    settings, data = recipe.optimiser, recipe.data
    side_px = data.side_px + 2 * data.border_px
    maker = WindowMaker(load_scenes(data.photos, data.clips, side_px), data, recipe.run.seed)
    pool = WindowPool(data.pool)
    taken = max(0, (trainer.iteration + 1) * data.fresh - data.pool)
    windows = _windows(maker, taken, data.workers)
    log.info("%d photographs, %d clips", len(maker.scenes.photos), len(maker.scenes.clips))
    losses, waited_s, since_s = [], 0.0, time.monotonic()
    while trainer.iteration < settings.iterations:
        asked_s = time.monotonic()
        for _ in range((trainer.iteration + 1) * data.fresh - taken):
            pool.add(next(windows))
            taken += 1
        waited_s += time.monotonic() - asked_s
        generator = torch.Generator().manual_seed(recipe.run.seed * 1_000_003 + trainer.iteration)
        losses.append(trainer.step(*pool.batch(settings.batch, settings.crop_px, generator)))
        if trainer.iteration % recipe.run.log_every == 0 or trainer.iteration == settings.iterations:
            elapsed_s = time.monotonic() - since_s
            mean = sum(losses) / len(losses)
            rate = learning_rate(trainer.iteration, recipe)
            yield Progress(
                trainer.iteration,
                settings.iterations,
                mean,
                rate,
                len(losses) * settings.batch / elapsed_s,
                waited_s / elapsed_s,
            )
            losses, waited_s, since_s = [], 0.0, time.monotonic()


def _windows(maker: WindowMaker, start: int, workers: int) -> Iterator[Window]:
    """Windows number `start`, `start` + 1, and so on without end."""
    loader = DataLoader(
        maker,
        batch_size=None,
        sampler=_Count(start),
        num_workers=workers,
        prefetch_factor=16 if workers else None,
        worker_init_fn=_calm if workers else None,
    )
    yield from loader


class _Count:
    """All whole numbers from a start."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += 1


def _calm(_: int) -> None:
    torch.set_num_threads(1)
