"""Owns one pass over a file: packets enter, one frame for each picture they promise leaves, sound or bridged."""

import heapq
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.codec.context import ThreadType

from vderain.media.decode.deinterlace import Deinterlacer
from vderain.media.decode.matroska import ends_early, has_holes
from vderain.media.decode.media_file import Crop, VideoInfo
from vderain.media.decode.open import input_errors, main_video, open_input, read_packets
from vderain.media.decode.probe import FALLBACK_RATE, colour
from vderain.media.decode.side_data import LostSideData
from vderain.media.decode.timestamps import VideoClock, is_joinable
from vderain.media.frame import Frame
from vderain.media.pixel_format import planes_of

log = logging.getLogger(__name__)

_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # as Matroska's tags have it
_GROUP_MAX = 600  # packets without a key frame that wait to be decoded


class FrameDecoder:
    """One pass over a file: which frames were promised by packets, and which came.

    Args:
        path: the file.
        info: what is known of its video stream.
        begin_s: instant of the source's clock from which frames are wanted; the pass begins there or earlier.

    Attributes:
        missing: after the last frame, how many the file promises beyond the end of its data.
        lost: after the last frame, how many are not in the file where it has been overwritten.
        whole: makes pictures of two fields whole, and counts them.
        converted: pictures so far that came in another size or format than the first.
        lost_side_data: what pictures so far carried that an encoder does not write anew.
    """

    def __init__(self, path: Path, info: VideoInfo, begin_s: Fraction | None = None) -> None:
        self.missing = self.lost = self.converted = 0
        self.lost_side_data = LostSideData()
        self.whole = Deinterlacer(trust_flags=not info.misflagged)
        self._path = path
        self._info = info
        self._in_order = info.clock != "pts"  # pictures take the packets' stamps in order, whatever the decoder says
        self._begin_s = begin_s
        self._promised: list[tuple[int, int]] = []  # heap of (pts, duration) of packets whose picture is still to come
        self._suspect = False  # the decoder complained since the last sound key frame
        self._last: Frame | None = None  # last frame handed out
        self._good: Frame | None = None  # last frame handed out that is sound
        self._orphans: list[tuple[int, int]] = []  # lost before the first good picture
        self._packets = 0
        self._last_dts: int | None = None
        self._key_pts: int | None = None  # of the last key packet
        self._sought = False
        self._backwards = 0
        self._gaps = self._gap = 0  # frames that would fill all pauses, and that before the last frame
        rate = self._info.average_rate or FALLBACK_RATE
        self._typical = max(1, round(1 / (rate * self._info.time_base)))

    def __enter__(self) -> "FrameDecoder":
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container: Any = open_input(self._path)
        self._stream: Any = main_video(self._container, self._path)
        self._stream.thread_type = ThreadType.AUTO

    def frames(self) -> Iterator[Frame]:
        """All frames from the first packet on, bridged where needed."""
        self._seek()
        for packet in self._wanted(self._demux()):
            for picture in self.whole(self._decode(packet)):
                yield from self._deliver(picture)
            if self._in_order and self._suspect and self._promised:
                self._suspect = False  # without pts a lost picture is known only now, by the decoder's complaint
                yield from self._bridge([heapq.heappop(self._promised)])
        for picture in chain(self.whole(self._decode(None)), self.whole.flush()):
            yield from self._deliver(picture)
        if self._promised and not self._in_order:
            for picture in chain(self.whole(self._tail()), self.whole.flush()):
                yield from self._deliver(picture)
        if self._info.clock == "dts":  # AVI stores whole pictures: what is still owed was lost, said or not
            self._suspect = True
        if self._info.clock != "rate":
            yield from self._bridge(self._lost_before(None))
        self._count_missing()

    def _count_missing(self) -> None:
        """Finds out how many frames the file should have had, but has not."""
        if "matroska" in self._info.container:
            self._look_for_holes()
        elif not self._sought:
            self.missing = max(0, self._stream.frames - self._packets - self._held())

    def _held(self) -> int:
        """Frames of an AVI file that only show the picture before for longer: counted, but not in its index."""
        if self._info.clock != "dts" or self._last_dts is None:
            return 0
        return int(self._last_dts + 1 - sum(entry.timestamp <= self._last_dts for entry in self._stream.index_entries))

    def _look_for_holes(self) -> None:
        """Matroska does not count its frames: pauses and an early end are damage where the file itself is not whole."""
        if self._last is None:
            return
        rest_s = self._promised_end_s() - (self._last.pts + self._typical) * self._info.time_base
        rest = max(0, round(rest_s / (self._typical * self._info.time_base)))
        with suppress(OSError):
            if rest + self._gap and ends_early(self._path):  # what is shown before the last frame may come behind it
                self.missing = rest + self._gap
            if self._gaps + rest > self.missing and has_holes(self._path):
                self.lost = self._gaps + rest - self.missing

    def _promised_end_s(self) -> Fraction:
        """When the last frame ends, as the head of a Matroska file says."""
        of_stream = _DURATION.fullmatch(self._stream.metadata.get("DURATION", ""))
        if of_stream:
            hours, minutes, seconds = of_stream.groups()
            return Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours)
        return Fraction(self._container.duration or 0, av.time_base)

    def _seek(self) -> None:
        """Goes to a key frame at or before the start; from the beginning where the format's seeking misses it."""
        start_s = self._begin_s
        if start_s is None or self._info.clock == "rate" or is_joinable(self._container):
            return
        for margin_s in (0, 10):
            offset = int((start_s - margin_s) / self._info.time_base)
            with input_errors(self._path):
                try:
                    self._container.seek(offset, stream=self._stream)
                    first = next((p for p in self._container.demux(self._stream) if p.size), None)
                    stamp = self._stamp(first) if first is not None else None
                    if stamp is not None and stamp <= start_s / self._info.time_base:
                        self._container.seek(offset, stream=self._stream)
                        self._sought = True
                        return
                except av.error.FFmpegError:
                    break  # not seekable
        with input_errors(self._path):
            self._container.close()
            self._open()

    def _wanted(self, packets: Iterator[Any]) -> Iterator[Any]:
        """All packets; of a file that may have been joined, those from the last key frame before the start on.

        Only who has read it from the beginning knows what its clock says, for the same time can come twice in it.
        """
        if self._begin_s is not None and is_joinable(self._container):
            group: list[Any] = []
            begin = self._begin_s / self._info.time_base
            for packet in packets:
                late = packet.pts is not None and packet.pts > begin
                if packet.is_keyframe and not late:
                    group.clear()
                group.append(packet)
                if late or len(group) > _GROUP_MAX:
                    break
            yield from group
        yield from packets

    def _demux(self) -> Iterator[Any]:
        """The packets with something in them, on one clock."""
        joined = VideoClock() if is_joinable(self._container) else None
        for packet in read_packets(self._container, [self._stream]):
            self._packets += 1
            self._last_dts = packet.dts
            yield joined.follow(packet) if joined else packet

    def _decode(self, packet: Any | None) -> list[Any]:
        """The pictures that come out when one packet goes in (None: those still inside)."""
        if packet is not None:
            self._promise(packet)
        try:
            return list(self._stream.codec_context.decode(packet))
        except (av.error.FFmpegError, ValueError) as error:
            log.debug("decoding '%s': %s", self._path.name, error)
            self._suspect = True
            return []

    def _tail(self) -> Iterator[Any]:
        """Decodes again, slowly, what a failing decoder kept to itself at the end.

        With frame threads an error can come up only while the decoder is being emptied, and there it hides the sound
        pictures behind it. Without frame threads it comes up at once, so that nothing is hidden.
        """
        owed = {pts for pts, _ in self._promised}
        self._container.close()
        self._open()
        self._stream.thread_type = ThreadType.SLICE
        try:
            if self._key_pts is not None:
                self._container.seek(self._key_pts, stream=self._stream)
            for packet in self._container.demux(self._stream):
                try:
                    pictures = self._stream.codec_context.decode(packet if packet.size else None)
                except (av.error.FFmpegError, ValueError):
                    continue
                yield from (picture for picture in pictures if picture.pts in owed)
        except (av.error.FFmpegError, OSError) as error:
            log.debug("reading the tail of '%s': %s", self._path.name, error)

    def _promise(self, packet: Any) -> None:
        if packet.is_keyframe:
            self._key_pts = packet.pts
        if packet.is_corrupt and not self._in_order:
            self._suspect = True
        if packet.is_discard or not _shows_picture(self._info.codec, packet):
            return
        stamp = self._stamp(packet)
        if stamp is not None:
            heapq.heappush(self._promised, (stamp, 1 if self._info.clock == "rate" else packet.duration or 0))

    def _stamp(self, packet: Any) -> int | None:
        """What a packet says of its picture's instant."""
        if self._info.clock == "rate":
            return self._packets - 1
        first, second = (packet.dts, packet.pts) if self._in_order else (packet.pts, packet.dts)
        stamp = first if first is not None else second
        return int(stamp) if stamp is not None else None

    def _deliver(self, picture: Any) -> Iterator[Frame]:
        """Frames that a decoded picture completes: those lost before it, then itself."""
        if not self._in_order and picture.pts is not None:
            yield from self._bridge(self._lost_before(picture.pts))
        pts, duration = self._claim(picture)
        if picture.is_corrupt:
            self._suspect = not self._in_order
            yield from self._bridge([(pts, duration)])
            return
        if picture.key_frame:
            self._suspect = False
        frame = self._frame(picture, pts, duration)
        orphans, self._orphans = self._orphans, []
        for lost_pts, lost_duration in orphans:
            yield self._hand_out(replace(frame, pts=lost_pts, duration=lost_duration, repeated=True))
        self._good = frame
        yield self._hand_out(frame)

    def _lost_before(self, pts: int | None) -> list[tuple[int, int]]:
        """Takes out the promises that lie before a picture's pts and were lost, rather than never meant to be shown.

        Some packets have no picture of their own (the second field of an interlaced picture, leading pictures at the
        beginning of an open group): they lie too near a neighbour, or before the first picture, and nothing complained.
        """
        if self._promised and pts is not None and not any(promised == pts for promised, _ in self._promised):
            if self._promised[0][0] < pts:
                heapq.heappop(self._promised)  # the decoder stamped this picture anew: it keeps one promise
            return []
        lost: list[tuple[int, int]] = []
        while self._promised and (pts is None or self._promised[0][0] < pts):
            promised, duration = heapq.heappop(self._promised)
            before = lost[-1][0] if lost else (self._last.pts if self._last else None)
            room = 0.6 * (duration or self._typical)
            has_room = before is not None and promised - before >= room and (pts is None or pts - promised >= room)
            if self._suspect or has_room:
                lost.append((promised, duration))
        return lost

    def _claim(self, picture: Any) -> tuple[int, int]:
        """Takes a picture's pts and duration; the promise made for it is kept."""
        if self._in_order and self._promised:
            return heapq.heappop(self._promised)  # pictures come out in the order in which they are shown
        pts = picture.pts
        if pts is None or self._in_order:
            pts = self._last.pts + (self._last.duration or self._typical) if self._last else self._info.start_pts
        duration = picture.duration
        if self._promised and self._promised[0][0] == pts:
            _, promised_duration = heapq.heappop(self._promised)
            duration = promised_duration or duration
        return pts, duration

    def _bridge(self, lost: list[tuple[int, int]]) -> Iterator[Frame]:
        """Repeats of the last good picture at the instants of lost ones; remembers them where there is none yet."""
        if self._good is None:
            self._orphans += lost
            return
        for pts, duration in lost:
            yield self._hand_out(replace(self._good, pts=pts, duration=duration, repeated=True))

    def _hand_out(self, frame: Frame) -> Frame:
        """Keeps time running forwards: players and encoders cannot show two pictures at one instant."""
        if self._last is not None and frame.pts <= self._last.pts:
            if not self._backwards:
                log.warning("'%s': time stamps run backwards and are moved forwards.", self._path.name)
            self._backwards += 1
            frame = replace(frame, pts=self._last.pts + self._step(self._last.pts))
        if self._last is not None:
            self._gap = max(0, round((frame.pts - self._last.pts) / self._typical) - 1)
            self._gaps += self._gap
        self._last = frame
        return frame

    def _step(self, pts: int) -> int:
        """How far behind another a picture is put that has no instant of its own.

        Half-way to the next picture that is known of, so that those behind stay where they are and nothing drifts.
        """
        following = min((promised for promised, _ in self._promised if promised > pts), default=None)
        usual = self._last.duration if self._last and 0 < self._last.duration <= self._typical else self._typical
        return max(1, min(usual, (following - pts) // 2) if following is not None else usual)

    def _frame(self, picture: Any, pts: int, duration: int) -> Frame:
        info = self._info
        crop = info.crop
        self.lost_side_data.look(picture)
        stored = info.width_px + crop.left_px + crop.right_px, info.height_px + crop.top_px + crop.bottom_px
        changed = (picture.width, picture.height) != stored
        if changed or picture.format.name != info.pixel_format:
            if not self.converted:
                log.warning("'%s' changes its picture format on the way and is converted back.", self._path.name)
            self.converted += 1
            picture = picture.reformat(*stored, info.pixel_format)
        frame = Frame(planes_of(picture), colour(picture, self._stream), pts, duration, info.time_base)
        return frame if crop == Crop() else _cropped(frame, info)


def _cropped(frame: Frame, info: VideoInfo) -> Frame:
    """The part that the container wants to be shown."""
    planes = []
    for number, plane in enumerate(frame.planes):
        by_w, by_h = (frame.colour.chroma_w, frame.colour.chroma_h) if number else (1, 1)
        left, top = info.crop.left_px // by_w, info.crop.top_px // by_h
        planes.append(plane[top : top - -info.height_px // by_h, left : left - -info.width_px // by_w].copy())
    return frame.with_planes(tuple(planes))


def _shows_picture(codec: str, packet: Any) -> bool:
    """False for packets that only prepare the decoder: VP8 and VP9 can carry hidden reference pictures alone."""
    if codec == "vp8":
        return bool(bytes(packet)[0] >> 4 & 1)
    if codec == "vp9":  # hidden and shown frames in one packet end with an index (VP9 specification, Annex B)
        data = bytes(packet)
        return data[-1] >> 5 == 0b110 or _vp9_shows(data[0])
    return True


def _vp9_shows(first: int) -> bool:
    """Reads show_frame from the first byte of a VP9 frame (uncompressed header, VP9 specification 6.2)."""
    if first >> 6 != 0b10 or first >> 4 & 0b11 == 0b11:  # no frame marker, or profile 3 with its extra bit
        return True
    show_existing_frame = first >> 3 & 1
    return bool(show_existing_frame or first >> 1 & 1)
