"""The networks of the windshield: what they begin as, and their file."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_glass

from vderain.errors import CheckpointError
from vderain.model.checkpoint import load_checkpoint, save_checkpoint
from vderain.model.glass import FixedPattern, GlassUNet, Remembered, pooled
from vderain.model.unet import UNetConfig
from vderain.options import Options
from vderain.pipeline import load_models


def maps(*channels: int, size: tuple[int, int] = (37, 53)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand((1, count, *size), generator=generator) for count in channels]


def remembered(seed: int = 0) -> Remembered:
    change, variance = maps(3, 1)
    return Remembered(change - 0.5 + 0.1 * seed, 1 + 1000 * variance)


def test_an_untrained_generator_believes_the_frame_and_the_flow_filled_in() -> None:
    glass = tiny_glass(trained=False)
    rgb, residual, cover, around = maps(3, 3, 1, 3)
    pattern = FixedPattern(*maps(3, 3, 1, 2))
    parts = rgb, residual, cover, around, remembered(), remembered(1), pattern
    assert not glass.chosen(*parts).any()
    with torch.no_grad():
        glass.head.bias.view(8, -1)[3:5] = 1  # of the fine and the coarse pattern
    assert torch.allclose(glass.chosen(*parts), -pattern.fine - pattern.coarse, atol=1e-6)
    measured, filled, trust, behind, wiped = maps(4, 4, 2, 1, 3, size=(5, 7))
    flow, log_error = glass.completed(measured, filled, trust, behind, wiped)
    assert torch.equal(flow, filled)
    assert not log_error.any()


def test_frames_of_any_size_have_a_cover() -> None:
    for size in ((1, 1), (37, 53), (64, 40)):
        rgb, residual, mean, deviation = maps(3, 3, 1, 1, size=size)
        assert tiny_glass().covered(rgb, residual, mean, deviation).shape == (1, 1, *size)
        assert pooled(rgb).shape[-2:] == tuple(-(-side // 8) for side in size)


def test_a_file_holds_all_three_networks(tmp_path: Path) -> None:
    glass = tiny_glass()
    save_checkpoint(tmp_path / "glass.safetensors", glass, {"licence": "MIT"})
    loaded = load_checkpoint(str(tmp_path / "glass.safetensors")).generator
    assert isinstance(loaded, GlassUNet)
    for name, value in glass.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name


def test_it_is_no_model_to_remove_rain_with(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "glass.safetensors", tiny_glass(), {})
    with pytest.raises(CheckpointError, match="windshield"):
        load_models(Options(model=str(tmp_path / "glass.safetensors"), drops=False))


@pytest.mark.parametrize("other", [{"window": 5}, {"state": 4}, {"scale": 2}, {"residual": False}, {"glass": -1}])
def test_what_cannot_be_built_is_refused(other: dict[str, int]) -> None:
    settings = {"window": 1, "widths": (4, 8), "glass": 4} | other
    with pytest.raises(ValueError, match=r"windshield|glass"):
        UNetConfig(**settings)  # type: ignore[arg-type]
