"""Renders physically based rain onto the frames of a clip: streaks, haze, and raindrops on a windshield.

The number and size of drops follow from the rain rate R in mm/h (Marshall & Palmer, "The distribution of raindrops with
size", J. Meteorology 1948): N(D) = 8000 exp(-4.1 R^-.21 D) drops per m^3 and mm of diameter D. A drop falls at
v = 200 sqrt(D / 2) m/s with D in metres and covers a pixel for D / v of the exposure (Garg & Nayar, "Vision and rain",
IJCV 2007). Drops too far away to be seen one by one are haze: a share exp(-beta d) of the light from distance d is
transmitted, the rest is skylight (Koschmieder 1924), with beta = .312 R^.67 per km.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.refraction import refract_through
from vderain.rain.streaks import Light, StreakLayer, rain_onto, streak_opacity, uniform
from vderain.rain.windshield import Glass, Windshield

DEPTHS_M = (0.35, 0.9, 2.2, 5.0)  # boundaries of the layers of streaks
FOCAL = 0.9  # focal length in units of the longer side of the frame: about that of a dashcam
EXPOSURE_S = 1 / 80  # by day under rain clouds
OPACITY_GAIN = 7.0  # our choice: physically exact streaks of average drops are hardly visible in 8 bits
SMALLEST_MM = 1.0  # smaller drops are counted as haze
SMALLEST_PX = 0.5  # and so are narrower ones
DRIFT_DEG, DRIFT_S = 3.0, 17.0  # amplitude and period of changes of the wind
NEAR_M, FAR_M = 4.0, 160.0  # distance at the lower edge of the frame, and at the horizon
HORIZON = 0.45  # height of the horizon, from the upper edge, in frame heights
SKY_CELLS = 8  # the sky is the brightest cell of a grid with so many rows and columns
SKY_SMOOTHING = 0.1  # weight of the current frame in the running mean of the sky's brightness


@dataclass(frozen=True, slots=True)
class Style:
    """A named kind of rain.

    Attributes:
        rate_mm_h: rain rate.
        wind_deg: largest slant of the streaks from the vertical.
        glass: windshield in front of the lens, or None.
    """

    rate_mm_h: float
    wind_deg: float
    glass: Glass | None = None


STYLES: dict[str, Style] = {
    "drizzle": Style(2, 8),
    "shower": Style(15, 12),
    "downpour": Style(60, 18),
    "windshield": Style(10, 12, Glass()),
}


class Weather:
    """Renders the rain of one clip.

    Args:
        style: kind of rain.
        generator: random number generator; frames must be on its device.
        haze: whether distant rain adds haze.
    """

    def __init__(self, style: Style, generator: torch.Generator, haze: bool = True) -> None:
        self.style = style
        self._generator = generator
        self._haze = haze
        self._wind_deg = uniform(-style.wind_deg, style.wind_deg, generator)
        self._phase = uniform(0, 2 * math.pi, generator)
        self._glass_seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        self._windshield: Windshield | None = None
        self._sky: float | None = None

    def render(self, clear: Tensor, time_s: float) -> tuple[Tensor, Tensor]:
        """Render rain onto the next frame.

        Args:
            clear: (3, H, W) RGB in 0..1, upright, on the generator's device.
            time_s: timestamp, later than that of the previous frame.

        Returns:
            The rainy frame, (3, H, W) in 0..1, and the opacity of streaks and drops without the haze, (H, W) in 0..1.
        """
        height_px, width_px = clear.shape[1:]
        light = Light(ambient=0.3, sky=self._sky_brightness(clear), occlusion=1.0, haze=0.0)
        rainy = add_depth_haze(clear, self.style.rate_mm_h, light.sky) if self._haze else clear
        wind_deg = self._wind_deg + DRIFT_DEG * math.sin(2 * math.pi * time_s / DRIFT_S + self._phase)
        layers = streak_layers(self.style.rate_mm_h, wind_deg, FOCAL * max(height_px, width_px))
        opacity = streak_opacity(layers, height_px, width_px, self._generator)
        rainy = rain_onto(rainy[None], opacity, light)[0]
        return self._through_glass(rainy, opacity[0], time_s)

    def _through_glass(self, rainy: Tensor, opacity: Tensor, time_s: float) -> tuple[Tensor, Tensor]:
        if self.style.glass is None:
            return rainy, opacity
        if self._windshield is None:
            rng = torch.Generator().manual_seed(self._glass_seed)
            self._windshield = Windshield(self.style.glass, rainy.shape[2] / rainy.shape[1], rng)
        sky = self._sky or 1.0
        rainy, cover = refract_through(rainy[None], self._windshield.drops(time_s), time_s, self.style.glass, sky)
        return rainy[0], 1 - (1 - opacity) * (1 - cover)

    def _sky_brightness(self, clear: Tensor) -> float:
        """Smoothed brightness of the brightest cell of a coarse grid: the sky by day, a lit street by night."""
        cells = F.adaptive_avg_pool2d(clear, (min(SKY_CELLS, clear.shape[1]), min(SKY_CELLS, clear.shape[2])))
        now = float(cells.mean(0).max())
        self._sky = now if self._sky is None else self._sky + SKY_SMOOTHING * (now - self._sky)
        return self._sky


def streak_layers(rate_mm_h: float, wind_deg: float, focal_px: float) -> tuple[StreakLayer, ...]:
    """Compute layers of streaks, from near to far, by Marshall & Palmer and Garg & Nayar.

    Args:
        rate_mm_h: rain rate.
        wind_deg: slant of the streaks from the vertical.
        focal_px: focal length of the camera.
    """
    slope = 4.1 * rate_mm_h**-0.21  # 1/mm
    layers = []
    for near_m, far_m in pairwise(DEPTHS_M):
        depth_m = math.sqrt(near_m * far_m)
        smallest_mm = max(SMALLEST_MM, SMALLEST_PX * depth_m / focal_px * 1e3)
        per_m3 = 8000 / slope * math.exp(-slope * smallest_mm)
        diameter_m = (smallest_mm + 1 / slope) * 1e-3  # mean of an exponential distribution above its threshold
        speed_m_s = 200 * math.sqrt(diameter_m / 2)
        layers.append(
            StreakLayer(
                angle_deg=wind_deg,
                length_px=focal_px * speed_m_s * EXPOSURE_S / depth_m,
                width_px=focal_px * diameter_m / depth_m,
                density=per_m3 * (far_m**3 - near_m**3) / 3 / focal_px**2 * 1e4,
                opacity=min(1.0, OPACITY_GAIN * diameter_m / speed_m_s / EXPOSURE_S),
            )
        )
    return tuple(layers)


def add_depth_haze(clear: Tensor, rate_mm_h: float, sky: float) -> Tensor:
    """Add haze that grows with distance, which is taken from a flat road below the horizon.

    Args:
        clear: (3, H, W) in 0..1.
        rate_mm_h: rain rate.
        sky: brightness of the sky, 0..1.

    Returns:
        (3, H, W) in 0..1.
    """
    height_px = clear.shape[1]
    down = (torch.arange(height_px, device=clear.device) + 0.5) / height_px
    distance_m = (NEAR_M * (1 - HORIZON) / (down - HORIZON).clamp(min=1e-6)).clamp(max=FAR_M)
    transmission = torch.exp(-0.312 * rate_mm_h**0.67 * distance_m / 1e3).view(-1, 1)
    return clear * transmission + sky * (1 - transmission)
