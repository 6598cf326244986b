"""Interfaces of what frames are read from and written to: videos, still images and folders of images alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vderain.media.frame import Frame


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


class FrameSource(Protocol):
    """Something that frames are read from; to be entered as a context manager.

    Attributes:
        path: the file or folder.
    """

    path: Path

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
