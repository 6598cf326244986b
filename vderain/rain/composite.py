"""Light through rain: clear frames and an opacity map enter, rainy frames leave."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.streaks import uniform

SURROUNDINGS_PX = 64  # a drop gathers light from far around (Garg & Nayar 2007, section 4): the blur of its background


@dataclass(frozen=True, slots=True)
class Light:
    """How a clip's rain meets its light.

    Attributes:
        ambient: share of a drop's light that comes from its surroundings, 0..1; the rest is `sky`.
        sky: brightness of the sky a drop refracts, 0..1.
        occlusion: how much of the background a drop hides, 0 (it only adds light) to 1.
        veil: share of every pixel's light lost to scattered sky (Koschmieder 1924), 0..1.
    """

    ambient: float
    sky: float
    occlusion: float
    veil: float


def draw_light(generator: torch.Generator) -> Light:
    """A clip's light. Half of the clips have no veil."""
    veil = max(0.0, uniform(-0.15, 0.15, generator))
    return Light(uniform(0.2, 0.8, generator), uniform(0.65, 1.0, generator), uniform(0.0, 1.0, generator), veil)


def rain_onto(clear: Tensor, opacity: Tensor, light: Light) -> Tensor:
    """Lay rain over clear frames: I = (1 - occlusion * a) J + a E.

    Args:
        clear: (T, 3, H, W) in 0..1.
        opacity: (T, H, W) in 0..1, from `streaks.streak_opacity`.
        light: of this clip.

    Returns:
        (T, 3, H, W) in 0..1.
    """
    height_px, width_px = clear.shape[-2:]
    coarse = (max(1, height_px // SURROUNDINGS_PX), max(1, width_px // SURROUNDINGS_PX))
    blurred = F.interpolate(F.adaptive_avg_pool2d(clear, coarse), (height_px, width_px), mode="bilinear")
    drop = light.ambient * blurred.mean(1, keepdim=True) + (1 - light.ambient) * light.sky  # (T, 1, H, W) achromatic
    a = opacity.unsqueeze(1)  # (T, 1, H, W)
    return ((1 - light.occlusion * a) * clear + a * drop).clamp(0, 1)


def veiled(clear: Tensor, light: Light) -> Tensor:
    """The veil of rain too far away to be seen as streaks: any shape in 0..1, the same shape.

    It looks as mist does, so a generator that is to leave mist alone must find it in the truth as well.
    """
    return torch.lerp(clear, torch.full_like(clear, light.sky), light.veil)
