"""The generator: a U-Net that maps a window of aligned frames to the residual of the centre frame.

An encoder of strided convolutions, a decoder of transposed convolutions and a skip at each level (Ronneberger et al.,
"U-Net", MICCAI 2015; Zhu et al., "CycleGAN", ICCV 2017), adapted to video: the output is a residual whose last layer
starts at zero; kernel sizes equal strides, which rules out checkerboard patterns; and no layer normalises over the
image, so a tile gives the same result as the whole frame.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model.convolution import convolve_activate, convolve_both_activate, strided_convolve_activate

RGB = 3
RECURRENT_IN, RECURRENT_OUT = 12, 4  # channels of a pixel, see `RecurrentUNet`
GLASS_IN, GLASS_OUT = 28, 8  # likewise, see `GlassUNet`
DIFFERENCE_GAIN = 4.0  # differences are small: they are scaled up before bf16 rounds them
DETAIL_PX = 5  # side of the box blur that is subtracted to get a pixel's detail
SCALE_MAX = 8
PATHS_MAX = 8
DILATION_MAX = 64  # cells; a wider path sees less of most frames than of their padding
STATE_MAX = 1024
GLASS_MAX = 256
LEVELS_MAX = 8  # beyond it one cell of the coarsest level is wider than most frames


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The architecture of a generator.

    Attributes:
        window: frames in the input, 1 or 5; the centre one is restored.
        widths: channels at each level, from the finest; each level halves the sides once more.
        stem: factor of the pixel-unshuffle in front: the finest level works at 1/stem of the frame's sides.
        paths: dilations of the encoder's parallel paths; with more than one it is a multi-path U-Net, in which each
            level works at several scales at once.
        slope: of the leaky ReLUs below zero. With a slope of 0 whole levels have died in training.
        residual: whether the last layer predicts a residual (and starts at zero) or the restored image.
        scale: factor by which frames are downscaled for the convolutions. Their output is upscaled; the median of the
            window, which it weights, stays at full size, so edges stay sharp.
        state: channels of the state that a recurrent generator carries from frame to frame (`RecurrentUNet`); 0 for a
            generator that looks at a window of frames instead.
        glass: channels of the finest level of the networks that find drops on a glass and the motion behind them, for
            a generator that looks through the windshield (`GlassUNet`); 0 for others.
    """

    window: int = 5
    widths: tuple[int, ...] = (32, 64, 128, 256)
    stem: int = 2
    paths: tuple[int, ...] = (1,)
    slope: float = 0.1
    residual: bool = True
    scale: int = 1
    state: int = 0
    glass: int = 0

    def __post_init__(self) -> None:
        if self.window not in (1, 5):
            raise ValueError(f"window is {self.window}; it must be 1 or 5 frames")
        if not 0 <= self.state <= STATE_MAX:
            raise ValueError(f"state is {self.state}; it must be from 0 to {STATE_MAX}")
        if self.state and (self.window > 1 or len(self.widths) < 2 or not self.residual):
            raise ValueError("a recurrent generator needs window 1, two levels or more, and a residual")
        if not 0 <= self.glass <= GLASS_MAX:
            raise ValueError(f"glass is {self.glass}; it must be from 0 to {GLASS_MAX}")
        if self.glass and (self.window > 1 or self.state or self.scale > 1 or not self.residual):
            raise ValueError("a generator for the windshield needs window 1, scale 1, no state, and a residual")
        if not self.widths or min(self.widths) < 1 or self.stem < 1:
            raise ValueError(f"widths {self.widths} and stem {self.stem} must be positive")
        if not 1 <= self.scale <= SCALE_MAX:
            raise ValueError(f"scale is {self.scale}; it must be from 1 to {SCALE_MAX}")
        if not 1 <= len(self.paths) <= PATHS_MAX:
            raise ValueError(f"{len(self.paths)} paths; there must be from 1 to {PATHS_MAX}")
        if not (min(self.paths) >= 1 and max(self.paths) <= DILATION_MAX):
            raise ValueError(f"paths {self.paths} must be dilations from 1 to {DILATION_MAX}")
        if not 0 <= self.slope < 1:  # not a number is refused, too
            raise ValueError(f"slope is {self.slope}; it must be at least 0 and below 1")
        if len(self.widths) > LEVELS_MAX:
            raise ValueError(f"{len(self.widths)} levels are more than {LEVELS_MAX}")

    @property
    def channels_in(self) -> int:
        """Input channels of a pixel."""
        if self.state:
            return RECURRENT_IN
        if self.glass:
            return GLASS_IN
        temporal = self.window > 1
        return RGB * (1 + self.window + temporal) + temporal

    @property
    def channels_out(self) -> int:
        """Output channels of a pixel."""
        if self.glass:
            return GLASS_OUT
        return RECURRENT_OUT if self.state else RGB + (self.window > 1)

    @property
    def stride_px(self) -> int:
        """Sides of the input must be multiples of this; `UNet.forward` pads and crops."""
        return int(self.scale * self.stem * 2 ** (len(self.widths) - 1))

    @property
    def reach_px(self) -> int:
        """Radius of the receptive field: the margin that a tile needs on each side."""
        cells = [self.stem * 2**level for level in range(len(self.widths))]
        down, up = 2 * max(self.paths), 2  # two 3x3 convolutions each, those of the encoder dilated
        blocks = sum((down + up) * cell for cell in cells[:-1]) + 2 * cells[-1]
        reach = int(2 * self.stem + blocks + cells[-1] + DETAIL_PX // 2)  # stem and head; cells count whole
        return reach if self.scale == 1 else (reach + 1) * self.scale  # upscaling mixes in the next value

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class UNet(nn.Module):
    """Maps a window of RGB frames to the residual of its centre.

    With five frames, their median is an input as well, and the residual is ``gate * (median - centre) + detail``. The
    last layer predicts gate and detail, both zero before training. The confidence of the alignment is an input too,
    so that the network can tell a moving lamp post that flow lost from a streak.

    Args:
        config: the architecture.
        channels: of input and output, for maps of another kind (`of_maps`); None for those of `config`.
    """

    def __init__(self, config: UNetConfig, channels: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.config = config
        # Runs the convolutions in place of PyTorch, from `_input` to an output for every pixel; see `engine.py`.
        self.engine: Callable[[Tensor], Tensor] | None = None
        widths = config.widths
        channels_in, channels_out = channels or (config.channels_in, config.channels_out)
        self.stem = nn.Conv2d(channels_in * config.stem**2, widths[0], 3, padding=1)
        paths, slope = config.paths, config.slope
        self.encoder = nn.ModuleList(
            Block(w, w, slope) if paths == (1,) else MultiPath(w, paths, slope) for w in widths[:-1]
        )
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.bottom = Block(widths[-1], widths[-1], slope)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Block(2 * w, w, slope) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], channels_out * config.stem**2, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Variance-preserving weights (He et al., ICCV 2015), small residual branches, and a last layer of zeros."""
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
        if self.config.residual:
            nn.init.zeros_(self.head.weight)

    def at_scale(self, times: int) -> "UNet":
        """The same weights with `UNetConfig.scale` multiplied, up to `SCALE_MAX`, for frames that many times larger."""
        scale = min(self.config.scale * times, SCALE_MAX)
        if scale == self.config.scale:
            return self
        other = copy(self)
        other.config = replace(self.config, scale=scale)
        return other

    def forward(self, window: Tensor, confidence: Tensor | None = None) -> Tensor:
        """Predict the residual of the centre frame.

        Args:
            window: (B, T*3, H, W) RGB, T frames in time order, neighbours aligned to the centre; any H and W. Floats
                in 0..1, or uint8 in 0..255, which takes a quarter of the memory.
            confidence: (B, 1, H, W) in the same units, confidence of the alignment, mean over the neighbours; None
                for full confidence. Not used where T is 1.

        Returns:
            (B, 3, H, W) in 0..1 units, to be added to the centre frame.
        """
        height_px, width_px = window.shape[-2:]
        window = pad_to_multiple(window, self.config.stride_px)  # (B, T*3, H', W')
        frames = torch.split(window, RGB, 1)  # (B, 3, H', W') each
        centre = frames[self.config.window // 2]
        if self.config.window == 1:
            residual = self._predict(frames, None, None)  # (B, 3, H', W')
        else:
            if confidence is not None:
                confidence = pad_to_multiple(confidence, self.config.stride_px)
            median = median_of_five(*frames)  # (B, 3, H', W')
            gate, detail = torch.split(self._predict(frames, median, confidence), [1, RGB], 1)  # (B, 1 | 3, H', W')
            residual = gate * (unit(median) - unit(centre)) + detail  # (B, 3, H', W')
        if not self.config.residual:  # the last layer predicts the image, and the caller adds to the centre
            residual = torch.sigmoid(residual) - unit(centre)
        return residual[..., :height_px, :width_px]  # (B, 3, H, W)

    def of_maps(self, *parts: Tensor) -> Tensor:
        """Run the network on any maps.

        Args:
            parts: (B, c, H, W) each, together its input channels; any H and W.

        Returns:
            (B, D, H, W) float32 with its output channels.
        """
        height_px, width_px = parts[0].shape[-2:]
        dtype = convolution_dtype(parts[0], self.stem.weight)
        x = torch.cat([part.to(dtype) for part in parts], 1)  # in float32 it would take twice as long
        padded = pad_to_multiple(x, self.config.stride_px).contiguous(memory_format=torch.channels_last)
        out = F.pixel_shuffle(self._convolve(padded).float(), self.config.stem)
        return out[..., :height_px, :width_px]

    def _predict(self, frames: tuple[Tensor, ...], median: Tensor | None, confidence: Tensor | None) -> Tensor:
        """The last layer's output for every pixel: (B, 3, H', W'), or (B, 4, H', W') with a gate.

        Args:
            frames: (B, 3, H', W') each, padded.
            median: (B, 3, H', W'), of five frames; None for one.
            confidence: (B, 1, H', W').
        """
        scale, x = self.config.scale, self._input(frames, median, confidence)
        if self.engine is not None:
            out = self.engine(x)  # (B, 3 | 4, H'/k, W'/k)
        else:
            cells = self._convolve(x).float()  # (B, 3 | 4 * s*s, H'/ks, W'/ks)
            out = F.pixel_shuffle(cells, self.config.stem)  # (B, 3 | 4, H'/k, W'/k)
        return out if scale == 1 else F.interpolate(out, scale_factor=scale, mode="bilinear", align_corners=False)

    def _input(self, frames: tuple[Tensor, ...], median: Tensor | None, confidence: Tensor | None) -> Tensor:
        """(B, C, H'/k, W'/k), all input channels at scale k; see `_predict` for the arguments.

        They are channels-last for PyTorch. An engine takes planes of bf16, which are filled faster.
        """
        scale = self.config.scale
        batch, _, height_px, width_px = frames[0].shape
        shape = (batch, self.stem.in_channels // self.config.stem**2, height_px // scale, width_px // scale)
        dtype, layout = convolution_dtype(frames[0], self.stem.weight), torch.channels_last
        if self.engine is not None:
            dtype, layout = torch.bfloat16, torch.contiguous_format
        x = torch.empty(shape, dtype=dtype, device=frames[0].device, memory_format=layout)
        return fill_channels(x, _input_parts(frames, median, confidence, scale, dtype))

    def _convolve(self, x: Tensor) -> Tensor:
        """The U-Net itself, from (B, C, h, w) to (B, 3 | 4 * s*s, h/s, w/s), where s is the stem's factor."""
        x = self._stem(x)  # (B, w0, h/s, w/s)
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)  # (B, w_i, h/s/2^i, w/s/2^i)
            skips.append(x)
            x = down(x)  # (B, w_i+1, h/s/2^(i+1), w/s/2^(i+1))
        x = self.bottom(x)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(up(x), skips.pop())  # (B, w_i, h/s/2^i, w/s/2^i)
        head: Tensor = self.head(x)  # (B, 3 | 4 * s*s, h/s, w/s)
        return head

    def _stem(self, x: Tensor) -> Tensor:
        """The pixel-unshuffle and the first layer in one, a strided convolution of a larger kernel; and its activation.

        An unshuffle of so many pixels would take longer than all convolutions of this level.
        """
        kernel = self.stem_kernel().contiguous(memory_format=torch.channels_last)
        return strided_convolve_activate(x, kernel, self.stem.bias, self.config.stem, self.config.slope)

    def stem_kernel(self) -> Tensor:
        """(w0, C, 3*s, 3*s), the weights of the first layer as a convolution of stride s over whole pixels."""
        stem = self.config.stem
        kernel: Tensor = self.stem.weight.unflatten(1, (-1, stem, stem))  # type: ignore[no-untyped-call]
        return kernel.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)  # of (w0, C, 3, s, 3, s)


