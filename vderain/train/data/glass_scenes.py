"""Draws sequences of frames behind a windshield: drops that live in time, before scenes that move or stand.

Not all that stays in the picture is a drop: a car ahead and the bonnet keep their places, lane lines seem to, a camera
writes the time over the frame, the dashboard is reflected in the glass, and dirt stays on it. A wiper blade passes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.rain.refraction import refract_through
from vderain.rain.streaks import log_uniform, uniform
from vderain.rain.windshield import Glass, Windshield, draw_glass, draw_rimmed_glass, draw_spray
from vderain.restore.glass import Map
from vderain.train.config import Data
from vderain.train.data.scenes import Scenes, clip_window, drive_window, of_sequences, photo_window
from vderain.train.data.windows import (
    Frames,
    compressed,
    draw_quality,
    frames8,
    noise,
    rain_cuts,
    rained_on,
    tone,
)

STOP_SHARE = 0.2  # of sequences in which the car stops, or starts
STREAKS_SHARE, SOFT_SHARE = 0.3, 0.35  # of sequences with streaks, and of those that are less sharp
SOFT_PX = 1.5
FIXED_SHARE = 0.6  # of sequences with objects that stay where they are in the picture: a car ahead, a bonnet
STAMP_SHARE = 0.3  # of sequences with lettering in front of the drops
DIRT_SHARE = 0.3  # of sequences with reflections or smears on the glass
RIMMED_SHARE, SPRAY_SHARE = 0.25, 0.12  # of glasses with drops of the second kind, and with fine spray
RUNS, WATCHED_S = (1.0, 12.0), 24.0  # about so many in the time before a sequence
RUNNING_SHARE = 0.4  # of glasses on which drops have run down and left trails
MOVING_SHARE, WIPED_SHARE = 0.4, 0.3  # of glasses on which drops change, and of those, with a wiper
FRAME_S = 1 / 30, 1 / 8  # time between two frames
BLADE_H = 0.01, 0.05  # width of a wiper blade


class BehindGlass(NamedTuple):
    """A sequence behind a windshield.

    Attributes:
        rainy: (T, S, S, 3) uint8.
        clear: (T, S, S, 3) uint8, the same behind dry glass.
        covers: (S, S) float32 in 0..1 for each frame, how far drops cover it.
    """

    rainy: Frames
    clear: Frames
    covers: list[Map]


def sequences(
    scenes: Scenes, data: Data, seed: int, length: int
) -> Callable[[int], tuple[BehindGlass, np.random.Generator]]:
    """A function that draws sequences by their numbers, with the random numbers for what is done with them.

    Args:
        scenes: to cut them from.
        data: section of the recipe.
        seed: of the run.
        length: T.

    Raises:
        InputError: every clip is too short, and there are no photographs.
    """
    return partial(_drawn, of_sequences(scenes, length), data, (seed, length))


def _drawn(scenes: Scenes, data: Data, sizes: tuple[int, int], number: int) -> tuple[BehindGlass, np.random.Generator]:
    """Sequence number `number`; see `sequences`. `sizes` are the seed and T."""
    seed, length = sizes
    side_px = data.side_px + 2 * data.border_px
    rng = np.random.default_rng((seed, 6, number))
    clear = noise(tone(_scene(scenes, data.share_clips, side_px, length, rng), rng), rng)
    if rng.random() < SOFT_SHARE:
        sigma_px = max(0.3, rng.uniform(0, SOFT_PX))
        clear = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma_px) for frame in clear]).astype(np.uint8)
    opacity = np.zeros((length, side_px, side_px), np.uint8)
    if rng.random() < STREAKS_SHARE:
        opacity = rain_cuts(seed, number, side_px, length, rng)
    _, rained, sky, generator = rained_on(clear, opacity, rng)
    behind = BehindGlass(frames8(rained), frames8(rained), [np.zeros(opacity.shape[1:], np.float32)] * length)
    if rng.random() >= data.share_dry:
        behind = _through_living_glass(rained, sky, generator)
    if rng.random() < DIRT_SHARE and scenes.photos:
        behind = _with(behind, _dirt(photo_window(scenes, side_px, rng), rng), hides=False)
    if rng.random() < STAMP_SHARE:
        behind = _with(behind, _stamp(side_px, rng), hides=True)
    quality = draw_quality(rng)
    if quality is not None:
        rainy, clear = (np.stack([compressed(frame, quality) for frame in part]) for part in behind[:2])
        behind = behind._replace(rainy=rainy, clear=clear)
    return behind, rng


def _scene(scenes: Scenes, share_clips: float, side_px: int, length: int, rng: np.random.Generator) -> Frames:
    """(T, S, S, 3) clear frames; in some, the car stops or starts."""
    clips, photos = scenes.clips, scenes.photos
    if not photos or (clips and rng.random() < share_clips):
        frames = clip_window(clips, side_px, rng, length)
    else:
        frames = drive_window(scenes, side_px, rng, length)
    if rng.random() < STOP_SHARE:
        steps = np.maximum(np.arange(length) - int(rng.integers(2, length)), 0)
        frames = frames[steps if rng.random() < 0.5 else steps[::-1]]
    if photos and rng.random() < FIXED_SHARE:
        frames = _fixed_objects(photo_window(scenes, side_px, rng), rng).over(frames)
    return np.ascontiguousarray(frames)


class Overlay(NamedTuple):
    """What is drawn over every frame of a sequence, at the same place.

    Attributes:
        picture: (S, S, 3) uint8.
        opacity: (S, S, 1) float32 in 0..1.
    """

    picture: Frames
    opacity: Map

    @classmethod
    def of_mask(cls, picture: Frames, mask: NDArray[np.uint8]) -> "Overlay":
        """An overlay where a mask, (S, S), is 255."""
        return cls(picture, cv2.GaussianBlur(mask, (3, 3), 0.6)[..., None].astype(np.float32) / np.float32(255))

    def over(self, frames: Frames) -> Frames:
        """(T, S, S, 3) frames with the overlay."""
        change = self.opacity * (self.picture.astype(np.float32) - frames)
        return np.asarray(frames + change + np.float32(0.5)).astype(np.uint8)


def _fixed_objects(texture: Frames, rng: np.random.Generator) -> Overlay:
    """Objects that do not move in the picture, with the texture of a photograph."""
    side_px = len(texture)
    mask = np.zeros((side_px, side_px), np.uint8)
    texture = texture.copy()
    for _ in range(rng.integers(1, 5)):
        x, y = (int(value) for value in rng.integers(side_px, size=2))
        wide, high = (int(math.exp(rng.uniform(1.1, math.log(side_px / 3)))) for _ in range(2))
        if rng.random() < 0.4:
            cv2.ellipse(mask, (x, y), (wide, high), rng.uniform(0, 180), 0, 360, 255, -1)
        else:
            cv2.rectangle(mask, (x, y), (x + wide, y + high), 255, -1)
    if rng.random() < 0.5:
        _draw_lane_lines(texture, mask, rng)
    return Overlay.of_mask(texture, mask)


def _stamp(side_px: int, rng: np.random.Generator) -> Overlay:
    """Time, speed or an emblem, as a camera writes them into the picture."""
    picture, mask = np.zeros((side_px, side_px, 3), np.uint8), np.zeros((side_px, side_px), np.uint8)
    for _ in range(rng.integers(1, 4)):
        colour = [int(value) for value in rng.choice([[255, 255, 255], [255, 255, 0], [0, 0, 0], [230, 60, 40]])]
        place = int(rng.integers(-side_px // 4, side_px // 2)), int(rng.integers(side_px))
        scale, font = rng.uniform(0.3, 1.2), int(rng.integers(8))
        text, thick = f"{rng.integers(10**8):08,}"[: rng.integers(3, 10)], int(1 + scale * rng.uniform(0, 2.5))
        if rng.random() < 0.3:
            cv2.putText(picture, text, place, font, scale, [0, 0, 0], thick + 2, cv2.LINE_AA)
            cv2.putText(mask, text, place, font, scale, 255, thick + 2, cv2.LINE_AA)
        cv2.putText(picture, text, place, font, scale, colour, thick, cv2.LINE_AA)
        cv2.putText(mask, text, place, font, scale, 255, thick, cv2.LINE_AA)
    return Overlay.of_mask(picture, mask)


def _draw_lane_lines(texture: Frames, mask: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Draw lane lines and kerbs into a texture and its mask: along themselves they move, and seem to stand."""
    side_px = len(mask)
    far = np.array([rng.uniform(-0.2, 1.2), rng.uniform(-0.1, 0.6)]) * side_px
    shade = rng.choice([240, 215, 180, 40])
    colour = [int(value) for value in np.clip(shade + rng.normal(size=3) * 10, 0, 255)]
    for _ in range(rng.integers(1, 5)):
        near_px, width_px = rng.uniform(-0.8, 1.8) * side_px, math.exp(rng.uniform(0.5, 2.6))
        near = np.array([near_px, 1.05 * side_px])
        begins = far + rng.uniform(0, 0.4) * (near - far)
        half = np.array([width_px / 2, 0])
        corners = np.rint([begins - 0.1 * half, begins + 0.1 * half, near + half, near - half]).astype(np.int32)
        cv2.fillConvexPoly(texture, corners, colour, cv2.LINE_AA)
        cv2.fillConvexPoly(mask, corners, 255, cv2.LINE_AA)


