"""The engine: OpenVINO computes nearly what PyTorch does, the same every time, and only where it was asked for."""

import builtins
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from clips import textured
from conftest import tiny_generator

from vderain.errors import CheckpointError, UsageError
from vderain.model import engine
from vderain.model.checkpoint import Checkpoint, load_checkpoint, range_names, save_checkpoint
from vderain.model.engine import OpenVinoEngine, attach_engine, choose_engine
from vderain.model.int8 import activation_ranges
from vderain.model.unet import UNet
from vderain.options import Options, settings
from vderain.restore.inference import NetworkRunner
from vderain.runtime.device import DevicePlacement, choose_device

Run = Callable[..., Result]
CPU = DevicePlacement(torch.device("cpu"), bf16=False)
LEVEL = 1 / 255


def window(height: int = 48, width: int = 64, seed: int = 0) -> tuple[Any, Any]:
    """(5, H, W, 3) frames and (H, W) confidence: a scene with streaks in each frame."""
    rng = np.random.default_rng(seed)
    frames = np.stack([textured(seed, (height, width))] * 5)
    for frame in frames:
        column = rng.integers(2, width - 2)
        frame[:, column : column + 2] = np.minimum(255, frame[:, column : column + 2].astype(int) + 60)
    return frames, np.full((height, width), 230, np.uint8)


