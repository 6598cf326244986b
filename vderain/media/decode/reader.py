"""Reads a video file as a sequence of frames with their own timestamps, and counts its damage."""

import logging
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import av

from vderain.errors import DamageError, InputError, UsageError
from vderain.media.decode.decoder import FrameDecoder
from vderain.media.decode.keyframes import keyframe_groups
from vderain.media.decode.media_file import UNSPECIFIED, Crop, MediaFile, TimeRange, VideoInfo
from vderain.media.decode.probe import probe
from vderain.media.frame import Frame, SourceReport

__all__ = ["Damage", "TimeRange", "VideoInfo", "VideoReader"]

log = logging.getLogger(__name__)

INTERLACED = "interlaced frames (deinterlaced)"
CROPPED = "cropping rectangle (the frames themselves are cropped)"
WITHOUT_PICTURE = "packets without a picture"
CONVERTED = "frames of another size or format than the first (converted)"
_LATEST_S = 2**31  # timestamps end before: 68 years
_MAX_EVENTS = 50  # limits the memory that a badly broken file takes


@dataclass(slots=True)
class Damage:
    """Damage found in the input so far.

    Attributes:
        frames: lost frames that were concealed by a copy of another frame.
        missing: frames that a truncated MP4, MOV or AVI file lists but does not hold, and lost ones without a
            timestamp; nothing conceals them.
        events: descriptions for people, at most 50.
    """

    frames: int = 0
    missing: int = 0
    events: list[str] = field(default_factory=list)
    _run_begin_s: float = field(default=0.0, repr=False)
    _run_frames: int = field(default=0, repr=False)

    def add_lost_frame(self, time_s: float, continues: bool) -> None:
        """Counts one lost frame; consecutive ones share one event.

        Args:
            time_s: time of the frame.
            continues: whether the frame before was lost as well.
        """
        self.frames += 1
        if continues and self._run_frames:
            self._run_frames += 1
            if self.events and len(self.events) < _MAX_EVENTS:
                self.events[-1] = f"{self._run_frames} lost frames concealed from {self._run_begin_s:.3f} s"
            return
        self._run_begin_s, self._run_frames = time_s, 1
        self.note(f"1 lost frame concealed at {time_s:.3f} s")

    def note(self, event: str) -> None:
        """Adds an event unless the list is full."""
        if len(self.events) < _MAX_EVENTS:
            self.events.append(event)


