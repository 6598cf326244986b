"""Generator and discriminator losses."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_PX = 8
UNTOUCHED = 1.5 / 255  # smaller differences come from compression, not from rain
BLOCK_SCALE = 4 / 255  # a block with this mean error costs as much as the same error over the whole image


def charbonnier(difference: Tensor, epsilon: float, weight: Tensor | float = 1.0) -> Tensor:
    """Charbonnier loss, a smooth absolute error (Charbonnier et al., ICIP 1994).

    Errors well below `epsilon` count as squares. With an epsilon below one grey level the minimum is the median of
    the possible truths, and faint rain over an uncertain background stays. With a few levels it is close to the
    mean, as for PSNR, while outliers still do not dominate.

    Args:
        difference: (B, C, H, W).
        epsilon: in the units of `difference`.
        weight: factor for each pixel, of a shape that broadcasts.

    Returns:
        (B,), the mean over each example.
    """
    return (weight * ((difference**2 + epsilon**2).sqrt() - epsilon)).mean((1, 2, 3))


def least_squares(predictions: Tensor, real: bool) -> Tensor:
    """Least-squares GAN loss of patch predictions of any shape (Mao et al., ICCV 2017), a scalar.

    Args:
        predictions: of a discriminator; 1 means real, 0 generated.
        real: what they should say.
    """
    return (predictions.float() - float(real)).square().mean()


def block_loss(difference: Tensor) -> Tensor:
    """Mean squared mean-absolute-error of 8x8 blocks: (B, C, H, W) to (B,).

    An erased lane marking or a ghost is a few bad blocks in an image that is right otherwise. A mean over pixels hides
    them; this does not.
    """
    blocks = F.avg_pool2d(difference.abs().mean(1, keepdim=True), BLOCK_PX, BLOCK_PX // 2)
    return (blocks**2).mean((1, 2, 3)) / BLOCK_SCALE


def supervised_loss(
    restored: Tensor, rainy: Tensor, clear: Tensor, dry: Tensor,
    *, epsilon: float, untouched_weight: float, block_weight: float, dry_weight: float,
) -> Tensor:  # fmt: skip
    """Loss against the ground truth: `charbonnier` plus `block_loss`, a scalar.

    Args:
        restored: (B, 3, H, W) in 0..1, output of the generator.
        rainy: (B, 3, H, W) in 0..1, its centre frame.
        clear: (B, 3, H, W) in 0..1, the ground truth.
        dry: (B,) bool, examples in which nothing may change.
        epsilon: of `charbonnier`.
        untouched_weight: weight of pixels without rain; pixels with rain have 1.
        block_weight: weight of `block_loss`.
        dry_weight: weight of dry examples; rainy ones have 1.
    """
    difference = restored.float() - clear
    untouched = ((rainy - clear).abs().amax(1, keepdim=True) < UNTOUCHED).float()  # (B, 1, H, W)
    loss = charbonnier(difference, epsilon, 1 + (untouched_weight - 1) * untouched) + block_weight * block_loss(
        difference
    )
    return (loss * torch.where(dry, dry_weight, 1.0)).mean()


def grey_layer(residual: Tensor, layer_max: float) -> Tensor:
    """Reduce a residual to a bounded grey layer: (B, 3, H, W) to (B, 1, H, W) within -layer_max..layer_max.

    Drops refract the whole sky, so streaks have almost no colour of their own (Garg & Nayar, IJCV 2007).
    """
    return layer_max * torch.tanh(residual.mean(1, keepdim=True) / layer_max)


def colourfulness(residual: Tensor) -> Tensor:
    """Mean absolute deviation of a residual from grey: (B, 3, H, W) to a scalar."""
    return (residual - residual.mean(1, keepdim=True)).abs().mean()


def rain_mask(residual: Tensor, half: float = UNTOUCHED) -> Tensor:
    """Soft mask of the pixels a generator changes: (B, 3, H, W) to (B, 1, H, W), 0 for none, 1/2 for `half`."""
    change = residual.abs().mean(1, keepdim=True)
    return change / (change + half)


def warping_loss(now: Tensor, after: Tensor, flow_px: Tensor, confidence: Tensor) -> Tensor:
    """Warping error: difference between a frame and the next one, warped back along the optical flow.

    Lai et al., "Learning blind video temporal consistency", ECCV 2018.

    Args:
        now: (B, 3, H, W).
        after: (B, 3, H, W), the next frame.
        flow_px: (B, 2, H, W) in pixels, x and y: now(x) corresponds to after(x + flow).
        confidence: (B, 1, H, W) in 0..1, confidence in the flow.

    Returns:
        A scalar, the mean absolute difference weighted by confidence, where the flow stays within the image.
    """
    height_px, width_px = now.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height_px), torch.arange(width_px), indexing="ij")
    target = torch.stack([x, y]).to(flow_px) + flow_px  # (B, 2, H, W)
    size = torch.tensor([width_px - 1, height_px - 1]).to(flow_px).view(1, 2, 1, 1).clamp(min=1)
    inside = ((target >= 0) & (target <= size)).all(1, keepdim=True)
    grid = (2 * target / size - 1).permute(0, 2, 3, 1)  # (B, H, W, 2)
    warped = F.grid_sample(after, grid, padding_mode="border", align_corners=True)
    weight = confidence * inside
    return (weight * (now - warped).abs()).sum() / (3 * weight.sum()).clamp(min=1)
