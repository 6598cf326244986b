"""The first stage of training: rendered windows enter, a generator that takes their rain out leaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vderain.train.config import Recipe
from vderain.train.data.crop_pool import Packed, W, WindowPool, packed, unpacked
from vderain.train.data.loader import ExampleLoader
from vderain.train.data.scenes import CENTRE, Scenes, held_out, load_pairs, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker
from vderain.train.distributed import ALONE, ProcessGroup
from vderain.train.losses import supervised_loss
from vderain.train.trainer import Batch, Losses, Trainer

GRADIENT_NORM_MAX = 1.0


class Supervised(Trainer):
    """A generator that is shown what it should have made."""

    def __init__(self, recipe: Recipe, out: Path, ranks: ProcessGroup = ALONE) -> None:
        super().__init__(recipe, out, ranks)
        self.generator = self.networks["generator"]
        self.optimises("adam", [self.generator], betas=(0.9, 0.99), norm_max=GRADIENT_NORM_MAX)

    def material(self) -> Scenes:
        data = self.recipe.data
        scenes = load_scenes(data.photos, data.clips, data.side_px + 2 * data.border_px)
        scenes = replace(scenes, pairs=load_pairs(data.pairs, data.side_px + 2 * data.border_px))
        self.scenes, held = held_out(scenes, self.recipe.held_share)
        return held

    def batches(self) -> Iterator[Batch]:
        """(B, 15, s, s) rainy, (B, 1, s, s) trust, (B, 3, s, s) clear, (B,) dry: see `Window.crop`."""
        settings, data, seed = self.recipe.optimiser, self.recipe.data, self.recipe.run.seed
        for pool in self.pools(WindowMaker(self.scenes, data, seed), TrainingWindow, data.fresh):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + self.iteration)
            yield pool.batch(settings.batch, settings.crop_px, rng, self.ranks)

    def pools(self, maker: Dataset[W], kind: type[W], fresh: int) -> Iterator[WindowPool[W]]:
        """A pool as it is at each iteration. Each process makes the windows of some iterations and gets all of them."""
        data, ranks = self.recipe.data, self.ranks
        pool: WindowPool[W] = WindowPool(data.pool, data.side_px)
        kept = -(-data.pool // fresh)  # iterations whose windows are in a full pool
        step = max(0, self.iteration + 1 - kept)
        feed = ExampleLoader(Packed(maker, fresh), step, data.workers, ranks)
        self.feeds.append(feed)
        like = kind.empty(data.side_px)
        blank = packed([like] * fresh)
        while True:
            for number in range(step, self.iteration + 1):
                owner = number % ranks.count
                piece = ranks.broadcast(next(feed) if owner == ranks.rank else blank, owner)
                for window in unpacked(piece, like):
                    pool.add(window)
            step = self.iteration + 1
            yield pool

    def restored(self, rainy: Tensor, confidence: Tensor) -> Tensor:
        """(B, 3, H, W), what the generator makes of windows, (B, 15, H, W), and their trust, (B, 1, H, W)."""
        centre = rainy[:, 3 * CENTRE : 3 * CENTRE + 3]
        seen = rainy if self.recipe.model.window > 1 else centre
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            residual: Tensor = self.generator(seen, confidence)
        return centre + residual.float()

    def against_truth(self, restored: Tensor, rainy: Tensor, clear: Tensor, dry: Tensor) -> Tensor:
        """`supervised_loss` of (B, 3, H, W) each and (B,), with the weights of the recipe."""
        settings = self.recipe.optimiser
        return supervised_loss(
            restored, rainy, clear, dry,
            epsilon=settings.epsilon, untouched_weight=settings.untouched_weight, block_weight=settings.block_weight,
            dry_weight=settings.dry_weight,
        )  # fmt: skip

    def losses(self, *batch: Tensor) -> Losses:
        rainy, confidence, clear, dry = batch
        centre = rainy[:, 3 * CENTRE : 3 * CENTRE + 3]
        loss = self.against_truth(self.restored(rainy, confidence), centre, clear, dry)
        self.finite(loss)
        self.move("adam", loss)
        return {"loss": loss.item()}
