"""Training windows: renders rain onto clear scenes and aligns the five frames as `vderain process` does.

Window number i is a function of the seed and i alone. So the number of worker processes changes nothing, and a
resumed run sees the same windows. Noise, compression and haze are in the target as well: the network is not rewarded
for removing anything but rain.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vderain.rain.refraction import refract_through
from vderain.rain.streaks import add_haze, draw_light, draw_style, rain_onto, streak_opacity
from vderain.rain.windshield import Windshield, draw_glass
from vderain.restore.flow import FlowEstimator, align, consistent_flow, flow_luma
from vderain.restore.frames import WINDOW
from vderain.train.config import Data
from vderain.train.data.images import jitter_colours
from vderain.train.data.scenes import CENTRE, Scenes, clip_window, drive_window, photo_window

SHEET_PX = 640  # side of a rendered sheet of streaks that frames cut their rain from
SHEETS = 48  # styles in use at a time
SHEET_LIFE = 4800  # windows before all styles have been replaced

Frames = NDArray[np.uint8]  # (5, S, S, 3)


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """One training example.

    Attributes:
        rainy: (5, 3, S, S) uint8 RGB, neighbours aligned to the centre frame.
        confidence: (1, S, S) uint8, confidence in the alignment, 0..255.
        clear: (3, S, S) uint8 RGB, the ground truth of the centre frame.
        dry: () bool, whether there is no rain, so that nothing may change.
    """

    rainy: Tensor
    confidence: Tensor
    clear: Tensor
    dry: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "TrainingWindow":
        """An uninitialised window of the right shapes and types."""
        square = (side_px, side_px)
        rainy, confidence, clear = (torch.empty(*n, *square, dtype=torch.uint8) for n in ((WINDOW, 3), (1,), (3,)))
        return cls(rainy, confidence, clear, torch.tensor(False))

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.

        Returns:
            The attributes, cut: (15, s, s), (1, s, s) and (3, s, s) uint8, and () bool.
        """
        parts = (self.rainy.flatten(0, 1), self.confidence, self.clear)
        return (*(mirrored(part[..., rows, columns], flip) for part in parts), self.dry)


def mirrored(part: Tensor, flip: bool) -> Tensor:
    """(..., W), mirrored left to right if `flip`."""
    return part.flip(-1) if flip else part


