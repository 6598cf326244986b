"""Streaks and their lighting: reproducible for a seed, in range, and as dense and slanted as asked for."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vderain.rain.streaks import Light, StreakLayer, add_haze, draw_light, draw_style, rain_onto, streak_opacity

LAYER = StreakLayer(angle_deg=0, length_px=30, width_px=1.5, density=3, opacity=0.6)
NOTHING = Light(ambient=0.5, sky=0.9, occlusion=0.8, haze=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(layer: StreakLayer, seed: int = 0, side_px: int = 256, frames: int = 1) -> Tensor:
    return streak_opacity((layer,), side_px, side_px, seeded(seed), frames)


def test_a_seed_repeats_style_rain_and_light() -> None:
    def once(seed: int) -> tuple[object, Tensor, Light]:
        generator = seeded(seed)
        style = draw_style(generator)
        return style, streak_opacity(style, 90, 120, generator, 2), draw_light(generator)

    (style, rain, light), (style2, rain2, light2) = once(5), once(5)
    assert style == style2
    assert light == light2
    assert torch.equal(rain, rain2)
    assert not torch.equal(rain, once(6)[1])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 90))
def test_opacity_is_in_range_at_any_size(seed: int, height: int, width: int) -> None:
    generator = seeded(seed)
    opacity = streak_opacity(draw_style(generator), height, width, generator, 2)
    assert opacity.shape == (2, height, width)
    assert float(opacity.min()) >= 0
    assert float(opacity.max()) <= 1


def test_streaks_are_redrawn_for_each_frame() -> None:
    first, second = drawn(LAYER, frames=2)
    both = torch.stack([first.flatten(), second.flatten()])
    assert float(first.mean()) == pytest.approx(float(second.mean()), rel=0.5)
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.2


@pytest.mark.parametrize("angle_deg", [-35, -10, 0, 20, 45])
def test_streaks_have_the_angle_of_the_style(angle_deg: float) -> None:
    opacity = drawn(StreakLayer(angle_deg, 60, 6, 3, 0.5), seed=1)[0].double()
    gy, gx = torch.gradient(opacity)
    across = 0.5 * math.atan2(2 * float((gx * gy).sum()), float((gx**2 - gy**2).sum()))
    assert -math.degrees(across) == pytest.approx(angle_deg, abs=2.5)


def test_spread_varies_the_direction_of_streaks() -> None:
    def across_share(spread_deg: float) -> float:
        gy, gx = torch.gradient(drawn(replace(LAYER, length_px=60, spread_deg=spread_deg), seed=1)[0])
        return float((gy**2).sum() / (gx**2).sum())

    assert across_share(25) > 2 * across_share(1)


def test_an_uneven_streak_loses_opacity_in_places() -> None:
    even, uneven = (drawn(replace(LAYER, opacity=0.2, uneven=share), frames=8) for share in (0, 0.8))
    assert float(uneven.mean() / even.mean()) == pytest.approx(1 - 0.8 / 2, abs=0.15)
    assert float(uneven.max()) == pytest.approx(float(even.max()), rel=0.3)


def test_more_density_is_more_rain() -> None:
    few, more = (float(drawn(StreakLayer(0, 30, 1.5, density, 0.2), frames=8).mean()) for density in (1, 4))
    assert more / few == pytest.approx(4, rel=0.25)


def test_a_heavier_style_covers_more() -> None:
    def covered(heaviness: float) -> float:
        return sum(float(streak_opacity(draw_style(seeded(s), heaviness), 64, 64, seeded(s)).mean()) for s in range(5))

    assert covered(0.0) < covered(0.5) < covered(1.0)


def test_without_rain_and_haze_the_frame_is_unchanged() -> None:
    clear = torch.rand(2, 3, 70, 90)
    assert torch.equal(rain_onto(clear, torch.zeros(2, 70, 90), NOTHING), clear)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_rain_never_darkens_what_is_darker_than_a_drop(seed: int) -> None:
    generator = seeded(seed)
    light = draw_light(generator)
    drop_at_least = (1 - light.ambient) * light.sky
    clear = torch.rand(1, 3, 40, 40, generator=generator) * drop_at_least
    rainy = rain_onto(clear, torch.rand(1, 40, 40, generator=generator), light)
    assert bool((rainy >= clear - 1e-6).all())
    assert float(rainy.max()) <= 1


def test_haze_blends_towards_the_sky() -> None:
    clear = torch.rand(1, 3, 40, 40)
    assert torch.allclose(add_haze(clear, Light(0.5, 0.8, 0.5, haze=0.25)), clear + 0.25 * (0.8 - clear))


def test_full_occlusion_and_opacity_show_only_the_drop() -> None:
    clear = torch.rand(1, 3, 40, 40)
    rainy = rain_onto(clear, torch.ones(1, 40, 40), Light(ambient=0, sky=0.7, occlusion=1, haze=0))
    assert torch.allclose(rainy, torch.full_like(rainy, 0.7))
