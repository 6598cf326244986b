"""Detects rain from the network's residual, and zeroes the residual in dry scenes.

Rain falls everywhere. What a network mistakes for it (a fence that flow lost, a lane mark, a sunlit post) is in a few
places. So a scene in which most of the frame would be left alone is dry, and stays as it is, to the bit.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.restore.frames import RADIUS, Residual, Restoration, luma_of, to_float32
from vderain.restore.scene_state import Observation, scene_states, thumbnail_of
from vderain.runtime.threads import stage

TILES = (8, 6)  # columns and rows into which a frame is divided
IGNORED_LEVELS = 1.0  # a darkening below this is not a streak
# For one image or a sample of few frames: mean darkening of the median tile, in levels of 255. Over clear driving clips
# it stays below .03 but for six frames of .04 to .055; in the thinnest real rain we have it is .03 to .09, in other
# real rain above .12, in a shower above 1.
DRY_LEVELS, RAINY_LEVELS = 0.045, 0.085
# Mean darkening of all tiles: rain may be visible in the light of a lamp alone. Clear clips stay below .2.
DRY_MEAN_LEVELS, RAINY_MEAN_LEVELS = 0.3, 0.6
# Mean darkening of the median tile over seconds, in which thin rain falls everywhere and false detections pass by: the
# thinnest real rain stays above .07, clear clips below .056 but for one in two hundred samples.
DRY_SECONDS_LEVELS, RAINY_SECONDS_LEVELS = 0.05, 0.075
# Mean of `scene_level` over a second: below .14 in clear clips (street, motorway and town; every frame to every
# eighth) and .02 at night with rain too faint for the network; .21 or more in thin rain, .6 to 8 in other real rain.
EVERYWHERE_WEIGHT = 4.0
DRY_SCENE_LEVELS, RAINY_SCENE_LEVELS = 0.165, 0.215

LightByTile = NDArray[np.float32]  # (6, 8), levels of 255


def zero_dry_scenes(
    restorations: Iterable[Restoration],
    radius: int = RADIUS,
    on_score: Callable[[float], None] = lambda rain_score: None,
) -> Iterator[Restoration]:
    """Scale each residual by the rain of its scene; in dry scenes it becomes zero.

    Args:
        restorations: the network's output, in order.
        radius: 0 for unrelated images, each of which is judged by itself.
        on_score: called with each frame's rain score, in order.
    """
    waiting: deque[tuple[Restoration, LightByTile]] = deque()

    def observed() -> Iterator[Observation]:
        for item in restorations:
            light = _measure(item)
            waiting.append((item, light))
            yield _observe(item, light, alone=radius == 0)

    for state in scene_states(observed(), DRY_SCENE_LEVELS, RAINY_SCENE_LEVELS):
        item, light = waiting.popleft()
        alone = state.is_still_image or radius == 0
        rain_score = score_rain([light]) if alone else state.strength
        on_score(rain_score)
        factor = np.float16(rain_score if alone else rain_score * state.limit)
        residual = item.residual if factor == 1 else item.residual * factor
        yield replace(item, residual=residual, rain_score=rain_score, is_still_image=state.is_still_image)


@stage("rain_detection")
def _measure(item: Restoration) -> LightByTile:
    return removed_light(item.residual)


@stage("rain_detection")
def _observe(item: Restoration, light: LightByTile, alone: bool) -> Observation:
    return Observation(
        shot=item.number if alone else item.shot,
        is_still_image=alone or item.is_still_image,
        thumbnail=thumbnail_of(luma_of(item.rgb)),
        level=scene_level(light),
        change_levels=float(np.abs(np.rint(to_float32(item.residual) * np.float32(255))).mean(dtype=np.float32)),
    )


def scene_level(light: LightByTile) -> float:
    """The evidence of rain in one frame, from the light removed everywhere and anywhere.

    Args:
        light: `removed_light` of the frame.

    Returns:
        In levels of 255.
    """
    return EVERYWHERE_WEIGHT * float(np.median(light)) + float(np.mean(light))


def removed_light(residual: Residual) -> LightByTile:
    """How much light a residual takes from each tile of a frame.

    Args:
        residual: (H, W, 3) in 0..1 units.

    Returns:
        (6, 8) float32, in levels of 255.
    """
    return mean_by_tile(to_float32(residual).mean(axis=2) * np.float32(-255), IGNORED_LEVELS)


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
