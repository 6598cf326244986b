"""The first stage of training: rendered windows enter, a generator that takes their rain out leaves."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vderain.train.config import Recipe
from vderain.train.feed import Feed
from vderain.train.losses import supervised_loss
from vderain.train.pool import WindowPool
from vderain.train.ranks import ALONE, Ranks
from vderain.train.scenes import CENTRE, Scenes, held_out, load_scenes
from vderain.train.trainer import Batch, Losses, Trainer
from vderain.train.windows import Window, WindowMaker

GRADIENT_NORM_MAX = 1.0


class Supervised(Trainer):
    """A generator that is shown what it should have made."""

    def __init__(self, recipe: Recipe, out: Path, ranks: Ranks = ALONE) -> None:
        super().__init__(recipe, out, ranks)
        self.generator = self.networks["generator"]
        rate = recipe.optimiser.rate
        self.optimisers["adam"] = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=(0.9, 0.99))

    def material(self) -> Scenes:
        data = self.recipe.data
        scenes = load_scenes(data.photos, data.clips, data.side_px + 2 * data.border_px)
        self.scenes, held = held_out(scenes, self.recipe.held_share)
        return held

    def batches(self) -> Iterator[Batch]:
        """(B, 15, s, s) rainy, (B, 1, s, s) trust, (B, 3, s, s) clear, (B,) dry: see `WindowPool.batch`."""
        settings, data, seed = self.recipe.optimiser, self.recipe.data, self.recipe.run.seed
        for pool in self.pools(WindowMaker(self.scenes, data, seed)):
            chance = torch.Generator().manual_seed(seed * 1_000_003 + self.iteration)
            yield pool.batch(settings.batch, settings.crop_px, chance, self.ranks)

    def pools(self, maker: WindowMaker) -> Iterator[WindowPool]:
        """The pool as it is at each iteration. Every process makes its share of the windows and gets all of them."""
        data = self.recipe.data
        pool = WindowPool(data.pool)
        taken = max(0, (self.iteration + 1) * data.fresh - data.pool)
        self.feed = Feed(maker, taken, data.workers, self.ranks)
        while True:
            for number in range(taken, (self.iteration + 1) * data.fresh):
                pool.add(self._handed_round(number % self.ranks.count))
                taken = number + 1
            yield pool

    def _handed_round(self, owner: int) -> Window:
        """The next window, made by one process for all."""
        assert self.feed is not None
        if self.ranks.count == 1:
            return next(self.feed)  # type: ignore[no-any-return]
        side_px = self.recipe.data.side_px
        ours = owner == self.ranks.rank
        packed = next(self.feed).packed() if ours else torch.empty(Window.packed_bytes(side_px), dtype=torch.uint8)
        return Window.unpacked(self.ranks.handed_round(packed, owner), side_px)

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
        self.finite(loss)
        adam = self.optimisers["adam"]
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients([self.generator])
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), GRADIENT_NORM_MAX)
        adam.step()
        return {"loss": loss.item()}
