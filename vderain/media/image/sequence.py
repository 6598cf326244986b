"""Pictures as clips: one, or a folder of numbered ones, enters as Frames, and leaves as files of the same names."""

import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from vderain.errors import InputError, OutputError, UsageError
from vderain.media.frame import Colour, Frame
from vderain.media.image.codec import DecodedImage, changed_parts, encode_image, lost_parts, planes_of, read_image
from vderain.runtime.files import temporary_path

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def is_image_source(path: Path) -> bool:
    """Whether the path is an existing picture, told by its suffix, or a folder."""
    return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)


class ImageReader:
    """A picture, or the pictures of a folder in natural order (frame2 before frame10), as Frames.

    Args:
        path: a picture or a folder of them; other files and hidden ones in the folder are passed over.
        rate: pictures per second.
        start_s, duration_s: which part of the clip, in seconds; from its start, and to its end, where not given.

    Attributes:
        width_px, height_px: size of the first picture, upright; others may differ. Known once opened.
        count: how many pictures the part holds.
        names: their file names, in order.
        rate: pictures per second.
        is_folder: False for a single picture.
    """

    def __init__(
        self, path: Path, rate: Fraction = Fraction(30), start_s: float | None = None, duration_s: float | None = None
    ) -> None:
        self.path = path
        self.rate = rate
        self.is_folder = path.is_dir()
        self.width_px = 0
        self.height_px = 0
        self._part = start_s, duration_s
        self._first = 0
        self._paths: tuple[Path, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self._paths)

    @property
    def count(self) -> int:
        return len(self._paths)

    def __enter__(self) -> Self:
        """Lists the pictures and decodes the first one.

        Raises:
            InputError: there is no picture, the first cannot be read, or two would have the same name as PNG.
            UsageError: the asked part lies after the end.
        """
        listed = _listed(self.path) if self.is_folder else (self.path,)
        self._first, end = _part(len(listed), self.rate, *self._part)
        if self._first >= end:
            raise UsageError(
                f"The asked part of {self.path} holds no picture: it lasts {float(len(listed) / self.rate):g} s.",
                "Ask for an earlier start or a longer duration.",
            )
        self._paths = listed[self._first : end]
        self.height_px, self.width_px = self.image(0).pixels.shape[:2]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is held open between pictures."""

    def frames(self) -> Iterator[Frame]:
        """The pictures, lazily: planes R, G, B, or one grey plane; pts counts the pictures of the whole folder.

        Raises:
            InputError: a picture cannot be read.
        """
        for index in range(self.count):
            pixels = self.image(index).pixels
            colour = Colour("rgb", full_range=True, depth_bits=8 * pixels.itemsize)
            yield Frame(planes_of(pixels), colour, self._first + index, 1, 1 / self.rate)

    def image(self, index: int) -> DecodedImage:
        """The file behind the frame of that order, with its alpha and metadata.

        Raises:
            InputError: it cannot be read.
        """
        return read_image(self._paths[index])


class ImageWriter:
    """Frames to a picture or a folder of PNG, under a temporary name until all is well.

    The order of frames tells whose alpha channel and metadata they take: the first written belongs to the first of
    ``like.names``. A folder is never written into an existing one; a single picture replaces what had its name.

    Args:
        target: a folder where the reader had one, else a file, whose suffix tells the format.
        like: the opened reader the frames come from.

    Attributes:
        changed: what of the pictures written so far is there in another form, in words.
        dropped: what they do not hold any more, in words.
    """

    def __init__(self, target: Path, like: ImageReader) -> None:
        self.target = target
        self.changed: list[str] = []
        self.dropped: list[str] = []
        self._like = like
        self._partial = temporary_path(target, ".partial")
        self._written = 0

    def __enter__(self) -> Self:
        """Makes the temporary folder, or checks that the file can be made.

        Raises:
            OutputError: the target is of the wrong kind, exists, or cannot be written.
        """
        self._check_kind()
        self._discard()  # of a run that was killed
        try:
            if self._like.is_folder:
                self._partial.mkdir()
            else:
                self._partial.touch()
        except OSError as error:
            raise _unwritable(self.target, error) from error
        return self

    def write(self, frame: Frame) -> None:
        """Encodes one frame.

        Args:
            frame: planes R, G, B or grey, 8 or 16 bit.

        Raises:
            OutputError: the format cannot hold it, or the disk refuses it.
            ValueError: more frames than the reader has.
        """
        if self._written >= self._like.count:
            raise ValueError(f"{self._like.path} has {self._like.count} pictures, and all are written")
        path = self._partial / self._name(self._written) if self._like.is_folder else self._partial
        suffix = ".png" if self._like.is_folder else self.target.suffix.lower()
        source = self._like.image(self._written)
        data = encode_image(frame, source, suffix, self.target)
        self.changed += [each for each in changed_parts(source, suffix) if each not in self.changed]
        self.dropped += [each for each in lost_parts(source, suffix, data) if each not in self.dropped]
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _unwritable(self.target, error) from error
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Moves the result to its name, or removes what was begun if anything failed.

        Raises:
            OutputError: it cannot be moved, or nothing was written.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _name(self, index: int) -> str:
        return Path(self._like.names[index]).stem + ".png"

    def _check_kind(self) -> None:
        suffix = self.target.suffix.lower()
        if self._like.is_folder and self.target.exists() and not _is_empty_folder(self.target):
            raise OutputError(f"{self.target} exists already.", "Name a folder that does not exist yet.")
        if self._like.is_folder and suffix in SUFFIXES:
            raise OutputError(f"{self._like.path} is a folder, {self.target} one picture.", "Name a folder.")
        if not self._like.is_folder and self.target.is_dir():
            raise OutputError(f"{self.target} is a folder.", "Name the picture to write.")
        if not self._like.is_folder and suffix not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise OutputError(f"{self.target.name} does not end like a picture.", f"End it with one of {known}.")

    def _finish(self) -> None:
        if not self._written:
            raise OutputError(f"{self.target} received no picture, and was not made.")
        try:
            if self._like.is_folder and self.target.is_dir():
                self.target.rmdir()  # empty, as checked; not every system renames onto it
            self._partial.replace(self.target)
        except OSError as error:
            raise _unwritable(self.target, error) from error
        if self.changed:
            log.warning("'%s' holds in another form: %s.", self.target.name, ", ".join(self.changed))
        if self.dropped:
            log.warning("'%s' cannot hold: %s.", self.target.name, ", ".join(self.dropped))

    def _discard(self) -> None:
        with suppress(OSError):
            if self._partial.is_dir():
                shutil.rmtree(self._partial)
            else:
                self._partial.unlink(missing_ok=True)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A key that sorts runs of digits by their number: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _listed(folder: Path) -> tuple[Path, ...]:
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not found:
        raise InputError(f"{folder} holds no picture.", f"Give a folder of files ending with {', '.join(SUFFIXES)}.")
    stem, times = Counter(p.stem for p in found).most_common(1)[0]
    if times > 1:
        raise InputError(f"{folder} holds {times} pictures named {stem}.", "Keep one of them.")
    return tuple(sorted(found, key=lambda p: natural_key(p.name)))


def _part(count: int, rate: Fraction, start_s: float | None, duration_s: float | None) -> tuple[int, int]:
    """First and end of the pictures shown in start_s <= t < start_s + duration_s."""
    start = Fraction(str(start_s or 0))  # by its digits: 0.1 s at 10 pictures a second is the second picture
    first = max(0, math.ceil(start * rate))
    end = count if duration_s is None else min(count, math.ceil((start + Fraction(str(duration_s))) * rate))
    return first, end


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _unwritable(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{target} cannot be written: {reason}.", "Check the folder it lies in, and the space left.")
