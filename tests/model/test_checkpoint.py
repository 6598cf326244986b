"""Checkpoints: weights are saved and loaded, and a hostile file is one clear error."""

import json
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_generator, tiny_recurrent
from safetensors import safe_open
from safetensors.torch import save_file

from vderain.errors import CheckpointError
from vderain.model.checkpoint import DEFAULT_MODEL, FORMAT, WEIGHTS, load_checkpoint, released_models, save_checkpoint
from vderain.model.unet import UNet

ARCHITECTURE = {"window": 5, "widths": [8, 16], "stem": 2}
RECURRENT = {"window": 1, "widths": [8, 16], "stem": 2, "slope": 0.1, "state": 4}
GLASS = {"window": 1, "widths": [4, 8], "stem": 2, "slope": 0.1, "glass": 4}


def test_weights_are_saved_as_float16(tmp_path: Path) -> None:
    generator = tiny_generator(5)
    save_checkpoint(tmp_path / "mine.safetensors", generator, {"licence": "CC0-1.0", "psnr": 31.5})
    loaded = load_checkpoint(str(tmp_path / "mine.safetensors"))
    assert loaded.name == "mine"
    assert loaded.facts == {"licence": "CC0-1.0", "psnr": 31.5}
    assert loaded.generator.config == generator.config
    for name, value in loaded.generator.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, generator.state_dict()[name].half().float())


