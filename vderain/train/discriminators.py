"""The two discriminators of adversarial training, one for clear and one for rainy images, and their image pools."""

import torch
from torch import Tensor, nn

from vderain.model.patchgan import PatchGAN
from vderain.train.config import DiscriminatorSettings
from vderain.train.losses import least_squares
from vderain.train.trainer import Trainer

BETAS = (0.5, 0.999)  # of Adam, as in the CycleGAN paper


class DiscriminatorPair:
    """A clear and a rainy discriminator.

    Args:
        trainer: receives their networks, their optimiser and their image pools.
        settings: of the recipe.
    """

    def __init__(self, trainer: Trainer, settings: DiscriminatorSettings) -> None:
        self.trainer, self.pool_size = trainer, settings.pool
        self.clear, self.rain = (PatchGAN(settings.layers, settings.width, settings.spectral) for _ in range(2))
        trainer.add_network("discriminator_clear", self.clear)
        trainer.add_network("discriminator_rain", self.rain)
        trainer.add_optimiser("discriminators", [self.clear, self.rain], BETAS)
        side_px = trainer.recipe.optimiser.crop_px
        for name in ("pool_clear", "pool_rain"):
            trainer.tensors[name] = torch.empty(0, 3, side_px, side_px, device=trainer.device)

    def freeze(self, frozen: bool) -> None:
        """Freeze their weights while a generator learns from them, or unfreeze them."""
        for discriminator in (self.clear, self.rain):
            discriminator.requires_grad_(not frozen)

    def generator_loss(self, clear: Tensor, rain: Tensor) -> Tensor:
        """Adversarial loss of the generators, a scalar.

        Args:
            clear: (B, 3, H, W) in 0..1, derained images.
            rain: (B, 3, H, W) in 0..1, images with generated rain.
        """
        return least_squares(self.clear(clear), True) + least_squares(self.rain(rain), True)

    def step(self, real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]) -> float:
        """Update the weights of both once.

        Args:
            real: clear and rainy images, (B, 3, H, W) each in 0..1.
            generated: derained images and images with generated rain, likewise.

        Returns:
            The loss.
        """
        self.freeze(False)
        rng = self.trainer.iteration_rng()
        shown = [
            self.pooled(name, images.detach(), rng) for name, images in zip(("clear", "rain"), generated, strict=True)
        ]
        with self.trainer.placement.autocast():
            losses = [_loss(*each) for each in zip((self.clear, self.rain), real, shown, strict=True)]
            loss = torch.stack(losses).sum()
        self.trainer.optimiser_step("discriminators", loss)
        return loss.item()

    def pooled(self, kind: str, generated: Tensor, rng: torch.Generator) -> Tensor:
        """Replace half of the generated images by earlier ones (Shrivastava et al., CVPR 2017).

        All processes keep the same pool: each passes the whole batch through it and takes its share.

        Args:
            kind: "clear" or "rain".
            generated: (B, 3, H, W).
            rng: random number generator, in the same state in all processes.

        Returns:
            (B, 3, H, W).
        """
        tensors, name, group = self.trainer.tensors, f"pool_{kind}", self.trainer.group
        shown = []
        for image in group.all_gather(generated):
            pool = tensors[name]
            if len(pool) < self.pool_size:
                tensors[name] = torch.cat([pool, image.unsqueeze(0)])
            elif len(pool) and float(torch.rand((), generator=rng)) < 0.5:
                place = int(torch.randint(len(pool), (), generator=rng))
                image, pool[place] = pool[place].clone(), image
            shown.append(image)
        return torch.stack(list(group.shard(shown)))


def _loss(discriminator: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    on_real = least_squares(discriminator(real), True)
    return (on_real + least_squares(discriminator(generated), False)) / 2
