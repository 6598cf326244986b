"""A picture that is no clip is looked at both ways and more than once; a dry one is left alone."""

import numpy as np
import pytest
import torch
from clips import as_frame, textured
from conftest import tiny_generator

from vderain.model.unet import UNet
from vderain.restore.inference import NetworkRunner
from vderain.restore.still_image import PASSES, iterative_refinement
from vderain.restore.window import single_frame
from vderain.runtime.device import DevicePlacement

CPU = DevicePlacement(torch.device("cpu"), bf16=False)
PICTURE = textured(4, (60, 81))


class Darkening(UNet):
    """A generator that takes the same from every pixel, more on the left of what it sees."""

    def __init__(self, levels: float) -> None:
        super().__init__(tiny_generator(1).config)
        self.levels = levels

    def forward(self, window: torch.Tensor, confidence: torch.Tensor | None = None) -> torch.Tensor:
        across = torch.linspace(1, 0.5, window.shape[-1])
        return (-self.levels / 255 * across).expand(1, 3, *window.shape[-2:])


@pytest.mark.parametrize("window", [1, 5])
def test_the_mirror_image_of_a_picture_becomes_the_mirror_image_of_the_result(window: int) -> None:
    network = NetworkRunner(tiny_generator(window), CPU)
    found, mirrored = (
        iterative_refinement(single_frame(as_frame(np.ascontiguousarray(picture))), network, guarded=False).residual
        for picture in (PICTURE, PICTURE[:, ::-1])
    )
    assert np.abs(found).max() > 0.01
    assert np.abs(found - mirrored[:, ::-1]).max() < 1e-3


def test_each_pass_takes_what_the_one_before_left() -> None:
    found = iterative_refinement(single_frame(as_frame(PICTURE)), NetworkRunner(Darkening(4), CPU), guarded=True)
    assert found.rain_score == 1
    assert np.abs(found.residual * 255 + PASSES * 4 * 0.75).max() < 0.05


def test_a_dry_picture_is_left_to_the_bit_unless_unguarded() -> None:
    faint = NetworkRunner(Darkening(1), CPU)
    assert iterative_refinement(single_frame(as_frame(PICTURE)), faint, guarded=True).rain_score == 0
    assert not iterative_refinement(single_frame(as_frame(PICTURE)), faint, guarded=True).residual.any()
    assert iterative_refinement(single_frame(as_frame(PICTURE)), faint, guarded=False).residual.any()
