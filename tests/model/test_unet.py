"""The generator: zero before training, any size, and a receptive field no larger than stated."""

import pytest
import torch
from conftest import tiny_generator
from hypothesis import given, settings
from hypothesis import strategies as st

from vderain.model.unet import UNet, UNetConfig, median_of_five, pad_to_multiple


@pytest.mark.parametrize("window", [1, 5])
def test_an_untrained_generator_changes_nothing(window: int) -> None:
    torch.manual_seed(0)
    residual = UNet(UNetConfig(window, (8, 16, 32)))(torch.rand(2, 3 * window, 40, 24))
    assert residual.shape == (2, 3, 40, 24)
    assert torch.count_nonzero(residual) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 53), st.integers(1, 53), st.sampled_from([1, 5]))
def test_images_of_any_size_are_restored(height: int, width: int, window: int) -> None:
    with torch.inference_mode():
        residual = tiny_generator(window)(torch.rand(1, 3 * window, height, width))
    assert residual.shape == (1, 3, height, width)
    assert torch.isfinite(residual).all()


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(1, (8, 16)),
        UNetConfig(5, (4, 8, 8), stem=1),
        UNetConfig(1, (4, 4), stem=4),
        UNetConfig(1, (4, 8), paths=(1, 3)),
        UNetConfig(5, (4, 8), scale=2),
    ],
)
def test_the_receptive_field_is_no_larger_than_stated(config: UNetConfig) -> None:
    torch.manual_seed(3)
    generator = UNet(config).double()
    torch.nn.init.normal_(generator.head.weight)
    reach, side = config.reach_px, 4 * config.reach_px // config.stride_px * config.stride_px
    clear = torch.rand(1, 3 * config.window, side, side, dtype=torch.double)
    with torch.inference_mode():
        before = generator(clear)
        seen = 0
        for phase in range(config.stride_px):
            y, x = side // 2 + phase, side // 2 - phase
            changed = clear.clone()
            changed[..., y, x] = 5.0
            rows, columns = torch.nonzero((generator(changed) - before)[0].abs().sum(0), as_tuple=True)
            distance = torch.maximum((rows - y).abs(), (columns - x).abs()).max()
            seen = max(seen, int(distance))
    assert 0 < seen <= reach
    assert seen >= reach // 2, "the bound is so loose that tiles waste their work"


def test_the_median_stays_sharp_at_a_smaller_scale() -> None:
    """A gate of 1 everywhere gives the median at full size."""
    generator = UNet(UNetConfig(5, (4, 8), scale=2))
    with torch.no_grad():
        assert generator.head.bias is not None
        generator.head.bias[: generator.config.stem**2] = 1.0
    frames = torch.rand(1, 15, 26, 37)
    with torch.inference_mode():
        restored = frames[:, 6:9] + generator(frames)
    torch.testing.assert_close(restored, median_of_five(*torch.split(frames, 3, 1)))


def test_full_confidence_is_the_default_and_less_makes_a_difference() -> None:
    generator = tiny_generator(5)
    window = torch.rand(1, 15, 32, 32)
    with torch.inference_mode():
        silent = generator(window)
        assert torch.equal(silent, generator(window, torch.ones(1, 1, 32, 32)))
        assert not torch.equal(silent, generator(window, torch.zeros(1, 1, 32, 32)))


def test_the_median_is_the_median() -> None:
    frames = torch.rand(2, 5, 3, 9, 7)
    assert torch.equal(median_of_five(*frames.unbind(1)), frames.median(1).values)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (9, 17)])
def test_padding_keeps_the_image_in_the_top_left_corner(shape: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *shape)
    padded = pad_to_multiple(x, 8)
    assert padded.shape[-2] % 8 == padded.shape[-1] % 8 == 0
    assert torch.equal(padded[..., : shape[0], : shape[1]], x)
    assert (padded is x) == (shape == (8, 8))


@pytest.mark.parametrize(
    "wrong",
    [{"window": 3}, {"widths": ()}, {"widths": (8, 0)}, {"widths": (-8, 16)}, {"stem": 0}, {"stem": -2}, {"scale": 0}],
)
def test_an_impossible_architecture_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"window|positive|scale"):
        UNetConfig(**wrong)  # type: ignore[arg-type]
