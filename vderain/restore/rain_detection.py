"""Whether it rains at all: what the network would take out of a few frames enters, and leaves only if it is rain.

Rain falls everywhere. What a network mistakes for it (a fence that flow lost, a lane mark, a sunlit post) is in a few
places; so a scene in which most of the picture would be left alone is dry, and stays as it is, to the bit.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.window import RADIUS, Residual, Restoration
from vderain.runtime.threads import Timed, sliding_window, untimed

TILES = (8, 6)  # across and down, over which parts of a picture are compared
IGNORED_LEVELS = 1.0  # a darkening below this is no streak
# Mean darkening of the median tile, in levels of 255. Over clear driving clips, up to eight frames apart, it stays
# below .03 but for six frames of .04 to .055; in the thinnest real rain we have it is .03 to .09, in other real rain
# above .12, in a shower above 1.
DRY_LEVELS, RAINY_LEVELS = 0.045, 0.085
# Of the mean tile: rain may be seen in the light of a lamp alone. Clear clips stay below .2.
DRY_MEAN_LEVELS, RAINY_MEAN_LEVELS = 0.3, 0.6
# Of the median tile over seconds, in which thin rain falls everywhere and what only looks like rain passes by: the
# thinnest real rain stays above .07, clear clips below .056 but for one in two hundred looks.
DRY_SECONDS_LEVELS, RAINY_SECONDS_LEVELS = 0.05, 0.075


def removed_light(residual: Residual) -> NDArray[np.float32]:
    """How much light is taken from each part of a frame.

    Args:
        residual: (H, W, 3) in 0..1 units.

    Returns:
        (6, 8) in levels of 255.
    """
    return by_tile(residual.mean(axis=2, dtype=np.float32) * np.float32(-255), IGNORED_LEVELS)


def by_tile(levels: NDArray[np.float32], ignored: float) -> NDArray[np.float32]:
    """(H, W) to (6, 8): the mean over each tile of what exceeds the levels to be ignored."""
    excess = np.maximum(levels - np.float32(ignored), 0)
    return np.asarray(cv2.resize(excess, TILES, interpolation=cv2.INTER_AREA), dtype=np.float32)


def score_rain(darkenings: list[NDArray[np.float32]]) -> float:
    """From 0, dry, to 1, rainy, by the darkening of neighbouring frames of one scene."""
    tiles = np.mean(darkenings, axis=0)
    everywhere = (float(np.median(tiles)) - DRY_LEVELS) / (RAINY_LEVELS - DRY_LEVELS)
    somewhere = (float(np.mean(tiles)) - DRY_MEAN_LEVELS) / (RAINY_MEAN_LEVELS - DRY_MEAN_LEVELS)
    return float(np.clip(max(everywhere, somewhere), 0, 1))


def score_thin_rain(darkenings: list[NDArray[np.float32]]) -> float:
    """The same by frames that are spread over some seconds."""
    everywhere = float(np.median(np.mean(darkenings, axis=0))) - DRY_SECONDS_LEVELS
    return float(np.clip(everywhere / (RAINY_SECONDS_LEVELS - DRY_SECONDS_LEVELS), 0, 1))


def zero_dry_scenes(
    derained: Iterable[Restoration],
    radius: int = RADIUS,
    note: Callable[[float], None] = lambda rain_score: None,
    timed: Timed = untimed,
) -> Iterator[Restoration]:
    """Scales what is added to each frame by the presence of rain around it.

    Args:
        derained: what the network would do.
        radius: frames before and after that are looked at too; 0 for pictures that are no clip.
        note: is told each frame's presence, in order.
        timed: counts the time.
    """

    def judged(item: Restoration) -> tuple[Restoration, NDArray[np.float32]]:
        return item, removed_light(item.residual)

    measured = map(timed("guard", judged), derained)
    for around in sliding_window(measured, radius):
        middle = around[radius]
        assert middle is not None
        item = middle[0]
        scene = {item.window.number, *item.window.sources}
        rain_score = score_rain([tiles for other, tiles in filter(None, around) if other.window.number in scene])
        note(rain_score)
        scaled = item.residual if rain_score == 1 else item.residual * np.float16(rain_score)
        yield replace(item, residual=scaled, rain_score=rain_score)
