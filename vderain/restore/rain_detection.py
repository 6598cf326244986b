"""Detects rain from the network's residual, and zeroes the residual in dry scenes.

Rain falls everywhere. What a network mistakes for it (a fence that flow lost, a lane mark, a sunlit post) is in a few
places. So a scene in which most of the frame would be left alone is dry, and stays as it is, to the bit.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.frames import RADIUS, Residual, Restoration
from vderain.runtime.threads import sliding_window, stage

TILES = (8, 6)  # columns and rows into which a frame is divided
IGNORED_LEVELS = 1.0  # a darkening below this is not a streak
# Mean darkening of the median tile, in levels of 255. Over clear driving clips, up to eight frames apart, it stays
# below .03 but for six frames of .04 to .055; in the thinnest real rain we have it is .03 to .09, in other real rain
# above .12, in a shower above 1.
DRY_LEVELS, RAINY_LEVELS = 0.045, 0.085
# Mean darkening of all tiles: rain may be visible in the light of a lamp alone. Clear clips stay below .2.
DRY_MEAN_LEVELS, RAINY_MEAN_LEVELS = 0.3, 0.6
# Mean darkening of the median tile over seconds, in which thin rain falls everywhere and false detections pass by: the
# thinnest real rain stays above .07, clear clips below .056 but for one in two hundred samples.
DRY_SECONDS_LEVELS, RAINY_SECONDS_LEVELS = 0.05, 0.075

LightByTile = NDArray[np.float32]  # (6, 8), levels of 255


def zero_dry_scenes(
    restorations: Iterable[Restoration],
    radius: int = RADIUS,
    on_score: Callable[[float], None] = lambda rain_score: None,
) -> Iterator[Restoration]:
    """Scale each residual by the rain detected around its frame; in dry scenes it becomes zero.

    Args:
        restorations: the network's output, in order.
        radius: frames before and after that are judged together; 0 for unrelated images.
        on_score: called with each frame's rain score, in order.
    """
    measured = ((item, _measure(item)) for item in restorations)
    for around in sliding_window(measured, radius):
        middle = around[radius]
        assert middle is not None
        item, _ = middle
        scene = {item.number, *item.sources}
        judged = [pair for pair in filter(None, around) if pair[0].number in scene and pair[0].shot == item.shot]
        rain_score = score_rain([light for _, light in judged])
        on_score(rain_score)
        scaled = item.residual if rain_score == 1 else item.residual * np.float16(rain_score)
        yield replace(item, residual=scaled, rain_score=rain_score)


@stage("rain_detection")
def _measure(item: Restoration) -> LightByTile:
    return removed_light(item.residual)


def removed_light(residual: Residual) -> LightByTile:
    """How much light a residual takes from each tile of a frame.

    Args:
        residual: (H, W, 3) in 0..1 units.

    Returns:
        (6, 8) float32, in levels of 255.
    """
    return mean_by_tile(residual.mean(axis=2, dtype=np.float32) * np.float32(-255), IGNORED_LEVELS)


def mean_by_tile(levels: NDArray[np.float32], ignored: float) -> NDArray[np.float32]:
    """The mean over each tile of what exceeds a threshold.

    Args:
        levels: (H, W).
        ignored: the threshold.

    Returns:
        (6, 8) float32.
    """
    excess = np.maximum(levels - np.float32(ignored), 0)
    return np.asarray(cv2.resize(excess, TILES, interpolation=cv2.INTER_AREA), dtype=np.float32)


def score_rain(samples: list[LightByTile]) -> float:
    """The rain score of neighbouring frames of one scene.

    Args:
        samples: `removed_light` of each frame.

    Returns:
        From 0 (dry) to 1 (rainy).
    """
    tiles = np.mean(samples, axis=0)  # (6, 8)
    everywhere = (float(np.median(tiles)) - DRY_LEVELS) / (RAINY_LEVELS - DRY_LEVELS)
    somewhere = (float(np.mean(tiles)) - DRY_MEAN_LEVELS) / (RAINY_MEAN_LEVELS - DRY_MEAN_LEVELS)
    return float(np.clip(max(everywhere, somewhere), 0, 1))


def score_thin_rain(samples: list[LightByTile]) -> float:
    """The rain score of frames spread over some seconds, which shows rain too thin for `score_rain`.

    Args:
        samples: `removed_light` of each frame.

    Returns:
        From 0 (dry) to 1 (rainy).
    """
    everywhere = float(np.median(np.mean(samples, axis=0))) - DRY_SECONDS_LEVELS
    return float(np.clip(everywhere / (RAINY_SECONDS_LEVELS - DRY_SECONDS_LEVELS), 0, 1))
