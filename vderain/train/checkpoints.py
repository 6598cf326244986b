"""Reads the weights that training starts from; saves and loads the state of a run.

A start is a generator of vderain or a state dict saved by PyTorch (``.pth``, ``.pt``). State dicts are read with
``weights_only=True``, which runs no code from the file. A file whose tensors are those of the recipe's network is used.
Generators of other projects, such as those of pytorch-CycleGAN-and-pix2pix, compute something that this network cannot;
the error says what they are.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vderain.errors import CheckpointError, InputError, OutputError
from vderain.model.checkpoint import build_generator, load_checkpoint
from vderain.model.recurrent import from_window
from vderain.model.unet import UNetConfig
from vderain.runtime.files import Draft

SUFFIXES = {".pth", ".pt"}
TRAIN_INSTEAD = "Train a generator instead, with configs/base.toml or configs/cyclegan.toml."


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
        with output_errors(path), Draft(path) as draft:
            draft.create()
            save_file(self._flattened(), draft.path, facts)
            draft.publish()

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
def output_errors(path: Path) -> Iterator[None]:
    """Turn an error of writing a file into an OutputError.

    Raises:
        OutputError: writing failed.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}.", "Free some space.") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_start(models: tuple[str, ...], config: UNetConfig) -> dict[str, Tensor]:
    """Load one generator, or the mean of several.

    Generators fine-tuned from one another make different errors, and their mean makes smaller ones (Wortsman et al.,
    "Model soups", ICML 2022).

    Args:
        models: names of released models, or files.
        config: of the network to train.

    Returns:
        Weights by name, float32.

    Raises:
        CheckpointError: a model does not exist, or is of another network.
    """
    states = [_load(model, config) for model in models]
    if any(state.keys() != states[0].keys() for state in states):
        raise CheckpointError(
            "a generator with a memory and one without have no mean.", "Name models of one kind in model.start."
        )
    return {name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]}


def _load(model: str, config: UNetConfig) -> dict[str, Tensor]:
    if Path(model).suffix.lower() in SUFFIXES:
        return import_state_dict(Path(model), config)
    generator = load_checkpoint(model).generator
    if config.state and generator.config.window > 1:
        as_window = replace(config, window=generator.config.window, state=0)
        if replace(generator.config, slope=config.slope, scale=config.scale) == as_window:
            return from_window(generator.state_dict(), config)
    if replace(generator.config, slope=config.slope, scale=config.scale) != config:
        cure = f"Set model.window, model.widths, model.stem and model.state to those of {generator.config}."
        raise CheckpointError(f"{model} is another network than the recipe's.", cure)
    return generator.state_dict()


def import_state_dict(path: Path, config: UNetConfig) -> dict[str, Tensor]:
    """Read a state dict saved by ``torch.save``, without running code from it.

    Args:
        path: a ``.pth`` or ``.pt`` file.
        config: of the network to train.

    Returns:
        Weights by name, of the names and shapes of ``build_generator(config)``.

    Raises:
        CheckpointError: it cannot be read as tensors alone, or holds another network.
    """
    state = _read(path)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in build_generator(config).state_dict().items()}
    if {name: value.shape for name, value in state.items()} == expected:
        return state
    raise CheckpointError(f"{path.name} {_describe(state)}.", TRAIN_INSTEAD)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than tensors, and loading it could run code.",
            "Save its state_dict() alone with torch.save.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a PyTorch file"
        raise CheckpointError(f"{path} cannot be read ({reason}).", "Check the file.") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path.name} is not a state dict.", "Save network.state_dict().")
    tensors = {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if len(tensors) < len(loaded):
        raise CheckpointError(f"{path.name} is not a state dict.", "Save network.state_dict().")
    return tensors


def _describe(state: Mapping[str, Tensor]) -> str:
    """What kind of network a foreign state dict is of, and why it cannot be converted."""
    convolutions = [value for value in state.values() if value.ndim == 4]
    blocks = {match[1] for key in state if (match := re.match(r"model\.(\d+)\.conv_block\.", key))}
    if blocks:
        return (
            f"is a CycleGAN ResNet generator (resnet_{len(blocks)}blocks): it has no skip connections, and instance "
            "normalisation looks at the whole picture, so a U-Net cannot take its weights"
        )
    if any(key.startswith("model.model.1.model.") for key in state):
        levels = sum(value.shape[2:] == (4, 4) for value in convolutions) // 2
        return (
            f"is a CycleGAN U-Net generator (unet_{2**levels}): its 4x4 kernels, normalisation over the whole picture "
            "and tanh output cannot be expressed in vderain's U-Net, which has none of them"
        )
    if convolutions and convolutions[-1].shape[0] == 1 and all(k.startswith("model.") for k in state):
        return "is a CycleGAN discriminator, not a generator"
    return f"is a state dict of {len(state)} tensors that are not those of the recipe's network"
