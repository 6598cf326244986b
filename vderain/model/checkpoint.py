"""Saves and loads generators as safetensors files that describe themselves.

The header holds everything needed to build the network and to judge it: architecture, licence, training data, command
and scores. Loading such a file cannot run code.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from vderain.errors import CheckpointError
from vderain.model.released import DEFAULT_MODEL, WEIGHTS, released_models, weights_file
from vderain.model.unet import Block, UNet, UNetConfig
from vderain.runtime.files import Draft

__all__ = [
    "DEFAULT_MODEL", "FORMAT", "WEIGHTS", "Checkpoint", "load_checkpoint", "released_models", "save_checkpoint",
]  # fmt: skip

FORMAT = "vderain-generator-1"
Ranges = dict[str, tuple[float, float]]  # lowest and highest value by layer, see `vderain.model.int8`
WEIGHT_MAX = 1000.0  # weights of trained networks are below 10; far larger ones make the output infinite
RANGE_MAX = 1e6  # those of trained networks are below 100
PARAMETERS_MAX = 200_000_000  # bounds what a header can make the loader allocate


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A generator ready to run.

    Attributes:
        name: the file's name without its suffix.
        generator: in eval mode, without gradients.
        facts: what the header says about it: licence, training data, command, scores.
        ranges: of its activations, for 8-bit integers; None where they were not measured. See `vderain.model.int8`.
    """

    name: str
    generator: UNet
    facts: dict[str, Any]
    ranges: Ranges | None = None


def build_generator(config: UNetConfig) -> UNet:
    """The untrained generator of an architecture."""
    if config.state:
        from vderain.model.recurrent import RecurrentUNet  # most models are not recurrent

        return RecurrentUNet(config)
    if config.glass:
        from vderain.model.glass import GlassUNet

        return GlassUNet(config)
    return UNet(config)


def save_checkpoint(path: Path, generator: UNet, facts: dict[str, Any], ranges: Ranges | None = None) -> None:
    """Write weights as float16, with the architecture and `facts` in the header; replaces `path` atomically.

    Args:
        path: the file to write.
        generator: whose weights to save.
        facts: for the header; must be JSON.
        ranges: of its activations, see `Checkpoint`.

    Raises:
        OutputError, OSError: it cannot be written; an earlier file is intact.
    """
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in generator.state_dict().items()}
    metadata = {"format": FORMAT, "architecture": json.dumps(generator.config.to_dict()), "facts": json.dumps(facts)}
    if ranges:
        metadata["ranges"] = json.dumps(ranges)
    with Draft(path) as draft:
        draft.create()
        draft.path.write_bytes(save(tensors, metadata))  # save_file would make it readable for its owner only
        draft.publish()


def load_checkpoint(model: str) -> Checkpoint:
    """Load a released generator by name, or one from a file.

    Args:
        model: name of a released model, or path of a file.

    Raises:
        CheckpointError: the model does not exist, or the file is corrupt or not a vderain generator.
    """
    path = weights_file(model)
    try:
        return _read(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a usable vderain generator ({reason}).", "Use a file written by `vderain train`."
        ) from error


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError("its header does not name the vderain format")
        architecture = dict(json.loads(metadata["architecture"]))
        for name in {"widths", "paths"} & architecture.keys():
            architecture[name] = tuple(int(value) for value in architecture[name])
        architecture.setdefault("slope", 0.0)  # files written before the field existed
        config = UNetConfig(**architecture)
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in build_generator(config).state_dict().items()}
        if sum(math.prod(shape) for shape in shapes.values()) > PARAMETERS_MAX:
            raise ValueError("its header describes a network that is too large")
        if {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} != shapes:  # noqa: SIM118
            raise ValueError("its weights do not fit its header")
        weights = {name: file.get_tensor(name).float() for name in shapes}
    if not all(value.abs().amax() <= WEIGHT_MAX for value in weights.values()):  # not a number is refused, too
        raise ValueError(f"some of its weights are not finite, or larger than {WEIGHT_MAX:g}")
    generator = build_generator(config)
    generator.load_state_dict(weights)
    facts = dict(json.loads(metadata.get("facts", "{}")))
    return Checkpoint(path.stem, generator.eval().requires_grad_(False), facts, _ranges(metadata, generator))


def _ranges(metadata: dict[str, str], generator: UNet) -> Ranges | None:
    """The ranges in the header.

    Raises:
        ValueError: they do not fit the generator.
    """
    if "ranges" not in metadata:
        return None
    ranges = {name: (float(low), float(high)) for name, (low, high) in dict(json.loads(metadata["ranges"])).items()}
    if ranges.keys() != range_names(generator) or not all(
        abs(v) <= RANGE_MAX for pair in ranges.values() for v in pair
    ):
        raise ValueError("its ranges do not fit its header")
    return ranges


def range_names(generator: UNet) -> set[str]:
    """The names that `activation_ranges` returns for a generator."""
    names = {"stem"}
    for name, layer in generator.named_modules():
        if isinstance(layer, Block):
            names |= {name, f"{name}.first"}
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and name.startswith(("down.", "up.")):
            names.add(name)
    return names
