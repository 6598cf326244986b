"""Base class of the ways of training: networks, optimisers, and a saved state that a run resumes from exactly."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vderain.errors import UsageError, VderainError
from vderain.model.checkpoint import build_generator, save_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.runtime.device import DevicePlacement
from vderain.train.checkpoints import RunState, load_start, output_errors
from vderain.train.config import Recipe
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import Scenes
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup, place_training
from vderain.train.logger import Validated

RESUME = "resume.safetensors"
GENERATOR = "generator.safetensors"
BEST = "best.safetensors"
OFFENDING = "offending.safetensors"

Batch = tuple[Tensor, ...]
Losses = dict[str, float]
N = TypeVar("N", bound=nn.Module)


def learning_rate(iteration: int, recipe: Recipe) -> float:
    """Learning rate of an iteration: linear warm-up, constant, then linear decay to zero, as CycleGAN does."""
    optimiser = recipe.optimiser
    left = optimiser.iterations - iteration
    up = min(1.0, (iteration + 1) / max(1, optimiser.warmup))
    down = min(1.0, left / max(1, optimiser.decay))
    return optimiser.rate * min(up, down)


class Trainer(ABC):
    """Networks in training, and the state of the run.

    Args:
        recipe: of the run.
        out: folder of the run.
        group: processes that train together.
        placement: device and precision; the CPU if not given.

    Attributes:
        networks: by name; ``generator`` is trained, ``mean`` is its exponential moving average, which gets released.
        optimisers: by name, in the order in which they are saved.
        tensors: other state that a resumed run needs, by name.
        iteration: number of finished iterations.
        best_db: highest validation blend so far.
        loaders: of examples, once the first batch was asked for.

    Raises:
        UsageError: the batch cannot be shared evenly.
        CheckpointError: `model.start` cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        group: ProcessGroup = SINGLE_PROCESS,
        placement: DevicePlacement | None = None,
    ) -> None:
        if recipe.optimiser.batch % group.size:
            raise UsageError(
                f"a batch of {recipe.optimiser.batch} cannot be shared evenly by {group.size} processes.",
                "Set optimiser.batch to a multiple of their number.",
            )
        self.recipe, self.out, self.iteration, self.group = recipe, out, 0, group
        self.placement = placement or place_training("cpu", recipe.optimiser.bf16)
        self.device = self.placement.device
        self.best_db = float("-inf")
        self.loaders: list[ExampleLoader[Any]] = []
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.tensors: dict[str, Tensor] = {}
        self._optimised: dict[str, tuple[list[nn.Module], float | None]] = {}
        self._build_generator()
        self.build()

    def _build_generator(self) -> None:
        """Build the generator, on the CPU first so that its initial weights do not depend on the device."""
        recipe = self.recipe
        torch.manual_seed(recipe.run.seed)
        model = recipe.model
        self.config = UNetConfig(
            model.window, model.widths, model.stem, model.paths, model.slope, model.residual, model.scale, model.state,
            model.glass,
        )  # fmt: skip
        generator = build_generator(self.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if model.start is not None:
            starts = (model.start,) if isinstance(model.start, str) else model.start
            known = load_start(starts, self.config)
            kept = {name: value for name, value in known.items() if not name.startswith(model.renew)}
            generator.load_state_dict(generator.state_dict() | kept)
        if model.train:
            for name, parameter in generator.named_parameters():
                parameter.requires_grad_(name.startswith(model.train))
        mean = build_generator(self.config)
        mean.load_state_dict(generator.state_dict())
        self.add_network("generator", generator)
        self.add_network("mean", mean)

    @abstractmethod
    def build(self) -> None:
        """Add optimisers, and the networks that this way of training needs beside the generator.

        Raises:
            UsageError: a batch cannot be shared evenly.
        """

    @abstractmethod
    def load_data(self) -> Scenes:
        """Load or index the training data; returns the scenes held out for validation.

        Raises:
            InputError: there is nothing to train on.
            UsageError: the recipe needs torchvision, which is not installed.
        """

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Yield this process's share of each batch, from the current iteration on, in CPU memory."""

    @abstractmethod
    def losses(self, *batch: Tensor) -> Losses:
        """Update the weights once.

        Args:
            batch: this process's share, on its device.

        Returns:
            Losses of that share by name, the total as ``loss``.

        Raises:
            NotFinite: in all processes, before any weight has changed.
        """

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rainy and clear crops of a batch, to look at: (B, 3, H, W) in 0..1 each."""
        return batch[0], batch[1]

    def step(self, *batch: Tensor) -> Losses:
        """Run one iteration.

        Args:
            batch: this process's share, on any device.

        Returns:
            Mean losses over all processes by name, the total as ``loss``.

        Raises:
            Diverged: the loss is not finite; the batch is saved for inspection.
        """
        batch = tuple(part.to(self.device) for part in batch)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.iteration, self.recipe)
        try:
            losses = self.losses(*batch)
        except NotFinite as error:
            raise Diverged(
                f"the loss became {error} at iteration {self.iteration}.",
                f"Lower optimiser.rate; {self._save_offending_batch(batch)}.",
            ) from error
        self._update_mean()
        self.iteration += 1
        means = self.group.mean(torch.tensor(list(losses.values()), dtype=torch.float64))
        return dict(zip(losses, means.tolist(), strict=True))

    def iteration_rng(self) -> torch.Generator:
        """A CPU random number generator, seeded by the run's seed and the iteration."""
        return torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + self.iteration)

    def add_network(self, name: str, network: N) -> N:
        """Move a network to the device and save it with the run.

        Args:
            name: in `networks`.
            network: to add.

        Returns:
            The same network.
        """
        self.networks[name] = network.to(self.device)
        return network

    def add_optimiser(
        self,
        name: str,
        networks: list[nn.Module],
        betas: tuple[float, float],
        norm_max: float | None = None,
    ) -> None:
        """Add an Adam optimiser.

        Args:
            name: in `optimisers`.
            networks: whose parameters it updates; on the device already.
            betas: of Adam.
            norm_max: gradients are clipped to this norm; None does not clip.
        """
        parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        self.optimisers[name] = torch.optim.Adam(parameters, lr=self.recipe.optimiser.rate, betas=betas)
        self._optimised[name] = networks, norm_max

    def optimiser_step(self, name: str, loss: Tensor | None = None) -> None:
        """Update the weights of one optimiser.

        Args:
            name: of the optimiser.
            loss: differentiated first, for all optimisers; None if that has been done.
        """
        networks, norm_max = self._optimised[name]
        if loss is not None:
            for optimiser in self.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients(networks)
        if norm_max is not None:
            parameters = [p for network in networks for p in network.parameters()]
            torch.nn.utils.clip_grad_norm_(parameters, norm_max)
        self.optimisers[name].step()

    def check_finite(self, loss: Tensor) -> None:
        """Check a loss, averaged over all processes.

        Raises:
            NotFinite: in all of them, if it is infinite or NaN in any.
        """
        value = float(self.group.mean(loss.detach()))
        if not math.isfinite(value):
            raise NotFinite(value)

    def _save_offending_batch(self, batch: Batch) -> str:
        """Save the batch of all processes; returns a clause that says where it is."""
        parts = {str(i): self.group.all_gather(part).contiguous() for i, part in enumerate(batch)}
        if self.group.is_main:
            try:
                save_file(parts, self.out / OFFENDING)
            except (OSError, SafetensorError) as error:
                return f"the batch could not be saved ({error})"
        return f"the batch is in {self.out / OFFENDING}"

    def _update_mean(self) -> None:
        """Update the exponential moving average of the weights, with less weight on the past early in the run."""
        keep = min(self.recipe.optimiser.ema, (1 + self.iteration) / (10 + self.iteration))
        pairs = zip(self.networks["mean"].parameters(), self.networks["generator"].parameters(), strict=True)
        with torch.no_grad():
            for mean, value in pairs:
                mean.lerp_(value, 1 - keep)

    def save(self, seconds: float) -> None:
        """Save the state of the run, and the averaged weights as a generator.

        Args:
            seconds: how long the run has taken.

        Raises:
            OutputError: it cannot be written; the files saved before are intact.
        """
        facts = {"iteration": self.iteration, "seconds": seconds, "best_db": self.best_db}
        self._state().save(self.out / RESUME, {name: str(value) for name, value in facts.items()})
        self._save_mean(GENERATOR, self.facts(seconds))

    def save_best(self, seconds: float, validated: Validated) -> None:
        """Save the averaged weights as the best generator so far.

        Args:
            seconds: how long the run has taken.
            validated: its scores.

        Raises:
            OutputError: it cannot be written; the best generator saved before is intact.
        """
        scores = {name: {"psnr_y_db": s.psnr_y_db, "ssim_y": s.ssim_y} for name, s in validated.sets.items()}
        self._save_mean(BEST, self.facts(seconds) | {"validation": scores, "blend_db": validated.blend_db})
        self.best_db = validated.blend_db

    def _save_mean(self, name: str, facts: dict[str, Any]) -> None:
        with output_errors(self.out / name):
            save_checkpoint(self.out / name, self.mean, facts)

    @property
    def mean(self) -> UNet:
        """Exponential moving average of the generator's weights."""
        network = self.networks["mean"]
        assert isinstance(network, UNet)
        return network

    def _state(self) -> RunState:
        return RunState(self.networks, self.optimisers, self.tensors, self.device)

    def load(self) -> float:
        """Load a saved state.

        Returns:
            Seconds that the run had taken.

        Raises:
            InputError: there is none.
            CheckpointError: it is corrupt, or of another network.
        """
        facts = self._state().load(self.out / RESUME)
        self.iteration = int(facts["iteration"])
        self.best_db = float(facts.get("best_db", "-inf"))  # older states lack it
        return float(facts["seconds"])

    def facts(self, seconds: float) -> dict[str, Any]:
        """Facts about the run for the header of the weights, without paths of this machine.

        Args:
            seconds: how long the run has taken.
        """
        paths: Any = {"card": True, "data": {"photos", "clips", "rain", "pairs"}, "validation": {"sets"}}
        recipe = self.recipe.model_dump(mode="json", exclude=paths)
        start = recipe["model"]["start"]
        recipe["model"]["start"] = (
            Path(start).name if isinstance(start, str) else start and [Path(s).name for s in start]
        )
        return {
            "licence": self.recipe.card.licence,
            "data": self.recipe.card.data,
            "recipe": recipe,
            "command": f"vderain train configs/{self.recipe.name}.toml",
            "iterations": self.iteration,
            "hours": round(seconds / 3600, 2),
            "hardware": self._hardware(),
            "torch": torch.__version__,
        }

    def _hardware(self) -> str:
        cpu = self.device.type == "cpu"
        name = f"CPU, {torch.get_num_threads()} threads" if cpu else self.device.type.upper()
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        precision = "bf16" if self.placement.bf16 else "fp32"
        processes = f", {self.group.size} processes" if self.group.size > 1 else ""
        return f"{name}, {precision}{processes}"


class Diverged(VderainError):
    """The loss is no longer finite; only an earlier state can be resumed."""


class NotFinite(ArithmeticError):
    """A loss is infinite or NaN."""
