"""The first stage of training: rendered windows enter, a generator that takes their rain out leaves."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vderain.train.config import Recipe
from vderain.train.losses import supervised_loss
from vderain.train.pool import WindowPool
from vderain.train.scenes import CENTRE, load_scenes
from vderain.train.trainer import Batch, Losses, Trainer, finite, numbered
from vderain.train.windows import WindowMaker

log = logging.getLogger(__name__)

GRADIENT_NORM_MAX = 1.0


class Supervised(Trainer):
    """A generator that is shown what it should have made."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        super().__init__(recipe, out)
        self.generator = self.networks["generator"]
        rate = recipe.optimiser.rate
        self.optimisers["adam"] = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=(0.9, 0.99))

    def batches(self) -> Iterator[Batch]:
        settings, data, seed = self.recipe.optimiser, self.recipe.data, self.recipe.run.seed
        maker = WindowMaker(load_scenes(data.photos, data.clips, data.side_px + 2 * data.border_px), data, seed)
        log.info("%d photographs, %d clips", len(maker.scenes.photos), len(maker.scenes.clips))
        pool = WindowPool(data.pool)
        taken = max(0, (self.iteration + 1) * data.fresh - data.pool)
        windows = numbered(maker, taken, data.workers)
        while True:
            for _ in range((self.iteration + 1) * data.fresh - taken):
                pool.add(next(windows))
                taken += 1
            generator = torch.Generator().manual_seed(seed * 1_000_003 + self.iteration)
            yield pool.batch(settings.batch, settings.crop_px, generator)

    def losses(self, *batch: Tensor) -> Losses:
        rainy, trust, clear, dry = batch
        settings = self.recipe.optimiser
        centre = rainy[:, 3 * CENTRE : 3 * CENTRE + 3]
        seen = rainy if self.recipe.model.window > 1 else centre
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            residual = self.generator(seen, trust)
        loss = supervised_loss(
            centre + residual.float(), centre, clear, dry,
            foot=settings.foot, untouched_weight=settings.untouched_weight, block_weight=settings.block_weight,
            dry_weight=settings.dry_weight,
        )  # fmt: skip
        value = finite(loss)
        adam = self.optimisers["adam"]
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), GRADIENT_NORM_MAX)
        adam.step()
        return {"loss": value}
