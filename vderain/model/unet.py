"""The generator: a U-Net that looks at a window of aligned frames and returns what to add to the centre one.

An encoder of strided convolutions, a decoder of transposed convolutions, a skip at each level (Ronneberger et al.,
"U-Net", MICCAI 2015; Zhu et al., "CycleGAN", ICCV 2017), in the form that works on video: the output is a residual
whose last layer starts at zero, kernels equal strides so that nothing can checkerboard, and no layer normalises over
the picture, so a tile sees what the whole picture sees.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RGB = 3
DIFFERENCE_GAIN = 4.0  # differences are small beside the picture: brought to its scale before bf16 rounds them
DETAIL_PX = 5  # side of the blur that a pixel's detail is measured against
LEVELS_MAX = 8  # beyond it one step of the coarsest level is wider than most pictures


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The shape of a generator.

    Attributes:
        window: frames it looks at, 1 or 5; the centre one is restored.
        widths: channels at each level, from the finest; one level halves the picture's sides once more.
        stem: factor of the pixel-unshuffle in front: the finest level works at 1/stem of the picture's sides.
    """

    window: int = 5
    widths: tuple[int, ...] = (32, 64, 128, 256)
    stem: int = 2

    def __post_init__(self) -> None:
        if self.window not in (1, 5):
            raise ValueError(f"window is {self.window}; a generator looks at 1 or 5 frames")
        if not self.widths or min(self.widths) < 1 or self.stem < 1:
            raise ValueError(f"widths {self.widths} and stem {self.stem} must be positive")
        if len(self.widths) > LEVELS_MAX:
            raise ValueError(f"{len(self.widths)} levels are more than {LEVELS_MAX}")

    @property
    def stride_px(self) -> int:
        """Sides of a picture must be multiples of this; `UNet.forward` pads and crops by itself."""
        return int(self.stem * 2 ** (len(self.widths) - 1))

    @property
    def reach_px(self) -> int:
        """How far from a pixel the network looks, at most: what a tile must see around itself."""
        cells = [self.stem * 2**level for level in range(len(self.widths))]
        blocks = sum(4 * cell for cell in cells[:-1]) + 2 * cells[-1]  # two 3x3 convolutions down, two up; two below
        return int(2 * self.stem + blocks + cells[-1] + DETAIL_PX // 2)  # stem and head; a cell is seen whole

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class UNet(nn.Module):
    """Window of RGB frames to the residual of its centre.

    With five frames the network is handed their median too, and learns where to believe it: the residual is
    ``gate * (median - centre) + detail``, both from the last layer, both zero before training. It is also told how far
    the alignment is trusted, so that it can tell a moving lamp post that flow lost from a streak.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        temporal = config.window > 1
        channels_in = (RGB * (1 + config.window + temporal) + temporal) * config.stem**2
        channels_out = (RGB + temporal) * config.stem**2
        self.stem = nn.Conv2d(channels_in, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(Block(w, w) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.bottom = Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Block(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], channels_out, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Variance kept through the ReLUs (He et al., ICCV 2015), short-cut branches quiet, the last layer silent."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
                if isinstance(layer, nn.ConvTranspose2d):  # fan_in of its layout counts the outputs: kernel = stride
                    nn.init.normal_(layer.weight, std=(2.0 / layer.in_channels) ** 0.5)
                if name.endswith("second"):
                    with torch.no_grad():
                        layer.weight.mul_(0.2)
        nn.init.zeros_(self.head.weight)

    def forward(self, window: Tensor, trust: Tensor | None = None) -> Tensor:
        """Residual to add to the centre frame.

        Args:
            window: (B, window * 3, H, W) RGB in 0..1, frames in time order; neighbours aligned to the centre. Any H, W.
            trust: (B, 1, H, W) in 0..1, how far the alignment is to be believed, mean over the neighbours; 1
                everywhere where not given. Not looked at with a window of 1.

        Returns:
            (B, 3, H, W), in the same units.
        """
        height_px, width_px = window.shape[-2:]
        x = pad_to_multiple(window, self.config.stride_px)  # (B, T*3, H', W')
        first = RGB * (self.config.window // 2)
        centre = x[:, first : first + RGB]  # (B, 3, H', W')
        blurred = F.avg_pool2d(centre, DETAIL_PX, 1, DETAIL_PX // 2, count_include_pad=False)
        seen = [centre - 0.5, DIFFERENCE_GAIN * (centre - blurred)]  # convolutions may run in bf16, whose steps are
        if self.config.window == 1:  # whole grey levels near white: faint streaks survive only as differences
            residual = self._head(seen)  # (B, 3, H', W')
        else:
            frames = x.unflatten(1, (self.config.window, RGB)).unbind(1)  # type: ignore[no-untyped-call]
            towards_median = median_of_five(*frames) - centre
            seen += [DIFFERENCE_GAIN * (frames[t] - centre) for t in (0, 1, 3, 4)]
            seen += [DIFFERENCE_GAIN * towards_median]
            seen += [x.new_ones(x[:, :1].shape) if trust is None else pad_to_multiple(trust, self.config.stride_px)]
            gate, detail = torch.split(self._head(seen), [1, RGB], 1)
            residual = gate * towards_median + detail  # (B, 3, H', W')
        return residual[..., :height_px, :width_px]

    def _head(self, seen: list[Tensor]) -> Tensor:
        device = seen[0].device.type
        if torch.is_autocast_enabled(device):  # once here instead of before each use at twice the size
            seen = [part.to(torch.get_autocast_dtype(device)) for part in seen]
        x = F.pixel_unshuffle(torch.cat(seen, 1), self.config.stem)  # (B, C * s^2, H/s, W/s)
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)  # (B, w0, H/s, W/s)
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        return F.pixel_shuffle(self.head(x), self.config.stem)


class Block(nn.Module):
    """Two 3x3 convolutions with a short cut where the widths allow one."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.residual = channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(x + y if self.residual else y, inplace=True)


def median_of_five(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    """Median of five equally shaped tensors, by the comparisons of a selection network (torch.median sorts)."""
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(..., H, W) grown at the bottom and right until both sides divide; mirrored where there is enough to mirror."""
    height_px, width_px = x.shape[-2:]
    bottom, right = -height_px % multiple, -width_px % multiple
    if not bottom and not right:
        return x
    mode = "reflect" if bottom < height_px and right < width_px else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)
