"""Optical flow on the network's device, and warping along it."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Motion(NamedTuple):
    """Optical flow to another frame.

    Attributes:
        flow_px: (B, 2, h, w) float32, x and y displacement in pixels of the frame.
        confidence: (B, 1, h, w) float32 in 0..1.
        step_px: pixels of the frame for one of the flow, W/w and H/h.
    """

    flow_px: Tensor
    confidence: Tensor
    step_px: tuple[float, float] = (1.0, 1.0)

    def full_size(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        """Grid to sample from, (B, H, W, 2), and confidence, (B, 1, H, W), for a frame with this luma."""
        size = luma.shape[-2:]
        confidence = self.confidence
        if confidence.shape[-2:] != size:
            confidence = F.interpolate(confidence, size, mode="bilinear", align_corners=False)
        return sampling_grid(self.flow_px, size), confidence

    def then(self, onward: "Motion") -> "Motion":
        """The flow to the frame that `onward` leads to from the frame that this one leads to."""
        steps = self.flow_px.new_tensor(self.step_px).view(1, 2, 1, 1)
        places = sampling_grid(self.flow_px / steps, self.flow_px.shape[-2:])
        flow_px = self.flow_px + sample(onward.flow_px, places)
        return Motion(flow_px, self.confidence * sample(onward.confidence, places), self.step_px)


def sampling_grid(flow: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The places that a flow points to, as `F.grid_sample` wants them.

    Args:
        flow: (B, 2, h, w), x and y displacement in pixels of the picture to be sampled; enlarged to its size.
        shape: (H, W) of that picture.

    Returns:
        (B, H, W, 2) in -1..1.
    """
    height_px, width_px = shape
    factors = [2 / max(1, width_px - 1), 2 / max(1, height_px - 1)]
    scaled = flow.float() * torch.tensor(factors, device=flow.device).view(1, 2, 1, 1)
    scaled = scaled.contiguous(memory_format=torch.channels_last)
    if scaled.shape[-2:] != shape:
        scaled = F.interpolate(scaled, (height_px, width_px), mode="bilinear", align_corners=False)
    return scaled.permute(0, 2, 3, 1) + _identity_grid(height_px, width_px, flow.device)


@lru_cache(maxsize=8)
def _identity_grid(height_px: int, width_px: int, device: torch.device) -> Tensor:
    """(H, W, 2), the grid of no motion; every frame of a clip needs the same two sizes."""
    with torch.inference_mode(False):
        rows, columns = (
            torch.linspace(-1, 1, side, device=device) if side > 1 else torch.zeros(1, device=device)
            for side in (height_px, width_px)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([x, y], -1)


def sample(x: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample a picture at places; beyond its border the outermost pixels are repeated.

    Args:
        x: (B, C, H, W).
        places: (B, h, w, 2), see `sampling_grid`.
        mode: ``bilinear`` or ``bicubic``.
    """
    return F.grid_sample(x.float(), places, mode=mode, padding_mode="border", align_corners=True)