def _input_parts(
    frames: tuple[Tensor, ...], median: Tensor | None, confidence: Tensor | None, scale: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """The input channels, (B, c, H/k, W/k) each: the centre and its detail, differences, confidence.

    Args:
        frames: (B, 3, H, W) each.
        median: (B, 3, H, W), of five frames; None for one, which has no differences and no confidence.
        confidence: (B, 1, H, W); None for full confidence.
        scale: k.
        dtype: of the differences.
    """
    small = [_downscaled(frame, scale) for frame in frames]
    centre = small[len(small) // 2]
    yield from _appearance(centre)
    if median is not None:
        before2, before1, centre, after1, after2 = small
        middle = median if scale == 1 else median_of_five(*small)
        for neighbour in (before2, before1, after1, after2, middle):
            yield _difference(neighbour, centre, dtype)
        yield (
            torch.ones_like(centre[:, :1], dtype=dtype) if confidence is None else unit(_downscaled(confidence, scale))
        )


def fill_channels(x: Tensor, parts: Iterable[Tensor]) -> Tensor:
    """Copy parts, (B, c, H, W) each, into the channels of `x`, (B, C, H, W); one by one: large together in float32."""
    if torch.onnx.is_in_onnx_export():  # the exporter cannot follow writes into a part of `x`
        return torch.cat([part.to(x.dtype) for part in parts], 1)
    first = 0
    for part in parts:
        x[:, first : first + part.shape[1]] = part
        first += part.shape[1]
    return x


def convolution_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The type in which a layer with these weights computes: that of autocast, or of the weights."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def unit(x: Tensor) -> Tensor:
    """Floats in 0..1, from uint8 or from floats in 0..1."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _downscaled(x: Tensor, scale: int) -> Tensor:
    """(B, C, H, W) to (B, C, H/k, W/k), the mean over k x k pixels, in 0..1; unchanged where k is 1.

    Integers are summed as integers: F.avg_pool2d takes four times as long.
    """
    if scale == 1:
        return x
    is_integer = x.dtype == torch.uint8
    numbers = x.to(torch.int16) if is_integer else x  # sums of up to SCALE_MAX squared bytes
    rows = reduce(torch.add, (numbers[..., row::scale, :] for row in range(scale)))
    return reduce(torch.add, (rows[..., column::scale] for column in range(scale))) / (
        scale**2 * (255 if is_integer else 1)
    )


def _appearance(centre: Tensor) -> tuple[Tensor, Tensor]:
    """The centre and its detail, scaled up: (B, 3, H, W) each.

    Convolutions may run in bf16, whose steps are whole grey levels near white: faint streaks survive as differences.
    """
    x = unit(centre)
    return x - 0.5, DIFFERENCE_GAIN * (x - blurred(blurred(x, -1), -2))


def blurred(x: Tensor, dim: int) -> Tensor:
    """Box blur of `DETAIL_PX` along one dimension, over existing pixels only; F.avg_pool2d is four times slower."""
    reach = DETAIL_PX // 2
    size = x.shape[dim]
    padded = F.pad(x, (reach, reach) if dim == -1 else (0, 0, reach, reach))
    total = padded.narrow(dim, 0, size) + padded.narrow(dim, 1, size)
    for start in range(2, DETAIL_PX):
        total += padded.narrow(dim, start, size)
    place = torch.arange(size, device=x.device)
    counted = (place + reach).clamp(max=size - 1) - (place - reach).clamp(min=0) + 1
    return total / (counted if dim == -1 else counted.unsqueeze(-1))


def _difference(frame: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
    """Scaled difference, rounded last: integer levels up to 255 are exact in bf16."""
    if frame.dtype == torch.uint8:
        return (frame.to(torch.int16) - centre).to(dtype) * (DIFFERENCE_GAIN / 255)
    return (DIFFERENCE_GAIN * (frame - centre)).to(dtype)


class MultiPath(nn.Module):
    """Parallel blocks with growing dilation, merged by a 1x1 convolution."""

    def __init__(self, channels: int, dilations: tuple[int, ...], slope: float) -> None:
        super().__init__()
        self.paths = nn.ModuleList(Block(channels, channels, slope, dilation) for dilation in dilations)
        self.merge = nn.Conv2d(channels * len(dilations), channels, 1)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.merge(torch.cat([path(x) for path in self.paths], 1)), self.slope, inplace=True)


class Block(nn.Module):
    """Two 3x3 convolutions, with a residual connection where input and output have the same width."""

    def __init__(self, channels_in: int, channels_out: int, slope: float, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=dilation, dilation=dilation)
        self.slope, self.residual = slope, channels_in == channels_out

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Apply the block to (B, C, H, W), or to `x` and `skip` concatenated along their channels."""
        if skip is None:
            y = convolve_activate(self.first, x, self.slope)
        else:
            y = convolve_both_activate(self.first, x, skip, self.slope)
        if not self.residual:
            return convolve_activate(self.second, y, self.slope)
        y = self.second(y)
        return F.leaky_relu(y.add_(x) if not torch.is_grad_enabled() else x + y, self.slope, inplace=True)


def median_of_five(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    """Median of five tensors, by the comparisons of a selection network (torch.median sorts).

    Args:
        a: of any shape.
        b: like `a`.
        c: like `a`.
        d: like `a`.
        e: like `a`.
    """
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (..., H, W) at the bottom and right to multiples; reflects where the image is large enough, else replicates.

    Args:
        x: (B, C, H, W).
        multiple: that both sides become divisible by.
    """
    height_px, width_px = x.shape[-2:]
    bottom, right = -height_px % multiple, -width_px % multiple
    if not bottom and not right:
        return x
    mode = "reflect" if bottom < height_px and right < width_px else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)
