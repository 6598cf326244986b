"""The frames worth showing: pairs of frames as they go by enter, pictures of the rainiest before and after leave.

What rain added is what was taken away, so the frames that lost most light are the ones in which most can be seen. How
long a clip is nobody knows before its end; so the best frame of each stretch of time is held, and stretches are joined
two by two when they become too many.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar
from zipfile import BadZipFile

import cv2
import numpy as np

from vderain.errors import OutputError
from vderain.media.colour import code_scale, to_rgb8
from vderain.media.frame import Frame, Plane

KEPT = 3
LONGEST_PX = 640
JPEG_QUALITY = 84
FAINT_LEVELS = 0.05  # less than this cannot be seen, and such a frame is shown only where there is none better
STRETCHES = 12
STRETCH_S = 0.5  # at first; joined two by two when there are too many
BETTER = 1.05  # a frame must win by so much, lest rain that grows slowly has every frame made small
LINES = 135  # that are compared: every eighth of 1080


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A frame worth showing.

    Attributes:
        time_s: seconds from the beginning of the file.
        removed: rain taken away, a mean over the picture, in levels of 255.
        before, after: JPEG files, as relative paths with forward slashes.
    """

    time_s: float
    removed: float
    before: str
    after: str


class _Timed(Protocol):
    @property
    def time_s(self) -> float: ...
    @property
    def removed(self) -> float: ...


T = TypeVar("T", bound=_Timed)


@dataclass(frozen=True, slots=True)
class _Held:
    """A small pair of frames; as JPEG once they were written."""

    time_s: float
    removed: float
    before: Frame | bytes
    after: Frame | bytes


class ThumbnailPicker:
    """Looks at frames as they go by and holds small copies of the rainiest; for one thread at a time.

    Args:
        turns: quarter turns counter-clockwise that a player makes before showing; see `media.source_sink.FrameSource`.
        kept: what `keep` wrote. A keeper that first sees a later frame than that one did goes on from there.
    """

    def __init__(self, turns: int = 0, kept: Path | None = None) -> None:
        self._turns, self._kept = turns, kept
        self._begin_s: float | None = None
        self._last_s = -math.inf
        self._stretch_s = STRETCH_S
        self._best: dict[int, _Held] = {}

    def see(self, before: Frame, after: Frame) -> None:
        """Compares a few lines of two pictures; makes small copies only of those that may be shown.

        Args:
            before: a frame as decoded.
            after: the same instant, finished, of the same size. A frame that stands in for a lost one is passed over.

        Raises:
            ValueError: the sizes differ.
        """
        if before.planes[0].shape != after.planes[0].shape:
            raise ValueError(f"before is {before.planes[0].shape}, after {after.planes[0].shape}")
        now_s = float(before.pts * before.time_base)
        if self._begin_s is None:
            self._begin_s = now_s
            self._go_on()
        if before.concealed or now_s <= self._last_s:  # frames before a joint come twice
            return
        self._last_s = now_s
        removed, time_s = removed_levels(before, after), now_s - self._begin_s
        held = self._best.get(self._stretch(time_s))
        if held is None or removed > BETTER * held.removed:
            self._best[self._stretch(time_s)] = _Held(time_s, removed, _small(before), _small(after))
            if len(self._best) > STRETCHES:
                self._join()

    def save(self, folder: Path, relative_to: Path) -> tuple[Thumbnail, ...]:
        """Writes the rainiest of what was seen.

        Args:
            folder: where to; it is made where missing.
            relative_to: what the paths of the moments begin at.

        Returns:
            Moments in order of time; none where no frame was seen.

        Raises:
            OutputError: the disk refuses a picture.
        """
        return tuple(self._saved(held, folder, relative_to) for held in pick_thumbnails(self._best.values()))

    def keep(self, path: Path) -> None:
        """Writes all that is held, for another keeper to go on from.

        Raises:
            OutputError: the disk refuses it.
        """
        self._best = {stretch: self._as_jpeg(held) for stretch, held in self._best.items()}
        kept: dict[str, Any] = {
            "clock": np.array([self._begin_s, self._last_s, self._stretch_s], np.float64),
            "facts": np.array([[held.time_s, held.removed] for held in self._best.values()], np.float64),
        }
        for number, held in enumerate(self._best.values()):
            kept[f"before{number}"] = np.frombuffer(_jpeg(held.before, self._turns), np.uint8)
            kept[f"after{number}"] = np.frombuffer(_jpeg(held.after, self._turns), np.uint8)
        file = BytesIO()
        np.savez(file, **kept)
        _write(path, file.getvalue())

    def _go_on(self) -> None:
        """Takes over what was kept, unless the file starts over, which it does from its first frame."""
        if self._kept is None:
            return
        with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(self._kept) as kept:  # no pickle in it
            begin_s, last_s, stretch_s = (float(value) for value in kept["clock"])
            held = [
                _Held(float(time_s), float(removed), kept[f"before{n}"].tobytes(), kept[f"after{n}"].tobytes())
                for n, (time_s, removed) in enumerate(kept["facts"])
            ]
            if self._begin_s is not None and self._begin_s > begin_s:
                self._begin_s, self._last_s, self._stretch_s = begin_s, last_s, stretch_s
                self._best = {self._stretch(one.time_s): one for one in held}

    def _as_jpeg(self, held: _Held) -> _Held:
        return replace(held, before=_jpeg(held.before, self._turns), after=_jpeg(held.after, self._turns))

    def _stretch(self, time_s: float) -> int:
        return math.floor(time_s / self._stretch_s)

    def _join(self) -> None:
        held = sorted(self._best.values(), key=lambda one: one.removed)
        while len({self._stretch(one.time_s) for one in held}) > STRETCHES:
            self._stretch_s *= 2
        self._best = {self._stretch(one.time_s): one for one in held}  # the rainiest of each comes last, and stays

    def _saved(self, held: _Held, folder: Path, relative_to: Path) -> Thumbnail:
        names = []
        for kind, picture in (("before", held.before), ("after", held.after)):
            path = folder / f"{max(0, round(held.time_s * 1000)):08}-{kind}.jpg"
            _write(path, _jpeg(picture, self._turns))
            names.append(path.relative_to(relative_to).as_posix())
        return Thumbnail(held.time_s, held.removed, *names)


