"""A picture that is no clip: no neighbour knows what is behind its rain, but there is time to look more than once.

Looked at as it is and mirrored, the network errs differently, and the mean of both errs less. Where rain is unlike any
that it learned from it takes too little, and finds more in what it made of the picture: the pass is repeated. Whether
it rains at all is judged by the first pass, since what a network mistakes for rain grows with each.

A shot of one frame is such a picture, and so is each of a folder whose pictures have nothing in common.
"""

from dataclasses import replace

import numpy as np

from vderain.restore.derain import Derainer
from vderain.restore.guard import darkening, rain_presence
from vderain.restore.motion import Picture
from vderain.restore.temporal import Derained, Residual, Sight, Window, still

PASSES = 3


def looked_at_again(item: Derained, derainer: Derainer, guarded: bool) -> Derained:
    """The same frame, unless it is a picture that is no clip and in which it may rain: that gets `by_passes`."""
    window = item.window
    if not window.sight.lone or item.presence == 0:
        return item
    return by_passes(window, derainer, guarded)


def by_passes(window: Window, derainer: Derainer, guarded: bool) -> Derained:
    """What is to be added to a picture.

    Args:
        window: with the picture in its middle; nothing else of it counts.
        derainer: with the generator.
        guarded: leave a dry picture as it is, to the bit.
    """
    sight = window.sight
    total = both_ways(sight, sight.rgb, derainer)
    presence = rain_presence([darkening(total)]) if guarded else 1.0
    if presence > 0:
        for _ in range(PASSES - 1):
            total += both_ways(sight, Derained(window, total).rgb, derainer)
    return Derained(window.spent(), total * np.float16(presence), presence)


def both_ways(sight: Sight, rgb: Picture, derainer: Derainer) -> Residual:
    """The mean of what a network would add to a picture and to its mirror image.

    Args:
        sight: of the picture.
        rgb: (H, W, 3) uint8, as it is shown to the network.
        derainer: with the generator.

    Returns:
        (H, W, 3) in 0..1 units.
    """
    seen, mirrored = (still(replace(sight, rgb=np.ascontiguousarray(side))) for side in (rgb, rgb[:, ::-1]))
    return (derainer.picture(seen) + derainer.picture(mirrored)[:, ::-1]) / np.float16(2)
