"""Owns decoding: a file enters, Frames with their own pts leave, damage is counted and no frame is ever lost."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av

from vderain.errors import DamageError, InputError, UsageError
from vderain.media.decode.decoder import FrameDecoder
from vderain.media.decode.media_file import Crop, MediaFile, TimeRange, VideoInfo
from vderain.media.decode.probe import probe
from vderain.media.frame import Frame
from vderain.media.pixel_format import UNSPECIFIED

__all__ = ["Damage", "TimeRange", "VideoInfo", "VideoReader"]

log = logging.getLogger(__name__)

INTERLACED = "interlaced pictures (deinterlaced)"
CROPPED = "cropping rectangle (the pictures themselves are cropped)"
CONVERTED = "pictures of another size or format than the first (converted to its)"
_LATEST_S = 2**31  # no clock of a file counts further: 68 years
_MAX_EVENTS = 50  # a badly broken file must not fill the memory with sentences


@dataclass(slots=True)
class Damage:
    """What was broken in the input so far.

    Attributes:
        frames: lost frames for which another picture stands in.
        missing: frames that are not in a truncated or overwritten file, which nothing stands in for.
        events: short sentences for people.
    """

    frames: int = 0
    missing: int = 0
    events: list[str] = field(default_factory=list)
    _run_begin_s: float = field(default=0.0, repr=False)
    _run_frames: int = field(default=0, repr=False)

    def bridged(self, time_s: float, continues: bool) -> None:
        """Counts one lost frame at ``time_s``; neighbours share one event."""
        self.frames += 1
        if continues and self._run_frames:
            self._run_frames += 1
            if self.events and len(self.events) < _MAX_EVENTS:
                self.events[-1] = f"{self._run_frames} lost frames bridged from {self._run_begin_s:.3f} s"
            return
        self._run_begin_s, self._run_frames = time_s, 1
        self.note(f"1 lost frame bridged at {time_s:.3f} s")

    def note(self, event: str) -> None:
        """Adds an event as long as the list is short."""
        if len(self.events) < _MAX_EVENTS:
            self.events.append(event)


class VideoReader:
    """Reads the frames of a video.

    Without ``start_s`` every frame has the pts it has in the file. With it, the output's clock restarts: the first
    frame delivered has pts 0, and ``cut`` tells the writer how far everything else has to move with it.

    Attributes:
        media: what is known of the file, from entering the context on.
        info: what is known of its main video stream, likewise.
        damage: what was broken so far in the current pass.
        cut: what part of the source's clock is read; where the front is cut off, complete from the first frame on.
        share: the part of the file that is read, 0..1.
        changed: what the frames delivered are not any more, in words, such as interlaced.
        dropped: what the pictures carried beside their samples, in words; both are complete after a pass.

    Args:
        path: the file.
        strict: raise DamageError at the first damage instead of bridging it.
        start_s: seconds from the beginning of the file at which to start, or None.
        duration_s: how many seconds to read, or None.

    Raises:
        InputError: on entering the context, where the file is not a video that can be decoded.
        UsageError: on entering the context, where the part asked for is empty.
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

    def __enter__(self) -> "VideoReader":
        if self._start_s is not None and self._start_s < 0:
            raise UsageError("The start may not be negative.", "Give seconds from the beginning of the file.")
        if self._duration_s is not None and self._duration_s <= 0:
            raise UsageError("The duration must be more than 0 s.", "Give the number of seconds to process.")
        if self._start_s is not None and self._start_s > _LATEST_S:
            self._nothing_delivered()
        self.media = probe(self.path, self._start_s, self._duration_s)
        self.info, whole_s = self.media.video, self.media.duration_s
        self._window = _window(self.media.start_s, self._start_s, self._duration_s)
        if whole_s and self.info.duration_s is not None:
            self.share = min(1.0, self.info.duration_s / whole_s)
        self.cut = TimeRange(None, self._window.end_s)
        if self.info.clock == "rate":
            rate = float(1 / self.info.time_base)
            log.warning("'%s' has no time stamps: its clock is made from %.6g frames/s.", self.path.name, rate)
        if self.info.misflagged:
            log.info("'%s' is flagged as interlaced, but its pictures are whole: they stay so.", self.path.name)
        if self.info.tags.matrix == UNSPECIFIED and self.info.colour.matrix != "rgb":
            size = f"{self.info.width_px}x{self.info.height_px}"
            name = self.info.colour.matrix.upper().replace("BT", "BT.")
            log.info("'%s' names no colour matrix: %s is taken, as players do at %s.", self.path.name, name, size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays open between passes: each pass of ``frames`` opens and closes the file itself."""

    @property
    def cuts_front(self) -> bool:
        """Whether the clock restarts at the first frame delivered, because a start was asked for."""
        return self._start_s is not None

    def frames(self) -> Iterator[Frame]:
        """The frames in presentation order, decoded as they are asked for; each call is a pass from the beginning.

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
            with FrameDecoder(self.path, self.info, self._window.begin_s) as decoding:
                for frame in self._in_window(decoding.frames()):
                    delivered += 1
                    if decoding.whole.count and INTERLACED not in self.changed:
                        self._note_fields()
                    yield frame
                self.changed += [CONVERTED] if decoding.converted else []
                self.dropped[:] = sorted(decoding.lost_side_data.found)
                self._note_missing(decoding.missing, decoding.lost)
        except av.error.FFmpegError as error:
            raise InputError(f"'{self.path}' cannot be read any further ({error}).", "Check the disk.") from error
        if not delivered:
            self._nothing_delivered()

    def _in_window(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Leaves out what is outside the part asked for, and restarts the clock where the front is cut off."""
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
            if frame.repeated:
                self._count(frame, continues)
            continues = frame.repeated
            yield replace(frame, pts=frame.pts - shift) if shift else frame

    def _note_fields(self) -> None:
        """Says that what is delivered are not the very samples of the file."""
        if self.strict:
            raise DamageError(
                f"'{self.path}' is interlaced.", "Leave out --strict to make whole pictures of its fields."
            )
        self.changed.append(INTERLACED)
        log.warning("'%s' is interlaced: whole pictures are made of its fields (bwdif).", self.path.name)

    def _count(self, frame: Frame, continues: bool) -> None:
        time_s = float(frame.pts * frame.time_base)
        if self.strict:
            raise DamageError(
                f"'{self.path}' is damaged at {time_s:.3f} s.", "Leave out --strict to bridge the damage instead."
            )
        self.damage.bridged(time_s, continues)

    def _note_missing(self, beyond: int, within: int) -> None:
        """Says how many frames the file should have had; no still picture pretends them.

        Args:
            beyond: behind the end of a truncated file.
            within: in places that were overwritten.
        """
        if not beyond + within:
            return
        where = "ends early" if beyond else "is damaged"
        said = "1 frame is missing" if beyond + within == 1 else f"{beyond + within} frames are missing"
        if self.strict:
            raise DamageError(
                f"'{self.path}' {where}: {said}.",
                "Copy the file again, or leave out --strict to use what is there.",
            )
        self.damage.missing = beyond + within
        self.damage.note(f"the file {where}: {said}")

    def _nothing_delivered(self) -> None:
        if self._start_s is not None or self._duration_s is not None:
            raise UsageError(
                f"'{self.path}' has no frame in the part asked for.",
                "Choose an earlier --start or a longer --duration.",
            )
        raise InputError(f"No picture in '{self.path}' can be decoded.", "Copy or record the file again.")


def _window(zero_s: Fraction, start_s: float | None, duration_s: float | None) -> TimeRange:
    """The part asked for, on the source's clock; players count from the earliest stream."""
    if start_s is None and duration_s is None:
        return TimeRange()
    # A microsecond early, because the container states its start rounded to that.
    begin_s = zero_s - Fraction(1, av.time_base) + Fraction(start_s or 0).limit_denominator(av.time_base)
    end_s = begin_s + Fraction(duration_s).limit_denominator(av.time_base) if duration_s is not None else None
    return TimeRange(begin_s if start_s is not None else None, end_s)
