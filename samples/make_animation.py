"""Makes docs/demo.webp: the sample clip, split into before and after by a line that moves to and fro.

Needs Pillow and a derained clip:

    vderain process samples/driving_rain.mp4 -o out/part.mp4 --start 1.5 --duration 2.4
    python samples/make_animation.py out/part.mp4
"""

import argparse
import math
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vderain.evaluation.footage import Footage
from vderain.restore.frames import Picture

ROOT = Path(__file__).parents[1]
START_S = 1.5  # where the derained clip begins in the sample
RATE_HZ = 30  # of the sample
STEP = 2  # every other frame
SIZE_PX = (480, 270)
LINE_PX = 2


def split(before: Picture, after: Picture, x_px: int) -> Image.Image:
    """One frame of the animation.

    Args:
        before: (H, W, 3) uint8, shown to the left of the line.
        after: (H, W, 3) uint8, shown to the right of it.
        x_px: where the line is.
    """
    joined = np.concatenate([before[:, :x_px], after[:, x_px:]], axis=1)
    joined[:, max(0, x_px - LINE_PX // 2) : x_px + LINE_PX // 2] = 255
    return Image.fromarray(joined)


def main() -> None:
    """Write the animation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("derained", type=Path, help="the derained part of the sample clip")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.webp", help="file to write")
    arguments = parser.parse_args()
    rain = islice(Footage(ROOT / "samples" / "driving_rain.mp4").pictures(), round(START_S * RATE_HZ), None)
    pairs = list(islice(zip(rain, Footage(arguments.derained).pictures(), strict=False), 0, None, STEP))
    frames = []
    for number, pair in enumerate(pairs):
        before, after = (
            np.asarray(cv2.resize(picture, SIZE_PX, interpolation=cv2.INTER_AREA), np.uint8) for picture in pair
        )
        phase = 2 * math.pi * number / len(pairs)
        frames.append(split(before, after, round(SIZE_PX[0] * (0.5 + 0.35 * math.sin(phase)))))
    frames[0].save(
        arguments.out,
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 * STEP / RATE_HZ),
        loop=0,
        quality=60,
        method=4,
    )
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
