"""Frames of video, and the interfaces of what they are read from and written to.

Videos, still images and folders of images have the same two interfaces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vderain.media.decode.media_file import MediaFile

Plane = NDArray[np.uint8] | NDArray[np.uint16]
Matrix = Literal["bt601", "bt709", "bt2020", "rgb"]
_NAME_MAX = 100  # characters of a name in a message


@dataclass(frozen=True, slots=True)
class Colour:
    """How code values relate to light.

    Attributes:
        matrix: YCbCr matrix, or ``rgb`` where the planes are R, G, B.
        full_range: True where luma spans 0..2^depth-1, False where it spans 16..235 times 2^(depth-8).
        depth_bits: significant bits of a sample; planes are uint8 up to 8 bits, uint16 above (value in the low bits).
        chroma_w, chroma_h: how many luma samples one chroma sample covers, horizontally and vertically (1 or 2).
    """

    matrix: Matrix
    full_range: bool
    depth_bits: int = 8
    chroma_w: int = 1
    chroma_h: int = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        planes: (Y, Cb, Cr), or (R, G, B) where ``colour.matrix == "rgb"``, or (Y,) for grey. Y is (H, W); chroma is
            (ceil(H / chroma_h), ceil(W / chroma_w)). Never written to: a changed frame is a new frame.
        colour: what the code values mean.
        pts: presentation time, in units of ``time_base`` seconds.
        duration: how long it is shown, in units of ``time_base``; 0 if the source does not say.
        time_base: seconds in one unit of ``pts``.
        concealed: True for a copy of a good neighbour in place of a frame that was lost to damage.
    """

    planes: tuple[Plane, ...]
    colour: Colour
    pts: int
    duration: int
    time_base: Fraction
    concealed: bool = False

    @property
    def height_px(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def width_px(self) -> int:
        return int(self.planes[0].shape[1])

    def with_planes(self, planes: tuple[Plane, ...]) -> "Frame":
        """The same frame with other planes.

        Args:
            planes: of the same sizes and types.
        """
        return replace(self, planes=planes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What was found while reading.

    Attributes:
        repeated: lost frames that were concealed with a neighbouring frame.
        missing: frames that a truncated or overwritten file does not have, and that were not concealed.
        damage: descriptions of what is damaged.
        changed: descriptions of how the frames differ from those stored in the file, such as deinterlaced.
    """

    repeated: int = 0
    missing: int = 0
    damage: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What became of everything beside the frames.

    Attributes:
        kept: names of the streams and metadata that were copied.
        changed: descriptions of what is there in another form.
        dropped: names of what the output cannot hold.
    """

    kept: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def listing(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, joined by commas. Files may announce thousands, and names of any length.

    Args:
        names: of streams, tags and the like.
        most: how many to spell out; the others are counted.
    """
    spelled = [name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}..." for name in names[:most]]
    rest = len(names) - most
    return ", ".join(spelled) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a file has been processed.

    Attributes:
        frames: written so far.
        done_s, total_s: position in the part that is processed; total is None if the source does not tell.
    """

    frames: int
    done_s: float
    total_s: float | None


class FrameSource(Protocol):
    """Something that frames are read from; to be entered as a context manager.

    Attributes:
        path: the file or folder.
    """

    path: Path

    @property
    def media(self) -> "MediaFile | None":
        """Properties of a video file; None for images. Known once entered."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the frames as stored, before rotation."""

    @property
    def duration_s(self) -> float | None:
        """Seconds that will be read, or None if the source does not tell."""

    @property
    def frames_estimate(self) -> int | None:
        """About how many frames will be read, or None if the source does not tell."""

    @property
    def average_rate(self) -> Fraction | None:
        """Frames a second, for estimates only, or None if the source does not tell."""

    @property
    def rotation_quarters(self) -> int:
        """Quarter turns counter-clockwise that a player makes before showing a frame."""

    @property
    def report(self) -> SourceReport:
        """What was found while reading; complete after a pass of `frames`."""

    def frames(self) -> Iterator[Frame]:
        """The frames in presentation order; each call is a pass from the beginning."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FrameSink(Protocol):
    """Something that frames are written to; to be entered as a context manager.

    The output gets its name when the context is left without an error; after an error nothing is left of it.
    """

    @property
    def report(self) -> SinkReport:
        """What became of everything beside the frames; complete after the context is left."""

    def write(self, frame: Frame) -> None:
        """Writes the next frame."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
