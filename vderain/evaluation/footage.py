"""Reads the footage to be measured (video, image or folder of images) as upright RGB frames, one at a time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from vderain.errors import InputError
from vderain.media.colour import to_rgb8
from vderain.media.frame import Colour, Frame
from vderain.media.image.sequence import ImageReader, is_image_source
from vderain.media.pixel_format import to_av_frame
from vderain.restore.frames import Picture

RATE = Fraction(30)  # frames per second assumed for a folder of images; no score depends on it
RGB8 = Colour("rgb", full_range=True)


@dataclass(frozen=True, slots=True)
class Footage:
    """Footage to be measured.

    Attributes:
        path: a video, an image, or a folder of images.
        single: treat the folder as unrelated images, not as a clip; their sizes may differ.
        limit: number of frames to read; None for all.
    """

    path: Path
    single: bool = False
    limit: int | None = None

    def files(self) -> list[Path]:
        """List the images of a folder in order, or the one image."""
        with ImageReader(self.path) as reader:
            folder = self.path if reader.is_folder else self.path.parent
            return [folder / name for name in islice(reader.names, self.limit)]

    def pictures(self) -> Iterator[Picture]:
        """Yield (H, W, 3) uint8 RGB frames, rotated as a player shows them and decoded on demand.

        Raises:
            InputError: the footage cannot be read, or the frames of a clip differ in size.
        """
        return islice(self._pictures(), self.limit)

    def limit_s(self) -> float | None:
        """Seconds from the start of the file that hold exactly `limit` frames; None where that is the whole file."""
        if self.limit is None:
            return None
        if is_image_source(self.path):
            return float((self.limit - Fraction(1, 2)) / RATE)
        from vderain.media.decode.reader import VideoReader

        with VideoReader(self.path, duration_s=1) as reader:
            begin_s = (reader.cut.end_s or Fraction(1)) - 1  # of the earliest stream, from which durations count
        with VideoReader(self.path) as reader:
            times_s = (frame.pts * frame.time_base for frame in reader.frames())
            last_s = deque(enumerate(islice(times_s, self.limit + 1)), maxlen=2)
        if last_s[-1][0] < self.limit:
            return None
        return float((last_s[0][1] + last_s[1][1]) / 2 - begin_s)

    def _pictures(self) -> Iterator[Picture]:
        return self._images() if is_image_source(self.path) else self._video()

    def _video(self) -> Iterator[Picture]:
        from vderain.media.decode.reader import VideoReader  # training imports this module for images alone

        with VideoReader(self.path) as reader:
            for frame in reader.frames():
                yield np.ascontiguousarray(np.rot90(_to_rgb(frame), reader.rotation_quarters))

    def _images(self) -> Iterator[Picture]:
        for path in self.files() if self.single else [self.path]:
            with ImageReader(path, RATE) as reader:
                for name, picture in zip(reader.names, map(to_rgb8, reader.frames()), strict=True):
                    if picture.shape[:2] != (reader.height_px, reader.width_px):
                        raise InputError(
                            f"{name} differs in size from {reader.names[0]}, so {path} is not a clip.",
                            "Add --single, or put pictures of one size into a folder.",
                        )
                    yield picture


def _to_rgb(frame: Frame) -> Picture:
    """Convert to RGB with FFmpeg, which rounds down: scores then match those of other tools."""
    return np.asarray(to_av_frame(frame.planes, frame.colour).to_ndarray(format="rgb24"), np.uint8)


def frame_of(picture: Picture, number: int = 0) -> Frame:
    """Wrap an (H, W, 3) RGB array into a `Frame` whose PTS is its number at `RATE` frames a second."""
    return Frame((picture[..., 0], picture[..., 1], picture[..., 2]), RGB8, number, 1, 1 / RATE)


def zip_frames(clips: list[Footage]) -> Iterator[tuple[Picture, ...]]:
    """Yield tuples of the frames with the same number in each clip.

    Args:
        clips: clips of the same scene.

    Raises:
        InputError: the clips differ in length, or frames with the same number differ in size.
    """
    for number, pictures in enumerate(zip_longest(*(clip.pictures() for clip in clips))):
        ended = [clip.path for clip, picture in zip(clips, pictures, strict=True) if picture is None]
        if ended:
            longer = next(clip.path for clip in clips if clip.path not in ended)
            raise InputError(
                f"{ended[0]} ends after {number} frames, while {longer} goes on.",
                "Give as many of both, or compare the first N with --limit N.",
            )
        sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures]
        for clip, size in zip(clips, sizes, strict=True):
            if size != sizes[0]:
                raise InputError(
                    f"frame {number} of {clip.path} is {size}, of {clips[0].path} {sizes[0]}.",
                    "Give pictures of the same scene, in the same order and size.",
                )
        yield pictures