def forget_others(folder: Path, relative_to: Path, thumbnails: Iterable[Thumbnail]) -> None:
    """Removes the pictures of an older result from a folder; those of moments stay."""
    shown = {relative_to / name for moment in thumbnails for name in (moment.before, moment.after)}
    for path in folder.glob("*.jpg"):
        if path not in shown:
            with suppress(OSError):  # somebody looks at it
                path.unlink()


def pick_thumbnails(candidates: Iterable[T], count: int = KEPT) -> tuple[T, ...]:
    """The candidates where most rain was removed, no two of them close in time; for parts of one file as for a whole.

    Args:
        candidates: of one file, in any order.
        count: how many at most. Fewer leave where rain was removed nowhere else, and one where it was nowhere at all.

    Returns:
        Some of the candidates, in order of time.
    """
    ranked = sorted(candidates, key=lambda one: -one.removed)
    times_s = [one.time_s for one in ranked]
    apart_s = (max(times_s) - min(times_s)) / (count + 1) if times_s else 0.0
    chosen: list[T] = ranked[:1]
    for one in ranked[1:]:
        far = all(abs(one.time_s - other.time_s) >= apart_s for other in chosen)
        if far and len(chosen) < count and one.removed >= FAINT_LEVELS:
            chosen.append(one)
    return tuple(sorted(chosen, key=lambda one: one.time_s))


def removed_levels(before: Frame, after: Frame) -> float:
    """Mean of max(before - after, 0) over every so many lines and columns of luma, or of green where there is none.

    Returns:
        Levels of 255.
    """
    index = 1 if before.colour.matrix == "rgb" and len(before.planes) == 3 else 0
    step = max(1, min(before.planes[index].shape) // LINES)
    old, new = (np.ascontiguousarray(frame.planes[index][::step, ::step]) for frame in (before, after))
    taken = cv2.mean(cv2.subtract(old, new))[0]  # type: ignore[arg-type]  # it stops at 0
    return float(taken * 255 / code_scale(before.colour)[0][0])


def _small(frame: Frame) -> Frame:
    """The frame with its longest side at most 640 pixels, in its own colour."""
    longest_px = max(frame.width_px, frame.height_px)
    if longest_px <= LONGEST_PX:
        return frame
    width_px, height_px = (max(1, round(px * LONGEST_PX / longest_px)) for px in (frame.width_px, frame.height_px))
    chroma = -(-width_px // frame.colour.chroma_w), -(-height_px // frame.colour.chroma_h)
    sizes = [(width_px, height_px), chroma, chroma]
    return frame.with_planes(tuple(_resized(plane, size) for plane, size in zip(frame.planes, sizes, strict=False)))


def _resized(plane: Plane, size: tuple[int, int]) -> Plane:
    small: Plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return small


def _jpeg(frame: Frame | bytes, turns: int) -> bytes:
    if isinstance(frame, bytes):
        return frame
    picture = cv2.cvtColor(np.ascontiguousarray(np.rot90(to_rgb8(frame), turns)), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", "Check the space left.") from error
