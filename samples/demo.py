"""`make demo`: derains driving_rain.mp4, writes images of before and after to out/, and prints scores."""

import argparse
import sys
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.evaluation.evaluate import evaluate_against_truth
from vderain.evaluation.footage import Footage
from vderain.model.checkpoint import DEFAULT_MODEL
from vderain.process import Options, Progress, process
from vderain.restore.frames import Picture

HERE = Path(__file__).parent
RAIN, DRY = HERE / "driving_rain.mp4", HERE / "driving_dry.mp4"
SHOWN = 80  # the frame in the images; its posts and the near car show unwanted changes first


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released model or .safetensors file")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    derained, picture, small = out / "driving_derained.mp4", out / "driving.png", out / "demo.png"
    print("Deraining samples/driving_rain.mp4: 150 frames, about a minute on two cores.", flush=True)
    result = process(RAIN, derained, Options(model=arguments.model, overwrite=True), ProgressPrinter())
    print(f"{result.frames} frames in {result.seconds:.0f} s ({result.model} on {result.device}). Measuring ...")
    found = evaluate_against_truth(Footage(RAIN), Footage(derained), Footage(DRY))
    before, after = found.quality_in, found.quality_out
    print(f"PSNR on Y against driving_dry.mp4   {before.psnr_y_db:6.2f} dB before   {after.psnr_y_db:6.2f} dB after")
    print(f"SSIM on Y against driving_dry.mp4   {before.ssim_y:6.4f}    before   {after.ssim_y:6.4f}    after")
    panels = [frame(path, SHOWN) for path in (RAIN, derained, DRY)]
    write_png(picture, np.hstack(panels))
    write_png(small, np.hstack([cv2.resize(p, (480, 270), interpolation=cv2.INTER_AREA) for p in panels[:2]]))
    print(f"{derained}   the derained clip, with sound")
    print(f"{picture}   frame {SHOWN}: in rain, derained, dry")
    print(f"{small}   the first two, smaller")


class ProgressPrinter:
    """Prints the progress: on one line of a terminal, else every few seconds."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.every_s = 0.2 if self.live else 5.0
        self.next_s = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        done = progress.total_s is not None and progress.done_s >= progress.total_s
        if time.monotonic() < self.next_s and not (done and self.live):
            return
        self.next_s = time.monotonic() + self.every_s
        share = progress.done_s / progress.total_s if progress.total_s else 0.0
        end = "\n" if done or not self.live else ""
        print(f"{chr(13) if self.live else ''}  {min(1.0, share):4.0%}", end=end, file=sys.stderr, flush=True)


def frame(path: Path, number: int) -> Picture:
    """One frame of a clip, as (H, W, 3) uint8 RGB."""
    return next(islice(Footage(path).pictures(), number, None))


def write_png(path: Path, rgb: Picture | NDArray[np.generic]) -> None:
    """Write an (H, W, 3) uint8 RGB image at the highest compression."""
    best = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    path.write_bytes(cv2.imencode(".png", np.asarray(rgb, np.uint8)[..., ::-1], best)[1].tobytes())


if __name__ == "__main__":
    main()
