"""Supervised training of a generator on windows with rendered rain, for which the clear frame is known."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn
from torch.utils.data import Dataset

from vderain.train.data.loader import ExampleLoader, Packed, W, WindowPool, pack, unpack
from vderain.train.data.scenes import CENTRE, Scenes, held_out, load_pairs, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker
from vderain.train.losses import supervised_loss
from vderain.train.torchvision_import import require_torchvision
from vderain.train.trainer import Batch, Losses, Trainer

GRADIENT_NORM_MAX = 1.0


class Supervised(Trainer):
    """Trains a generator against the ground truth."""

    def build(self) -> None:
        """Add networks and optimisers; see `Trainer.build`."""
        self.generator = self.networks["generator"]
        self.add_optimiser("adam", [self.generator], (0.9, 0.99), norm_max=GRADIENT_NORM_MAX)

    def load_data(self) -> Scenes:
        """Load photographs, clips and pairs; see `Trainer.load_data`."""
        data = self.recipe.data
        if data.colour_jitter:
            require_torchvision("data.colour_jitter")
        side_px = data.side_px + 2 * data.border_px
        scenes = load_scenes(data.photos, data.clips, side_px)
        scenes = replace(scenes, pairs=load_pairs(data.pairs, side_px), share_lettering=data.share_lettering)
        self.scenes, held = held_out(scenes, self.recipe.held_share)
        return held

    def batches(self) -> Iterator[Batch]:
        """(B, 15, s, s) rainy, (B, 1, s, s) confidence, (B, 3, s, s) clear and (B,) dry: see `TrainingWindow.crop`."""
        settings, data = self.recipe.optimiser, self.recipe.data
        maker = WindowMaker(self.scenes, data, self.recipe.run.seed)
        for pool in self.pools(maker, TrainingWindow, data.fresh):
            yield pool.batch(settings.batch, settings.crop_px, self.iteration_rng(), self.group)

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rainy and clear crops; see `Trainer.examples`."""
        return centre_of(batch[0]), batch[2]

    def pools(self, maker: Dataset[W], kind: type[W], fresh: int) -> Iterator[WindowPool[W]]:
        """Yield a pool of windows as it is at each iteration.

        Each process makes the windows of some iterations and broadcasts them to the others.

        Args:
            maker: makes windows.
            kind: their class.
            fresh: new windows in each iteration, or in one of `data.every`.
        """
        data, group = self.recipe.data, self.group
        pool: WindowPool[W] = WindowPool(data.pool, data.side_px)
        turns = -(-data.pool // fresh)  # that fill a pool
        turn = max(0, self.iteration // data.every + 1 - turns)
        loader = ExampleLoader(Packed(maker, fresh), turn, data.workers, group)
        self.loaders.append(loader)
        like = kind.empty(data.side_px)
        blank = pack([like] * fresh)
        while True:
            for number in range(turn, self.iteration // data.every + 1):
                owner = number % group.size
                packed = group.broadcast(next(loader) if owner == group.rank else blank, owner)
                for window in unpack(packed, like):
                    pool.add(window)
            turn = self.iteration // data.every + 1
            yield pool

    def restored(self, rainy: Tensor, confidence: Tensor, network: nn.Module | None = None) -> Tensor:
        """Derain the centre frames of windows.

        Args:
            rainy: (B, 15, H, W) in 0..1.
            confidence: (B, 1, H, W) in 0..1.
            network: that does it; the generator if not given.

        Returns:
            (B, 3, H, W), not clamped to 0..1.
        """
        centre = centre_of(rainy)
        frames = rainy if self.recipe.model.window > 1 else centre
        with self.placement.autocast():
            residual: Tensor = (network or self.generator)(frames, confidence)
        return centre + residual.float()

    def loss_to_truth(self, restored: Tensor, rainy: Tensor, clear: Tensor, dry: Tensor) -> Tensor:
        """`supervised_loss` with the weights of the recipe, a scalar.

        Args:
            restored: (B, 3, H, W), output of the generator.
            rainy: (B, 3, H, W), its input.
            clear: (B, 3, H, W), the ground truth.
            dry: (B,) bool, examples in which nothing may change.
        """
        settings = self.recipe.optimiser
        return supervised_loss(
            restored, rainy, clear, dry,
            epsilon=settings.epsilon, untouched_weight=settings.untouched_weight,
            block_weight=settings.block_weight, dry_weight=settings.dry_weight,
        )  # fmt: skip

    def losses(self, *batch: Tensor) -> Losses:
        """Update the generator; see `Trainer.losses`."""
        rainy, confidence, clear, dry = batch
        restored = self.restored(rainy, confidence)
        loss = self.loss_to_truth(restored, centre_of(rainy), clear, dry)
        self.check_finite(loss)
        self.optimiser_step("adam", loss)
        return {"loss": loss.item()}


def centre_of(window: Tensor) -> Tensor:
    """The centre frame, (..., 3, H, W), of windows, (..., 15, H, W)."""
    return window[..., 3 * CENTRE : 3 * CENTRE + 3, :, :]
