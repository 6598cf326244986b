"""The street through drops on the windshield: frames and the drops on a glass enter, frames seen through it leave.

A resting drop is taken for a paraboloid that meets the glass at the same angle whatever its size. Light bends with the
slope of its surface (Garg & Nayar, "Vision and rain", IJCV 2007, section 3, for the wide view that a drop gathers), so
the view through it is shifted in proportion to the slope: upside down, and smaller the smaller the drop. Near the rim
the surface is steep and passes less light.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vderain.rain.streaks import fft_side_px
from vderain.rain.windshield import Drops, Glass

VIEW_H = 0.42  # how far from its place the rim of a drop looks
SEEN_ROWS = 48  # of the picture as drops see it: they shrink it so much that more would only flicker
RIM_SHADE = 0.62  # of the light that the steepest rim loses
HORIZON_SLOPE = 0.12  # over which a drop's view goes from sky to ground
GROUND = 0.15  # of the sky's light
SMALLEST_PX = 0.4
FAINTEST = 1e-3  # cover that is still seen


def seen_through(clear: Tensor, drops: Drops, time_s: float, glass: Glass, sky: float = 1.0) -> tuple[Tensor, Tensor]:
    """Frames as they are seen through the same wet glass.

    Args:
        clear: (T, 3, H, W) in 0..1.
        drops: on the glass, from `Windshield.drops`.
        time_s: the same instant.
        glass: that they are on.
        sky: its brightness, 0..1, for the glow of the drops.

    Returns:
        (T, 3, H, W) in 0..1, and how much of each pixel is drop, (H, W) in 0..1; where that is 0 frames are untouched.
    """
    height_px, width_px = clear.shape[2:]
    surface_px = thickness_px(drops, time_s, height_px, width_px, clear.device)
    slope_y, slope_x = _slopes(surface_px)
    cover = surface_px.clamp(max=1)  # the first pixel inside the rim is half glass, half water
    steep = torch.hypot(slope_x, slope_y).clamp(max=1)
    inside = _refracted(clear, slope_x, slope_y, VIEW_H * height_px)
    inside = torch.lerp(inside, _street(slope_y, sky), glass.street) * (1 - RIM_SHADE * steep**3)
    if glass.flat > 0:
        behind = _blurred(clear.flatten(0, 1), glass.uneven_h * height_px).view_as(clear)
        inside = torch.lerp(inside, (glass.gain * behind).clamp(max=1), glass.flat)
    inside = torch.lerp(inside, torch.full_like(inside, sky), glass.glow) * cover
    soft = _blurred(torch.cat([inside.flatten(0, 1), cover.unsqueeze(0)]), glass.defocus_h * height_px)
    soft = soft * (soft[-1] > FAINTEST)
    return clear * (1 - soft[-1]) + soft[:-1].view_as(clear), soft[-1]


def thickness_px(drops: Drops, time_s: float, height_px: int, width_px: int, device: torch.device) -> Tensor:
    """(H, W) how thick the water is; drops that touch are one, as high as the higher of them."""
    x_px, y_px, radius_px = (length_h * height_px for length_h in drops.at(time_s))
    parts = torch.stack([x_px, y_px, radius_px, drops.tall, drops.lobe, drops.turn])[:, radius_px > SMALLEST_PX]
    half_px = torch.exp2(torch.ceil(torch.log2((1.4 * parts[2] * parts[3].clamp(min=1)).clamp(min=2))))
    surface = torch.zeros(height_px * width_px, device=device)
    for size in torch.unique(half_px).tolist():  # drops of about a size are drawn together
        x, y, radius, tall, lobe, turn = parts[:, half_px == size].float().to(device)[..., None, None]  # (N, 1, 1) each
        steps = torch.arange(-int(size), int(size) + 1, device=device)
        column, row = x.floor().long() + steps.view(1, 1, -1), y.floor().long() + steps.view(1, -1, 1)
        right, down = column + 0.5 - x, (row + 0.5 - y) / tall
        angle = torch.atan2(down, right)
        edge = radius * (1 + lobe * (torch.cos(2 * angle + turn) + 0.6 * torch.cos(3 * angle + 2 * turn)))
        thick = radius / 2 * (1 - (right**2 + down**2) / edge**2)
        kept = (thick > 0) & (column >= 0) & (column < width_px) & (row >= 0) & (row < height_px)
        surface.scatter_reduce_(0, (row * width_px + column)[kept], thick[kept], "amax")
    return surface.view(height_px, width_px)


def _slopes(surface_px: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) down and to the right, by central differences."""
    padded = F.pad(surface_px[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2


def _refracted(clear: Tensor, slope_x: Tensor, slope_y: Tensor, view_px: float) -> Tensor:
    """(T, 3, H, W): each pixel shows the place to which the slope bends its ray."""
    frames, _, height_px, width_px = clear.shape
    rows = min(SEEN_ROWS, height_px)
    seen = F.adaptive_avg_pool2d(clear, (rows, max(1, round(rows * width_px / height_px))))
    x_px = torch.arange(width_px, device=clear.device) + 0.5 + view_px * slope_x
    y_px = torch.arange(height_px, device=clear.device).view(-1, 1) + 0.5 + view_px * slope_y
    grid = torch.stack([2 * x_px / width_px - 1, 2 * y_px / height_px - 1], -1)
    return F.grid_sample(seen, grid.expand(frames, -1, -1, -1), padding_mode="border", align_corners=False)


def _street(slope_y: Tensor, sky: float) -> Tensor:
    """(H, W): sky where the surface bends a ray upwards, ground where it bends it down, between them the horizon."""
    return sky * torch.sigmoid(-slope_y / HORIZON_SLOPE) * (1 - GROUND) + sky * GROUND


def _blurred(planes: Tensor, sigma_px: float) -> Tensor:
    """(C, H, W) through a Gaussian, by its transfer function: drops far out of focus cost no more than sharp ones."""
    height_px, width_px = planes.shape[1:]
    reach = max(1, math.ceil(2.5 * sigma_px))
    rows, columns = fft_side_px(height_px + 2 * reach), fft_side_px(width_px + 2 * reach)
    around = (reach, columns - width_px - reach, reach, rows - height_px - reach)
    padded = F.pad(planes[None], around, mode="replicate")[0]
    down = torch.fft.fftfreq(rows, device=planes.device).view(-1, 1)
    right = torch.fft.rfftfreq(columns, device=planes.device)
    passed = torch.exp(-2 * (math.pi * sigma_px) ** 2 * (down**2 + right**2))
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * passed, s=(rows, columns))
    return blurred[:, reach : reach + height_px, reach : reach + width_px]
