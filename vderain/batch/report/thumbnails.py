"""Picks the rainiest frames of a video, and writes them as JPEG files before and after restoration.

Rain is bright, so the frames that lost most light show most. The length of a video is not known while it is being
processed. The best frame of each interval of time is therefore kept, and neighbouring intervals are merged when there
are too many.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np

from vderain.batch.record import Thumbnail
from vderain.errors import OutputError
from vderain.media.colour import code_scale, to_rgb8
from vderain.media.frame import Frame, Plane
from vderain.runtime.files import Draft

THUMBNAILS = 3  # for each file
LONGEST_PX = 640
JPEG_QUALITY = 84
FAINT_LEVELS = 0.05  # less than this is invisible; such a frame is shown only where there is none better
MAX_INTERVALS = 12
FIRST_INTERVAL_S = 0.5  # doubled whenever there are more than MAX_INTERVALS
MIN_GAIN = 1.05  # otherwise every frame of slowly growing rain would be scaled down
SAMPLED_LINES = 135  # every eighth of 1080


class _Timed(Protocol):
    @property
    def time_s(self) -> float: ...
    @property
    def removed(self) -> float: ...


T = TypeVar("T", bound=_Timed)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A scaled-down pair of frames; as JPEG once they have been saved."""

    time_s: float
    removed: float
    before: Frame | bytes
    after: Frame | bytes


class ThumbnailPicker:
    """Keeps small copies of the rainiest frames of a video. Not thread-safe.

    Args:
        rotation_quarters: quarter turns counter-clockwise for display; see `media.frame.FrameSource`.
        saved: the file that `save_state` wrote. The picker resumes from it where its first frame is a later one.
    """

    def __init__(self, rotation_quarters: int = 0, saved: Path | None = None) -> None:
        self._rotation_quarters, self._saved = rotation_quarters, saved
        self._begin_s: float | None = None
        self._last_s = -math.inf
        self._interval_s = FIRST_INTERVAL_S
        self._best: dict[int, _Candidate] = {}

    def on_frame(self, before: Frame, after: Frame) -> None:
        """Compares a sample of lines, and copies the frames if they may be shown.

        Args:
            before: a decoded frame. One that conceals a lost frame is ignored.
            after: the restored frame of the same time and size.

        Raises:
            ValueError: the sizes differ.
        """
        if before.planes[0].shape != after.planes[0].shape:
            raise ValueError(f"before is {before.planes[0].shape}, after {after.planes[0].shape}")
        now_s = float(before.pts * before.time_base)
        if self._begin_s is None:
            self._begin_s = now_s
            self._resume()
        if before.concealed or now_s <= self._last_s:  # the frames before a resume point are seen twice
            return
        self._last_s = now_s
        removed, time_s = removed_levels(before, after), now_s - self._begin_s
        best = self._best.get(self._interval(time_s))
        if best is None or removed > MIN_GAIN * best.removed:
            self._best[self._interval(time_s)] = _Candidate(time_s, removed, _scaled(before), _scaled(after))
            if len(self._best) > MAX_INTERVALS:
                self._merge_intervals()

    def write(self, folder: Path, relative_to: Path) -> tuple[Thumbnail, ...]:
        """Writes the rainiest frames.

        Args:
            folder: for the JPEG files; it is created where missing.
            relative_to: the folder that the paths of the thumbnails begin at.

        Returns:
            Thumbnails in order of time; none where no frame was seen.

        Raises:
            OutputError: a picture cannot be written.
        """
        chosen = pick_thumbnails(self._best.values())
        return tuple(self._write_pair(candidate, folder, relative_to) for candidate in chosen)

    def save_state(self, path: Path) -> None:
        """Saves all candidates, for a picker that resumes.

        Raises:
            OutputError: the file cannot be written.
        """
        self._best = {interval: self._compressed(candidate) for interval, candidate in self._best.items()}
        arrays: dict[str, Any] = {
            "clock": np.array([self._begin_s, self._last_s, self._interval_s], np.float64),
            "candidates": np.array([[each.time_s, each.removed] for each in self._best.values()], np.float64),
        }
        for number, candidate in enumerate(self._best.values()):
            arrays[f"before{number}"] = np.frombuffer(_jpeg(candidate.before, self._rotation_quarters), np.uint8)
            arrays[f"after{number}"] = np.frombuffer(_jpeg(candidate.after, self._rotation_quarters), np.uint8)
        file = BytesIO()
        np.savez(file, **arrays)
        _write(path, file.getvalue())

    def _resume(self) -> None:
        """Loads the saved candidates, unless the file is processed from its first frame again."""
        if self._saved is None:
            return
        with suppress(Exception), np.load(self._saved) as saved:  # without pickle; damage only costs thumbnails
            begin_s, last_s, interval_s = (float(value) for value in saved["clock"])
            candidates = [
                _Candidate(float(time_s), float(removed), saved[f"before{n}"].tobytes(), saved[f"after{n}"].tobytes())
                for n, (time_s, removed) in enumerate(saved["candidates"])
            ]
            if self._begin_s is not None and self._begin_s > begin_s:
                self._begin_s, self._last_s, self._interval_s = begin_s, last_s, interval_s
                self._best = {self._interval(each.time_s): each for each in candidates}

    def _compressed(self, candidate: _Candidate) -> _Candidate:
        before, after = (_jpeg(frame, self._rotation_quarters) for frame in (candidate.before, candidate.after))
        return replace(candidate, before=before, after=after)

    def _interval(self, time_s: float) -> int:
        return math.floor(time_s / self._interval_s)

    def _merge_intervals(self) -> None:
        ranked = sorted(self._best.values(), key=lambda candidate: candidate.removed)
        while len({self._interval(candidate.time_s) for candidate in ranked}) > MAX_INTERVALS:
            self._interval_s *= 2
        self._best = {self._interval(each.time_s): each for each in ranked}  # of each interval the rainiest comes last

    def _write_pair(self, candidate: _Candidate, folder: Path, relative_to: Path) -> Thumbnail:
        names = []
        for kind, frame in (("before", candidate.before), ("after", candidate.after)):
            path = folder / f"{max(0, round(candidate.time_s * 1000)):08}-{kind}.jpg"
            _write(path, _jpeg(frame, self._rotation_quarters))
            names.append(path.relative_to(relative_to).as_posix())
        return Thumbnail(candidate.time_s, candidate.removed, *names)


