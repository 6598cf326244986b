"""A clip of any kind: a name enters and becomes a reader or writer; what every job asks of a reader is answered."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vderain.errors import InputError, OutputError, UsageError
from vderain.media.decode.reader import VideoReader
from vderain.media.encode.options import EncodeOptions
from vderain.media.encode.writer import VideoWriter
from vderain.media.image.codec import refuse_unsupported_image
from vderain.media.image.sequence import ImageReader, ImageWriter, is_image_source

Reader = VideoReader | ImageReader
Writer = VideoWriter | ImageWriter


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file is.

    Attributes:
        frames: written so far.
        done_s, total_s: position in the part that is processed; total is None where the source does not say.
    """

    frames: int
    done_s: float
    total_s: float | None


def check_source(source: Path) -> None:
    """Finds before anything else whether there is a source.

    Raises:
        InputError: there is none, nobody may look, or it is an image of a kind that is not read.
    """
    try:
        if not source.exists():
            raise InputError(f"there is no file {source}.", "Check the path.")
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise InputError(f"{source} cannot be read ({error.strerror}).", "Check the path.") from error
    if source.is_file():
        refuse_unsupported_image(source)


def check_name(target: Path, source: Path, overwrite: bool) -> None:
    """Finds before any work what forbids a name for an output.

    Raises:
        OutputError: it cannot be written, or exists and may not be replaced.
        UsageError: it is that of the source.
    """
    try:
        there = target.exists()
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}).", "Choose another name with -o.") from error
    if target.name in ("", ".."):
        raise OutputError(f"{target} is a directory.", "Name what to write with -o.")
    if there and source.samefile(target):
        raise UsageError(f"the output {target} is the input itself.", "Choose another name with -o.")
    if there and not target.is_dir() and not overwrite:
        raise OutputError(f"{target} exists already.", "Add --overwrite to replace it, or choose another name with -o.")


def open_clip(
    source: Path, strict: bool = False, start_s: float | None = None, duration_s: float | None = None,
    rate: Fraction = Fraction(30),
) -> Reader:  # fmt: skip
    """A reader of a video, a picture, or a folder of numbered pictures, which go at a rate; not yet entered."""
    if is_image_source(source):
        return ImageReader(source, rate, start_s, duration_s)
    return VideoReader(source, strict, start_s, duration_s)


def create_clip(target: Path, like: Reader, encode: EncodeOptions, size_px: tuple[int, int] | None = None) -> Writer:
    """A writer of what a reader's frames become, of its kind; not yet entered.

    Args:
        target: a file, or a folder where the reader had one.
        like: entered.
        encode: codec and quality of a video.
        size_px: stored width and height of a video's frames, where they are not those of the source.
    """
    if isinstance(like, ImageReader):
        return ImageWriter(target, like)
    return VideoWriter(target, like, encode, size_px)


def damaged_frames(reader: Reader) -> int:
    """Frames so far for which another stands in; a damaged picture is an error instead."""
    return reader.damage.frames if isinstance(reader, VideoReader) else 0


def quarter_turns(reader: Reader) -> int:
    """Quarter turns counter-clockwise that a player makes before showing a video; pictures come upright."""
    return reader.info.rotation_deg // 90 % 4 if isinstance(reader, VideoReader) else 0


def duration_s(reader: Reader) -> float | None:
    if isinstance(reader, ImageReader):
        return float(reader.count / reader.rate)
    return reader.info.duration_s
