"""The memory of the recurrent generator: what one step takes and returns, and the state-space model of its features."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

HALF_LIVES = 0.5, 16.0  # frames, of the fastest and the slowest channel of the feature state before training


class Memory(NamedTuple):
    """What is carried to the next frame.

    Attributes:
        luma: (B, 1, H, W) float32 in 0..1, the scene without rain.
        variance: (B, 1, H, W) float32, of `luma`, in levels squared.
        features: (B, S, h, w) float32 at the size of the network's second level.
    """

    luma: Tensor
    variance: Tensor
    features: Tensor


class Evidence(NamedTuple):
    """What is known about a frame from others, aligned to it.

    Attributes:
        memory: (B, 1, H, W) in 0..1, the image memory; the frame's own luma where the flow lost it.
        variance: (B, 1, H, W) float32, of `memory`, in levels squared.
        previous: (B, 1, H, W) in 0..1, luma of the frame before, likewise.
        confidence: (B, 1, H, W) in 0..1, of the flow to the frame before; 0 where there is none.
        following: (B, 2, H, W) in 0..1, luma of the next two frames; the frame's own where the flow lost it.
        following_confidence: (B, 1, H, W) in 0..1, mean of both; 0 where there are none.
        features: (B, S, h, w) float32, the feature state, already weighted by the confidence.
    """

    memory: Tensor
    variance: Tensor
    previous: Tensor
    confidence: Tensor
    following: Tensor
    following_confidence: Tensor
    features: Tensor


class Carried(NamedTuple):
    """The memory and the frame before, warped to a frame: see `Evidence`."""

    memory: Tensor
    variance: Tensor
    previous: Tensor
    confidence: Tensor
    features: Tensor


class Step(NamedTuple):
    """The result for one frame.

    Attributes:
        change: (B, 1, H, W) float32 in 0..1 units, to be added to the frame's luma.
        estimate: (B, 1, H, W) float32, the same before the image memory corrected it.
        innovation: (B, 1, H, W) float32, what the estimate changed in the image memory.
        prior: (B, 1, H, W) float32, variance of the image memory before that, as the network saw it, in levels squared.
        memory: for the next frame.
    """

    change: Tensor
    estimate: Tensor
    innovation: Tensor
    prior: Tensor
    memory: Memory


class SelectiveState(nn.Module):
    """One step of a diagonal selective state-space model for every cell.

    S6 (Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces", 2023), with one step a frame:
    ``h = a * h + (1 - a) * B * V`` and ``u + W (C * h + D * V)``, with ``a = exp(-softplus(delta))``, which is
    ``sigmoid(-delta)``. B, C, V and delta depend on the input: they select what is written, read and forgotten. The
    bias of delta sets each channel's half-life before training. The output layer starts at zero.

    Args:
        channels: of the input.
        states: of the state.
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.keep, self.write, self.read, self.value = (nn.Conv2d(channels, states, 1) for _ in range(4))
        self.out = nn.Conv2d(states, channels, 1)
        self.skip = nn.Parameter(torch.ones(states, 1, 1))
        fastest, slowest = HALF_LIVES
        half_lives = torch.logspace(math.log2(fastest), math.log2(slowest), states, base=2.0)
        kept = 0.5 ** (1 / half_lives)  # of the state after one frame
        for layer, bias in ((self.keep, torch.logit(kept)), (self.write, 1.0), (self.read, 1.0)):
            nn.init.normal_(layer.weight, std=0.02)
            with torch.no_grad():
                layer.bias.copy_(torch.as_tensor(bias))  # type: ignore[union-attr]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, u: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Advance the state by one frame.

        Args:
            u: (B, C, h, w) features.
            carried: (B, S, h, w) float32, the state of the frame before, warped and weighted by its confidence.

        Returns:
            (B, C, h, w) features and (B, S, h, w) float32 state.
        """
        keep, write, read, value = (layer(u).float() for layer in (self.keep, self.write, self.read, self.value))
        state = torch.lerp(write * value, carried, torch.sigmoid(keep))
        read_out = torch.addcmul(self.skip * value, read, state)
        return u + self.out(read_out.to(u.dtype)), state
