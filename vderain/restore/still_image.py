"""Restores still images: averages the network over a horizontal flip, and applies it three times.

A still image has no neighbours that show what is behind its rain, but there is time for several passes. The network
errs differently on the mirror image, and the mean of both results errs less (flip ensemble). Where rain is unlike any
in the training data the network removes too little, and finds more in its own result (iterative refinement). Whether
it rains at all is judged by the first pass, since false detections grow with each.

A shot of a single frame counts as a still image; so does each image of a folder of unrelated images.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from vderain.restore.frames import Picture, Residual, Restoration, add_to_rgb
from vderain.restore.rain_detection import removed_light, score_rain
from vderain.runtime.threads import stage

PASSES = 3


class ImageNetwork(Protocol):
    """A network that restores images without neighbours."""

    def flip_ensemble(self, rgb: Picture) -> Residual:
        """The mean of the residuals of an image and of its mirror image, (H, W, 3 or 1)."""


def refine_still_images(
    restorations: Iterable[Restoration], network: ImageNetwork, skip_dry: bool
) -> Iterator[Restoration]:
    """Restore rainy still images again, with more passes; other frames pass unchanged.

    Args:
        restorations: in order, with their rain scores.
        network: as used for `restorations`.
        skip_dry: leave dry images as they are, to the bit.
    """
    for item in restorations:
        refine = item.is_still_image and item.rain_score > 0
        yield iterative_refinement(item, network, skip_dry) if refine else item


@stage("network")
def iterative_refinement(item: Restoration, network: ImageNetwork, skip_dry: bool) -> Restoration:
    """Replace a still image's residual by the sum of three passes.

    Args:
        item: the image; its residual is not used.
        network: the generator to run.
        skip_dry: leave a dry image as it is, to the bit.
    """
    total = network.flip_ensemble(item.rgb)
    rain_score = score_rain([removed_light(total)]) if skip_dry else 1.0
    if rain_score > 0:
        for _ in range(PASSES - 1):
            total = total + network.flip_ensemble(add_to_rgb(item.rgb, total))
    return replace(item, residual=total * np.float16(rain_score), rain_score=rain_score)
