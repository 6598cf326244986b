"""Makes two unpaired folders, rainy and clear, and held-out pairs from clear photographs: to try configs/unpaired.toml.

No photograph is in two of the three. The rain is that of `vderain render`, or noise blurred along a line and laid on by
the blend mode "screen", as in tutorials of image editors. The latter shares no code with the rain of training.
"""

import argparse
import random
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vderain.rain.weather import STYLES, Weather
from vderain.train.data.images import SUFFIXES_PHOTO, find_files, load_photo

Picture = NDArray[np.uint8]  # (H, W, 3) RGB


def main() -> None:
    """Write OUT/rainy, OUT/clear, OUT/held/rain and OUT/held/clear."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of clear photographs")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--rain", choices=("weather", "noise"), default="noise", help="what renders the rain")
    parser.add_argument("--held", type=int, default=20, help="number of pairs")
    parser.add_argument("--side", type=int, default=640, help="longest side in pixels; larger photographs are reduced")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    files = find_files(given.photos, SUFFIXES_PHOTO)
    random.Random(given.seed).shuffle(files)
    half = (len(files) - given.held) // 2
    folders = {name: given.out / name for name in ("rainy", "clear", "held/rain", "held/clear")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    render = weather if given.rain == "weather" else noise
    for number, file in enumerate(files):
        photo = load_photo(file)
        if photo is None:
            continue
        clear, seed = reduced(photo, given.side), 10_000 * given.seed + number
        name = f"{number:04}.png"
        if number < given.held:
            write(folders["held/clear"] / name, clear)
            write(folders["held/rain"] / name, render(clear, seed))
        elif number < given.held + half:
            write(folders["rainy"] / name, render(clear, seed))
        else:
            write(folders["clear"] / name, clear)


def reduced(photo: Picture, side_px: int) -> Picture:
    """Reduce a photograph to a longest side."""
    scale = min(1.0, side_px / max(photo.shape[:2]))
    size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def weather(clear: Picture, seed: int) -> Picture:
    """Physically based rain without haze, a shower or a downpour."""
    generator = torch.Generator().manual_seed(seed)
    rain = Weather(STYLES["shower" if seed % 2 else "downpour"], generator, haze=False)
    rainy, _ = rain.render(torch.from_numpy(clear).permute(2, 0, 1).float() / 255, 0.0)
    return np.asarray((rainy * 255).round().byte().permute(1, 2, 0).numpy())


def noise(clear: Picture, seed: int) -> Picture:
    """One or two layers of noise, cut off at a level, blurred along a line and screened over the photograph."""
    rng = np.random.default_rng(seed)
    kept = 1 - clear.astype(np.float32) / 255
    slant_deg = rng.uniform(-25, 25)
    for _ in range(rng.integers(1, 3)):
        grains = rng.standard_normal(clear.shape[:2]).astype(np.float32)
        grains = cv2.GaussianBlur(grains, (0, 0), rng.uniform(0.6, 1.1))
        grains = np.maximum(grains / grains.std() - rng.uniform(2.0, 2.7), 0)
        streaks = cv2.filter2D(grains, -1, line(int(rng.integers(12, 36)), slant_deg + rng.uniform(-2, 2)))
        streaks = np.clip(streaks / np.percentile(streaks, 99) * rng.uniform(0.25, 0.55), 0, 0.8)
        kept *= 1 - streaks[..., None]
    return np.asarray(((1 - kept) * 255).round(), np.uint8)


def line(length_px: int, slant_deg: float) -> NDArray[np.float32]:
    """Kernel of a motion blur: a straight line, (L, L), of sum 1."""
    kernel = np.zeros((length_px | 1, length_px | 1), np.float32)
    centre = kernel.shape[0] // 2
    along = np.array([np.sin(np.radians(slant_deg)), np.cos(np.radians(slant_deg))]) * centre
    ends = [tuple(int(16 * v) for v in np.array([centre, centre]) + sign * along) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return np.asarray(kernel / kernel.sum(), np.float32)


def write(path: Path, picture: Picture) -> None:
    """Write a PNG."""
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


if __name__ == "__main__":
    main()
