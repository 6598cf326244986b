"""Runs the convolutions of a generator in OpenVINO, in 8-bit integers: on CPUs much faster than PyTorch.

The graph of the U-Net is built from the same weights, with the ranges of `vderain.model.int8`: weights have a scale for
each output channel, activations one for each layer. OpenVINO replaces the convolutions between by integer ones. The
first and the last layer compute in bf16, or fp32 where the processor does not multiply bf16.
"""

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from queue import Empty, LifoQueue
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vderain.errors import UsageError
from vderain.model.checkpoint import Checkpoint, Ranges
from vderain.model.unet import Block, UNet
from vderain.runtime.device import DevicePlacement

Node = Any  # an output of OpenVINO's graph
LEVELS, SIGNED_LEVELS = 256, 255  # of an activation, and of a weight


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


def choose_engine(
    engine: str, checkpoint: Checkpoint, placement: DevicePlacement, precision: str = "auto"
) -> DevicePlacement:
    """The placement of a generator with the engine that runs it.

    Args:
        engine: ``torch``; ``openvino``; or ``auto``: OpenVINO where it is installed, on a CPU, for a model with ranges
            and the precision ``auto``.
        checkpoint: of the generator.
        placement: of the generator in PyTorch.
        precision: as asked for.

    Raises:
        UsageError: ``openvino`` does not apply, or is not installed.
    """
    on_cpu, has_ranges = placement.device.type == "cpu", bool(checkpoint.ranges)
    if engine == "openvino":
        if not is_installed():
            raise UsageError("--engine openvino needs openvino.", 'Install it: pip install "vderain[openvino]"')
        if not on_cpu:
            raise UsageError(f"--engine openvino does not apply to {placement.device.type}.", "Add --device cpu.")
        if precision != "auto":
            raise UsageError("--engine openvino computes in 8-bit integers.", "Leave --precision out.")
        if not has_ranges:
            raise UsageError(f"the model {checkpoint.name} has no ranges for integers.", "Use --engine torch.")
    elif not (engine == "auto" and precision == "auto" and on_cpu and has_ranges and is_installed()):
        return placement
    import openvino

    return replace(placement, engine=f"int8 by OpenVINO {openvino.__version__.partition('-')[0]}")


def attach_engine(checkpoint: Checkpoint, placement: DevicePlacement) -> UNet:
    """The generator, with its engine where the placement names one and the checkpoint has ranges for it."""
    if placement.engine and checkpoint.ranges:
        checkpoint.generator.engine = OpenVinoEngine(checkpoint.generator, checkpoint.ranges)
    return checkpoint.generator


