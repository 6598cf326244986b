"""Training on real rain beside rendered: pairs and rainy clips enter, a generator from rain to clear leaves.

After a warm-up on rendered pairs a second generator, the rain maker, turns rendered rain into what a discriminator
takes for real, as a bounded layer of grey light (Shrivastava et al., "Learning from simulated and unsupervised images
through adversarial training", CVPR 2017): clear to rainy and back is a half cycle of which the truth is known. From
real rain the generator learns what can be known without a truth.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.errors import InputError, UsageError
from vderain.model.unet import UNet, UNetConfig
from vderain.rain.composite import draw_light, rain_onto
from vderain.train.config import Recipe
from vderain.train.data.real_rain import RealRain, RealWindow
from vderain.train.data.scenes import CENTRE, WINDOW, Scenes, load_scenes
from vderain.train.data.windows import TrainingWindow, WindowMaker
from vderain.train.discriminators import BETAS, DiscriminatorPair
from vderain.train.distributed import ALONE, ProcessGroup
from vderain.train.losses import charbonnier, colourfulness, grey_layer, inconsistency, rain_mask
from vderain.train.supervised import Supervised
from vderain.train.trainer import Batch, Losses

MADE = slice(3 * CENTRE, 3 * CENTRE + 3)  # channels of the centre


class SemiSupervised(Supervised):
    """A generator that is shown pairs, and real rain; and a rain maker."""

    def __init__(self, recipe: Recipe, out: Path, ranks: ProcessGroup = ALONE) -> None:
        super().__init__(recipe, out, ranks)
        assert recipe.dashcam is not None
        self.settings = settings = recipe.dashcam
        if settings.real % ranks.count:
            raise UsageError(
                f"{settings.real} crops of real rain cannot be shared evenly by {ranks.count} processes.",
                "Set dashcam.real to a multiple of their number.",
            )
        model = recipe.model
        self.rain_maker = UNet(UNetConfig(1, model.widths, model.stem, model.paths, model.slope))
        self.networks["rain_maker"] = self.rain_maker
        self.optimises("maker", [self.rain_maker], BETAS)
        self.critics = DiscriminatorPair(self, settings.layers, settings.width, settings.spectral, settings.pool)

    def material(self) -> Scenes:
        held = super().material()
        data = self.recipe.data
        if data.rain is None:
            raise InputError("there is no rainy material.", "Set data.rain to a folder of clips or pictures.")
        self.rainy = RealRain(
            load_scenes(data.rain, data.rain, data.side_px + 2 * data.border_px, "rainy", "data.rain"), data,
            self.recipe.run.seed,
        )  # fmt: skip
        return held

    def batches(self) -> Iterator[Batch]:
        """The batches of `Supervised`, and crops of `RealWindow`."""
        recipe, data, seed = self.recipe, self.recipe.data, self.recipe.run.seed
        crop_px = recipe.optimiser.crop_px
        rendered = self.pools(WindowMaker(self.scenes, data, seed), TrainingWindow, data.fresh)
        real = self.pools(self.rainy, RealWindow, self.settings.fresh)
        for pairs, rainy in zip(rendered, real, strict=True):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + self.iteration)
            yield (
                *pairs.batch(recipe.optimiser.batch, crop_px, rng, self.ranks),
                *rainy.batch(self.settings.real, crop_px, rng, self.ranks),
            )

    def losses(self, *batch: Tensor) -> Losses:
        """What each part is paid for stands in `config.Dashcam`; a part of weight 0 is 0 here."""
        rainy, confidence, clear, dry = batch[:4]
        real = RealWindow(*batch[4:])  # with a batch in front, windows as (B, 2, 15, s, s)
        warm = self.iteration >= self.settings.warmup
        parts = {"rendered": self.against_truth(self.restored(rainy, confidence), rainy[:, MADE], clear, dry)}
        made = None
        if warm:
            self.critics.freeze(True)
            known = clear[: len(real.rainy)]
            parts |= self._of_clear(known)
            derained, more = self._of_real(real)
            made, half = self._half_cycle(known, real)
            parts |= more | half
            parts["adversarial"] = self._deceived(derained, made)
        weights = self.settings.model_dump()
        parts = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        self.finite(loss)
        self.move("adam", loss)
        judged = 0.0
        if made is not None:
            self.move("maker")
            judged = self.critics.learn((known, real.rainy[:, 0, MADE]), (derained, made))
        found = {name: parts[name].item() if name in parts else 0.0 for name in PARTS}
        return {"loss": loss.item()} | found | {"critics": judged}

    def _of_clear(self, clear: Tensor) -> dict[str, Tensor]:
        """Clear pictures stay, and no rain is seen in them."""
        still = clear.repeat(1, WINDOW, 1, 1)
        residual = self.restored(still, torch.ones_like(clear[:, :1])) - clear
        return {"identity": residual.abs().mean(), "mask": rain_mask(residual).mean()}

    def _of_real(self, real: RealWindow) -> tuple[Tensor, dict[str, Tensor]]:
        """What is made of real rain, (B, 3, H, W), and what can be said of it without a truth."""
        both = self.restored(real.rainy.flatten(0, 1), real.confidence.flatten(0, 1))
        now, after = both[::2], both[1::2]
        rain = real.rainy[:, 0, MADE]
        taken = rain - now
        back = self._rained(now, now + taken.mean(1, keepdim=True))
        return now, {
            "grey": colourfulness(taken),
            "temporal": inconsistency(now, after, real.flow, real.flow_confidence),
            "pseudo": charbonnier(now - real.pseudo, self.recipe.optimiser.epsilon, real.belief).mean(),
            "cycle": F.l1_loss(back, rain),
        }

    def _half_cycle(self, clear: Tensor, real: RealWindow) -> tuple[Tensor, dict[str, Tensor]]:
        """The rain maker's rain on five times the same clear picture: the centre, and what taking it out costs."""
        rng = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + self.iteration)
        lights = self.ranks.share([draw_light(rng) for _ in range(self.settings.real)])
        still = clear.unsqueeze(1).expand(-1, WINDOW, -1, -1, -1)
        pairs = zip(still, real.rain, lights, strict=True)
        seeds = torch.stack([rain_onto(frames, opacity, light) for frames, opacity, light in pairs])
        rained = self._rained(still.flatten(0, 1), seeds.flatten(0, 1))  # (B * 5, 3, H, W)
        stay = F.l1_loss(rained, seeds.flatten(0, 1))
        window = rained.view(len(clear), WINDOW * 3, *rained.shape[-2:])
        centre = window[:, MADE]
        # The rain maker is not paid for rain that is easily taken out.
        back = self.restored(window.detach(), torch.ones_like(clear[:, :1]))
        rainy = torch.zeros(len(clear), dtype=torch.bool)
        return centre, {"half_cycle": self.against_truth(back, centre.detach(), clear, rainy), "stay": stay}

    def _rained(self, clear: Tensor, seed: Tensor) -> Tensor:
        """The rain maker's picture: clear light, and a grey layer that begins as the seed's."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            residual = self.rain_maker(seed)
        return clear + grey_layer(seed - clear + residual.float(), self.settings.layer_max)

    def _deceived(self, derained: Tensor, rained: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            return self.critics.generator_loss(derained, rained)


PARTS = (
    "rendered", "half_cycle", "stay", "cycle", "adversarial", "identity", "mask", "grey", "temporal", "pseudo",
)  # fmt: skip
