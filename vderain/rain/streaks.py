"""Renders rain streaks and composites them onto frames: style and light are drawn once per clip, positions per frame.

A drop falls a decimetre or more between two frames, so streaks do not repeat (Garg & Nayar, "Vision and rain", IJCV
2007). During an exposure a drop draws a line, whose opacity is the share of the exposure for which it covers a pixel. A
clip has a few depth layers: near streaks are long, wide, faint and few, far ones short, thin and many.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

VARIANTS = 4  # lines of different length, width and angle in a layer, so that repetition is not visible
SURROUNDINGS_PX = 64  # a drop gathers light from a wide field of view (Garg & Nayar 2007, section 4)


@dataclass(frozen=True, slots=True)
class StreakLayer:
    """Streaks at about one depth.

    Attributes:
        angle_deg: direction of fall from the vertical, positive to the right.
        length_px, width_px: mean size of a streak.
        density: streaks per 10 000 px.
        opacity: mean opacity at the middle of a streak, 0..1.
        spread_deg: largest deviation of single streaks from `angle_deg` (gusts).
        uneven: share of its opacity that a streak loses in places, since drops oscillate as they fall.
    """

    angle_deg: float
    length_px: float
    width_px: float
    density: float
    opacity: float
    spread_deg: float = 1.5
    uneven: float = 0.0


Layers = tuple[StreakLayer, ...]  # of a clip, its style of rain


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number from a uniform distribution.

    Args:
        low: smallest value.
        high: largest value.
        generator: random number generator.
    """
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number whose logarithm is uniformly distributed.

    Args:
        low: smallest value, above 0.
        high: largest value.
        generator: random number generator.
    """
    return math.exp(uniform(math.log(low), math.log(high), generator))


def draw_style(generator: torch.Generator, heaviness: float | None = None, share_any_direction: float = 0.0) -> Layers:
    """Draw a clip's rain, from drizzle to downpour.

    Args:
        generator: random number generator.
        heaviness: 0 (a few faint streaks) to 1 (crossing curtains); drawn if not given.
        share_any_direction: probability, 0..1, that the rain falls in any direction instead of roughly downwards:
            a camera on its side, a hand-held clip, wind.
    """
    heavy = uniform(0, 1, generator) ** 1.25 if heaviness is None else heaviness
    wind_deg = float(torch.randn((), generator=generator)) * 14
    if share_any_direction and uniform(0, 1, generator) < share_any_direction:
        wind_deg = uniform(-90, 90, generator)
    spread_deg = uniform(1.5, 9, generator) if uniform(0, 1, generator) < 0.3 else 1.5
    uneven = uniform(0.2, 0.9, generator) if uniform(0, 1, generator) < 0.3 else 0.0
    bold = uniform(0, 1, generator) < 0.2
    layers = []
    for depth in range(1 + int(uniform(1, 3.99, generator))):
        near = 1.0 / (1 + depth)
        length_px = log_uniform(7, 90, generator) * (0.5 + near)
        layers.append(
            StreakLayer(
                angle_deg=wind_deg + uniform(-6, 6, generator) * (1 + heavy),
                length_px=length_px,
                width_px=min(log_uniform(0.6, 3.2, generator) * (0.5 + near), length_px / 7),
                density=log_uniform(0.5, 8, generator) * (0.4 + 25 * heavy**4) * 30 / (15 + length_px),
                opacity=uniform(0.5, 1.0, generator)
                if bold
                else uniform(0.08, 0.75, generator) * (0.65 + 0.35 * heavy),
                spread_deg=spread_deg,
                uneven=uneven,
            )
        )
    if uniform(0, 1, generator) < 0.15:
        layers.append(_out_of_focus(wind_deg, generator))
    return tuple(layers)


def _out_of_focus(wind_deg: float, generator: torch.Generator) -> StreakLayer:
    """Drops a metre from the lens: broad, long and faint."""
    return StreakLayer(
        angle_deg=wind_deg + uniform(-4, 4, generator),
        length_px=log_uniform(40, 160, generator),
        width_px=log_uniform(3, 9, generator),
        density=log_uniform(0.15, 1.5, generator),
        opacity=log_uniform(0.08, 0.35, generator),
    )


def streak_opacity(style: Layers, height_px: int, width_px: int, generator: torch.Generator, frames: int = 1) -> Tensor:
    """Render the opacity of rain in successive frames: one style, new positions in each frame.

    Random impulses are convolved with lines by FFT, so the cost does not depend on the number of streaks.

    Args:
        style: layers of streaks.
        height_px: height of a frame.
        width_px: width of a frame.
        generator: random number generator.
        frames: number of frames.

    Returns:
        (frames, H, W) float32 in 0..1, on the generator's device.
    """
    device = generator.device
    clear = torch.ones(frames, height_px, width_px, device=device)
    for layer in style:
        for variant in range(VARIANTS):
            line = _line(layer, variant, generator).to(device)
            grown = (fft_side_px(height_px + line.shape[0]), fft_side_px(width_px + line.shape[1]))
            seeds = _seeds(layer, frames, grown, generator)
            drawn = torch.fft.irfft2(torch.fft.rfft2(seeds) * torch.fft.rfft2(line, s=grown), s=grown)
            opacity = drawn[:, line.shape[0] :, line.shape[1] :][:, :height_px, :width_px].clamp(0, 1)
            clear = clear * (1 - opacity)
    return 1 - clear


def fft_side_px(side_px: int) -> int:
    """Round up to a multiple of 64: FFTs of sizes with large prime factors are several times slower."""
    return -(-side_px // 64) * 64


def _seeds(layer: StreakLayer, frames: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw impulses, (frames, h, w): the opacity of a streak where one is centred, 0 elsewhere."""
    probability = layer.density / VARIANTS / 1e4
    present = torch.rand((frames, *shape), generator=generator, device=generator.device) < probability
    strength = torch.rand((frames, *shape), generator=generator, device=generator.device) * 1.4 + 0.3
    return present * strength * layer.opacity


def _line(layer: StreakLayer, variant: int, generator: torch.Generator) -> Tensor:
    """Draw an anti-aliased line, (h, w) with a peak of 1, that fades towards both ends."""
    length_px = layer.length_px * (0.55 + 0.3 * variant) * uniform(0.9, 1.1, generator)
    sigma_px = max(0.32, layer.width_px / 2.35 * uniform(0.8, 1.2, generator))
    angle = math.radians(layer.angle_deg + uniform(-layer.spread_deg, layer.spread_deg, generator))
    margin_px = math.ceil(3 * sigma_px) + 1
    half_h = math.ceil(abs(math.cos(angle)) * length_px / 2) + margin_px
    half_w = math.ceil(abs(math.sin(angle)) * length_px / 2) + margin_px
    y = torch.arange(-half_h, half_h + 1).view(-1, 1)
    x = torch.arange(-half_w, half_w + 1).view(1, -1)
    along = y * math.cos(angle) + x * math.sin(angle)
    across = x * math.cos(angle) - y * math.sin(angle)
    ends = torch.sigmoid((length_px / 2 - along.abs()) / max(0.8, 0.08 * length_px))
    line = torch.exp(-0.5 * (across / sigma_px) ** 2) * ends
    if layer.uneven > 0:
        waves = uniform(1, 5, generator)
        phase = 2 * math.pi * (waves * along / length_px + uniform(0, 1, generator))
        line = line * (1 - layer.uneven * (0.5 + 0.5 * torch.sin(phase)))
    return line


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
