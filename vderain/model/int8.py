"""Ranges of a generator's activations, from which its convolutions can be computed in 8-bit integers.

They are measured once, on windows of training images, and are stored in the header of the weights. The first and the
last layer stay in floating point.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vderain.model.checkpoint import Ranges
from vderain.model.unet import Block, UNet

# Of the extremes of single windows: what few of them exceed is clipped. Clipping a tenth erases less of clear scenes
# than keeping all, and leaves finer steps for the rest.
QUANTILE = 0.9


def activation_ranges(generator: UNet, windows: Iterable[tuple[Tensor, Tensor]]) -> Ranges:
    """The lowest and the highest value of each layer's output.

    Args:
        generator: in fp32, with one path.
        windows: arguments of `UNet.forward`.

    Returns:
        By names of layers: ``stem``; blocks, and their ``first`` convolution; ``down`` and ``up``. What is followed by
        an activation is measured behind it.
    """
    extremes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    blocks = [*generator.encoder, generator.bottom]

    def note(name: str, value: Tensor, slope: float = 1.0) -> None:
        low, high = value.aminmax()
        extremes[name].append((float(low) * slope, float(high)))

    def hook(name: str, slope: float) -> Callable[..., None]:
        return lambda layer, inputs, output: note(name, output, slope)

    handles: list[Any] = [blocks[0].register_forward_pre_hook(lambda block, inputs: note("stem", inputs[0]))]
    for name, layer in generator.named_modules():
        is_first = name.endswith(".first")
        if isinstance(layer, Block) or is_first or name.startswith(("down.", "up.")):
            handles.append(layer.register_forward_hook(hook(name, generator.config.slope if is_first else 1.0)))
    try:
        with torch.enable_grad():  # else the convolutions are fused, and no hook is called
            for frames, confidence in windows:
                generator(frames, confidence)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _typical(pairs) for name, pairs in extremes.items()}


def _typical(extremes: list[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = np.array(extremes).T
    return round(float(np.quantile(lows, 1 - QUANTILE)), 4), round(float(np.quantile(highs, QUANTILE)), 4)