class WindowMaker(Dataset[TrainingWindow]):
    """Makes training window number i, for any i.

    Args:
        scenes: to cut windows from.
        data: section of the recipe.
        seed: of the run.
    """

    def __init__(self, scenes: Scenes, data: Data, seed: int) -> None:
        self.scenes, self.data, self.seed = scenes, data, seed
        self.side_px = data.side_px + 2 * data.border_px
        self._estimator = FlowEstimator()

    def __getitem__(self, index: int) -> TrainingWindow:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 1, index))
        if self.scenes.pairs and rng.random() < self.data.share_pairs:
            return self._without_border(*self._paired(rng))
        clear, kind = self._scene(rng)
        clear = tone(clear, rng)
        if self.data.colour_jitter:
            clear = jittered(clear, self.data.colour_jitter, rng)
        clear = noise(clear, rng, same=kind == "repeat")
        dry = bool(rng.random() < self.data.share_dry)
        if self.data.remove == "drops":
            rainy, clear = self._drops(clear, index, rng, same=kind == "repeat", dry=dry)
        else:
            rainy, clear = (clear, clear) if dry else self._rain(clear, index, rng, same=kind == "repeat")
        rainy, target = _compress(rainy, clear[CENTRE], rng)
        return self._without_border(*self._aligned(rainy, kind, rng), target, dry)

    def _paired(self, rng: np.random.Generator) -> tuple[Frames, NDArray[np.uint8], NDArray[np.uint8], bool]:
        """A window of the recipe's own pairs; no rain is rendered onto it."""
        both = clip_window(self.scenes.pairs, self.side_px, rng)
        both = both[:, :, ::-1] if rng.random() < 0.5 else both
        rainy, target = (np.ascontiguousarray(part) for part in (both[..., :3], both[CENTRE, ..., 3:]))
        return *self._aligned(rainy, "moving", rng), target, np.array_equal(rainy[CENTRE], target)

    def _without_border(
        self, rainy: Frames, confidence: NDArray[np.uint8], target: NDArray[np.uint8], dry: bool
    ) -> TrainingWindow:  # fmt: skip
        """Cut the border off, where optical flow has no context."""
        inner = slice(self.data.border_px, self.data.border_px + self.data.side_px)
        return TrainingWindow(
            torch.from_numpy(np.ascontiguousarray(rainy[:, inner, inner].transpose(0, 3, 1, 2))),
            torch.from_numpy(np.ascontiguousarray(confidence[None, inner, inner])),
            torch.from_numpy(np.ascontiguousarray(target[inner, inner].transpose(2, 0, 1))),
            torch.tensor(dry),
        )

    def _scene(self, rng: np.random.Generator) -> tuple[Frames, str]:
        draw = rng.random()
        if not self.scenes.photos or (self.scenes.clips and draw < self.data.share_clips):
            return clip_window(self.scenes.clips, self.side_px, rng), "moving"
        if draw < self.data.share_clips + self.data.share_drives:
            return drive_window(self.scenes, self.side_px, rng), "moving"
        photo = photo_window(self.scenes, self.side_px, rng)
        still = draw < self.data.share_clips + self.data.share_drives + self.data.share_stills
        frames = np.stack([shifted(photo, rng) if still and t != CENTRE else photo for t in range(WINDOW)])
        return frames, "still" if still else "repeat"

    def _rain(self, clear: Frames, index: int, rng: np.random.Generator, same: bool) -> tuple[Frames, Frames]:
        """Render rain onto clear frames: rainy frames, and clear ones in the same haze."""
        opacity = self._opacity(index, rng, same)
        drops = rng.random() < self.data.share_drops
        if drops and rng.random() < 0.5:  # drops left on the glass after a shower
            opacity = np.zeros_like(opacity)
        frames, rainy, sky, generator = rained_on(clear, opacity, rng)
        if drops:
            rainy = _through_glass(rainy, sky, generator)
        return frames8(rainy, same), frames8(frames, same)

    def _drops(
        self, clear: Frames, index: int, rng: np.random.Generator, same: bool, dry: bool
    ) -> tuple[Frames, Frames]:
        """Render raindrops on the windshield: frames with them, and without. Streaks are in both or in neither."""
        opacity = self._opacity(index, rng, same)
        if rng.random() < 0.7:
            opacity = np.zeros_like(opacity)
        _, rained, sky, generator = rained_on(clear, opacity, rng)
        seen = rained if dry else _through_glass(rained, sky, generator)
        return frames8(seen, same), frames8(rained, same)

    def _opacity(self, index: int, rng: np.random.Generator, same: bool) -> NDArray[np.uint8]:
        """(1 or 5, S, S) opacity of rain: one frame if all five are the same."""
        frames = 1 if same else WINDOW
        return rain_cuts(self.seed, index, self.side_px, frames, rng, share_any_direction=self.data.share_any_direction)

    def _aligned(self, frames: Frames, kind: str, rng: np.random.Generator) -> tuple[Frames, NDArray[np.uint8]]:
        """Align neighbours to the centre by optical flow: (5, S, S, 3) frames and (S, S) confidence, uint8."""
        if kind != "moving":
            return frames, np.full(frames.shape[1:3], 255, np.uint8)
        small = [flow_luma(frame) for frame in frames]
        centre = frames[CENTRE]
        aligned, confidence = [centre] * WINDOW, np.zeros(small[0].shape, np.float32)
        sources = list(range(WINDOW))
        if rng.random() < 0.08:  # first or last frame of a clip: neighbours on one side only, mirrored
            sources = [4, 3, 2, 3, 4] if rng.random() < 0.5 else [0, 1, 2, 1, 0]
        for place in (0, 1, 3, 4):
            source = sources[place]
            forward = self._estimator.flow(small[CENTRE], small[source])
            backward = self._estimator.flow(small[source], small[CENTRE])
            flow = consistent_flow(small[CENTRE], small[source], forward, backward)
            aligned[place] = align(centre, frames[source], flow)
            confidence += flow.confidence / np.float32(4)
        full = cv2.resize(confidence, centre.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.stack(aligned), full.astype(np.uint8)


def rained_on(
    clear: Frames, opacity: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[Tensor, Tensor, float, torch.Generator]:
    """Render streaks onto as many frames as there are opacity maps.

    Returns:
        Hazy and rainy frames, (T, 3, S, S) in 0..1; the sky's brightness, 0..1; the random number generator.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    light = draw_light(generator)
    frames = add_haze(torch.from_numpy(clear[: len(opacity)]).permute(0, 3, 1, 2).float() / 255, light)
    return frames, rain_onto(frames, torch.from_numpy(opacity).float() / 255, light), light.sky, generator


def _through_glass(frames: Tensor, sky: float, generator: torch.Generator) -> Tensor:
    """Render raindrops that rest on the windshield over (T, 3, S, S) frames in 0..1."""
    glass = draw_glass(generator)
    if torch.rand((), generator=generator) < 0.5:  # dusk: drops are no brighter than the scene
        sky = min(sky, float(frames.amax(1).flatten()[::7].quantile(0.98)))
    drops = Windshield(glass, frames.shape[3] / frames.shape[2], generator).drops(0.0)
    return refract_through(frames, drops, 0.0, glass, sky)[0]


def rain_cuts(
    seed: int,
    index: int,
    side_px: int,
    frames: int,
    rng: np.random.Generator,
    *,
    share_any_direction: float = 0.0,
) -> NDArray[np.uint8]:
    """Cut opacity maps of one style of rain, each frame from another place of a rendered sheet.

    Args:
        seed: of the run.
        index: of the window; it decides which generation of sheets is in use.
        side_px: side of a map.
        frames: number of maps.
        rng: random number generator.
        share_any_direction: share of the sheets, 0..1, in which rain falls in any direction.

    Returns:
        (frames, side_px, side_px) uint8 opacity.
    """
    sheet = _sheet(seed, index // SHEET_LIFE, int(rng.integers(SHEETS)), share_any_direction)
    if rng.random() < 0.5:
        sheet = sheet[:, ::-1]
    return np.stack([_random_cut(sheet, side_px, rng) for _ in range(frames)])


def frames8(frames: Tensor, same: bool = False) -> Frames:
    """(T, 3, S, S) in 0..1 to (T, S, S, 3) uint8, or five times the one frame if all are the same."""
    rounded = (frames * 255 + 0.5).byte().permute(0, 2, 3, 1).numpy()
    return np.repeat(rounded, WINDOW, 0) if same else rounded


@lru_cache(maxsize=2 * SHEETS)
def _sheet(seed: int, generation: int, number: int, share_any_direction: float) -> NDArray[np.uint8]:
    """(SHEET_PX, SHEET_PX) uint8 opacity of one style of rain."""
    entropy = np.random.SeedSequence((seed, 2, generation, number)).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(entropy))
    style = draw_style(generator, share_any_direction=share_any_direction)
    opacity = streak_opacity(style, SHEET_PX, SHEET_PX, generator)[0]
    return np.asarray((opacity * 255 + 0.5).byte().numpy())


def _random_cut(sheet: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    top, left = rng.integers(SHEET_PX - side_px, size=2)
    return sheet[top : top + side_px, left : left + side_px]


def shifted(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A neighbour with errors of alignment: a fraction of a pixel off, now and then a few pixels."""
    dx, dy = rng.normal(size=2) * (2.0 if rng.random() < 1 / 7 else 0.35)
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return np.asarray(cv2.warpAffine(photo, matrix, photo.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def tone(frames: Frames, rng: np.random.Generator) -> Frames:
    """Change gamma, gain, white balance and haze, the same in all frames; flip half of them left to right."""
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    if rng.random() < 0.4:
        return np.ascontiguousarray(frames)
    level = np.arange(256) / 255
    gamma, gain = np.exp(rng.normal() * 0.35), rng.uniform(0.55, 1.1)
    haze = max(0.0, rng.uniform(-0.3, 0.3))
    casts = gain * rng.normal(1, 0.04, 3)
    tables = [
        (np.clip((level**gamma * cast) * (1 - haze) + 0.75 * haze, 0, 1) * 255 + 0.5).astype(np.uint8) for cast in casts
    ]
    return np.stack([table[frames[..., channel]] for channel, table in enumerate(tables)], axis=-1)


def jittered(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    jittered = jitter_colours(torch.from_numpy(frames).permute(0, 3, 1, 2), strength, rng)
    return np.ascontiguousarray(jittered.permute(0, 2, 3, 1).numpy())


def noise(frames: Frames, rng: np.random.Generator, same: bool = False) -> Frames:
    """Add Gaussian sensor noise, drawn for each frame unless all are the same."""
    if rng.random() < 0.5:
        return frames
    count = 1 if same else len(frames)
    grain = rng.standard_normal((count, *frames.shape[1:3], 1), np.float32) * np.float32(rng.uniform(0.3, 3.5))
    noisy = np.clip(frames[:count] + grain + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(noisy, len(frames), 0) if same else noisy


def _compress(rainy: Frames, clear: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Frames, NDArray[np.uint8]]:
    """Compress rainy frames and target as JPEG of one quality, so that artefacts are not taken for rain."""
    quality = draw_quality(rng)
    if quality is None:
        return rainy, clear
    dry = np.array_equal(rainy[CENTRE], clear)
    rainy = np.stack([compressed(frame, quality) for frame in rainy])
    return rainy, rainy[CENTRE] if dry else compressed(clear, quality)


def draw_quality(rng: np.random.Generator) -> int | None:
    """JPEG quality of a window; None for no compression."""
    return None if rng.random() < 0.55 else int(rng.integers(60, 98))


def compressed(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, compressed as JPEG and decoded again."""
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
