"""`make demo`: driving_rain.mp4 enters; a derained clip, a picture of before and after, and scores leave, in out/."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.model.checkpoint import DEFAULT_MODEL
from vderain.process import Options, Progress, process

HERE = Path(__file__).parent
RAIN, DRY = HERE / "driving_rain.mp4", HERE / "driving_dry.mp4"
SHOWN = 80  # the frame of the picture: posts and a car close by, where a careless derainer would do harm
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # R, G, B to the Y of Matlab's rgb2ycbcr, as published tables count
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al., IEEE TIP 2004

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Luma = NDArray[np.float64]  # (H, W), 16..235


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released model or .safetensors file")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    derained, picture, small = out / "driving_derained.mp4", out / "driving.png", out / "demo.png"
    print("Taking the rain out of samples/driving_rain.mp4: 150 frames, half a minute on two cores.", flush=True)
    result = process(RAIN, derained, Options(model=arguments.model, overwrite=True), Teller())
    print(f"{result.frames} frames in {result.seconds:.0f} s ({result.model} on {result.device}). Measuring ...")
    before, after = measure(derained)
    print(f"PSNR on Y against driving_dry.mp4   {before[0]:6.2f} dB before   {after[0]:6.2f} dB after")
    print(f"SSIM on Y against driving_dry.mp4   {before[1]:6.4f}    before   {after[1]:6.4f}    after")
    panels = [frame(path, SHOWN) for path in (RAIN, derained, DRY)]
    write_png(picture, np.hstack(panels))
    write_png(small, np.hstack([cv2.resize(p, (480, 270), interpolation=cv2.INTER_AREA) for p in panels[:2]]))
    print(f"{derained}   the clip without rain, its sound kept")
    print(f"{picture}   frame {SHOWN}: in rain, derained, as it was dry")
    print(f"{small}   the first two of them, smaller")


class Teller:
    """Says how far the work is: on one line of a terminal, else every few seconds."""

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


def frames(path: Path) -> Iterator[Picture]:
    """The pictures of a clip, in order."""
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            yield np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)


def frame(path: Path, number: int) -> Picture:
    return next(picture for at, picture in enumerate(frames(path)) if at == number)


def measure(derained: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(PSNR, SSIM) of the rainy clip and of the derained one against the dry one, means over frames."""
    scores = []
    for rainy, restored, dry in zip(frames(RAIN), frames(derained), frames(DRY), strict=True):
        truth = luma(dry)
        scores.append([(psnr(y, truth), ssim(y, truth)) for y in (luma(rainy), luma(restored))])
    before, after = np.mean(scores, axis=0)
    return before, after


def luma(rgb: Picture) -> Luma:
    return np.asarray(rgb @ LUMA + 16, np.float64)


def psnr(one: Luma, other: Luma) -> float:
    """In dB, of a peak of 255; 99 where nothing differs."""
    error = float(np.mean((one - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def ssim(one: Luma, other: Luma) -> float:
    """Structural similarity, 11x11 Gaussian window of sigma 1.5, the border where it does not fit left out."""

    def blur(x: Luma) -> Luma:
        return np.asarray(cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5], np.float64)

    mean1, mean2 = blur(one), blur(other)
    var1, var2 = blur(one * one) - mean1**2, blur(other * other) - mean2**2
    covariance = blur(one * other) - mean1 * mean2
    likeness = (2 * mean1 * mean2 + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float(np.mean(likeness / ((mean1**2 + mean2**2 + SSIM_C1) * (var1 + var2 + SSIM_C2))))


def write_png(path: Path, rgb: Picture | NDArray[np.generic]) -> None:
    best = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    path.write_bytes(cv2.imencode(".png", np.asarray(rgb, np.uint8)[..., ::-1], best)[1].tobytes())


if __name__ == "__main__":
    main()