def test_a_loaded_generator_is_in_eval_mode_without_gradients(tiny: Path) -> None:
    generator = load_checkpoint(str(tiny)).generator
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_the_header_can_be_read_with_safetensors_alone(tiny: Path) -> None:
    with safe_open(tiny, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == FORMAT
    defaults = {"paths": [1], "slope": 0.1, "residual": True, "scale": 1, "state": 0, "glass": 0}
    assert json.loads(header["architecture"]) == ARCHITECTURE | defaults


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_saved_file_has_the_default_permissions(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    save_checkpoint(tmp_path / "mine.safetensors", tiny_generator(1), {})
    assert (tmp_path / "mine.safetensors").stat().st_mode == other.stat().st_mode


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"older")
    save_checkpoint(target, tiny_generator(1), {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]
    assert load_checkpoint(str(target)).generator.config.window == 1


def test_the_default_model_is_released_and_loads() -> None:
    assert DEFAULT_MODEL in released_models()
    checkpoint = load_checkpoint(DEFAULT_MODEL)
    assert checkpoint.name == DEFAULT_MODEL
    assert checkpoint.generator.head.weight.abs().sum() > 0


def test_released_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in WEIGHTS.iterdir()]
    assert max(sizes) < 8_000_000
    assert sum(sizes) < 20_000_000


def header_of(architecture: Any) -> dict[str, str]:
    return {"format": FORMAT, "architecture": json.dumps(architecture), "facts": "{}"}


def weights(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    changed = tiny_generator(5).state_dict() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value.contiguous() for name, value in changed.items() if value is not None}


class Bomb:
    """Proves that it was unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path("unpickled").write_text, ("boom",))


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


def a_torch_pickle(path: Path) -> None:
    torch.save({"generator": Bomb()}, path)


def huge_header_length(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" * 50)


def cut_short(path: Path) -> None:
    save_checkpoint(path, tiny_generator(5), {})
    path.write_bytes(path.read_bytes()[:-1000])


def flipped_header(path: Path) -> None:
    save_checkpoint(path, tiny_generator(5), {})
    data = bytearray(path.read_bytes())
    data[8:40] = bytes(byte ^ 0xFF for byte in data[8:40])
    path.write_bytes(data)


def written_with(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path, metadata)


def of(architecture: Any) -> Callable[[Path], None]:
    return written_with(weights(), header_of(architecture))


def tensors_of(generator: UNet) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in generator.state_dict().items()}


HOSTILE: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "text": lambda path: path.write_text("these are not the weights you are looking for") and None,
    "a pickle": a_pickle,
    "a pickle of torch": a_torch_pickle,
    "huge header length": huge_header_length,
    "cut short": cut_short,
    "flipped header": flipped_header,
    "no header of ours": written_with(weights(), {}),
    "another format": written_with(weights(), header_of(ARCHITECTURE) | {"format": "vderain-generator-99"}),
    "no architecture": written_with(weights(), {"format": FORMAT}),
    "architecture not JSON": written_with(weights(), header_of({}) | {"architecture": "{"}),
    "architecture nested without end": written_with(weights(), header_of({}) | {"architecture": "[" * 100_000}),
    "architecture a list": of([1, 2]),
    "architecture a word": of("unet"),
    "architecture null": of(None),
    "unknown key": of(ARCHITECTURE | {"depth": 3}),
    "absurd widths": of(ARCHITECTURE | {"widths": [100_000, 100_000]}),
    "widths beyond all numbers": of(ARCHITECTURE | {"widths": [10**30]}),
    "infinite widths": of(ARCHITECTURE | {"widths": [float("inf")]}),
    "absurdly many levels": of(ARCHITECTURE | {"widths": [1] * 20_000}),
    "absurd stem": of(ARCHITECTURE | {"stem": 10**6}),
    "negative widths": of(ARCHITECTURE | {"widths": [-8, 16]}),
    "no widths": of(ARCHITECTURE | {"widths": []}),
    "widths a number": of(ARCHITECTURE | {"widths": 8}),
    "widths words": of(ARCHITECTURE | {"widths": ["wide"]}),
    "stem a word": of(ARCHITECTURE | {"stem": "2"}),
    "stem a fraction": of(ARCHITECTURE | {"stem": 1.5}),
    "window of three": of(ARCHITECTURE | {"window": 3}),
    "a tensor missing": written_with(weights(head__bias=None), header_of(ARCHITECTURE)),
    "a tensor too many": written_with(weights(extra=torch.zeros(1)), header_of(ARCHITECTURE)),
    "a wrong shape": written_with(weights(stem__bias=torch.zeros(9)), header_of(ARCHITECTURE)),
    "NaN": written_with(weights(head__bias=torch.full((16,), torch.nan)), header_of(ARCHITECTURE)),
    "infinity": written_with(weights(head__bias=torch.full((16,), torch.inf)), header_of(ARCHITECTURE)),
    "the largest float16": written_with(weights(head__bias=torch.full((16,), 65504.0)), header_of(ARCHITECTURE)),
    "slope not a number": of(ARCHITECTURE | {"slope": float("nan")}),
    "slope a word": of(ARCHITECTURE | {"slope": "steep"}),
    "very many paths": of(ARCHITECTURE | {"paths": [1] * 100_000}),
    "absurd dilation": of(ARCHITECTURE | {"paths": [1, 10**9]}),
    "absurd state": of(RECURRENT | {"state": 10**9}),
    "negative state": of(RECURRENT | {"state": -1}),
    "state a fraction": of(RECURRENT | {"state": 1.5}),
    "state a word": of(RECURRENT | {"state": "4"}),
    "state not a number": of(RECURRENT | {"state": float("nan")}),
    "state null": of(RECURRENT | {"state": None}),
    "absurd glass": of(GLASS | {"glass": 10**9}),
    "glass a fraction": of(GLASS | {"glass": 1.5}),
    "glass a word": of(GLASS | {"glass": "4"}),
    "glass null": of(GLASS | {"glass": None}),
    "glass beside a window": of(ARCHITECTURE | {"glass": 4}),
    "state beside a window": of(ARCHITECTURE | {"state": 4}),
    "state of one level": of(RECURRENT | {"widths": [8]}),
    "state without its weights": of(RECURRENT),
    "state of another size": written_with(tensors_of(tiny_recurrent()), header_of(RECURRENT | {"state": 8})),
    "ranges a list": written_with(weights(), header_of(ARCHITECTURE) | {"ranges": "[1]"}),
    "ranges a word": written_with(weights(), header_of(ARCHITECTURE) | {"ranges": '"wide"'}),
    "ranges nested without end": written_with(weights(), header_of(ARCHITECTURE) | {"ranges": "[" * 100_000}),
    "memory not a number": written_with(
        tensors_of(tiny_recurrent()) | {"log_floor": torch.tensor(torch.nan)}, header_of(RECURRENT)
    ),
    "facts a number": written_with(weights(), header_of(ARCHITECTURE) | {"facts": "5"}),
    "facts not JSON": written_with(weights(), header_of(ARCHITECTURE) | {"facts": "{"}),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.timeout(20)
def test_a_hostile_file_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.safetensors"
    HOSTILE[kind](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(path))
    assert str(path) in caught.value.what
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("name", ["no-such-model", "", ".", "../weights", "x" * 5000])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(CheckpointError, match=DEFAULT_MODEL):
        load_checkpoint(name)
