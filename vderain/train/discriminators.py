"""Two discriminators, one for clear and one for rainy pictures: pictures enter, how well they are told apart leaves."""

import torch
from torch import Tensor, nn

from vderain.model.patchgan import PatchGAN
from vderain.train.losses import least_squares
from vderain.train.trainer import Trainer

BETAS = (0.5, 0.999)


class DiscriminatorPair:
    """The discriminators of a run, and the pictures they have been shown.

    Args:
        trainer: gets their networks, their optimiser and their pools.
        layers, width, spectral: see `PatchGAN`.
        size: earlier pictures that are kept of each kind.
    """

    def __init__(self, trainer: Trainer, layers: int, width: int, spectral: bool, size: int) -> None:
        self.trainer, self.size = trainer, size
        self.clear, self.rain = (PatchGAN(layers, width, spectral) for _ in range(2))
        trainer.networks |= {"critic_clear": self.clear, "critic_rain": self.rain}
        trainer.optimises("critics", [self.clear, self.rain], BETAS)
        side_px = trainer.recipe.optimiser.crop_px
        trainer.tensors |= {name: torch.empty(0, 3, side_px, side_px) for name in ("pool_clear", "pool_rain")}

    def freeze(self, frozen: bool) -> None:
        """While a generator learns from them they do not."""
        for critic in (self.clear, self.rain):
            critic.requires_grad_(not frozen)

    def generator_loss(self, clear: Tensor, rain: Tensor) -> Tensor:
        """How far made pictures, (B, 3, H, W) each, are from being taken for real."""
        return least_squares(self.clear(clear), True) + least_squares(self.rain(rain), True)

    def learn(self, real: tuple[Tensor, Tensor], made: tuple[Tensor, Tensor]) -> float:
        """Move their weights once, by clear and rainy pictures, (B, 3, H, W) each; returns the loss."""
        self.freeze(False)
        recipe = self.trainer.recipe
        rng = torch.Generator().manual_seed(recipe.run.seed * 1_000_003 + self.trainer.iteration)
        shown = [self.pooled(name, part.detach(), rng) for name, part in zip(("clear", "rain"), made, strict=True)]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            judged = [self._judged(*each) for each in zip((self.clear, self.rain), real, shown, strict=True)]
            loss = torch.stack(judged).sum()
        self.trainer.move("critics", loss)
        return loss.item()

    def _judged(self, critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        return (least_squares(critic(real), True) + least_squares(critic(made), False)) / 2

    def pooled(self, kind: str, made: Tensor, rng: torch.Generator) -> Tensor:
        """What a critic is shown: half of the time a picture made earlier (Shrivastava et al., CVPR 2017).

        The pool is that of all processes: each sees the whole batch go through it and takes its share.
        """
        tensors, name, ranks = self.trainer.tensors, f"pool_{kind}", self.trainer.ranks
        shown = []
        for picture in ranks.gathered(made):
            pool = tensors[name]
            if len(pool) < self.size:
                tensors[name] = torch.cat([pool, picture.unsqueeze(0)])
            elif len(pool) and float(torch.rand((), generator=rng)) < 0.5:
                place = int(torch.randint(len(pool), (), generator=rng))
                picture, pool[place] = pool[place].clone(), picture
            shown.append(picture)
        return torch.stack(list(ranks.share(shown)))
