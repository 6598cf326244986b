"""Renders frames as seen through raindrops on a windshield.

A resting drop is modelled as a paraboloid whose contact angle does not depend on its size. Light is refracted by the
slope of the surface (Garg & Nayar, "Vision and rain", IJCV 2007, section 3, for the wide field of view of a drop). So
the view through a drop is displaced in proportion to the slope: it is upside down, and the smaller the drop, the
smaller the view. Near the rim the surface is steep and transmits less light.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.streaks import fft_side_px
from vderain.rain.windshield import Drops, Glass

VIEW_H = 0.42  # displacement of the view at the rim of a drop, in frame heights
VIEW_ROWS = 48  # rows of the frame that drops show: they shrink it so much that more rows would only flicker
RIM_SHADE = 0.62  # share of the light that is lost at the steepest rim
HORIZON_SLOPE = 0.12  # slope over which the view through a drop changes from sky to ground
GROUND = 0.15  # brightness of the ground, as a share of the sky's
SMALLEST_PX = 0.4  # smaller drops are not drawn
FAINTEST = 1e-3  # smaller coverage counts as none


def refract_through(
    clear: Tensor, drops: Drops, time_s: float, glass: Glass, sky: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Render frames as seen through the drops on a glass.

    Args:
        clear: (T, 3, H, W) RGB in 0..1.
        drops: the drops on the glass, from `Windshield.drops`.
        time_s: the time for which they were asked.
        glass: properties of the glass.
        sky: brightness of the sky, 0..1, for the glow of the drops.

    Returns:
        The frames, (T, 3, H, W) in 0..1, and the coverage by drops, (H, W) in 0..1. Pixels with a coverage of 0 are
        unchanged.
    """
    height_px, width_px = clear.shape[2:]
    surface_px = thickness_px(drops, time_s, height_px, width_px, clear.device)
    slope_y, slope_x = _slopes(surface_px)
    cover = surface_px.clamp(max=1)  # (H, W); anti-aliases the first pixel inside the rim
    steepness = torch.hypot(slope_x, slope_y).clamp(max=1)
    inside = _refracted(clear, slope_x, slope_y, VIEW_H * height_px)
    inside = torch.lerp(inside, _sky_over_ground(slope_y, sky), glass.street) * (1 - RIM_SHADE * steepness**3)
    if glass.flat > 0:
        behind = _blurred(clear.flatten(0, 1), glass.uneven_h * height_px).view_as(clear)
        shade = glass.gain * (1 - glass.rim * steepness**3)
        inside = torch.lerp(inside, (shade * behind).clamp(max=1), glass.flat)
    inside = torch.lerp(inside, torch.full_like(inside, sky), glass.glow) * cover
    soft = _blurred(torch.cat([inside.flatten(0, 1), cover.unsqueeze(0)]), glass.defocus_h * height_px)
    soft = soft * (soft[-1] > FAINTEST)
    return clear * (1 - soft[-1]) + soft[:-1].view_as(clear), soft[-1]


def thickness_px(drops: Drops, time_s: float, height_px: int, width_px: int, device: torch.device) -> Tensor:
    """Render the thickness of the water; where drops overlap, the thicker one counts.

    Args:
        drops: the drops on the glass.
        time_s: the time for which they were asked.
        height_px: height of the frame.
        width_px: width of the frame.
        device: device of the result.

    Returns:
        (H, W) float32, in pixels; 0 where the glass is dry.
    """
    x_px, y_px, radius_px = (length_h * height_px for length_h in drops.at(time_s))
    parts = torch.stack([x_px, y_px, radius_px, drops.elongation, drops.lobe, drops.phase])[:, radius_px > SMALLEST_PX]
    half_px = torch.exp2(torch.ceil(torch.log2((1.4 * parts[2] * parts[3].clamp(min=1)).clamp(min=2))))
    surface = torch.zeros(height_px * width_px, device=device)
    for size in torch.unique(half_px).tolist():  # drops of similar size are drawn together
        x, y, radius, elongation, lobe, phase = (
            parts[:, half_px == size].float().to(device)[..., None, None]
        )  # (N, 1, 1) each
        steps = torch.arange(-int(size), int(size) + 1, device=device)
        column, row = x.floor().long() + steps.view(1, 1, -1), y.floor().long() + steps.view(1, -1, 1)
        right, down = column + 0.5 - x, (row + 0.5 - y) / elongation
        angle = torch.atan2(down, right)
        edge = radius * (1 + lobe * (torch.cos(2 * angle + phase) + 0.6 * torch.cos(3 * angle + 2 * phase)))
        thick = radius / 2 * (1 - (right**2 + down**2) / edge**2)
        kept = (thick > 0) & (column >= 0) & (column < width_px) & (row >= 0) & (row < height_px)
        surface.scatter_reduce_(0, (row * width_px + column)[kept], thick[kept], "amax")
    return surface.view(height_px, width_px)


def _slopes(surface_px: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes downwards and to the right, (H, W) each, by central differences."""
    padded = F.pad(surface_px[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2


def _refracted(clear: Tensor, slope_x: Tensor, slope_y: Tensor, view_px: float) -> Tensor:
    """Displace each pixel of (T, 3, H, W) frames in proportion to the slope of the water there."""
    frames, _, height_px, width_px = clear.shape
    rows = min(VIEW_ROWS, height_px)
    view = F.adaptive_avg_pool2d(clear, (rows, max(1, round(rows * width_px / height_px))))
    x_px = torch.arange(width_px, device=clear.device) + 0.5 + view_px * slope_x
    y_px = torch.arange(height_px, device=clear.device).view(-1, 1) + 0.5 + view_px * slope_y
    grid = torch.stack([2 * x_px / width_px - 1, 2 * y_px / height_px - 1], -1)
    return F.grid_sample(view, grid.expand(frames, -1, -1, -1), padding_mode="border", align_corners=False)


def _sky_over_ground(slope_y: Tensor, sky: float) -> Tensor:
    """Brightness, (H, W), of a bright sky where the surface refracts upwards and of dark ground where downwards."""
    return sky * torch.sigmoid(-slope_y / HORIZON_SLOPE) * (1 - GROUND) + sky * GROUND


def _blurred(planes: Tensor, sigma_px: float) -> Tensor:
    """Blur (C, H, W) by a Gaussian in the frequency domain, where the cost does not depend on sigma."""
    height_px, width_px = planes.shape[1:]
    reach = max(1, math.ceil(2.5 * sigma_px))
    rows, columns = fft_side_px(height_px + 2 * reach), fft_side_px(width_px + 2 * reach)
    around = (reach, columns - width_px - reach, reach, rows - height_px - reach)
    padded = F.pad(planes[None], around, mode="replicate")[0]
    down = torch.fft.fftfreq(rows, device=planes.device).view(-1, 1)
    right = torch.fft.rfftfreq(columns, device=planes.device)
    transfer = torch.exp(-2 * (math.pi * sigma_px) ** 2 * (down**2 + right**2))
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer, s=(rows, columns))
    return blurred[:, reach : reach + height_px, reach : reach + width_px]
