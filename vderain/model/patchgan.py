"""The discriminator: pictures enter, a map of verdicts leaves, each on one patch.

PatchGAN: Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017. A verdict sees
`PatchGAN.patch_px` pixels, so the discriminator judges textures (streaks are one) and leaves composition to the cycle.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

KERNEL = 4
SLOPE = 0.2  # of the leaky ReLU below zero
WIDTH_MAX = 8  # times the first: wider brings nothing


class PatchGAN(nn.Module):
    """Strided convolutions, each doubling the width.

    Args:
        layers: strided ones; 3 make verdicts on 70x70 patches, 2 on 34x34, 1 on 16x16.
        width: channels of the first.
        spectral: bound every layer's gain (Miyato et al., ICLR 2018) instead of normalising over the picture.
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
            nn.init.normal_(layer.weight, std=0.02)  # as CycleGAN starts
            parts.append(spectral_norm(layer) if spectral else layer)
            if number and not spectral:
                parts.append(nn.InstanceNorm2d(channels_out))
            parts.append(nn.LeakyReLU(SLOPE, inplace=True))
            channels = channels_out
        verdict = nn.Conv2d(channels, 1, KERNEL, padding=1)
        nn.init.normal_(verdict.weight, std=0.02)
        parts.append(spectral_norm(verdict) if spectral else verdict)
        self.parts = nn.Sequential(*parts)

    def forward(self, pictures: Tensor) -> Tensor:
        """Verdicts on (B, 3, H, W) in 0..1: (B, 1, h, w), towards 1 for real and 0 for made."""
        verdicts: Tensor = self.parts(2 * pictures - 1)
        return verdicts