def _dirt(picture: Frames, rng: np.random.Generator) -> Overlay:
    """A faint reflection of the dashboard in the glass, or smears on it."""
    side_px = len(picture)
    coarse = rng.normal(0, 1, (int(rng.integers(3, 12)), int(rng.integers(3, 40)))).astype(np.float32)
    smooth = np.clip(cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC), 0, 1)
    if rng.random() < 0.5:
        picture = np.full_like(picture, int(rng.integers(90, 220)))
        turn = cv2.getRotationMatrix2D((side_px / 2, side_px / 2), rng.uniform(0, 180), 1.5)
        smooth = cv2.warpAffine(smooth, turn, (side_px, side_px), borderMode=cv2.BORDER_REFLECT)
    opacity = np.float32(rng.uniform(0.04, 0.3)) * smooth
    return Overlay(picture, np.asarray(opacity, np.float32)[..., None])


def _with(behind: BehindGlass, overlay: Overlay, hides: bool) -> BehindGlass:
    """A sequence with an overlay in front; `hides` tells whether it hides drops."""
    covers = [cover * (1 - overlay.opacity[..., 0]) for cover in behind.covers] if hides else behind.covers
    return BehindGlass(overlay.over(behind.rainy), overlay.over(behind.clear), covers)


def draw_living_glass(generator: torch.Generator) -> tuple[Glass, bool]:
    """Draw the glass of a sequence, and whether drops run, land and are wiped while it is watched."""
    kind = uniform(0, 1, generator)
    draw = draw_rimmed_glass if kind < RIMMED_SHARE else draw_spray if kind < RIMMED_SHARE + SPRAY_SHARE else draw_glass
    glass = draw(generator)
    if uniform(0, 1, generator) < RUNNING_SHARE:
        glass = replace(
            glass,
            running=min(0.1, log_uniform(*RUNS, generator) / (WATCHED_S * glass.landing)),
            trail=log_uniform(0.12, 0.7, generator),
            film_s=log_uniform(0.5, 8, generator),
        )
    if uniform(0, 1, generator) >= MOVING_SHARE:
        return glass, False
    if uniform(0, 1, generator) < WIPED_SHARE:
        glass = replace(glass, wipe_every_s=uniform(1.2, 4.0, generator), landing=2 * glass.landing)
    return glass, True