def tensors(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    frames, confidence = window(seed=seed)
    used = frames if count == 5 else frames[2:3]
    planes = torch.from_numpy(np.ascontiguousarray(used.transpose(0, 3, 1, 2))).flatten(0, 1)[None]
    return planes, torch.from_numpy(confidence)[None, None]


def calibrated(generator: UNet) -> Checkpoint:
    count = generator.config.window
    ranges = activation_ranges(generator, (tensors(count, seed) for seed in range(4)))
    return Checkpoint("mine", generator, {}, ranges)


def runner(checkpoint: Checkpoint, choice: str) -> NetworkRunner:
    placement = choose_engine(choice, checkpoint, CPU)
    return NetworkRunner(attach_engine(checkpoint, placement), placement)


@pytest.mark.parametrize("model", ["base", "fast", "drops"])
def test_a_released_model_restores_nearly_the_same(model: str) -> None:
    frames, confidence = window(67, 90)
    both = [runner(load_checkpoint(model), choice)._run([(frames, confidence)])[0] for choice in ("torch", "openvino")]
    exact, found = (residual.astype(np.float32) for residual in both)
    assert found.shape == exact.shape
    assert np.sqrt(np.mean((found - exact) ** 2)) < 1.5 * LEVEL
    assert not np.array_equal(found, exact)  # it is another engine


@pytest.mark.parametrize("count", [1, 5])
def test_integers_are_near_floats(count: int) -> None:
    checkpoint = calibrated(tiny_generator(count))
    with torch.inference_mode():
        exact = checkpoint.generator(*tensors(count))
        checkpoint.generator.engine = OpenVinoEngine(checkpoint.generator, checkpoint.ranges or {})
        found = checkpoint.generator(*tensors(count))
    error = (found - exact).square().mean().sqrt()
    assert 0 < error < 0.1 * exact.square().mean().sqrt()


def test_the_same_window_gives_the_same_residual_whichever_thread_and_order() -> None:
    windows = [window(seed=seed) for seed in range(4)]
    one = runner(load_checkpoint("base"), "openvino")
    first = [one._run([item])[0] for item in windows]
    other = runner(load_checkpoint("base"), "openvino")
    from vderain.runtime.threads import ordered_map

    again = list(ordered_map(lambda item: other._run([item])[0], reversed(windows), 2))[::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_residual_is_not_overwritten_by_the_next_frame() -> None:
    one = runner(load_checkpoint("base"), "openvino")
    first = one._run([window(seed=1)])[0]
    kept = first.copy()
    one._run([window(seed=2)])
    np.testing.assert_array_equal(first, kept)


def test_batches_and_tiles_run_through_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    one = runner(load_checkpoint("base"), "openvino")
    items = [window(96, 160, seed) for seed in range(2)]
    alone = [one._run([item])[0].astype(np.float32) for item in items]
    together = one._run(items)
    one.tile_px = 64
    tiled = one._run(items)
    for whole, *others in zip(alone, together, tiled, strict=True):
        for other in others:
            np.testing.assert_allclose(other.astype(np.float32), whole, atol=LEVEL)


def test_auto_takes_openvino_on_a_cpu_for_a_model_with_ranges() -> None:
    base = load_checkpoint("base")
    assert "OpenVINO" in str(choose_engine("auto", base, CPU))
    assert choose_engine("torch", base, CPU) == CPU
    assert choose_engine("auto", base, CPU, "fp32") == CPU
    assert choose_engine("auto", replace(base, ranges=None), CPU) == CPU
    cuda = DevicePlacement(torch.device("cuda"), bf16=True)
    assert choose_engine("auto", base, cuda) == cuda


def test_auto_is_torch_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    assert choose_engine("auto", load_checkpoint("base"), CPU) == CPU
    with pytest.raises(UsageError, match=r"vderain\[openvino\]"):
        choose_engine("openvino", load_checkpoint("base"), CPU)


def test_openvino_is_refused_where_it_does_not_apply() -> None:
    base = load_checkpoint("base")
    with pytest.raises(UsageError, match="ranges"):
        choose_engine("openvino", replace(base, ranges=None), CPU)
    with pytest.raises(UsageError, match="--precision"):
        choose_engine("openvino", base, CPU, "bf16")
    with pytest.raises(UsageError, match="--device cpu"):
        choose_engine("openvino", base, DevicePlacement(torch.device("cuda"), bf16=True))


def test_torch_does_not_import_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    plain = builtins.__import__

    def watch(name: str, *arguments: Any, **keywords: Any) -> Any:
        imported.append(name)
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", watch)
    runner(load_checkpoint("base"), "torch")._run([window()])
    assert not [name for name in imported if name.startswith("openvino")]


def test_the_engine_is_part_of_the_settings_and_of_the_device() -> None:
    assert settings(Options(engine="torch")) != settings(Options(engine="openvino"))
    placement = choose_device("cpu")
    assert str(choose_engine("openvino", load_checkpoint("base"), placement)) != str(placement)
    with pytest.raises(UsageError, match="engine"):
        Options(engine="onnx")  # type: ignore[arg-type]


def test_ranges_are_kept_in_the_header(tmp_path: Path) -> None:
    checkpoint = calibrated(tiny_generator(5))
    assert checkpoint.ranges
    assert checkpoint.ranges.keys() == range_names(checkpoint.generator)
    save_checkpoint(tmp_path / "a.safetensors", checkpoint.generator, {}, checkpoint.ranges)
    assert load_checkpoint(str(tmp_path / "a.safetensors")).ranges == checkpoint.ranges


@pytest.mark.parametrize("bad", [{"stem": (0.0, 1.0)}, {"up.0": (0.0, float("nan"))}, {"stem": (0.0, 1e9)}])
def test_ranges_that_do_not_fit_are_refused(bad: dict[str, tuple[float, float]], tmp_path: Path) -> None:
    checkpoint = calibrated(tiny_generator(5))
    ranges = bad if bad == {"stem": (0.0, 1.0)} else (checkpoint.ranges or {}) | bad
    save_checkpoint(tmp_path / "a.safetensors", checkpoint.generator, {}, ranges)
    with pytest.raises(CheckpointError, match="ranges"):
        load_checkpoint(str(tmp_path / "a.safetensors"))


def test_an_outlier_does_not_widen_the_ranges() -> None:
    generator = tiny_generator(5)
    usual = activation_ranges(generator, [tensors(5, seed) for seed in range(12)])
    frames, confidence = tensors(5)
    noise = torch.randint(0, 256, frames.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    widest = activation_ranges(generator, [(noise, confidence)])
    both = activation_ranges(generator, [*(tensors(5, seed) for seed in range(12)), (noise, confidence)])
    assert widest["stem"][1] > usual["stem"][1]
    assert both["stem"][1] < widest["stem"][1]


def test_process_and_info_say_which_engine_ran(vderain: Run, clip: Callable[..., Path], tmp_path: Path) -> None:
    source = clip("a.mp4", frames=3)
    for choice, said in (("torch", "cpu, "), ("openvino", "OpenVINO"), ("auto", "OpenVINO")):
        result = vderain("process", source, "-o", tmp_path / f"{choice}.mp4", "--device", "cpu", "--engine", choice)
        assert result.exit_code == 0, result.output
        assert (said in result.output) and ("OpenVINO" in result.output) == (choice != "torch")
    assert "OpenVINO" in vderain("info").output
    refused = vderain(
        "process", source, "-o", tmp_path / "b.mp4", "--device", "cpu", "--engine", "openvino", "--precision", "fp32"
    )
    assert refused.exit_code == 2


def test_an_interrupt_after_the_engine_is_gone_is_an_interrupt() -> None:
    script = """
import gc, queue, signal, threading
from vderain.options import Options
from vderain.pipeline import load_models
models = load_models(Options(engine="openvino"))
del models
gc.collect()
filler = [bytes(11_568) for _ in range(2000)]
main = threading.main_thread().ident
threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
try:
    queue.Queue().get()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr
