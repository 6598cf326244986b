"""What every way of training shares: networks and optimisers that can be saved, and gone on with bit for bit."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vderain.errors import CheckpointError, InputError, VderainError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.train.config import Recipe

RESUME = "resume.safetensors"
GENERATOR = "generator.safetensors"
OFFENDING = "offending.safetensors"

Batch = tuple[Tensor, ...]
Losses = dict[str, float]


def learning_rate(iteration: int, recipe: Recipe) -> float:
    """Warm up, hold, then decay linearly to zero (the schedule of CycleGAN)."""
    optimiser = recipe.optimiser
    left = optimiser.iterations - iteration
    up = min(1.0, (iteration + 1) / max(1, optimiser.warmup))
    down = min(1.0, left / max(1, optimiser.decay))
    return optimiser.rate * min(up, down)


class Trainer(ABC):
    """Networks on their way, and where they stand.

    Attributes:
        networks: by name; ``generator`` is what is trained, ``mean`` its running mean, which is what gets used.
        optimisers: by name, in the order in which they are saved.
        tensors: whatever else a resumed run needs, by name.
    """

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out, self.iteration = recipe, out, 0
        torch.manual_seed(recipe.run.seed)
        model = recipe.model
        self.config = UNetConfig(model.window, model.widths, model.stem, model.paths, model.slope, model.residual)
        generator = UNet(self.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if model.start is not None:
            known = _start(model.start, self.config)
            kept = {name: value for name, value in known.items() if not name.startswith(model.renew)}
            generator.load_state_dict(generator.state_dict() | kept)
        mean = UNet(self.config)
        mean.load_state_dict(generator.state_dict())
        self.networks: dict[str, nn.Module] = {"generator": generator, "mean": mean}
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.tensors: dict[str, Tensor] = {}

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Batches from the present iteration on: the same ones, wherever a run was stopped."""

    @abstractmethod
    def losses(self, *batch: Tensor) -> Losses:
        """Move the weights once and return the losses, their sum as ``loss``.

        Raises:
            NotFinite: before any weight has moved.
        """

    def step(self, *batch: Tensor) -> Losses:
        """One iteration.

        Raises:
            VderainError: a loss is not finite; the batch is saved for who wants to know why.
        """
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.iteration, self.recipe)
        try:
            losses = self.losses(*batch)
        except NotFinite as error:
            save_file({str(i): part.contiguous() for i, part in enumerate(batch)}, self.out / OFFENDING)
            raise VderainError(
                f"the loss became {error} at iteration {self.iteration}.",
                f"Lower optimiser.rate; the batch is in {self.out / OFFENDING}.",
            ) from error
        self._follow()
        self.iteration += 1
        return losses

    def _follow(self) -> None:
        """The running mean follows; early on it follows closely, since it starts from nothing."""
        keep = min(self.recipe.optimiser.ema, (1 + self.iteration) / (10 + self.iteration))
        pairs = zip(self.networks["mean"].parameters(), self.networks["generator"].parameters(), strict=True)
        with torch.no_grad():
            for mean, value in pairs:
                mean.lerp_(value, 1 - keep)

    def save(self, seconds: float) -> None:
        """Write what a resumed run needs, and the running mean as a generator that can be used at once."""
        tensors = {f"tensors.{name}": value for name, value in self.tensors.items()}
        for name, network in self.networks.items():
            tensors |= {f"{name}.{k}": v for k, v in network.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in state.items()}
        partial = self.out / f".{RESUME}.partial"
        metadata = {"iteration": str(self.iteration), "seconds": str(seconds)}
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
        partial.replace(self.out / RESUME)
        mean = self.networks["mean"]
        assert isinstance(mean, UNet)
        save_checkpoint(self.out / GENERATOR, mean, self.facts(seconds))

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
        for name, network in self.networks.items():
            network.load_state_dict(_under(f"{name}.", tensors))
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(f"{name}.", tensors).items():
                index, entry = key.split(".", 1)
                state.setdefault(int(index), {})[entry] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.tensors.update(_under("tensors.", tensors))
        self.iteration = int(metadata["iteration"])
        return float(metadata["seconds"])

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the header of the weights says about how they came to be; nothing of folders on this machine."""
        return {
            "licence": self.recipe.card.licence,
            "data": self.recipe.card.data,
            "recipe": self.recipe.model_dump(mode="json", exclude={"card": True, "data": {"photos", "clips", "rain"}}),
            "command": f"vderain train configs/{self.recipe.name}.toml",
            "iterations": self.iteration,
            "hours": round(seconds / 3600, 2),
            "hardware": f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }


class NotFinite(ArithmeticError):
    """A loss is infinite or no number."""


def finite(loss: Tensor) -> float:
    """The value of a loss.

    Raises:
        NotFinite: it has none.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(value)
    return value


def numbered(examples: Dataset[Any], start: int, workers: int) -> Iterator[Any]:
    """Examples number `start`, `start` + 1, and so on without end, made by processes of their own."""
    loader = DataLoader(
        examples, batch_size=None, sampler=_Count(start), num_workers=workers,
        prefetch_factor=16 if workers else None, worker_init_fn=_calm if workers else None,
    )  # fmt: skip
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


def _start(model: str, config: UNetConfig) -> dict[str, Tensor]:
    """Weights of a trained generator, to go on from.

    Raises:
        CheckpointError: there is no such model, or its network is another.
    """
    generator = load_checkpoint(model).generator
    if replace(generator.config, slope=config.slope) != config:
        cure = f"Set model.window, model.widths and model.stem to those of {generator.config}."
        raise CheckpointError(f"{model} is another network than the recipe's.", cure)
    return generator.state_dict()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
