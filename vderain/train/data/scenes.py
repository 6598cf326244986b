"""Loads clear scenes and cuts windows of five frames from them: from clips, or from photographs with simulated motion.

A photograph becomes a simulated drive: below the horizon the ground grows faster the nearer it is, above it the scene
grows slowly. Objects cross in front, and thin bright marks are painted into the scene that look like rain but are not.
Into a share of the photographs signs are painted (see `lettering`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError
from vderain.restore.frames import WINDOW, Picture
from vderain.train.config import Pair
from vderain.train.data.images import (
    SUFFIXES_CLIP,
    SUFFIXES_PHOTO,
    ScanReport,
    find_files,
    load_frames,
    load_photo,
    split,
)
from vderain.train.data.lettering import with_lettering

CENTRE = WINDOW // 2


@dataclass(frozen=True)
class Scenes:
    """Decoded photographs and clips, kept in memory.

    Attributes:
        photos: (H, W, 3) uint8 RGB each.
        clips: (T, H, W, 3) uint8 RGB each, at least five frames.
        pairs: (T, H, W, 6) uint8 each: rainy RGB, then clear RGB; at least five frames.
        share_lettering: share of what is cut from photographs that gets signs painted into it, 0..1.
    """

    photos: list[Picture]
    clips: list[NDArray[np.uint8]]
    pairs: list[NDArray[np.uint8]] = field(default_factory=list)
    share_lettering: float = 0.0


def load_scenes(
    photos: Path | None, clips: Path | None, side_px: int, *, kind: str = "clear", key: str = "data.photos"
) -> Scenes:
    """Decode all photographs in one folder and all clips in another that are large enough.

    Args:
        photos: folder of photographs; None for none.
        clips: folder of clips; None for none.
        side_px: smallest usable side.
        kind: "clear" or "rainy", for messages.
        key: recipe key that names the folder, for messages.

    Raises:
        InputError: no folder was given, or nothing in them is usable.
    """
    folders = dict.fromkeys(str(folder) for folder in (photos, clips) if folder is not None)
    if not folders:
        raise InputError(f"the recipe names no folder of {kind} pictures to train on.", f"Add --set {key}=FOLDER.")
    report = ScanReport()
    scenes = Scenes(
        list(_large_photos(find_files(photos, SUFFIXES_PHOTO), side_px, report)),
        list(load_clips(clips, side_px, report)),
    )
    report.log()
    if not scenes.photos and not scenes.clips:
        raise InputError(
            f"there is no usable {kind} picture or clip in {' and '.join(folders)}.",
            f"Set {key} to a folder of pictures of at least {side_px} pixels a side.",
        )
    return scenes


def _large_photos(paths: list[Path], side_px: int, report: ScanReport) -> Iterator[Picture]:
    for path in paths:
        picture = load_photo(path, report)
        if picture is not None and min(picture.shape[:2]) >= side_px:
            yield picture
        elif picture is not None:
            report.add(f"skipped, a side is below {side_px} pixels", path)


def load_clips(folder: Path | None, side_px: int, report: ScanReport) -> Iterator[NDArray[np.uint8]]:
    """Decode the clips of a folder that are large and long enough for a window of five frames.

    Args:
        folder: searched with its subfolders; None for no clips.
        side_px: smallest usable side.
        report: records clips that are skipped.

    Yields:
        (T, H, W, 3) uint8 RGB each.
    """
    for path in find_files(folder, SUFFIXES_CLIP):
        frames = load_frames(path, report)
        if len(frames) >= WINDOW and min(frames[0].shape[:2]) >= side_px:
            yield np.stack(frames)
        elif frames:
            report.add(_too_small(side_px), path)


def _too_small(side_px: int) -> str:
    return f"skipped, below {side_px} pixels a side or {WINDOW} frames"


def held_out(scenes: Scenes, share: float) -> tuple[Scenes, Scenes]:
    """Split scenes into those to train on and those to validate on.

    Photographs are held out; with fewer than two photographs, the last frames of the clips are.

    Args:
        scenes: all of them.
        share: 0..1, the part to hold out.
    """
    if len(scenes.photos) > 1:
        kept, held = split(scenes.photos, share)
        return replace(scenes, photos=kept), Scenes(held, [])
    ends = [max(WINDOW, round(len(clip) * share)) for clip in scenes.clips if share]
    pairs = [(c[:-end], c[-end:]) for c, end in zip(scenes.clips, ends, strict=False) if len(c) >= end + WINDOW]
    if not pairs:
        return scenes, Scenes([], [])
    short = [c for c, end in zip(scenes.clips, ends, strict=True) if len(c) < end + WINDOW]
    return replace(scenes, clips=[c for c, _ in pairs] + short), Scenes([], [c for _, c in pairs])


def of_sequences(scenes: Scenes, length: int) -> Scenes:
    """The photographs and the clips that are long enough for training sequences.

    Args:
        scenes: to choose from.
        length: frames of a sequence.

    Raises:
        InputError: every clip is too short, and there are no photographs.
    """
    clips = [clip for clip in scenes.clips if len(clip) >= length]
    if not clips and not scenes.photos:
        raise InputError(
            f"every clip is shorter than the {length} frames of a training sequence.",
            "Add longer clips, or photographs with --set data.photos=FOLDER.",
        )
    return replace(scenes, clips=clips, pairs=[])


def load_pairs(pairs: Sequence[Pair], side_px: int) -> list[NDArray[np.uint8]]:
    """Decode pairs of rainy and clear footage; a single picture becomes a clip in which nothing moves.

    Args:
        pairs: of the recipe.
        side_px: smallest usable side.

    Returns:
        (T, H, W, 6) uint8 each, see `Scenes.pairs`.

    Raises:
        InputError: a file cannot be read, or rainy and clear footage differ in length or size.
    """
    from vderain.evaluation.footage import Footage, zip_frames  # few recipes have pairs

    report, found = ScanReport(), []
    for pair in pairs:
        clips = [Footage(path, pair.single) for path in (pair.rain, pair.clear)]
        frames = [np.dstack(pictures) for pictures in zip_frames(clips)]
        for clip in ([frame] * WINDOW for frame in frames) if pair.single else [frames]:
            if len(clip) >= WINDOW and min(clip[0].shape[:2]) >= side_px:
                found.append(np.broadcast_to(clip[0], (WINDOW, *clip[0].shape)) if pair.single else np.stack(clip))
            else:
                report.add(_too_small(side_px), pair.rain)
    report.log()
    return found


def clip_window(
    clips: Sequence[NDArray[np.uint8]], side_px: int, rng: np.random.Generator, count: int = WINDOW
) -> NDArray[np.uint8]:
    """Cut frames from a random clip, one to eight frames apart.

    Args:
        clips: (T, H, W, C) uint8 each.
        side_px: side of the window.
        rng: random number generator.
        count: number of frames; every clip must be that long.

    Returns:
        (count, side_px, side_px, C) uint8.
    """
    clip = clips[int(rng.integers(len(clips)))]
    stride = int(
        min(rng.choice([1, 2, 3, 4, 6, 8], p=[0.4, 0.2, 0.12, 0.12, 0.08, 0.08]), (len(clip) - 1) // (count - 1))
    )
    start = rng.integers(len(clip) - stride * (count - 1))
    frames = clip[start : start + stride * (count - 1) + 1 : stride]
    frames = frames[::-1] if rng.random() < 0.15 else frames
    top, left, size = _place(frames.shape[1:3], side_px, rng)
    return np.stack([_cut(frame, top, left, size, side_px) for frame in frames])


def photo_window(scenes: Scenes, side_px: int, rng: np.random.Generator) -> Picture:
    """Cut a random square from a random photograph, and paint signs into a share of them.

    Args:
        scenes: with at least one photograph.
        side_px: side of the square.
        rng: random number generator.

    Returns:
        (side_px, side_px, 3) uint8 RGB.
    """
    photo = scenes.photos[rng.integers(len(scenes.photos))]
    window = _cut(photo, *_place(photo.shape[:2], side_px, rng), side_px)
    # Nothing is drawn at a share of 0, so that recipes without signs make the windows that they always made.
    if scenes.share_lettering and rng.random() < scenes.share_lettering:
        return with_lettering(window, rng)[0]
    return window


def drive_window(scenes: Scenes, side_px: int, rng: np.random.Generator, count: int = WINDOW) -> NDArray[np.uint8]:
    """Simulate a camera that drives through a random photograph.

    Args:
        scenes: with at least one photograph.
        side_px: side of the window.
        rng: random number generator.
        count: number of frames.

    Returns:
        (count, side_px, side_px, 3) uint8; the middle frame is the photograph itself.
    """
    photo = photo_window(scenes, side_px, rng)
    if rng.random() < 0.35:
        photo = _with_marks(photo, rng)
    foreground = _Foreground.draw(photo_window(scenes, side_px, rng), rng) if rng.random() < 0.35 else None
    vanishing = np.array([rng.uniform(-0.3, 1.3), rng.uniform(-0.4, 1.0)]) * side_px
    speed = math.exp(rng.uniform(math.log(0.004), math.log(0.35)))  # growth per frame, one image side below the horizon
    far = speed * rng.uniform(0, 0.25)
    pan = rng.normal(size=2) * math.exp(rng.uniform(math.log(0.1), math.log(9.0)))
    centre = count // 2
    shake = rng.normal(size=(count, 2)) * rng.uniform(0, 0.8)
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32)
    below = np.maximum((y - vanishing[1]) / side_px, 0)
    frames = []
    for step in range(-centre, count - centre):
        scale = np.exp(-step * (far + speed * below)).astype(np.float32)
        moved = (pan * step + shake[step + centre]) if step else np.zeros(2)
        map_x = (vanishing[0] + (x - vanishing[0]) * scale + moved[0]).astype(np.float32)
        map_y = (vanishing[1] + (y - vanishing[1]) * scale + moved[1]).astype(np.float32)
        frame = cv2.remap(photo, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) if step else photo
        background = np.asarray(frame, dtype=np.uint8)
        frames.append(foreground.draw_over(background, step) if foreground else background)
    return np.stack(frames).astype(np.uint8)


@dataclass(frozen=True)
class _Foreground:
    """A rectangular object that crosses in front of the scene with its own velocity."""

    texture: Picture
    start: tuple[float, float]
    velocity: tuple[float, float]
    axes_px: tuple[float, float]

    @classmethod
    def draw(cls, texture: Picture, rng: np.random.Generator) -> "_Foreground":
        side_px = texture.shape[0]
        speed_px = math.exp(rng.uniform(math.log(0.5), math.log(30)))
        angle = rng.uniform(0, 2 * math.pi)
        axes = (math.exp(rng.uniform(math.log(2), math.log(60))), math.exp(rng.uniform(math.log(4), math.log(60))))
        start = (rng.uniform(0.2, 0.8) * side_px, rng.uniform(0.2, 0.8) * side_px)
        return cls(texture, start, (speed_px * math.cos(angle), speed_px * math.sin(angle)), axes)

    def draw_over(self, frame: Picture, step: int) -> Picture:
        """Draw the object over a frame, `step` frames after the middle one."""
        shift = (self.velocity[0] * step, self.velocity[1] * step)
        y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
        gap = np.maximum(
            np.abs(x - self.start[0] - shift[0]) - self.axes_px[0],
            np.abs(y - self.start[1] - shift[1]) - self.axes_px[1],
        )
        cover = np.clip(0.5 - gap, 0, 1).astype(np.float32)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        texture = cv2.warpAffine(self.texture, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(cv2.blendLinear(texture, frame, cover, 1 - cover), dtype=np.uint8)


def _with_marks(photo: Picture, rng: np.random.Generator) -> Picture:
    """Paint thin bright objects into the scene: lane markings, posts, lamps."""
    marked = photo.copy()
    side_px = photo.shape[0]
    bits = 4  # fractional bits of cv2's sub-pixel drawing
    for _ in range(rng.integers(1, 7)):
        layer = marked.copy()
        tone = rng.choice([255, 235, 200]) + rng.normal(size=3) * 12 - [0, 0, rng.choice([0, 0, 120])]
        colour = [int(c) for c in np.clip(tone, 0, 255)]
        start = rng.uniform(0, side_px, 2)
        if rng.random() < 0.2:
            cv2.circle(layer, _fixed(start, bits), int(rng.uniform(1, 5) * 2**bits), colour, -1, cv2.LINE_AA, bits)
        else:
            length_px = math.exp(rng.uniform(math.log(8), math.log(90)))
            angle = rng.normal() * 0.35 + (math.pi / 2 if rng.random() < 0.6 else rng.uniform(0, math.pi))
            end = start + length_px * np.array([math.cos(angle), math.sin(angle)])
            cv2.line(layer, _fixed(start, bits), _fixed(end, bits), colour, int(rng.integers(1, 6)), cv2.LINE_AA, bits)
        strength = rng.uniform(0.3, 1.0)
        marked = np.asarray(cv2.addWeighted(layer, strength, marked, 1 - strength, 0), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(marked, (3, 3), 0.5), dtype=np.uint8)


def _fixed(point: NDArray[np.float64], bits: int) -> tuple[int, int]:
    return int(point[0] * 2**bits), int(point[1] * 2**bits)


def _place(shape: tuple[int, ...], side_px: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw a square to cut, up to 2.5 times as large as it will be: top, left and side in pixels."""
    size = int(min(side_px * rng.uniform(1, 2.5), *shape))
    size = side_px if rng.random() < 0.3 else size
    return int(rng.integers(shape[0] - size + 1)), int(rng.integers(shape[1] - size + 1)), size


def _cut(picture: Picture, top: int, left: int, size: int, side_px: int) -> Picture:
    cut = picture[top : top + size, left : left + size]
    if size == side_px:
        return cut
    colours = [cut[..., first : first + 3] for first in range(0, cut.shape[2], 3)]  # OpenCV resizes up to four channels
    resized = [cv2.resize(part, (side_px, side_px), interpolation=cv2.INTER_AREA) for part in colours]
    return np.asarray(np.dstack(resized), np.uint8)
