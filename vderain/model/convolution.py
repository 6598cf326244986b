"""Convolutions fused with the operation behind them, where PyTorch's CPU library can do both in one pass over memory.

A U-Net on a CPU waits for memory more than for multiplications: a leaky ReLU of its own takes half as long as the
convolution before it. The fused operators are those that torch.compile uses; where they are missing, in training and
on other devices the same is computed in two steps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OPERATORS: Any = torch.ops.mkldnn
_Geometry = tuple[list[int], list[int], list[int], int]
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(_OPERATORS, "_convolution_pointwise_")  # type: ignore[no-untyped-call]
_BF16 = _AVAILABLE and _OPERATORS._is_mkldnn_bf16_supported()
_DTYPES = {torch.float32, torch.bfloat16} if _BF16 else {torch.float32}  # of the fused operators on this processor


def convolve_activate(layer: nn.Conv2d, x: Tensor, slope: float) -> Tensor:
    """A convolution and a leaky ReLU.

    Args:
        layer: of one group, padded with zeros.
        x: (B, C, H, W).
        slope: of the leaky ReLU below zero.
    """
    if not _can_fuse(layer.weight, x):
        return F.leaky_relu(layer(x), slope, inplace=True)
    return _fused(x, layer.weight, layer.bias, _geometry(layer), slope)


def strided_convolve_activate(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, slope: float) -> Tensor:
    """A convolution, padded by its stride, and a leaky ReLU.

    Args:
        x: (B, C, H, W).
        weight: (D, C, h, w).
        bias: (D,).
        stride: and padding, in pixels.
        slope: of the leaky ReLU below zero.
    """
    if not _can_fuse(weight, x):
        return F.leaky_relu(F.conv2d(x, weight, bias, stride=stride, padding=stride), slope, inplace=True)
    return _fused(x, weight, bias, ([stride] * 2, [stride] * 2, [1, 1], 1), slope)


def convolve_both_activate(layer: nn.Conv2d, x: Tensor, y: Tensor, slope: float) -> Tensor:
    """The same for two inputs that are concatenated along their channels, without concatenating them.

    Args:
        layer: of one group, padded with zeros.
        x: (B, C, H, W).
        y: (B, D, H, W).
        slope: of the leaky ReLU below zero.
    """
    if not _can_fuse(layer.weight, x):
        return convolve_activate(layer, torch.cat([x, y], 1), slope)
    parts = torch.split(layer.weight, [x.shape[1], y.shape[1]], 1)
    first, second = (part.contiguous(memory_format=torch.channels_last) for part in parts)
    total: Tensor = _OPERATORS._convolution_pointwise(x, first, None, *_geometry(layer), "none", [], "")
    _OPERATORS._convolution_pointwise_.binary(
        total, y, second, layer.bias, *_geometry(layer), "add", 1.0, None, [], None
    )
    return F.leaky_relu(total, slope, inplace=True)


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry, slope: float) -> Tensor:
    fused: Tensor = _OPERATORS._convolution_pointwise(x, weight, bias, *geometry, "leaky_relu", [slope], "")
    return fused


def _can_fuse(weight: Tensor, x: Tensor) -> bool:
    if not _AVAILABLE or torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x.dtype == weight.dtype and x.dtype in _DTYPES


def _geometry(layer: nn.Conv2d) -> _Geometry:
    """Padding, stride, dilation and groups."""
    assert not isinstance(layer.padding, str)
    return list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
