"""Loads the weights that training starts from: generators of vderain, or state dicts saved by PyTorch.

State dicts (``.pth``, ``.pt``) are read with ``weights_only=True``, which runs no code from the file. A file whose
tensors are those of the recipe's network is used. Generators of other projects, such as those of
pytorch-CycleGAN-and-pix2pix, compute something that this network cannot; the error says what they are.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from vderain.errors import CheckpointError
from vderain.model.checkpoint import load_checkpoint
from vderain.model.unet import UNet, UNetConfig

SUFFIXES = {".pth", ".pt"}
TRAIN_INSTEAD = "Train a generator instead, with configs/base.toml or configs/cyclegan.toml."


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
    return {name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]}


def _load(model: str, config: UNetConfig) -> dict[str, Tensor]:
    if Path(model).suffix.lower() in SUFFIXES:
        return import_state_dict(Path(model), config)
    generator = load_checkpoint(model).generator
    if replace(generator.config, slope=config.slope, scale=config.scale) != config:
        cure = f"Set model.window, model.widths and model.stem to those of {generator.config}."
        raise CheckpointError(f"{model} is another network than the recipe's.", cure)
    return generator.state_dict()


def import_state_dict(path: Path, config: UNetConfig) -> dict[str, Tensor]:
    """Read a state dict saved by ``torch.save``, without running code from it.

    Args:
        path: a ``.pth`` or ``.pt`` file.
        config: of the network to train.

    Returns:
        Weights by name, of the names and shapes of ``UNet(config)``.

    Raises:
        CheckpointError: it cannot be read as tensors alone, or holds another network.
    """
    state = _read(path)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in UNet(config).state_dict().items()}
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
