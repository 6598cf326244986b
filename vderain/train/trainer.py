"""What every way of training shares: networks and optimisers that can be saved, and gone on with bit for bit."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vderain.errors import CheckpointError, InputError, OutputError, UsageError, VderainError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.train.config import Recipe
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import Scenes
from vderain.train.distributed import ALONE, ProcessGroup
from vderain.train.logger import Validated

RESUME = "resume.safetensors"
GENERATOR = "generator.safetensors"
BEST = "best.safetensors"
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
        best_db: blend of the best generator saved so far.
        feeds: what makes the examples, once the first batch was asked for.
    """

    def __init__(self, recipe: Recipe, out: Path, ranks: ProcessGroup = ALONE) -> None:
        if recipe.optimiser.batch % ranks.count:
            raise UsageError(
                f"a batch of {recipe.optimiser.batch} cannot be shared evenly by {ranks.count} processes.",
                "Set optimiser.batch to a multiple of their number.",
            )
        self.recipe, self.out, self.iteration, self.ranks = recipe, out, 0, ranks
        self.best_db = float("-inf")
        self.feeds: list[ExampleLoader] = []
        self._moved: dict[str, tuple[list[nn.Module], float | None]] = {}
        torch.manual_seed(recipe.run.seed)
        model = recipe.model
        self.config = UNetConfig(
            model.window, model.widths, model.stem, model.paths, model.slope, model.residual, model.scale
        )
        generator = UNet(self.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if model.start is not None:
            known = _start((model.start,) if isinstance(model.start, str) else model.start, self.config)
            kept = {name: value for name, value in known.items() if not name.startswith(model.renew)}
            generator.load_state_dict(generator.state_dict() | kept)
        mean = UNet(self.config)
        mean.load_state_dict(generator.state_dict())
        self.networks: dict[str, nn.Module] = {"generator": generator, "mean": mean}
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.tensors: dict[str, Tensor] = {}

    @abstractmethod
    def material(self) -> Scenes:
        """Look through the folders of the recipe; returns what is held out to judge by.

        Raises:
            InputError: there is nothing to train on.
        """

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Our share of batches from the present iteration on: the same ones, wherever a run was stopped."""

    @abstractmethod
    def losses(self, *batch: Tensor) -> Losses:
        """Move the weights once and return the losses of our share, their sum as ``loss``.

        Raises:
            NotFinite: before any weight has moved; for all processes of the run, or none.
        """

    def step(self, *batch: Tensor) -> Losses:
        """One iteration.

        Raises:
            Diverged: a loss is not finite; the batch is saved for who wants to know why.
        """
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.iteration, self.recipe)
        try:
            losses = self.losses(*batch)
        except NotFinite as error:
            raise Diverged(
                f"the loss became {error} at iteration {self.iteration}.",
                f"Lower optimiser.rate; {self._convicted(batch)}.",
            ) from error
        self._follow()
        self.iteration += 1
        means = self.ranks.mean(torch.tensor(list(losses.values()), dtype=torch.float64))
        return dict(zip(losses, means.tolist(), strict=True))

    def optimises(
        self, name: str, networks: list[nn.Module], betas: tuple[float, float], norm_max: float | None = None
    ) -> None:
        """Add an Adam for some networks; their gradient is cut to a norm where one is given."""
        parameters = [parameter for network in networks for parameter in network.parameters()]
        self.optimisers[name] = torch.optim.Adam(parameters, lr=self.recipe.optimiser.rate, betas=betas)
        self._moved[name] = networks, norm_max

    def move(self, name: str, loss: Tensor | None = None) -> None:
        """One step of an optimiser; with a loss its gradient is taken first."""
        networks, norm_max = self._moved[name]
        if loss is not None:
            for optimiser in self.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(networks)
        if norm_max is not None:
            torch.nn.utils.clip_grad_norm_([p for network in networks for p in network.parameters()], norm_max)
        self.optimisers[name].step()

    def finite(self, loss: Tensor) -> float:
        """The value of a loss over all processes, which find it to be none together.

        Raises:
            NotFinite: it has none.
        """
        value = float(self.ranks.mean(loss.detach()))
        if not math.isfinite(value):
            raise NotFinite(value)
        return value

    def _convicted(self, batch: Batch) -> str:
        """Save a batch for who wants to know why; returns where it is."""
        parts = {str(i): self.ranks.gathered(part).contiguous() for i, part in enumerate(batch)}
        if self.ranks.first:
            try:
                save_file(parts, self.out / OFFENDING)
            except (OSError, SafetensorError) as error:
                return f"the batch could not be saved ({error})"
        return f"the batch is in {self.out / OFFENDING}"

    def _follow(self) -> None:
        """The running mean follows; early on it follows closely, since it starts from nothing."""
        keep = min(self.recipe.optimiser.ema, (1 + self.iteration) / (10 + self.iteration))
        pairs = zip(self.networks["mean"].parameters(), self.networks["generator"].parameters(), strict=True)
        with torch.no_grad():
            for mean, value in pairs:
                mean.lerp_(value, 1 - keep)

    def save(self, seconds: float) -> None:
        """Write what a resumed run needs, and the running mean as a generator that can be used at once.

        Raises:
            OutputError: the disk refuses it; what was saved before is whole.
        """
        partial = _partial(self.out / RESUME)
        with _written(self.out / RESUME):
            metadata = {"iteration": str(self.iteration), "seconds": str(seconds), "best_db": str(self.best_db)}
            save_file(self._state(), partial, metadata)
            partial.replace(self.out / RESUME)
        self._save_mean(GENERATOR, self.facts(seconds))

    def save_best(self, seconds: float, validated: Validated) -> None:
        """Write the running mean beside the latest, as the best so far.

        Raises:
            OutputError: the disk refuses it; the best of before is whole.
        """
        scores = {name: {"psnr_y_db": s.psnr_y_db, "ssim_y": s.ssim_y} for name, s in validated.sets.items()}
        self._save_mean(BEST, self.facts(seconds) | {"validation": scores, "blend_db": validated.blend_db})
        self.best_db = validated.blend_db

    def _save_mean(self, name: str, facts: dict[str, Any]) -> None:
        with _written(self.out / name):
            save_checkpoint(self.out / name, self.mean, facts)

    @property
    def mean(self) -> UNet:
        network = self.networks["mean"]
        assert isinstance(network, UNet)
        return network

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"tensors.{name}": value for name, value in self.tensors.items()}
        for name, network in self.networks.items():
            tensors |= {f"{name}.{k}": v for k, v in network.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in state.items()}
        return {name: value.contiguous() for name, value in tensors.items()}

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
        self.best_db = float(metadata.get("best_db", "-inf"))  # states of before it was written
        return float(metadata["seconds"])

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the header of the weights says about how they came to be; nothing of folders on this machine."""
        paths: Any = {"card": True, "data": {"photos", "clips", "rain", "pairs"}, "validation": {"sets"}}
        recipe = self.recipe.model_dump(mode="json", exclude=paths)
        start = recipe["model"]["start"]
        recipe["model"]["start"] = (
            Path(start).name if isinstance(start, str) else start and [Path(s).name for s in start]
        )
        precision = "bf16" if self.recipe.bf16 else "fp32"
        processes = f", {self.ranks.count} processes" if self.ranks.count > 1 else ""
        return {
            "licence": self.recipe.card.licence,
            "data": self.recipe.card.data,
            "recipe": recipe,
            "command": f"vderain train configs/{self.recipe.name}.toml",
            "iterations": self.iteration,
            "hours": round(seconds / 3600, 2),
            "hardware": f"CPU, {torch.get_num_threads()} threads, {precision}{processes}",
            "torch": torch.__version__,
        }


class Diverged(VderainError):
    """A loss stopped being finite: there is nothing to go on with but an earlier state."""


class NotFinite(ArithmeticError):
    """A loss is infinite or no number."""


def _partial(path: Path) -> Path:
    """The name under which a file is written until it is whole."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """What is begun is removed where the disk refuses it.

    Raises:
        OutputError: it did.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            _partial(path).unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}.", "Free some space.") from error


def _start(models: tuple[str, ...], config: UNetConfig) -> dict[str, Tensor]:
    """Weights of a trained generator to go on from, or the mean of several.

    Generators that were trained on from one another err each in its own way, and their mean errs less than either
    (Wortsman et al., "Model soups", ICML 2022).

    Raises:
        CheckpointError: there is no such model, or its network is another.
    """
    generators = [_generator(model, config).state_dict() for model in models]
    return {name: torch.stack([g[name].float() for g in generators]).mean(0) for name in generators[0]}


def _generator(model: str, config: UNetConfig) -> UNet:
    generator = load_checkpoint(model).generator
    if replace(generator.config, slope=config.slope, scale=config.scale) != config:
        cure = f"Set model.window, model.widths and model.stem to those of {generator.config}."
        raise CheckpointError(f"{model} is another network than the recipe's.", cure)
    return generator


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
