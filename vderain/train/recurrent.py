"""Training of the recurrent generator by truncated back-propagation through time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vderain.model.memory import Memory, Step
from vderain.model.motion import Motion
from vderain.model.recurrent import RecurrentUNet
from vderain.train.data.sequences import LENGTH, SequenceMaker, TrainingSequence
from vderain.train.supervised import Supervised
from vderain.train.trainer import Batch, Losses

BURN_IN = 2  # frames that fill the memory before gradients are taken
ESTIMATE_WEIGHT = 0.3  # of the loss of the network's estimate, beside 1 for what the memory makes of it


class Recurrent(Supervised):
    """Trains a generator that carries a memory, on sequences with rendered rain."""

    def batches(self) -> Iterator[Batch]:
        """The attributes of `TrainingSequence`, (B, T, C, s, s) each, and (B,) dry."""
        settings, data = self.recipe.optimiser, self.recipe.data
        maker = SequenceMaker(self.scenes, data, self.recipe.run.seed)
        for pool in self.pools(maker, TrainingSequence, data.fresh):
            yield pool.batch(settings.batch, settings.crop_px, self.iteration_rng(), self.group)

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Luma of the last frames; see `Trainer.examples`."""
        sequence = TrainingSequence(*batch)
        rainy, clear = (part[:, -1].expand(-1, 3, -1, -1) for part in (sequence.luma, sequence.clear))
        return rainy, clear

    def losses(self, *batch: Tensor) -> Losses:
        """Update the generator; see `Trainer.losses`."""
        sequence = TrainingSequence(*batch)  # with a batch dimension in front
        with torch.no_grad():
            memory: Memory | None = None
            for index in range(BURN_IN):
                memory = self._step(sequence, index, memory).memory
        losses, estimates = [], []
        for index in range(BURN_IN, LENGTH):
            step = self._step(sequence, index, memory)
            memory = step.memory
            truth, rainy = sequence.clear[:, index], sequence.luma[:, index]
            losses.append(self.loss_to_truth(rainy + step.change, rainy, truth, sequence.dry))
            estimates.append(self.loss_to_truth(rainy + step.estimate, rainy, truth, sequence.dry))
        main, estimate = torch.stack(losses).mean(), torch.stack(estimates).mean()
        loss = main + ESTIMATE_WEIGHT * estimate
        self.check_finite(loss)
        self.optimiser_step("adam", loss)
        return {"loss": loss.item(), "restored": main.item(), "estimate": estimate.item()}

    def _step(self, sequence: TrainingSequence, index: int, memory: Memory | None) -> Step:
        """Restore frame `index` of a batch of sequences."""
        generator = self.generator
        assert isinstance(generator, RecurrentUNet)
        luma = sequence.luma[:, index]
        following = sequence.following[:, index]
        evidence = generator.no_evidence(luma)._replace(
            following=following,
            following_confidence=sequence.following_confidence[:, index],
        )
        if memory is not None:
            flow_px = sequence.flow[:, index].float()
            motion = Motion(flow_px, sequence.confidence[:, index] * within(flow_px))
            carried = generator.carried(memory, sequence.luma[:, index - 1], luma, motion)
            evidence = evidence._replace(**carried._asdict())
        with self.placement.autocast():
            return generator.step(sequence.rainy[:, index], luma, evidence)


def within(flow_px: Tensor) -> Tensor:
    """Where a flow, (B, 2, H, W) in pixels, stays in the picture: (B, 1, H, W), 1 or 0."""
    height_px, width_px = flow_px.shape[-2:]
    x = torch.arange(width_px, device=flow_px.device) + flow_px[:, :1]
    y = torch.arange(height_px, device=flow_px.device).view(-1, 1) + flow_px[:, 1:]
    return ((x >= 0) & (x <= width_px - 1) & (y >= 0) & (y <= height_px - 1)).to(flow_px.dtype)
