"""Reads and writes a still image, or a folder of numbered images, as the frames of a clip."""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from vderain.errors import InputError, OutputError, UsageError
from vderain.media.frame import Colour, Frame, SinkReport, SourceReport, listing
from vderain.media.image import SUFFIXES, UNSUPPORTED_SUFFIXES, natural_key
from vderain.media.image.codec import DecodedImage, changed_parts, encode_image, lost_parts, planes_of, read_image
from vderain.runtime.files import Draft, output_error, write_new

log = logging.getLogger(__name__)


def is_image_source(path: Path) -> bool:
    """Whether the path is a folder, or an existing file with the suffix of an image."""
    return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)


class ImageReader:
    """Reads a still image, or the images of a folder in natural order (frame2 before frame10), as frames.

    Args:
        path: an image or a folder of images; other files and hidden files in the folder are ignored.
        rate: frames per second.
        start_s, duration_s: the part of the clip to read, in seconds; None is its start, or the rest.

    Attributes:
        width_px, height_px: size of the first image, upright; others may differ. Known once entered.
        count: number of images in the part.
        names: their file names, in order.
        rate: frames per second.
        is_folder: False for a single image.
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
    def media(self) -> None:
        """Always None: no video file is read."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self._paths)

    @property
    def count(self) -> int:
        return len(self._paths)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the first image, upright; others may differ."""
        return self.width_px, self.height_px

    @property
    def duration_s(self) -> float:
        """Seconds that the images last at their rate."""
        return float(self.count / self.rate)

    @property
    def frames_estimate(self) -> int:
        """How many images will be read."""
        return self.count

    @property
    def average_rate(self) -> Fraction:
        """Images a second."""
        return self.rate

    @property
    def rotation_quarters(self) -> int:
        """Always 0: images are read upright."""
        return 0

    @property
    def report(self) -> SourceReport:
        """Always empty: an image that cannot be read is an error."""
        return SourceReport()

    def __enter__(self) -> Self:
        """Lists the images and decodes the first one.

        Raises:
            InputError: there is no image, the first cannot be read, or two would have the same name as PNG.
            UsageError: the selected part lies after the end.
        """
        listed = _listed(self.path) if self.is_folder else (self.path,)
        self._first, end = _part(len(listed), self.rate, *self._part)
        if self._first >= end:
            raise UsageError(
                f"the selected part of {self.path} holds no image: it lasts {float(len(listed) / self.rate):g} s.",
                "Ask for an earlier start or a longer duration.",
            )
        self._paths = listed[self._first : end]
        self.height_px, self.width_px = self.image(0).pixels.shape[:2]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to close: each file is opened, read and closed at once."""

    def frames(self) -> Iterator[Frame]:
        """Decodes the images lazily, to planes R, G, B or one grey plane; pts is the index in the whole folder.

        Raises:
            InputError: an image cannot be read.
        """
        for index in range(self.count):
            pixels = self.image(index).pixels
            colour = Colour("rgb", full_range=True, depth_bits=8 * pixels.itemsize)
            yield Frame(planes_of(pixels), colour, self._first + index, 1, 1 / self.rate)

    def image(self, index: int) -> DecodedImage:
        """Decodes image number `index` of the part, with its alpha channel and metadata.

        Raises:
            InputError: it cannot be read.
        """
        return read_image(self._paths[index])

    def path_of(self, index: int) -> Path:
        """The file of image number `index` of the part."""
        return self._paths[index]


