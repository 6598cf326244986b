"""Exports a generator as an ONNX file and compares the file with PyTorch before it gets its name."""

import json
import warnings
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vderain import __version__
from vderain.errors import UsageError, VderainError
from vderain.model.checkpoint import Checkpoint, load_checkpoint
from vderain.model.released import weights_hash
from vderain.model.unet import RGB, UNet, unit
from vderain.runtime.files import Draft

OPSET = 17  # of 2022, so that older runtimes read it as well
TOLERANCE = 1e-4  # of a residual in 0..1 units; a level of 255 is .004
INPUTS, OUTPUT = ("frames", "confidence"), "residual"
TOLD = ("licence", "data", "command", "scores")  # of the facts in the header
AXES = {0: "batch", 2: "height", 3: "width"}
# Sides of the frames to trace with and to compare. They are not multiples of any stride, so that padding is traced.
TRACED_PX, COMPARED_PX = (93, 77), ((93, 77), (64, 130))


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export.

    Attributes:
        target: the ONNX file.
        inputs: names and shapes of its inputs.
        difference: largest difference from PyTorch, in 0..1 units.
    """

    target: Path
    inputs: dict[str, list[int | str]]
    difference: float


class _FromBytes(nn.Module):
    """A generator whose inputs are converted to floats first: runtimes have few operators for bytes."""

    def __init__(self, generator: UNet) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, frames: Tensor, confidence: Tensor) -> Tensor:
        residual: Tensor = self.generator(unit(frames), unit(confidence))
        return residual


def export_onnx(model: str, target: Path, overwrite: bool = False) -> Exported:
    """Write a generator as an ONNX file with inputs of any batch size, and of any height and width from 32 px.

    Its inputs are those of `UNet.forward` as bytes: ``frames`` and, for a window of five frames, ``confidence``. Its
    output is ``residual``, (B, 3, H, W) float32 in 0..1 units. Metadata holds the name, licence, data and scores.

    Args:
        model: name of a released model, or path of a file.
        target: the ONNX file.
        overwrite: whether an existing file may be replaced.

    Raises:
        UsageError: onnx or ONNX Runtime is not installed, or the model has a memory.
        CheckpointError: the model does not exist or is unusable.
        OutputError: the file exists or cannot be written.
        VderainError: ONNX Runtime computes something else than PyTorch.
    """
    onnx, runtime = _import("onnx"), _import("onnxruntime")
    checkpoint = load_checkpoint(model)
    if checkpoint.generator.config.state:
        raise UsageError(f"{model} carries a memory from frame to frame, which cannot be exported.", "Choose another.")
    with Draft(target, overwrite) as draft:
        draft.create()
        graph = onnx.load_from_string(_trace(checkpoint.generator))
        onnx.helper.set_model_props(graph, _metadata(checkpoint, model))
        graph.producer_name, graph.producer_version = "vderain", __version__
        data = graph.SerializeToString()
        session = _session(runtime, data)
        difference = max(_difference(session, checkpoint.generator, size_px) for size_px in COMPARED_PX)
        if not difference <= TOLERANCE:
            raise VderainError(f"the exported network differs from PyTorch by {difference:g}.", "Try other versions.")
        draft.path.write_bytes(data)
        draft.publish()
    return Exported(target, {value.name: value.shape for value in session.get_inputs()}, difference)


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"export needs {name}.", 'Install it: pip install "vderain[onnx]"') from error


def _trace(generator: UNet) -> bytes:
    """The ONNX model. Gradients are on, because the fused convolutions of inference have no ONNX operator."""
    count = generator.config.window
    file = BytesIO()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated; the new one fixes height and width
        torch.onnx.export(
            _FromBytes(generator).eval(), _example(count, *TRACED_PX), file,  # type: ignore[arg-type]
            dynamo=False, opset_version=OPSET, input_names=list(INPUTS), output_names=[OUTPUT],
            dynamic_axes=dict.fromkeys((*(INPUTS if count > 1 else INPUTS[:1]), OUTPUT), AXES),
        )  # fmt: skip
    return file.getvalue()


def _example(count: int, height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
    """(1, T*3, H, W) and (1, 1, H, W) uint8, the same noise every time."""
    shapes = (1, RGB * count, height_px, width_px), (1, 1, height_px, width_px)
    random = torch.Generator().manual_seed(0)
    frames, confidence = (torch.randint(0, 256, shape, generator=random, dtype=torch.uint8) for shape in shapes)
    return frames, confidence


def _session(runtime: ModuleType, data: bytes) -> Any:
    """A session with one thread: by default, idle ones would keep every core busy."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _difference(session: Any, generator: UNet, size_px: tuple[int, int]) -> float:
    """Largest difference of the session's residual from PyTorch's, on frames of noise."""
    example = _example(generator.config.window, *size_px)
    feed = {name: value.numpy() for name, value in zip(INPUTS, example, strict=True)}
    (found,) = session.run([OUTPUT], {value.name: feed[value.name] for value in session.get_inputs()})
    with torch.inference_mode():
        return float((torch.from_numpy(found) - generator(*example)).abs().max())


def _metadata(checkpoint: Checkpoint, model: str) -> dict[str, str]:
    """What the header of the weights says, as texts."""
    facts: dict[str, Any] = {"name": checkpoint.name, "weights_sha256": weights_hash(model)}
    facts |= {name: checkpoint.facts[name] for name in TOLD if checkpoint.facts.get(name)}
    facts["architecture"] = checkpoint.generator.config.to_dict()
    facts["input"] = "RGB uint8; five frames in time order aligned to the centre one, confidence of the alignment"
    if checkpoint.generator.config.window == 1:
        facts["input"] = "one RGB frame, uint8"
    facts["output"] = "the residual, to be added to the centre frame in 0..1 units"
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
