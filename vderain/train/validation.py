"""A generator on its way is judged: held-out scenes and paired footage enter; scores, their blend and pictures leave.

It is judged by what its network alone does, frame by frame, without the guard and the steadying of `vderain process`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from vderain.evaluation.contact_sheet import REMOVED, removed, row
from vderain.evaluation.evaluate import frame_of, windows_of
from vderain.evaluation.footage import Footage, Picture, zip_frames
from vderain.evaluation.quality import quality
from vderain.model.unet import UNet
from vderain.restore.window import single_frame
from vderain.train.config import PairedSet, Recipe
from vderain.train.data.scenes import CENTRE, Scenes
from vderain.train.data.windows import WindowMaker
from vderain.train.logger import Score, Validated

SEED = 2**31 - 1  # of the rendered windows: the same for all runs, so that they can be compared
ROWS = 2  # of the picture, a set
LABELS = "output", "truth", REMOVED


@dataclass(frozen=True, slots=True)
class Pair:
    """What a generator is shown, and what it should make of it.

    Attributes:
        aligned: (5, H, W, 3) uint8.
        confidence: (H, W) uint8.
        truth: (H, W, 3) uint8, of the centre.
    """

    aligned: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    truth: Picture


class Validator:
    """Knows the sets of a recipe.

    Args:
        recipe: of the run.
        held: scenes that are not trained on; may be empty.

    Raises:
        InputError: clear and rainy footage do not go together.
    """

    def __init__(self, recipe: Recipe, held: Scenes) -> None:
        self.recipe = recipe
        self._settings = recipe.validation
        for paired in self._settings.sets:  # what does not go together is found out before the long work
            for _ in zip_frames([Footage(path, paired.single, paired.limit) for path in (paired.rain, paired.clear)]):
                pass
        self._rendered = _rendered(recipe, held) if held.photos or held.clips else {}

    def __call__(self, generator: UNet, iteration: int, best_db: float = float("-inf")) -> Validated:
        """Judge a generator.

        Args:
            generator: after so many iterations.
            iteration: how many.
            best_db: the blend it is to surpass.

        Raises:
            InputError: a set cannot be read.
        """
        scores: dict[str, Score] = {}
        rows: list[Picture] = []
        for name, weight, pairs in self._sets(generator.config.window):
            judged = []
            for number, pair in enumerate(pairs):
                out = restored(generator, pair, self.recipe.bf16)
                before = pair.aligned[CENTRE]
                found, was = quality(out, pair.truth), quality(before, pair.truth)
                judged.append((found.psnr_y_db, found.ssim_y, was.psnr_y_db))
                if number < ROWS:
                    rows.append(row([before, out, pair.truth, removed(before, out)], [f"{name}: input", *LABELS]))
            psnr_y_db, ssim_y, psnr_in_db = (fmean(column) for column in zip(*judged, strict=True))
            scores[name] = Score(psnr_y_db, ssim_y, psnr_in_db, weight)
        blend_db = blended(list(scores.values()), self._settings.ceiling_db)
        return Validated(iteration, scores, blend_db, blend_db > best_db, np.vstack(rows))

    def _sets(self, window: int) -> Iterator[tuple[str, float, Iterator[Pair]]]:
        for name, pairs in self._rendered.items():
            weight = self._settings.dry_weight if name == "dry" else self._settings.rendered_weight
            yield name, weight, iter(pairs)
        for paired in self._settings.sets:
            yield paired.name, paired.weight, _footage(paired, window, paired.rain)
            if paired.clear_weight:
                yield f"{paired.name} clear", paired.clear_weight, _footage(paired, window, paired.clear)


def blended(scores: list[Score], ceiling_db: float) -> float:
    """Weighted mean of the PSNRs, none of them counted beyond the ceiling."""
    weight = sum(score.weight for score in scores)
    return sum(score.weight * min(score.psnr_y_db, ceiling_db) for score in scores) / weight if weight else 0.0


def restored(generator: UNet, pair: Pair, bf16: bool) -> Picture:
    """(H, W, 3) uint8, the centre as the generator would have it."""
    span = slice(None) if generator.config.window > 1 else slice(CENTRE, CENTRE + 1)
    frames = torch.from_numpy(np.array(pair.aligned[span])).permute(0, 3, 1, 2).flatten(0, 1)
    confidence = torch.from_numpy(np.array(pair.confidence))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        residual = generator(frames[None], confidence[None, None])[0].float().permute(1, 2, 0)
    centre = torch.from_numpy(np.array(pair.aligned[CENTRE])).float()
    return np.asarray((centre + 255 * residual).clamp(0, 255).round().byte().numpy())


def _rendered(recipe: Recipe, held: Scenes) -> dict[str, list[Pair]]:
    """Rendered windows and dry ones of the same recipe."""
    found = {}
    for name, share_dry in (("rendered", 0.0), ("dry", 1.0)):
        maker = WindowMaker(held, recipe.data.model_copy(update={"share_dry": share_dry}), SEED)
        made = (maker[index] for index in range(recipe.validation.windows))
        found[name] = [
            Pair(w.rainy.permute(0, 2, 3, 1).numpy(), w.confidence[0].numpy(), w.clear.permute(1, 2, 0).numpy())
            for w in made
        ]
    return found


def _footage(paired: PairedSet, window: int, seen: Path) -> Iterator[Pair]:
    """Frames of what is shown to the generator, beside the truth.

    Raises:
        InputError: something cannot be read.
    """
    shown, clear = (Footage(path, paired.single, paired.limit) for path in (seen, paired.clear))
    pictures = shown.pictures()
    lonely = paired.single or window == 1
    windows = (single_frame(frame_of(picture)) for picture in pictures) if lonely else windows_of(pictures)
    for around, truth in zip(windows, clear.pictures(), strict=False):
        yield Pair(around.aligned, around.confidence, truth)
