"""Decides from a few small frames whether a whole video is dry, at a small part of the cost of decoding it.

The answer is "dry" only where that is clear. Everything else is for the scan of `rain_intervals`, which sees successive
frames at full size. A file that is clearly rainy or doubtful costs a few samples.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from vderain.media.frame import Frame
from vderain.restore.frames import PreparedFrame, downscaled, luma_of
from vderain.restore.inference import NetworkRunner
from vderain.restore.rain_detection import LightByTile, removed_light
from vderain.restore.raindrops import raindrop_level
from vderain.restore.window import align_windows, prepare_frames

MODEL = "fast"  # whatever model restores: the thresholds below were measured with it
FRAMES = 3  # a keyframe, which is judged, and the two behind it, with which it is compared
LINES_PX = 360  # size of the frames
EVERY_S = Fraction(19, 10)  # from keyframe to keyframe
LONGEST_GAP_S = 6.0  # without a sample
SECONDS_SAMPLES = 5  # over which thin rain adds up
RAINDROP_EVERY = 3  # samples: drops stay on the glass for many seconds
# Removed light of one sample, in levels of 255: median and mean of its tiles. Clear clips stay below .042 and .16.
SAMPLE_MEDIAN_LEVELS, SAMPLE_MEAN_LEVELS = 0.06, 0.25
# Median tile of the mean over `SECONDS_SAMPLES`: thin real rain makes .09, a wet glass at sunset .03; clear clips stay
# below .02 but for one of .042, which is scanned at full size. Streaks around a lamp at night, .002, are not seen.
SECONDS_MEDIAN_LEVELS = 0.025
# Mean luma of a keyframe, of 255: at night rain shows around lamps only, and these scores do not tell. Clear clips
# stay above 80, a street lamp in the rain goes down to 33.
NIGHT_LEVELS = 64.0
RAINDROP_LEVELS = 0.25  # wet glass makes more than .9; what passes for drops in a single frame of a dry clip up to .21


class QuickLook:
    """Looks for rain in groups of small frames.

    Args:
        network: the generator of `MODEL`.
        raindrop_network: the generator that finds raindrops on the windshield; None where they do not matter.
    """

    def __init__(self, network: NetworkRunner, raindrop_network: NetworkRunner | None) -> None:
        self._network, self._raindrop_network = network, raindrop_network

    def is_dry(
        self, groups: Iterable[list[Frame]], rotation_quarters: int, begin_s: float, end_s: float | None
    ) -> bool:
        """Whether it is clear that it does not rain anywhere; stops reading at the first sign that it may.

        Args:
            groups: what `keyframe_groups` yields, at most `LINES_PX` large.
            rotation_quarters: quarter turns counter-clockwise that a player makes before showing the frames.
            begin_s: where the part that matters begins, on the clock of the frames.
            end_s: where it ends; None where the file does not say, so that nothing is clear.
        """
        if end_s is None:
            return False
        recent: deque[LightByTile] = deque(maxlen=SECONDS_SAMPLES)
        last_s, is_cut_off = begin_s, False
        for number, group in enumerate(groups):
            if is_cut_off:  # not by the end of the file, but by damage
                return False
            if len(group) < FRAMES:
                is_cut_off = True
                continue
            time_s = float(group[0].pts * group[0].time_base)
            if not last_s - LONGEST_GAP_S <= time_s <= last_s + LONGEST_GAP_S:
                return False
            last_s = time_s
            prepared = list(prepare_frames(group, 1, rotation_quarters))
            if float(np.mean(luma_of(prepared[0].rgb))) < NIGHT_LEVELS:
                return False
            if number % RAINDROP_EVERY == 0 and self._raindrop_level(prepared[0]) > RAINDROP_LEVELS:
                return False
            recent.append(self._removed_light(prepared))
            if _may_be_rain(recent):
                return False
        return bool(recent) and end_s - last_s <= LONGEST_GAP_S

    def _removed_light(self, frames: list[PreparedFrame]) -> LightByTile:
        """What the network removes from the first of successive frames."""
        window = next(iter(align_windows(frames, 1)))
        restored: Iterator[LightByTile] = (removed_light(item.residual) for item in self._network([window]))
        return next(restored)

    def _raindrop_level(self, frame: PreparedFrame) -> float:
        if self._raindrop_network is None:
            return 0.0
        return raindrop_level(self._raindrop_network.restore_image(downscaled(frame.rgb)))


def _may_be_rain(recent: deque[LightByTile]) -> bool:
    tiles = recent[-1]
    return (
        float(np.median(tiles)) > SAMPLE_MEDIAN_LEVELS
        or float(np.mean(tiles)) > SAMPLE_MEAN_LEVELS
        or float(np.median(np.mean(recent, axis=0))) > SECONDS_MEDIAN_LEVELS
    )
