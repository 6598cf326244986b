"""Validates a generator during training, on held-out scenes with rendered rain and on paired footage.

Only the network is validated, frame by frame, without the rain detection and temporal filter of `vderain process`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from vderain.evaluation.contact_sheet import REMOVED, removed, row
from vderain.evaluation.evaluate import windows_of
from vderain.evaluation.footage import Footage, frame_of, zip_frames
from vderain.evaluation.quality import quality
from vderain.model.unet import UNet
from vderain.restore.frames import Picture
from vderain.restore.window import single_frame
from vderain.runtime.device import DevicePlacement
from vderain.train.config import PairedSet, Recipe
from vderain.train.data.scenes import CENTRE, Scenes
from vderain.train.data.windows import WindowMaker
from vderain.train.distributed import place_training
from vderain.train.logger import Score, Validated

SEED = 2**31 - 1  # of the rendered windows, the same for all runs, so that they can be compared
ROWS = 2  # of the contact sheet, for each set
LABELS = "output", "truth", REMOVED


@dataclass(frozen=True, slots=True)
class ValidationPair:
    """An input window and its ground truth.

    Attributes:
        aligned: (5, H, W, 3) uint8 RGB, neighbours aligned to the centre frame.
        confidence: (H, W) uint8, confidence in the alignment.
        truth: (H, W, 3) uint8 RGB, of the centre frame.
    """

    aligned: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    truth: Picture


class Validator:
    """Validates on the sets of a recipe.

    Args:
        recipe: of the run.
        held: scenes that are not trained on; may be empty.
        placement: device and precision; the CPU if not given.

    Raises:
        InputError: rainy and clear footage differ in length or size.
    """

    def __init__(self, recipe: Recipe, held: Scenes, placement: DevicePlacement | None = None) -> None:
        self.recipe = recipe
        self.placement = placement or place_training("cpu", recipe.optimiser.bf16)
        self._settings = recipe.validation
        for paired in self._settings.sets:  # report footage that does not match before the long work
            for _ in zip_frames([Footage(path, paired.single, paired.limit) for path in (paired.rain, paired.clear)]):
                pass
        self._rendered = _rendered(recipe, held) if held.photos or held.clips else {}

    def __call__(self, generator: UNet, iteration: int, best_db: float = float("-inf")) -> Validated:
        """Validate a generator.

        Args:
            generator: on the device of `placement`.
            iteration: finished ones.
            best_db: highest blend so far.

        Raises:
            InputError: a set cannot be read.
        """
        scores: dict[str, Score] = {}
        rows: list[Picture] = []
        for name, weight, pairs in self._sets(generator.config.window):
            measured = []
            for number, pair in enumerate(pairs):
                out = restored(generator, pair, self.placement)
                before = pair.aligned[CENTRE]
                found, was = quality(out, pair.truth), quality(before, pair.truth)
                measured.append((found.psnr_y_db, found.ssim_y, was.psnr_y_db))
                if number < ROWS:
                    rows.append(row([before, out, pair.truth, removed(before, out)], [f"{name}: input", *LABELS]))
            psnr_y_db, ssim_y, psnr_in_db = (fmean(column) for column in zip(*measured, strict=True))
            scores[name] = Score(psnr_y_db, ssim_y, psnr_in_db, weight)
        blend_db = blended(list(scores.values()), self._settings.ceiling_db)
        return Validated(iteration, scores, blend_db, blend_db > best_db, np.vstack(rows))

    def _sets(self, window: int) -> Iterator[tuple[str, float, Iterator[ValidationPair]]]:
        for name, pairs in self._rendered.items():
            weight = self._settings.dry_weight if name == "dry" else self._settings.rendered_weight
            yield name, weight, iter(pairs)
        for paired in self._settings.sets:
            yield paired.name, paired.weight, _footage(paired, window, paired.rain)
            if paired.clear_weight:
                yield f"{paired.name} clear", paired.clear_weight, _footage(paired, window, paired.clear)


def blended(scores: list[Score], ceiling_db: float) -> float:
    """Mean PSNR in dB over the sets, by weight, each capped at the ceiling.

    Args:
        scores: of the sets.
        ceiling_db: a higher PSNR does not count as better.
    """
    weight = sum(score.weight for score in scores)
    return sum(score.weight * min(score.psnr_y_db, ceiling_db) for score in scores) / weight if weight else 0.0


def restored(generator: UNet, pair: ValidationPair, placement: DevicePlacement) -> Picture:
    """Derain the centre frame of a pair.

    Args:
        generator: on the device of `placement`.
        pair: to derain.
        placement: device and precision.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    span = slice(None) if generator.config.window > 1 else slice(CENTRE, CENTRE + 1)
    frames = torch.from_numpy(np.array(pair.aligned[span])).permute(0, 3, 1, 2).flatten(0, 1)
    confidence = torch.from_numpy(np.array(pair.confidence))
    window, confidence = (x.to(placement.device) for x in (frames[None], confidence[None, None]))
    with torch.inference_mode(), placement.autocast():
        residual = generator(window, confidence)[0].float().permute(1, 2, 0).cpu()  # (H, W, 3)
    centre = torch.from_numpy(np.array(pair.aligned[CENTRE])).float()
    return np.asarray((centre + 255 * residual).clamp(0, 255).round().byte().numpy())


def _rendered(recipe: Recipe, held: Scenes) -> dict[str, list[ValidationPair]]:
    """Held-out windows with rendered rain, and dry ones."""
    found = {}
    for name, share_dry in (("rendered", 0.0), ("dry", 1.0)):
        maker = WindowMaker(held, recipe.data.model_copy(update={"share_dry": share_dry}), SEED)
        made = (maker[index] for index in range(recipe.validation.windows))
        found[name] = [
            ValidationPair(
                w.rainy.permute(0, 2, 3, 1).numpy(), w.confidence[0].numpy(), w.clear.permute(1, 2, 0).numpy()
            )
            for w in made
        ]
    return found


def _footage(paired: PairedSet, window: int, seen: Path) -> Iterator[ValidationPair]:
    """Pairs of the frames of `seen` and of the clear footage.

    Raises:
        InputError: footage cannot be read.
    """
    shown, clear = (Footage(path, paired.single, paired.limit) for path in (seen, paired.clear))
    pictures = shown.pictures()
    isolated = paired.single or window == 1
    windows = (single_frame(frame_of(picture)) for picture in pictures) if isolated else windows_of(pictures)
    for around, truth in zip(windows, clear.pictures(), strict=False):
        yield ValidationPair(around.aligned, around.confidence, truth)
