"""Still images: flip ensemble and iterative refinement; dry ones stay as they are."""

import numpy as np
import pytest
import torch
from clips import as_frame, textured
from conftest import tiny_generator

from vderain.model.unet import UNet
from vderain.restore.frames import Restoration
from vderain.restore.inference import NetworkRunner
from vderain.restore.still_image import PASSES, iterative_refinement
from vderain.restore.window import single_frame
from vderain.runtime.device import DevicePlacement

CPU = DevicePlacement(torch.device("cpu"), bf16=False)
PICTURE = textured(4, (60, 81))


def refine(picture: np.ndarray, network: NetworkRunner, skip_dry: bool) -> Restoration:
    window = single_frame(as_frame(np.ascontiguousarray(picture)))
    item = Restoration.of_window(window, np.zeros(picture.shape, np.float16))
    return iterative_refinement(item, network, skip_dry)


class Darkening(UNet):
    """A generator that darkens every pixel, more on the left."""

    def __init__(self, levels: float) -> None:
        super().__init__(tiny_generator(1).config)
        self.levels = levels

    def forward(self, window: torch.Tensor, confidence: torch.Tensor | None = None) -> torch.Tensor:
        across = torch.linspace(1, 0.5, window.shape[-1])
        return (-self.levels / 255 * across).expand(1, 3, *window.shape[-2:])


@pytest.mark.parametrize("window", [1, 5])
def test_a_mirrored_image_gives_the_mirrored_result(window: int) -> None:
    network = NetworkRunner(tiny_generator(window), CPU)
    found, mirrored = (refine(picture, network, skip_dry=False).residual for picture in (PICTURE, PICTURE[:, ::-1]))
    assert np.abs(found).max() > 0.01
    assert np.abs(found - mirrored[:, ::-1]).max() < 1e-3


def test_each_pass_works_on_the_result_of_the_one_before() -> None:
    found = refine(PICTURE, NetworkRunner(Darkening(4), CPU), skip_dry=True)
    assert found.rain_score == 1
    assert np.abs(found.residual * 255 + PASSES * 4 * 0.75).max() < 0.05


def test_a_dry_image_stays_bit_identical_unless_asked() -> None:
    faint = NetworkRunner(Darkening(1), CPU)
    assert refine(PICTURE, faint, skip_dry=True).rain_score == 0
    assert not refine(PICTURE, faint, skip_dry=True).residual.any()
    assert refine(PICTURE, faint, skip_dry=False).residual.any()
