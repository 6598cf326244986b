"""What is measured: a video, a picture or a folder of pictures enters, upright RGB pictures leave, one by one."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vderain.errors import InputError
from vderain.media.clip import quarter_turns
from vderain.media.colour import to_rgb8
from vderain.media.decode.reader import VideoReader
from vderain.media.frame import Frame
from vderain.media.image.sequence import PictureReader, is_pictures
from vderain.media.pixel_format import picture_of

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

RATE = Fraction(30)  # of a folder of pictures; no measure depends on it


@dataclass(frozen=True, slots=True)
class Footage:
    """Something to look at.

    Attributes:
        path: a video, a picture, or a folder of pictures.
        single: the pictures of the folder are no clip; their sizes may differ.
        limit: how many frames to look at; all where None.
    """

    path: Path
    single: bool = False
    limit: int | None = None

    def files(self) -> list[Path]:
        """The pictures of a folder, or a lone picture, in order."""
        with PictureReader(self.path) as reader:
            folder = self.path if reader.is_folder else self.path.parent
            return [folder / name for name in islice(reader.names, self.limit)]

    def pictures(self) -> Iterator[Picture]:
        """The frames as a player shows them, decoded as they are asked for.

        Raises:
            InputError: something cannot be read, or the frames of a clip differ in size.
        """
        return islice(self._pictures(), self.limit)

    def lasting_s(self) -> float | None:
        """Seconds from the file's beginning that hold exactly `limit` frames; None where that is all of them."""
        if self.limit is None:
            return None
        if is_pictures(self.path):
            return float((self.limit - Fraction(1, 2)) / RATE)
        with VideoReader(self.path, duration_s=1) as reader:
            begin_s = (reader.cut.end_s or Fraction(1)) - 1  # of the earliest stream, from which durations count
        with VideoReader(self.path) as reader:
            times_s = (frame.pts * frame.time_base for frame in reader.frames())
            last_s = deque(enumerate(islice(times_s, self.limit + 1)), maxlen=2)
        if last_s[-1][0] < self.limit:
            return None
        return float((last_s[0][1] + last_s[1][1]) / 2 - begin_s)

    def _pictures(self) -> Iterator[Picture]:
        reader: VideoReader | PictureReader
        if not is_pictures(self.path):
            with VideoReader(self.path) as reader:
                turns = quarter_turns(reader)
                for frame in reader.frames():
                    yield np.ascontiguousarray(np.rot90(_as_others_see(frame), turns))
            return
        for path in self.files() if self.single else [self.path]:
            with PictureReader(path, RATE) as reader:
                for name, picture in zip(reader.names, map(to_rgb8, reader.frames()), strict=True):
                    if picture.shape[:2] != (reader.height_px, reader.width_px):
                        raise InputError(
                            f"{name} differs in size from {reader.names[0]}, so {path} is no clip.",
                            "Add --single, or put pictures of one size into a folder.",
                        )
                    yield picture


def _as_others_see(frame: Frame) -> Picture:
    """A frame as FFmpeg turns it into RGB; it rounds down, and with our own rounding no figure would match others'."""
    return np.asarray(picture_of(frame.planes, frame.colour).to_ndarray(format="rgb24"), np.uint8)


def zip_frames(clips: list[Footage]) -> Iterator[tuple[Picture, ...]]:
    """The first frame of every clip, then the second of each, and so on.

    Raises:
        InputError: one clip ends before another, or two frames of one place differ in size.
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
