"""Composites rain streaks and haze onto clear frames."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.streaks import uniform

SURROUNDINGS_PX = (
    64  # a drop gathers light from a wide field of view (Garg & Nayar 2007, section 4): blur its background
)


@dataclass(frozen=True, slots=True)
class Light:
    """How the rain of a clip is lit.

    Attributes:
        ambient: share of a drop's light that comes from its surroundings, 0..1; the rest comes from the sky.
        sky: brightness of the sky that a drop refracts, 0..1.
        occlusion: how much of the background a drop hides, from 0 (the drop only adds light) to 1.
        haze: share of every pixel's light that is replaced by scattered skylight (Koschmieder 1924), 0..1.
    """

    ambient: float
    sky: float
    occlusion: float
    haze: float


def draw_light(generator: torch.Generator) -> Light:
    """Draw the lighting of a clip; half of all clips have no haze."""
    haze = max(0.0, uniform(-0.15, 0.15, generator))
    return Light(uniform(0.2, 0.8, generator), uniform(0.65, 1.0, generator), uniform(0.0, 1.0, generator), haze)


def rain_onto(clear: Tensor, opacity: Tensor, light: Light) -> Tensor:
    """Composite rain over clear frames: I = (1 - occlusion * a) J + a E.

    Args:
        clear: (T, 3, H, W) in 0..1.
        opacity: (T, H, W) in 0..1, from `streaks.streak_opacity`.
        light: lighting of the clip.

    Returns:
        (T, 3, H, W) in 0..1.
    """
    height_px, width_px = clear.shape[-2:]
    coarse = (max(1, height_px // SURROUNDINGS_PX), max(1, width_px // SURROUNDINGS_PX))
    blurred = F.interpolate(F.adaptive_avg_pool2d(clear, coarse), (height_px, width_px), mode="bilinear")
    drop = (
        light.ambient * blurred.mean(1, keepdim=True) + (1 - light.ambient) * light.sky
    )  # (T, 1, H, W) rain is achromatic
    a = opacity.unsqueeze(1)  # (T, 1, H, W)
    return ((1 - light.occlusion * a) * clear + a * drop).clamp(0, 1)


def add_haze(clear: Tensor, light: Light) -> Tensor:
    """Add the haze of rain too far away to be seen as streaks; input and result are of any shape, in 0..1.

    It looks like mist, which the network must keep: training adds it to the target as well.
    """
    return torch.lerp(clear, torch.full_like(clear, light.sky), light.haze)
