"""A clip's rain: clear frames and their instants enter in order; rainy frames and the rain's opacity leave.

How many drops of which size fill the air follows from the rain rate R in mm/h (Marshall & Palmer, "The distribution of
raindrops with size", J. Meteorology 1948): N(D) = 8000 exp(-4.1 R^-.21 D) drops per m^3 and mm of diameter D. A drop
falls at 200 sqrt(D / 2) m/s with D in metres and hides a pixel for D / v of the exposure (Garg & Nayar, "Vision and
rain", IJCV 2007). Drops too far away to be seen one by one are a veil: a share exp(-beta d) of the light of a thing at
distance d comes through, the rest is light of the sky (Koschmieder 1924), with beta = .312 R^.67 per km.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.composite import Light, rain_onto
from vderain.rain.refraction import seen_through
from vderain.rain.streaks import StreakLayer, streak_opacity, uniform
from vderain.rain.windshield import Glass, Windshield

DEPTHS_M = (0.35, 0.9, 2.2, 5.0)  # borders of the layers
FOCAL = 0.9  # focal length by the longer side of the picture: about that of a dashcam
EXPOSURE_S = 1 / 80  # by day under rain clouds
BOLD = 7.0  # a free choice: streaks of average drops, as the physics has them, are hardly seen in 8 bits
SMALLEST_MM = 1.0  # smaller drops are not told apart
SMALLEST_PX = 0.5  # nor are narrower ones
DRIFT_DEG, DRIFT_S = 3.0, 17.0  # of the wind
NEAR_M, FAR_M, HORIZON = 4.0, 160.0, 0.45  # of the veil: at the lower edge, at the horizon, which is that far down
SKY_PARTS, SKY_SHARE = 8, 0.1  # a side of the picture, among which the sky is; by which its light follows each frame


@dataclass(frozen=True, slots=True)
class Style:
    """Weather with a name.

    Attributes:
        rate_mm_h: rain rate.
        wind_deg: the most the rain slants.
        glass: the windshield in front of the lens, if there is one.
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
    """The rain of one clip.

    Args:
        style: what kind of rain.
        generator: the source of chance; its device is where frames are worked on.
        veil: whether distant rain hazes the picture.
    """

    def __init__(self, style: Style, generator: torch.Generator, veil: bool = True) -> None:
        self.style = style
        self._generator = generator
        self._veil = veil
        self._wind_deg = uniform(-style.wind_deg, style.wind_deg, generator)
        self._phase = uniform(0, 2 * math.pi, generator)
        self._glass_seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        self._windshield: Windshield | None = None
        self._sky: float | None = None

    def over(self, clear: Tensor, time_s: float) -> tuple[Tensor, Tensor]:
        """Let it rain on the next frame.

        Args:
            clear: (3, H, W) in 0..1, on the generator's device, upright.
            time_s: its instant, later than that of the frame before.

        Returns:
            (3, H, W) in 0..1, and the opacity of streaks and drops, (H, W) in 0..1, in which the veil does not count.
        """
        height_px, width_px = clear.shape[1:]
        light = Light(ambient=0.3, sky=self._brightest(clear), occlusion=1.0, veil=0.0)
        rainy = veiled_by_depth(clear, self.style.rate_mm_h, light.sky) if self._veil else clear
        wind_deg = self._wind_deg + DRIFT_DEG * math.sin(2 * math.pi * time_s / DRIFT_S + self._phase)
        layers = falling(self.style.rate_mm_h, wind_deg, FOCAL * max(height_px, width_px))
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
        rainy, cover = seen_through(rainy[None], self._windshield.drops(time_s), time_s, self.style.glass, sky)
        return rainy[0], 1 - (1 - opacity) * (1 - cover)

    def _brightest(self, clear: Tensor) -> float:
        """Of the larger parts of the picture: the sky by day, a lit street by night. It follows slowly."""
        parts = F.adaptive_avg_pool2d(clear, (min(SKY_PARTS, clear.shape[1]), min(SKY_PARTS, clear.shape[2])))
        now = float(parts.mean(0).max())
        self._sky = now if self._sky is None else self._sky + SKY_SHARE * (now - self._sky)
        return self._sky


def falling(rate_mm_h: float, wind_deg: float, focal_px: float) -> tuple[StreakLayer, ...]:
    """Layers of streaks by the physics above, from near to far.

    Args:
        rate_mm_h: rain rate.
        wind_deg: by which the rain slants.
        focal_px: focal length of the camera.
    """
    slope = 4.1 * rate_mm_h**-0.21  # 1/mm
    layers = []
    for near_m, far_m in pairwise(DEPTHS_M):
        depth_m = math.sqrt(near_m * far_m)
        smallest_mm = max(SMALLEST_MM, SMALLEST_PX * depth_m / focal_px * 1e3)
        per_m3 = 8000 / slope * math.exp(-slope * smallest_mm)
        diameter_m = (smallest_mm + 1 / slope) * 1e-3  # the mean of an exponential beyond its threshold
        speed_m_s = 200 * math.sqrt(diameter_m / 2)
        layers.append(
            StreakLayer(
                angle_deg=wind_deg,
                length_px=focal_px * speed_m_s * EXPOSURE_S / depth_m,
                width_px=focal_px * diameter_m / depth_m,
                density=per_m3 * (far_m**3 - near_m**3) / 3 / focal_px**2 * 1e4,
                opacity=min(1.0, BOLD * diameter_m / speed_m_s / EXPOSURE_S),
            )
        )
    return tuple(layers)


def veiled_by_depth(clear: Tensor, rate_mm_h: float, sky: float) -> Tensor:
    """(3, H, W): a flat road below the horizon stands for the distances of a street, the same for all of a row."""
    height_px = clear.shape[1]
    down = (torch.arange(height_px, device=clear.device) + 0.5) / height_px
    distance_m = (NEAR_M * (1 - HORIZON) / (down - HORIZON).clamp(min=1e-6)).clamp(max=FAR_M)
    passed = torch.exp(-0.312 * rate_mm_h**0.67 * distance_m / 1e3).view(-1, 1)
    return clear * passed + sky * (1 - passed)