class VideoReader:
    """Reads the frames of a video file.

    Without ``start_s`` every frame keeps its pts of the file. With it, timestamps restart: the first frame delivered
    has pts 0, and ``cut`` tells the writer by how much every other stream has to move.

    Attributes:
        media: properties of the file; set on entering the context.
        info: properties of its main video stream; likewise.
        damage: damage found so far in the current pass.
        cut: the part that is read, on the source's clock; with ``start_s``, complete after the first frame.
        share: the part of the file's duration that is read, 0..1.
        changed: descriptions of how the frames delivered differ from those stored; complete after a pass.
        dropped: descriptions of side data of the frames and of streams that cannot be copied; complete after a pass.

    Args:
        path: the file.
        strict: raise DamageError at the first damage instead of concealing it.
        start_s: seconds from the beginning of the file at which to start, or None.
        duration_s: how many seconds to read, or None.

    Raises:
        InputError: on entering the context, if the file is not a video that can be decoded.
        UsageError: on entering the context, if the part asked for is empty.
    """

    media: MediaFile
    info: VideoInfo

    def __init__(
        self,
        path: str | os.PathLike[str],
        strict: bool = False,
        start_s: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.strict = strict
        self.damage = Damage()
        self.cut = TimeRange()
        self.share = 1.0
        self.changed: list[str] = []
        self.dropped: list[str] = []
        self._start_s = start_s if start_s else None
        self._duration_s = duration_s
        self._window = TimeRange()

    def __enter__(self) -> Self:
        if self._start_s is not None and self._start_s < 0:
            raise UsageError("The start may not be negative.", "Give seconds from the beginning of the file.")
        if self._duration_s is not None and self._duration_s <= 0:
            raise UsageError("The duration must be more than 0 s.", "Give the number of seconds to process.")
        if self._start_s is not None and self._start_s > _LATEST_S:
            self._raise_no_frames()
        self.media = probe(self.path, self._start_s, self._duration_s)
        self.info, whole_s = self.media.video, self.media.duration_s
        self._window = _window(self.media.start_s, self._start_s, self._duration_s)
        if whole_s and self.info.duration_s is not None:
            self.share = min(1.0, self.info.duration_s / whole_s)
        self.cut = TimeRange(None, self._window.end_s)
        self._log_assumptions()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes nothing: each pass of ``frames`` opens and closes the file itself."""

    def _log_assumptions(self) -> None:
        """Logs what the file does not state, and what is assumed instead."""
        name, info = self.path.name, self.info
        if info.clock == "rate":
            log.warning("'%s' has no timestamps: %.6g frames/s are assumed.", name, float(1 / info.time_base))
        if info.misflagged:
            log.info("'%s' is flagged as interlaced, but its frames are progressive: it is not deinterlaced.", name)
        if info.tags.matrix == UNSPECIFIED and info.colour.matrix != "rgb":
            matrix = info.colour.matrix.upper().replace("BT", "BT.")
            size = f"{info.width_px}x{info.height_px}"
            log.info("'%s' names no colour matrix: %s is taken, as players do at %s.", name, matrix, size)

    @property
    def cuts_front(self) -> bool:
        """Whether timestamps restart at the first frame delivered, because a start was asked for."""
        return self._start_s is not None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the frames as stored, before rotation."""
        return self.info.width_px, self.info.height_px

    @property
    def duration_s(self) -> float | None:
        """Seconds that will be read, or None if the file does not tell."""
        return self.info.duration_s

    @property
    def frames_estimate(self) -> int | None:
        """About how many frames will be read, or None if the file does not tell."""
        return self.info.frames_estimate

    @property
    def average_rate(self) -> Fraction | None:
        """Frames a second, for estimates only, or None if the file does not tell."""
        return self.info.average_rate

    @property
    def rotation_quarters(self) -> int:
        """Quarter turns counter-clockwise that a player makes before showing a frame."""
        return self.info.rotation_deg // 90 % 4

    @property
    def report(self) -> SourceReport:
        """What was found in the current pass, complete at its end."""
        return SourceReport(
            repeated=self.damage.frames,
            missing=self.damage.missing,
            damage=tuple(self.damage.events),
            changed=tuple(self.changed),
        )

    def frames(self) -> Iterator[Frame]:
        """The frames in presentation order, decoded lazily; each call is a new pass from the beginning.

        Raises:
            DamageError: the input is damaged and ``strict`` is set.
            InputError: the file cannot be read any further, or holds no frame.
            UsageError: no frame lies in the part asked for.
        """
        self.damage.frames = self.damage.missing = 0
        self.damage.events.clear()
        self.changed[:] = [CROPPED] if self.info.crop != Crop() else []
        delivered = 0
        try:
            with FrameDecoder(self.path, self.info, self._window.begin_s) as decoder:
                for frame in self._in_window(decoder.frames()):
                    delivered += 1
                    if decoder.deinterlacer.count and INTERLACED not in self.changed:
                        self._note_interlaced()
                    yield frame
                self.changed += [CONVERTED] if decoder.converted else []
                self.dropped[:] = [*sorted(decoder.lost_side_data.found), *decoder.late_streams]
                self._note_missing(decoder.missing, "the file ends early")
                self._note_missing(decoder.unplaced, "lost without a timestamp")
                self._log_packets_without_frame(decoder)
        except av.error.FFmpegError as error:
            raise InputError(f"'{self.path}' cannot be read any further ({error}).", "Check the disk.") from error
        if not delivered:
            self._raise_no_frames()

    def keyframe_groups(self, count: int, every_s: Fraction, lines_px: int) -> Generator[list[Frame]]:
        """Small successive frames that begin with a keyframe, from all over the part; see `keyframe_groups`.

        Args:
            count: frames of a group.
            every_s: least time between two groups.
            lines_px: greatest number of lines or columns on the shorter side of a frame.
        """
        return keyframe_groups(self.path, self.info, self._window, count, every_s, lines_px)

    @property
    def part_s(self) -> tuple[float, float | None]:
        """Where the part begins and ends on the file's clock, in seconds; None where the file does not tell."""
        begin_s = float(self._window.begin_s if self._window.begin_s is not None else self.media.start_s)
        return begin_s, begin_s + self.duration_s if self.duration_s is not None else None

    def _in_window(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Leaves out frames outside the part asked for, and restarts timestamps where the front is cut off."""
        shift: int | None = None if self._start_s is not None else 0
        continues = False
        for frame in frames:
            time_s = frame.pts * frame.time_base
            if self._window.end_s is not None and time_s >= self._window.end_s:
                return
            if not self._window.holds(time_s):
                continue
            if shift is None:
                shift = frame.pts
                self.cut = TimeRange(time_s, self._window.end_s, time_s)
            if frame.concealed:
                self._count_lost(frame, continues)
            continues = frame.concealed
            yield replace(frame, pts=frame.pts - shift) if shift else frame

    def _note_interlaced(self) -> None:
        if self.strict:
            raise DamageError(f"'{self.path}' is interlaced.", "Leave out --strict to deinterlace it.")
        self.changed.append(INTERLACED)
        log.warning("'%s' is interlaced and is deinterlaced (bwdif).", self.path.name)

    def _count_lost(self, frame: Frame, continues: bool) -> None:
        time_s = float(frame.pts * frame.time_base)
        if self.strict:
            raise DamageError(
                f"'{self.path}' is damaged at {time_s:.3f} s.", "Leave out --strict to conceal the damage instead."
            )
        self.damage.add_lost_frame(time_s, continues)

    def _note_missing(self, missing: int, reason: str) -> None:
        """Reports frames that the output does not have."""
        if not missing:
            return
        frames = "1 frame is missing" if missing == 1 else f"{missing} frames are missing"
        if self.strict:
            raise DamageError(
                f"'{self.path}' is damaged: {frames} ({reason}).",
                "Copy the file again, or leave out --strict to use what is there.",
            )
        self.damage.missing += missing
        self.damage.note(f"{reason}: {frames}")

    def _log_packets_without_frame(self, decoder: FrameDecoder) -> None:
        name = self.path.name
        if decoder.without_picture:
            self.changed.append(f"{WITHOUT_PICTURE} (left out): {decoder.without_picture}")
            log.warning("'%s': %s: %d.", name, WITHOUT_PICTURE, decoder.without_picture)
        if decoder.hidden:
            log.info("'%s': frames that its edit list hides: %d.", name, decoder.hidden)

    def _raise_no_frames(self) -> NoReturn:
        if self._start_s is not None or self._duration_s is not None:
            raise UsageError(
                f"'{self.path}' has no frame in the part asked for.",
                "Choose an earlier --start or a longer --duration.",
            )
        raise InputError(f"No frame of '{self.path}' can be decoded.", "Copy or record the file again.")


def _window(zero_s: Fraction, start_s: float | None, duration_s: float | None) -> TimeRange:
    """The part asked for, on the source's clock; like players, counts from the earliest stream, at ``zero_s``."""
    if start_s is None and duration_s is None:
        return TimeRange()
    # A microsecond early, because FFmpeg rounds a container's start to that.
    begin_s = zero_s - Fraction(1, av.time_base) + Fraction(start_s or 0).limit_denominator(av.time_base)
    end_s = begin_s + Fraction(duration_s).limit_denominator(av.time_base) if duration_s is not None else None
    return TimeRange(begin_s if start_s is not None else None, end_s)
