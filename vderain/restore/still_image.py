"""A picture that is no clip: no neighbour knows what is behind its rain, but there is time to look more than once.

Looked at as it is and mirrored, the network errs differently, and the mean of both errs less. Where rain is unlike any
that it learned from it takes too little, and finds more in what it made of the picture: the pass is repeated. Whether
it rains at all is judged by the first pass, since what a network mistakes for rain grows with each.

A shot of one frame is such a picture, and so is each of a folder whose pictures have nothing in common.
"""

from dataclasses import replace

import numpy as np

from vderain.restore.flow import Picture
from vderain.restore.inference import NetworkRunner
from vderain.restore.rain_detection import removed_light, score_rain
from vderain.restore.window import AlignedWindow, PreparedFrame, Residual, Restoration, single_frame_window

PASSES = 3


def refine_still(item: Restoration, network: NetworkRunner, guarded: bool) -> Restoration:
    """The same frame, unless it is a picture that is no clip and in which it may rain: that gets `by_passes`."""
    window = item.window
    if not window.prepared.is_still_image or item.rain_score == 0:
        return item
    return iterative_refinement(window, network, guarded)


def iterative_refinement(window: AlignedWindow, network: NetworkRunner, guarded: bool) -> Restoration:
    """What is to be added to a picture.

    Args:
        window: with the picture in its middle; nothing else of it counts.
        network: with the generator.
        guarded: leave a dry picture as it is, to the bit.
    """
    prepared = window.prepared
    total = flip_ensemble(prepared, prepared.rgb, network)
    rain_score = score_rain([removed_light(total)]) if guarded else 1.0
    if rain_score > 0:
        for _ in range(PASSES - 1):
            total += flip_ensemble(prepared, Restoration(window, total).rgb, network)
    return Restoration(window.without_pixels(), total * np.float16(rain_score), rain_score)


def flip_ensemble(prepared: PreparedFrame, rgb: Picture, network: NetworkRunner) -> Residual:
    """The mean of what a network would add to a picture and to its mirror image.

    Args:
        prepared: of the picture.
        rgb: (H, W, 3) uint8, as it is shown to the network.
        network: with the generator.

    Returns:
        (H, W, 3) in 0..1 units.
    """
    seen, mirrored = (
        single_frame_window(replace(prepared, rgb=np.ascontiguousarray(side))) for side in (rgb, rgb[:, ::-1])
    )
    return (network.picture(seen) + network.picture(mirrored)[:, ::-1]) / np.float16(2)