def _through_living_glass(frames: Tensor, sky: float, generator: torch.Generator) -> BehindGlass:
    """Render drops over (T, 3, S, S) frames in 0..1."""
    glass, moving = draw_living_glass(generator)
    if torch.rand((), generator=generator) < 0.5:  # dusk: drops are no brighter than the scene
        sky = min(sky, float(frames.amax(1).flatten()[::7].quantile(0.98)))
    windshield = Windshield(glass, frames.shape[3] / frames.shape[2], generator)
    if not moving:
        seen, cover = refract_through(frames, windshield.drops(0.0), 0.0, glass, sky)
        return BehindGlass(frames8(seen), frames8(frames), [cover.numpy()] * len(frames))
    frame_s, width_h = log_uniform(*FRAME_S, generator), log_uniform(*BLADE_H, generator)
    shade = int(uniform(5, 60, generator))
    rainy, clear, covers = [], [], []
    for number, frame in enumerate(frames):
        time_s = number * frame_s
        seen, cover = refract_through(frame[None], windshield.drops(time_s), time_s, glass, sky)
        parts = BehindGlass(frames8(seen), frames8(frame[None]), [cover.numpy()])
        blade = windshield.blade(time_s)
        if blade is not None:
            parts = _with(parts, _blade(blade, width_h, shade, len(cover)), hides=True)
        rainy.append(parts.rainy)
        clear.append(parts.clear)
        covers += parts.covers
    return BehindGlass(np.concatenate(rainy), np.concatenate(clear), covers)


def _blade(
    ends_h: tuple[tuple[float, float], tuple[float, float]], width_h: float, shade: int, side_px: int
) -> Overlay:
    """A wiper blade, dark, over the whole of what it hides."""
    mask = np.zeros((side_px, side_px), np.uint8)
    one, other = ([round(end * side_px) for end in place] for place in ends_h)
    cv2.line(mask, one, other, 255, max(1, round(width_h * side_px)), cv2.LINE_AA)
    return Overlay.of_mask(np.full((side_px, side_px, 3), shade, np.uint8), mask)
