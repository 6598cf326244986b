"""Saves and loads the state of a training run: networks, optimisers and other tensors, in one safetensors file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vderain.errors import CheckpointError, InputError, OutputError


@dataclass(frozen=True, slots=True)
class RunState:
    """What a resumed run needs. Loading changes networks, optimisers and tensors in place.

    Attributes:
        networks: by name.
        optimisers: by name; no name may be that of a network.
        tensors: by name.
        device: of all of them.
    """

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    tensors: dict[str, Tensor]
    device: torch.device

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write the state, in place of an earlier one once it is complete.

        Args:
            path: to write.
            facts: to store in the header.

        Raises:
            OutputError: it cannot be written; an earlier state is intact.
        """
        partial = _partial(path)
        with removed_on_error(path):
            save_file(self._flattened(), partial, facts)
            partial.replace(path)

    def load(self, path: Path) -> dict[str, str]:
        """Load a saved state; returns the facts in its header.

        Raises:
            InputError: there is none.
            CheckpointError: it is corrupt, or of another network.
        """
        if not path.is_file():
            raise InputError(f"there is no {path} to resume from.", "Start without --resume.")
        try:
            with safe_open(path, framework="pt") as file:
                facts: dict[str, str] = file.metadata()
            if not facts:
                raise ValueError("it has no header")
            self._unflatten(load_file(path))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is corrupt, or the state of another network.",
                "Start without --resume, or in another folder.",
            ) from error
        return facts

    def _flattened(self) -> dict[str, Tensor]:
        tensors = {f"tensors.{name}": value for name, value in self.tensors.items()}
        for name, network in self.networks.items():
            tensors |= {f"{name}.{k}": v for k, v in network.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in state.items()}
        return {name: value.contiguous() for name, value in tensors.items()}

    def _unflatten(self, tensors: dict[str, Tensor]) -> None:
        for name, network in self.networks.items():
            network.load_state_dict(_under(f"{name}.", tensors))
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(f"{name}.", tensors).items():
                index, entry = key.split(".", 1)
                state.setdefault(int(index), {})[entry] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": state, "param_groups": groups})
        for name, value in _under("tensors.", tensors).items():
            self.tensors[name] = value.to(self.device)


@contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Remove the temporary file of `path` if writing fails.

    Raises:
        OutputError: writing failed.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            _partial(path).unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}.", "Free some space.") from error


def _partial(path: Path) -> Path:
    """Temporary name under which a file is written."""
    return path.with_name(f".{path.name}.partial")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