class ImageWriter:
    """Writes frames to an image file or a folder of PNG files, under a temporary name until all are written.

    Frame number i takes the alpha channel and the metadata of image number i of `like`. An existing folder is never
    written into; an existing image is replaced, unless the draft forbids it.

    Args:
        target: a folder if `like` reads one, else a file, whose suffix selects the format; or the draft of either.
        like: the entered reader that the frames come from.

    Attributes:
        changed: descriptions of what the images written so far hold in another form than the originals.
        dropped: descriptions of what they no longer hold.
    """

    def __init__(self, target: Path | Draft, like: ImageReader) -> None:
        self._draft = target if isinstance(target, Draft) else Draft(target, like=like.path)
        self.target = self._draft.target
        self.changed: list[str] = []
        self.dropped: list[str] = []
        self._like = like
        self._written = 0

    @property
    def report(self) -> SinkReport:
        """What was changed in the images written so far, and what they could not keep."""
        return SinkReport(changed=tuple(self.changed), dropped=tuple(self.dropped))

    def __enter__(self) -> Self:
        """Creates the temporary folder or file.

        Raises:
            OutputError: the target is of the wrong kind, exists, is written by another run, or cannot be written.
        """
        self._check_kind()
        self._draft.create(folder=self._like.is_folder)
        return self

    def write(self, frame: Frame) -> None:
        """Encodes one frame.

        Args:
            frame: planes R, G, B or grey, 8 or 16 bits.

        Raises:
            OutputError: the format cannot hold the frame, or the file cannot be written.
            ValueError: there are more frames than the reader has images.
        """
        if self._written >= self._like.count:
            raise ValueError(f"{self._like.path} has {self._like.count} images, and all are written")
        suffix = ".png" if self._like.is_folder else self.target.suffix.lower()
        source = self._like.image(self._written)
        data = encode_image(frame, source, suffix, self.target)
        self.changed += [part for part in changed_parts(source, suffix) if part not in self.changed]
        self.dropped += [part for part in lost_parts(source, suffix, data) if part not in self.dropped]
        try:
            if self._like.is_folder:
                write_new(self._draft.path / self._name(self._written), data, self._like.path_of(self._written))
            else:
                self._draft.path.write_bytes(data)
        except OSError as error:
            raise output_error(self.target, error) from error
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Renames the result to its final name; removes the temporary files if anything failed.

        Raises:
            OutputError: it cannot be renamed, or nothing was written.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            self._draft.discard()

    def _name(self, index: int) -> str:
        return Path(self._like.names[index]).stem + ".png"

    def _check_kind(self) -> None:
        suffix = self.target.suffix.lower()
        if self._like.is_folder and self.target.exists() and not _is_empty_folder(self.target):
            raise OutputError(f"{self.target} exists already.", "Name a folder that does not exist yet.")
        if self._like.is_folder and suffix in SUFFIXES:
            raise OutputError(f"{self._like.path} is a folder, {self.target} a single image.", "Name a folder.")
        if not self._like.is_folder and self.target.is_dir():
            raise OutputError(f"{self.target} is a folder.", "Name the image file to write.")
        if not self._like.is_folder and suffix not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise OutputError(
                f"{self.target.name} has no suffix of an image that can be written.", f"End it with one of {known}."
            )

    def _finish(self) -> None:
        if not self._written:
            raise OutputError(f"{self.target} was not created: it received no frames.")
        self._draft.publish()
        if self.changed:
            log.warning("'%s' holds in another form: %s.", self.target.name, listing(self.changed))
        if self.dropped:
            log.warning("'%s' cannot hold: %s.", self.target.name, listing(self.dropped))


def _listed(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order."""
    try:
        files = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    unsupported = sum(p.suffix.lower() in UNSUPPORTED_SUFFIXES for p in files)
    if not found and unsupported:
        cure = f"Convert them first, for example with ImageMagick: magick mogrify -format png {folder}/*"
        raise InputError(f"{folder} holds only images of formats that vderain does not read.", cure)
    if not found:
        raise InputError(f"{folder} holds no image.", f"Give a folder of files with suffix {', '.join(SUFFIXES)}.")
    if unsupported:
        log.warning("'%s': %d images are ignored, their format is not read. Convert them first.", folder, unsupported)
    stem, times = Counter(p.stem for p in found).most_common(1)[0]
    if times > 1:
        raise InputError(f"{folder} holds {times} images named {stem}.", "Keep one of them.")
    return tuple(sorted(found, key=lambda p: natural_key(p.name)))


def _part(count: int, rate: Fraction, start_s: float | None, duration_s: float | None) -> tuple[int, int]:
    """First and end index of the images shown in start_s <= t < start_s + duration_s."""
    start = Fraction(str(start_s or 0))  # by its digits: 0.1 s at 10 frames per second is exactly the second frame
    first = max(0, math.ceil(start * rate))
    end = count if duration_s is None else min(count, math.ceil((start + Fraction(str(duration_s))) * rate))
    return first, end


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