def pick_thumbnails(candidates: Iterable[T], count: int = THUMBNAILS) -> tuple[T, ...]:
    """Chooses the rainiest candidates that are not close together in time.

    Args:
        candidates: of one file, in any order.
        count: at most this many. Frames without visible rain are chosen only where there is nothing else, and then one.

    Returns:
        Some of the candidates, in order of time.
    """
    ranked = sorted(candidates, key=lambda each: -each.removed)
    times_s = [each.time_s for each in ranked]
    min_gap_s = (max(times_s) - min(times_s)) / (count + 1) if times_s else 0.0
    chosen: list[T] = ranked[:1]
    for each in ranked[1:]:
        is_apart = all(abs(each.time_s - other.time_s) >= min_gap_s for other in chosen)
        if is_apart and len(chosen) < count and each.removed >= FAINT_LEVELS:
            chosen.append(each)
    return tuple(sorted(chosen, key=lambda each: each.time_s))


def removed_levels(before: Frame, after: Frame) -> float:
    """Measures the light that restoration removed: the mean of max(before - after, 0) over a grid of samples.

    Args:
        before: a decoded frame.
        after: the restored frame, of the same size.

    Returns:
        Levels of 255, of luma, or of green in RGB frames.
    """
    index = 1 if before.colour.matrix == "rgb" and len(before.planes) == 3 else 0
    step = max(1, min(before.planes[index].shape) // SAMPLED_LINES)
    old, new = (np.ascontiguousarray(frame.planes[index][::step, ::step]) for frame in (before, after))
    taken = cv2.mean(cv2.subtract(old, new))[0]  # type: ignore[arg-type]  # saturates at 0
    return float(taken * 255 / code_scale(before.colour)[0][0])


def _scaled(frame: Frame) -> Frame:
    """The frame with its longest side at most `LONGEST_PX`, in its own pixel format."""
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


def _jpeg(frame: Frame | bytes, rotation_quarters: int) -> bytes:
    if isinstance(frame, bytes):
        return frame
    picture = cv2.cvtColor(np.ascontiguousarray(np.rot90(to_rgb8(frame), rotation_quarters)), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Draft(path) as draft:
            draft.create()
            draft.path.write_bytes(data)
            draft.publish()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", "Check the space left.") from error
