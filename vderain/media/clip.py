"""Opens frame sources and sinks by name: a video, a still image, or a folder of numbered images."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vderain.errors import InputError, OutputError, UsageError
from vderain.media.decode.reader import VideoReader
from vderain.media.encode import EncodeOptions
from vderain.media.encode.segments import SegmentStore
from vderain.media.encode.writer import VideoWriter
from vderain.media.frame import FrameSink, FrameSource, Progress
from vderain.media.image.codec import refuse_unsupported_image
from vderain.media.image.sequence import ImageReader, ImageWriter, is_image_source
from vderain.media.remux.capabilities import CONTAINERS
from vderain.runtime.files import Draft

__all__ = ["FrameSink", "FrameSource", "Progress", "check_name", "check_source", "open_sink", "open_source"]


def check_source(source: Path) -> None:
    """Checks that there is a source, before anything else is done.

    Raises:
        InputError: it does not exist, may not be read, or is an image of a kind that cannot be read.
    """
    try:
        if not source.exists():
            raise InputError(f"there is no file {source}.", "Check the path.")
    except OSError as error:  # a name that is too long, a folder without permission
        raise InputError(f"{source} cannot be read ({error.strerror}).", "Check the path.") from error
    if source.suffix.lower() not in CONTAINERS and source.is_file():
        refuse_unsupported_image(source)


def check_name(target: Path, source: Path, overwrite: bool) -> None:
    """Checks the name of an output, before any work is done.

    Args:
        target: the name.
        source: the input, which must not be overwritten.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: it cannot be written, or exists and may not be replaced.
        UsageError: it is the name of the source.
    """
    try:
        exists = target.exists()
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}).", "Choose another name with -o.") from error
    if target.name in ("", ".."):
        raise OutputError(f"{target} is a directory.", "Name what to write with -o.")
    if exists and source.samefile(target):
        raise UsageError(f"the output {target} is the input itself.", "Choose another name with -o.")
    if exists and not target.is_dir() and not overwrite:
        raise OutputError(f"{target} exists already.", "Add --overwrite to replace it, or choose another name with -o.")


def open_source(
    source: Path,
    *,
    strict: bool = False,
    start_s: float | None = None,
    duration_s: float | None = None,
    rate: Fraction = Fraction(30),
) -> FrameSource:
    """A source of frames, not yet entered.

    Args:
        source: a video, an image, or a folder of numbered images.
        strict: stop at damage in a video instead of concealing it.
        start_s: where to start, in seconds from the beginning; None is the beginning.
        duration_s: how many seconds to read; None is the rest.
        rate: frames a second of a folder of images.
    """
    if is_image_source(source):
        return ImageReader(source, rate, start_s, duration_s)
    return VideoReader(source, strict, start_s, duration_s)


def open_sink(
    target: Path | Draft,
    source: FrameSource,
    encode: EncodeOptions,
    size_px: tuple[int, int] | None = None,
    store: SegmentStore | None = None,
    unchanged: Sequence[range] = (),
) -> FrameSink:
    """A sink for the processed frames of a source, of the same kind, not yet entered.

    Args:
        target: a file, or a folder if the source is one; or its draft, which tells whether it may be replaced.
        source: entered already.
        encode: codec and quality of a video.
        size_px: stored width and height of a video's frames, where they differ from the source's.
        store: keeps encoded segments of a video, so that it can be resumed; entered already.
        unchanged: numbers of frames that will be written as they were read; see `VideoWriter`.
    """
    if isinstance(source, ImageReader):
        return ImageWriter(target, source)
    assert isinstance(source, VideoReader)
    return VideoWriter(target, source, encode, size_px, store, unchanged)
