"""The discriminator: a PatchGAN, which classifies overlapping patches of an image as real or generated.

Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017. A patch has
`PatchGAN.patch_px` pixels a side, so the discriminator judges textures (streaks are one) and leaves composition to the
cycle loss.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

KERNEL = 4
SLOPE = 0.2  # of the leaky ReLU below zero
WIDTH_MAX = 8  # times the first layer's width


class PatchGAN(nn.Module):
    """Strided convolutions, each doubling the width.

    Args:
        layers: number of strided convolutions; 3 give patches of 70x70 pixels, 2 of 34x34, 1 of 16x16.
        width: channels of the first layer.
        spectral: use spectral normalisation (Miyato et al., ICLR 2018) instead of instance normalisation.

    Attributes:
        patch_px: side of a patch.
    """

    def __init__(self, layers: int = 3, width: int = 64, spectral: bool = False) -> None:
        super().__init__()
        if layers < 1 or width < 1:
            raise ValueError(f"layers {layers} and width {width} must be positive")
        steps = [(2, width * min(2**i, WIDTH_MAX)) for i in range(layers)] + [(1, width * min(2**layers, WIDTH_MAX))]
        self.patch_px = 1
        for stride in [1, *(stride for stride, _ in reversed(steps))]:
            self.patch_px = (self.patch_px - 1) * stride + KERNEL
        parts: list[nn.Module] = []
        channels = 3
        for number, (stride, channels_out) in enumerate(steps):
            layer = nn.Conv2d(channels, channels_out, KERNEL, stride, padding=1)
            nn.init.normal_(layer.weight, std=0.02)  # as in CycleGAN
            parts.append(spectral_norm(layer) if spectral else layer)
            if number and not spectral:
                parts.append(nn.InstanceNorm2d(channels_out))
            parts.append(nn.LeakyReLU(SLOPE, inplace=True))
            channels = channels_out
        last = nn.Conv2d(channels, 1, KERNEL, padding=1)
        nn.init.normal_(last.weight, std=0.02)
        parts.append(spectral_norm(last) if spectral else last)
        self.parts = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """Classify patches.

        Args:
            images: (B, 3, H, W) floats in 0..1.

        Returns:
            (B, 1, h, w), trained towards 1 for real and 0 for generated patches.
        """
        scores: Tensor = self.parts(2 * images - 1)  # (B, 1, h, w)
        return scores
