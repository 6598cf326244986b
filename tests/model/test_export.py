"""Exported networks: ONNX Runtime computes what PyTorch does, whatever the size; the file describes itself."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import Result

from vderain.errors import OutputError, UsageError
from vderain.model import export
from vderain.model.checkpoint import load_checkpoint
from vderain.model.export import TOLERANCE, export_onnx

Run = Callable[..., Result]
SIZES = ((1, 48, 64), (2, 33, 50))  # of batch, height, width


def outputs(target: Path, model: str, size: tuple[int, int, int]) -> tuple[Any, Any]:
    """What ONNX Runtime and PyTorch compute for the same noise."""
    batch, height, width = size
    generator = load_checkpoint(model).generator
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch, 3 * generator.config.window, height, width), np.uint8)
    confidence = rng.integers(0, 256, (batch, 1, height, width), np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: value for name, value in (("frames", frames), ("confidence", confidence)) if name in names}
    (found,) = session.run(["residual"], feed)
    with torch.inference_mode():
        return found, generator(torch.from_numpy(frames), torch.from_numpy(confidence)).numpy()


@pytest.mark.parametrize("model", ["base", "fast", "drops"])
def test_a_released_model_computes_the_same_in_onnx_runtime(model: str, tmp_path: Path) -> None:
    done = export_onnx(model, tmp_path / "model.onnx")
    assert 0 < done.difference <= TOLERANCE
    for size in SIZES:
        found, expected = outputs(done.target, model, size)
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 20 * TOLERANCE  # the comparison is of something
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_metadata_holds_name_licence_and_scores(tmp_path: Path) -> None:
    done = export_onnx("base", tmp_path / "model.onnx")
    graph = onnx.load(done.target)
    onnx.checker.check_model(graph)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts["name"] == "base"
    assert facts["licence"].startswith("MIT")
    assert "ntu_a1" in json.loads(facts["scores"])
    assert json.loads(facts["architecture"])["window"] == 5
    assert done.inputs == {
        "frames": ["batch", 15, "height", "width"],
        "confidence": ["batch", 1, "height", "width"],
    }


def test_a_network_for_one_frame_has_one_input(tiny1: Path, tmp_path: Path) -> None:
    assert list(export_onnx(str(tiny1), tmp_path / "model.onnx").inputs) == ["frames"]


def test_an_existing_file_is_replaced_only_with_overwrite(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError):
        export_onnx(str(tiny), target)
    assert target.read_bytes() == b"mine"
    export_onnx(str(tiny), target, overwrite=True)
    assert onnx.load(target).producer_name == "vderain"
    assert list(tmp_path.iterdir()) == [target]  # no draft is left


def test_a_wrong_export_gets_no_name(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(export.VderainError, match="differs from PyTorch"):
        export_onnx(str(tiny), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_generator_with_a_memory_is_refused(tiny_memory: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memory"):
        export_onnx(str(tiny_memory), tmp_path / "model.onnx")


def test_the_command_says_what_it_wrote(vderain: Run, tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    result = vderain("export", tiny, "-o", target, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["target"] == str(target)
    again = vderain("export", tiny, "-o", target)
    assert again.exit_code == 4
    assert "--overwrite" in again.stderr
    assert vderain("export", tiny, "-o", tiny, "--overwrite").exit_code == 2  # not onto the weights themselves


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_line(
    missing: str, vderain: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # importing it raises ImportError
    result = vderain("export", tiny, "-o", tmp_path / "model.onnx")
    assert result.exit_code == 2
    assert f"export needs {missing}." in result.stderr
    assert 'pip install "vderain[onnx]"' in " ".join(result.stderr.split())
