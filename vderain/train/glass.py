"""Training of the generator that looks through the windshield, in two parts: what it sees, and whom it believes."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.model.glass import FixedPattern, GlassUNet, Remembered, pooled
from vderain.train.data import glass as examples
from vderain.train.data.glass import MemoryExample, MemoryMaker, ViewExample, ViewMaker
from vderain.train.data.glass_scenes import sequences
from vderain.train.data.loader import WindowPool
from vderain.train.losses import charbonnier
from vderain.train.supervised import Supervised
from vderain.train.trainer import Batch, Losses

FLOW_WEIGHT = 0.3  # of the loss of the flow, beside 1 for that of the cover
OUTSIDE_WEIGHT = 0.1  # of the flow beside drops, where it is measured
COVERED = 0.05  # cover from which a pixel counts as behind a drop
CLEAR_WEIGHT = 1.5  # of pixels behind clear glass, beside 1 for those behind drops
EDGE_WEIGHT = 0.3  # of the loss of differences between neighbouring pixels


class Glass(Supervised):
    """Trains a generator for the windshield on rendered drops."""

    def batches(self) -> Iterator[Batch]:
        """The attributes of `ViewExample` or `MemoryExample`, (B, C, s, s) each."""
        settings, data, seed = self.recipe.optimiser, self.recipe.data, self.recipe.run.seed
        draw = sequences(self.scenes, data, seed, examples.LENGTH)
        pools: Iterator[WindowPool[Any]]
        if data.part == "view":
            pools = self.pools(ViewMaker(draw, data, seed), ViewExample, data.fresh)
        else:
            seeing = deepcopy(self.glass).cpu().eval().requires_grad_(False)
            pools = self.pools(MemoryMaker(draw, data, seed, seeing), MemoryExample, data.fresh)
        for pool in pools:
            yield pool.batch(settings.batch, settings.crop_px, self.iteration_rng(), self.group)

    @property
    def glass(self) -> GlassUNet:
        """The generator."""
        assert isinstance(self.generator, GlassUNet)
        return self.generator

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames, and the truth or the cover; see `Trainer.examples`."""
        if self.recipe.data.part == "view":
            return batch[0], ViewExample(*batch).cover.expand(-1, 3, -1, -1)
        return batch[0], MemoryExample(*batch).clear

    def losses(self, *batch: Tensor) -> Losses:
        """Update the generator; see `Trainer.losses`."""
        parts = self._view(ViewExample(*batch)) if self.recipe.data.part == "view" else self._memory(batch)
        loss = parts["loss"]
        self.check_finite(loss)
        self.optimiser_step("adam", loss)
        return {name: part.item() for name, part in parts.items()}

    def _view(self, batch: ViewExample) -> dict[str, Tensor]:
        """Losses of the cover and of the flow behind drops."""
        residual, cells, truth = (part.float() for part in (batch.residual, batch.cells, batch.flow))
        mean, deviation = torch.split(batch.steady, 1, 1)
        with self.placement.autocast():
            logits = self.glass.covered(batch.rgb, residual, mean, deviation / 4)
            measured, filled, trust = torch.split(cells, [4, 4, 2], 1)
            guess, wiped = pooled(batch.guess), pooled(batch.rgb + residual)
            flow, log_error = self.glass.completed(measured, filled, trust, guess, wiped)
        cover = F.binary_cross_entropy_with_logits(logits, batch.cover)
        error = (flow - truth).unflatten(1, (2, 2)).abs().sum(2)  # type: ignore[no-untyped-call]  # (B, 2, h, w)
        behind = (pooled(batch.cover) > COVERED).float()
        weight = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * behind
        motion = (weight * (error * torch.exp(-log_error) + log_error)).mean()
        found = (error * behind).sum() / (2 * behind.sum() + 1e-6)
        before = ((filled - truth).unflatten(1, (2, 2)).abs().sum(2) * behind).sum() / (2 * behind.sum() + 1e-6)  # type: ignore[no-untyped-call]
        loss = cover + FLOW_WEIGHT * motion
        return {"loss": loss, "cover": cover, "error_px": found, "filled_px": before}

    def _memory(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Losses of the frame as it is put together."""
        parts = MemoryExample(*batch)
        residual = parts.residual.float()
        first, second = torch.split(parts.variances.float(), 1, 1)
        before, after = Remembered(parts.before.float(), first), Remembered(parts.after.float(), second)
        fine, coarse = torch.split(parts.pattern.float() / 255, 3, 1)
        deviation, speed_px = torch.split(parts.motion.float(), [1, 2], 1)
        pattern = FixedPattern(fine, coarse, deviation / 255, speed_px)
        with self.placement.autocast():
            change = self.glass.chosen(parts.rgb, residual, parts.cover, parts.around.float(), before, after, pattern)
        wiped = parts.rgb + residual
        restored = wiped + change.float()
        behind = (parts.covered > COVERED).float()
        epsilon = self.recipe.optimiser.epsilon
        weight = CLEAR_WEIGHT + (1 - CLEAR_WEIGHT) * behind
        difference = restored - parts.clear
        edges = [charbonnier(difference.diff(dim=dim), epsilon).mean() for dim in (-1, -2)]
        loss = charbonnier(difference, epsilon, weight).mean() + EDGE_WEIGHT * (edges[0] + edges[1])

        def squared(x: Tensor) -> Tensor:
            return (((x - parts.clear) ** 2).mean(1, keepdim=True) * behind).sum() / (behind.sum() + 1e-6)

        with torch.no_grad():
            db = [-10 * torch.log10(squared(x) + 1e-6) for x in (wiped, restored)]
        return {"loss": loss, "wiped_db": db[0], "restored_db": db[1]}
