"""What a generator is paid for, taking rain out and leaving everything else alone, and a discriminator for its eye."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_PX = 8
UNTOUCHED = 1.5 / 255  # a difference that compression makes without rain
BLOCK_SCALE = 4 / 255  # a block that is off by this much costs as much as a mean error of the same size


def charbonnier(difference: Tensor, epsilon: float, weight: Tensor | float = 1.0) -> Tensor:
    """Mean absolute error with a smooth foot (Charbonnier et al., ICIP 1994), per example: (B, C, H, W) to (B,).

    Below `foot` (in 0..1) errors count as squares. A foot of less than a grey level asks for the median of what the
    truth may be, and faint rain over a doubtful background is then left where it is; one of a few levels asks for the
    mean, as PSNR does, and keeps what is far off from ruling all.
    """
    return (weight * ((difference**2 + epsilon**2).sqrt() - epsilon)).mean((1, 2, 3))


def least_squares(verdicts: Tensor, real: bool) -> Tensor:
    """How far a discriminator's verdicts are from what they are wanted to be (LSGAN: Mao et al., ICCV 2017)."""
    return (verdicts.float() - float(real)).square().mean()


def block_harm(difference: Tensor) -> Tensor:
    """Squares of the mean absolute error of 8x8 blocks, per example: (B, C, H, W) to (B,).

    An erased lane dash or a ghost is a few blocks that are far off in a picture that is right on the whole; a mean
    over pixels hides it, this does not.
    """
    blocks = F.avg_pool2d(difference.abs().mean(1, keepdim=True), BLOCK_PX, BLOCK_PX // 2)
    return (blocks**2).mean((1, 2, 3)) / BLOCK_SCALE


def supervised_loss(
    restored: Tensor, rainy: Tensor, clear: Tensor, dry: Tensor,
    *, epsilon: float, untouched_weight: float, block_weight: float, dry_weight: float,
) -> Tensor:  # fmt: skip
    """The loss of the first stage.

    Args:
        restored: (B, 3, H, W) in 0..1.
        rainy: the same, what the centre was.
        clear: the same, the truth.
        dry: (B,) bool, examples in which nothing may change.
        epsilon: of `charbonnier`.
        untouched_weight: of pixels on which no rain fell beside those on which some did.
        block_weight: of `block_harm` beside `charbonnier`.
        dry_weight: of dry examples beside rainy ones.
    """
    difference = restored.float() - clear
    untouched = ((rainy - clear).abs().amax(1, keepdim=True) < UNTOUCHED).float()  # (B, 1, H, W)
    loss = charbonnier(difference, epsilon, 1 + (untouched_weight - 1) * untouched) + block_weight * block_harm(
        difference
    )
    return (loss * torch.where(dry, dry_weight, 1.0)).mean()


def grey_layer(residual: Tensor, layer_max: float) -> Tensor:
    """Rain as light without colour, bounded: (B, 3, H, W) to (B, 1, H, W) within -layer_max..layer_max.

    Drops refract the whole sky, so that streaks have next to no colour of their own (Garg & Nayar, IJCV 2007).
    """
    return layer_max * torch.tanh(residual.mean(1, keepdim=True) / layer_max)


def colourfulness(residual: Tensor) -> Tensor:
    """Mean distance of what is taken out from grey: (B, 3, H, W) to a scalar."""
    return (residual - residual.mean(1, keepdim=True)).abs().mean()


def rain_mask(residual: Tensor, half: float = UNTOUCHED) -> Tensor:
    """Where a generator sees rain, softly: (B, 3, H, W) to (B, 1, H, W), 0 for nothing, 1/2 for a change of `half`."""
    change = residual.abs().mean(1, keepdim=True)
    return change / (change + half)


def inconsistency(now: Tensor, after: Tensor, flow_px: Tensor, confidence: Tensor) -> Tensor:
    """How far a frame is from the next one, brought back along its motion.

    Lai et al., "Learning blind video temporal consistency", ECCV 2018.

    Args:
        now: (B, 3, H, W).
        after: the same, a frame later.
        flow_px: (B, 2, H, W), x and y: now(x) is found at after(x + flow).
        confidence: (B, 1, H, W) in 0..1, of the flow.

    Returns:
        A scalar: the mean absolute difference where the flow is trusted and ends within the picture.
    """
    height_px, width_px = now.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height_px), torch.arange(width_px), indexing="ij")
    place = torch.stack([x, y]).to(flow_px) + flow_px  # (B, 2, H, W)
    size = torch.tensor([width_px - 1, height_px - 1]).to(flow_px).view(1, 2, 1, 1).clamp(min=1)
    inside = ((place >= 0) & (place <= size)).all(1, keepdim=True)
    grid = (2 * place / size - 1).permute(0, 2, 3, 1)  # (B, H, W, 2)
    found = F.grid_sample(after, grid, padding_mode="border", align_corners=True)
    weight = confidence * inside
    return (weight * (now - found).abs()).sum() / (3 * weight.sum()).clamp(min=1)
