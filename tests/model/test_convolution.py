"""Fused convolutions: the same as in two steps, and not taken where gradients are needed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vderain.model import convolution
from vderain.model.convolution import convolve_activate, convolve_both_activate, strided_convolve_activate

SLOPE = 0.1
BF16 = 2.0**-8  # relative rounding error
GEOMETRIES = [{"padding": 1}, {"padding": 3, "dilation": 3}, {"padding": 0}, {"padding": 1, "stride": 2}]


def layer(channels: int, geometry: dict[str, int], bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    made = nn.Conv2d(channels, 8, 3, bias=bias, **geometry)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def picture(channels: int, seed: int = 0, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    x = torch.randn(2, channels, 19, 26, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=memory_format)


def two_steps(convolution_layer: nn.Conv2d, *parts: Tensor) -> Tensor:
    """In double precision."""
    c = convolution_layer
    bias = None if c.bias is None else c.bias.double()
    y = F.conv2d(torch.cat(parts, 1).double(), c.weight.double(), bias, c.stride, c.padding, c.dilation)
    return F.leaky_relu(y, SLOPE)


ACTIVATE = [lambda c, x, _: convolve_activate(c, x, SLOPE), lambda c, x, y: convolve_both_activate(c, x, y, SLOPE)]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("both", [False, True])
def test_fused_results_are_those_of_two_steps(
    both: bool, bias: bool, geometry: dict[str, int], memory_format: torch.memory_format
) -> None:
    parts = [picture(4, 1, memory_format), picture(6, 2, memory_format)][: 1 + both]
    before = [part.clone() for part in parts]
    c = layer(10 if both else 4, geometry, bias)
    with torch.inference_mode():
        fused = ACTIVATE[both](c, parts[0], parts[-1])
        expected = two_steps(c, *parts)
    assert fused.dtype == torch.float32
    assert (fused - expected).abs().max() < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True)), "inputs stay as they are"


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("both", [False, True])
def test_bf16_differs_by_its_rounding(both: bool, geometry: dict[str, int]) -> None:
    parts = [picture(4, 1).bfloat16(), picture(6, 2).bfloat16()][: 1 + both]
    c = layer(10 if both else 4, geometry).bfloat16()
    with torch.inference_mode():
        fused = ACTIVATE[both](c, parts[0], parts[-1])
        expected = two_steps(c, *parts)
    assert fused.dtype == torch.bfloat16
    allowed = 3 * BF16 * two_steps(c, *parts).abs().max()  # the first half of two inputs is rounded as well
    assert (fused.double() - expected).abs().max() < allowed


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strided_convolution_is_that_of_two_steps(stride: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    side = 3 * stride
    x, weight, bias = (part.to(dtype) for part in (picture(3), torch.randn(8, 3, side, side), torch.randn(8)))
    with torch.inference_mode():
        fused = strided_convolve_activate(x, weight, bias, stride, SLOPE)
        plain = F.conv2d(x.double(), weight.double(), bias.double(), stride=stride, padding=stride)
        expected = F.leaky_relu(plain, SLOPE)
    allowed = 1e-4 if dtype == torch.float32 else 2 * BF16 * float(expected.abs().max())
    assert fused.dtype == dtype and fused.shape == expected.shape
    assert (fused.double() - expected).abs().max() < allowed


@pytest.mark.parametrize("kind", ["one", "both", "strided"])
def test_with_gradients_the_plain_path_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    c = layer(10, {"padding": 1})
    x, y = picture(4, 1).requires_grad_(), picture(6, 2).requires_grad_()
    activate: dict[str, Callable[[], Tensor]] = {
        "one": lambda: convolve_activate(c, torch.cat([x, y], 1), SLOPE),
        "both": lambda: convolve_both_activate(c, x, y, SLOPE),
        "strided": lambda: strided_convolve_activate(torch.cat([x, y], 1), c.weight, c.bias, 1, SLOPE),
    }
    monkeypatch.setattr(convolution, "_OPERATORS", None)
    activate[kind]().square().sum().backward()
    found = [part.grad.clone() for part in (x, y, c.weight)]  # type: ignore[union-attr]
    for part in (x, y, c.weight):
        part.grad = None
    two_steps(c, x, y).square().sum().backward()
    for gradient, part in zip(found, (x, y, c.weight), strict=True):
        torch.testing.assert_close(gradient, part.grad, atol=1e-3, rtol=1e-4)
    if convolution._AVAILABLE:
        with torch.no_grad(), pytest.raises(AttributeError):
            activate[kind]()


@pytest.mark.parametrize("both", [False, True])
def test_double_precision_is_not_fused(both: bool) -> None:
    parts = [picture(4, 1).double(), picture(6, 2).double()][: 1 + both]
    c = layer(10 if both else 4, {"padding": 1}).double()
    with torch.inference_mode():
        torch.testing.assert_close(ACTIVATE[both](c, parts[0], parts[-1]), two_steps(c, *parts))


def test_bf16_is_not_fused_where_the_processor_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_DTYPES", {torch.float32})
    monkeypatch.setattr(convolution, "_OPERATORS", None)
    c, x = layer(4, {"padding": 1}).bfloat16(), picture(4).bfloat16()
    with torch.inference_mode():
        assert (convolve_activate(c, x, SLOPE).double() - two_steps(c, x)).abs().max() < 0.05


def test_mixed_types_are_left_to_autocast() -> None:
    c = layer(4, {"padding": 1})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        y = convolve_activate(c, picture(4).bfloat16(), SLOPE)
    assert y.dtype == torch.bfloat16
