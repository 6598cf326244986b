"""Measures the ranges of a model's activations on training windows, and writes them into the header of its weights.

    python tools/calibrate.py RECIPE WEIGHTS [--set KEY=VALUE ...] [--windows N]

The weights are not changed. `vderain.model.engine` needs the ranges to run the model in 8-bit integers.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.int8 import activation_ranges
from vderain.train.config import load_recipe
from vderain.train.data.scenes import load_scenes
from vderain.train.data.windows import CENTRE, WindowMaker

SEED = 7


def main() -> None:
    """Measure, print and save the ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="whose data section says which windows are made")
    parser.add_argument("weights", type=Path, help="a .safetensors file, which is replaced")
    parser.add_argument("--set", action="append", default=[], help="a key of the recipe, as for `vderain train`")
    parser.add_argument("--windows", type=int, default=48, help="number of windows")
    given = parser.parse_args()
    data = load_recipe(given.recipe, tuple(given.set)).data
    maker = WindowMaker(load_scenes(data.photos, data.clips, data.side_px + 2 * data.border_px), data, SEED)
    checkpoint = load_checkpoint(str(given.weights))
    frames_seen = checkpoint.generator.config.window

    def windows() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(given.windows):
            window = maker[number]
            frames = window.rainy if frames_seen > 1 else window.rainy[CENTRE : CENTRE + 1]
            yield frames.flatten(0, 1).unsqueeze(0), window.confidence.unsqueeze(0)

    torch.set_num_threads(1)
    ranges = activation_ranges(checkpoint.generator, windows())
    for name, (low, high) in ranges.items():
        print(f"{name:16} {low:8.3f} {high:8.3f}")
    save_checkpoint(given.weights, checkpoint.generator, checkpoint.facts, ranges)


if __name__ == "__main__":
    main()