@cache
def _core() -> Any:
    """OpenVINO's core, one for the whole process.

    Its plugin for CPUs gives the thread that loads it a stack for signal handlers, and frees that stack with the last
    core. Python's handlers run on it, so that the next Ctrl-C would end in a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoEngine:
    """The compiled convolutions of a generator.

    Args:
        generator: in fp32, with one path.
        ranges: of its activations.
    """

    def __init__(self, generator: UNet, ranges: Ranges) -> None:
        self._core, self._model = _core(), _Graph(generator, ranges).model()
        self._lock = Lock()
        self._idle: LifoQueue[tuple[Any, Any]] = LifoQueue()  # compiled models with a request each
        self._idle.put(self._compile())

    def _compile(self) -> tuple[Any, Any]:
        """A compiled model of one stream, which runs in the thread that calls it, and its request.

        Frames run side by side, one thread each. Requests of one compiled model would wait for each other, or run in
        threads of OpenVINO, whose time no stage counts.
        """
        properties = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
        with self._lock:
            compiled = self._core.compile_model(self._model, "CPU", properties)
        return compiled, compiled.create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        """The last layer's output for every pixel.

        Args:
            x: (B, C, h, w) bfloat16, contiguous: the generator's input channels.

        Returns:
            (B, 3 | 4, h, w) float32.
        """
        import openvino

        try:
            compiled, request = self._idle.get_nowait()
        except Empty:  # as many are made as threads call at once
            compiled, request = self._compile()
        numbers = x.view(torch.int16).numpy()  # NumPy has no bf16
        try:
            request.infer([openvino.Tensor(numbers, openvino.Shape(list(x.shape)), openvino.Type.bf16)])
        except MemoryError as error:
            raise RuntimeError("out of memory") from error
        result = torch.from_numpy(request.get_output_tensor(0).data.copy())
        self._idle.put((compiled, request))
        return result


class _Graph:
    """Builds the graph of a U-Net; every layer's output is quantised but the last one's."""

    def __init__(self, generator: UNet, ranges: Ranges) -> None:
        from openvino import opset13

        self._op: Any = opset13
        self._generator, self._ranges = generator, dict(ranges)
        for level in range(len(generator.up)):  # what is concatenated has one scale, so that nothing is requantised
            skip, up = ranges[f"encoder.{level}"], ranges[f"up.{level}"]
            both = min(skip[0], up[0]), max(skip[1], up[1])
            self._ranges[f"encoder.{level}"] = self._ranges[f"up.{level}"] = both

    def model(self) -> Any:
        """From (B, C, h, w) bfloat16 input channels to (B, 3 | 4, h, w) float32."""
        import openvino

        op, config = self._op, self._generator.config
        x = op.parameter([-1, config.channels_in, -1, -1], openvino.Type.bf16)
        cells = self._convolutions(op.convert(x, "f32"))
        pixels = op.depth_to_space(cells, "depth_first", config.stem)
        return openvino.Model([op.result(pixels)], [x], "generator")

    def _convolutions(self, x: Node) -> Node:
        generator, op = self._generator, self._op
        x = self._quantised(self._activated(self._stem(x)), "stem")
        skips: list[Node] = []
        for level, (block, down) in enumerate(zip(generator.encoder, generator.down, strict=True)):
            x = self._quantised(self._block(x, block, f"encoder.{level}"), f"encoder.{level}")
            skips.append(x)
            x = self._quantised(self._layer(x, down), f"down.{level}")
        # OpenVINO's transposed convolutions take integers only where zero is in the middle of the range.
        x = self._quantised(self._block(x, generator.bottom, "bottom"), "bottom", symmetric=True)
        for level in reversed(range(len(skips))):
            up = self._quantised(self._layer(x, generator.up[level]), f"up.{level}")
            name = f"decoder.{level}"
            x = self._block(op.concat([up, skips[level]], 1), generator.decoder[level], name)
            if level:
                x = self._quantised(x, name, symmetric=True)
        return self._layer(x, generator.head, exact=True)

    def _stem(self, x: Node) -> Node:
        """The pixel-unshuffle and the first layer in one, as in `UNet`."""
        stem, side = self._generator.stem_kernel(), self._generator.config.stem
        y = self._op.convolution(x, self._constant(_numpy(stem)), [side] * 2, [side] * 2, [side] * 2, [1, 1])
        return self._biased(y, self._generator.stem)

    def _block(self, x: Node, block: nn.Module, name: str) -> Node:
        assert isinstance(block, Block)
        y = self._quantised(self._activated(self._layer(x, block.first)), f"{name}.first")
        y = self._layer(y, block.second)
        return self._activated(self._op.add(y, x) if block.residual else y)

    def _layer(self, x: Node, layer: nn.Module, exact: bool = False) -> Node:
        """A convolution or transposed convolution with its bias.

        Args:
            x: its input.
            layer: its weights.
            exact: do not quantise them.
        """
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        is_transposed = isinstance(layer, nn.ConvTranspose2d)
        weight = _numpy(layer.weight)
        kernel = self._constant(weight) if exact else self._integers(weight, axis=int(is_transposed))
        if is_transposed:
            y = self._op.convolution_backprop_data(x, kernel, list(layer.stride), pads_begin=[0, 0], pads_end=[0, 0])
        else:
            assert not isinstance(layer.padding, str)
            pads = list(layer.padding)
            y = self._op.convolution(x, kernel, list(layer.stride), pads, pads, list(layer.dilation))
        return self._biased(y, layer)

    def _biased(self, x: Node, layer: nn.Conv2d | nn.ConvTranspose2d) -> Node:
        assert layer.bias is not None
        return self._op.add(x, self._constant(_numpy(layer.bias).reshape(1, -1, 1, 1)))

    def _activated(self, x: Node) -> Node:
        return self._op.prelu(x, self._constant(np.array([self._generator.config.slope])))

    def _integers(self, weight: NDArray[np.float32], axis: int) -> Node:
        """Weights, each output channel in steps of its own; the channels are on an axis."""
        others = tuple(index for index in range(weight.ndim) if index != axis)
        largest = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-8)
        return self._fake_quantise(self._constant(weight), -largest, largest, SIGNED_LEVELS)

    def _quantised(self, x: Node, name: str, symmetric: bool = False) -> Node:
        """An activation in steps of its range.

        Args:
            x: the activation.
            name: of its range.
            symmetric: put zero in the middle of the range; it is always one of the steps.
        """
        low, high = self._ranges[name]
        low, high = min(low, 0.0), max(high, 1e-6)
        if symmetric:
            step, zero = max(-low / (LEVELS // 2), high / (LEVELS // 2 - 1)), LEVELS // 2
        else:
            step = (high - low) / (LEVELS - 1)
            zero = round(-low / step)
        return self._fake_quantise(x, np.array(-zero * step), np.array((LEVELS - 1 - zero) * step), LEVELS)

    def _fake_quantise(self, x: Node, low: NDArray[Any], high: NDArray[Any], levels: int) -> Node:
        bounds = self._constant(low), self._constant(high)
        return self._op.fake_quantize(x, *bounds, *bounds, levels)

    def _constant(self, values: NDArray[Any]) -> Node:
        return self._op.constant(np.ascontiguousarray(values, dtype=np.float32))


def _numpy(parameter: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = parameter.detach().float().numpy()
    return values
