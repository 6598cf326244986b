"""Decodes the video stream of a file and delivers one frame for every packet that promises one.

Each packet that shows a frame carries its pts, so the decoder knows which frames to expect before they are decoded.
An expected frame that never comes is *lost*: it is *concealed* by a copy of the last good frame at the lost frame's
pts, so that the number of frames and their timing stay as they were. A worked example, four packets in decoding order,
of which the third is damaged:

    packet in                frames out                          expected afterwards
    pts 0  (keyframe)        -                                   0
    pts 80 (P)               frame 0                             80
    pts 40 (B, damaged)      -  (the decoder reports an error)   40, 80
    pts 120 (P)              40 concealed by frame 0; frame 80   120
    end of file              frame 120                           -

Frame 80 comes out while 40 is still expected and earlier: 40 is lost. Not every expected pts below a delivered one is
lost, though; see `FrameDecoder._lost_before`.
"""

import heapq
import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.codec.context import ThreadType

from vderain.media.decode.deinterlace import Deinterlacer
from vderain.media.decode.media_file import FALLBACK_RATE, Crop, Packet, VideoInfo, late_streams
from vderain.media.decode.open import demux, input_errors, main_video, open_input, read_packets
from vderain.media.decode.side_data import LostSideData
from vderain.media.decode.timestamps import VideoClock, is_joinable, shows_frame
from vderain.media.frame import Frame
from vderain.media.pixel_format import frame_colour, planes_of

log = logging.getLogger(__name__)

Timestamp = tuple[int, int]  # pts and duration, in units of the stream's time base

_GROUP_MAX = 600  # packets of one group of pictures that are held back before decoding starts
_SEEK_MARGINS_S = (0, 10)  # how much earlier than wanted to seek; some formats seek to a later keyframe
_MIN_GAP = 0.6  # of a frame's duration: two shown frames are never closer than this


class FrameDecoder:
    """One pass over the frames of a file, in presentation order.

    Args:
        path: the file.
        info: properties of its video stream.
        begin_s: time on the source's clock from which frames are wanted; the pass begins there or earlier.

    Attributes:
        missing: after the last frame, how many the file lists beyond the end of its data. MP4, MOV and AVI list their
            frames; other formats do not.
        unplaced: after the last frame, how many were lost without a timestamp of their own at which to conceal them.
        without_picture: after the last frame, how many packets gave none although nothing is damaged: marks that end a
            sequence, repeated packets, or pictures before the first keyframe that refer to what is not there.
        hidden: how many packets so far are hidden by an edit list.
        converted: frames so far that came in another size or format than the first.
        deinterlacer: turns interlaced frames into progressive ones, and counts them.
        lost_side_data: what frames so far carried that an encoder does not write.
        late_streams: after the last frame, names of the streams that the file's header does not list.
    """

    def __init__(self, path: Path, info: VideoInfo, begin_s: Fraction | None = None) -> None:
        self.missing = self.unplaced = self.without_picture = self.hidden = self.converted = 0
        self.deinterlacer = Deinterlacer(trust_flags=not info.misflagged)
        self.lost_side_data = LostSideData()
        self.late_streams: list[str] = []
        self._path = path
        self._info = info
        self._begin_s = begin_s
        # Without usable pts, frames take the packets' timestamps in ascending order, whatever the decoder says.
        self._in_order = info.clock != "pts"
        rate = info.average_rate or FALLBACK_RATE
        self._typical = max(1, round(1 / (rate * info.time_base)))  # duration of a frame
        self._expected: list[Timestamp] = []  # heap: shown by a packet, not yet decoded
        self._suspect = False  # the decoder reported an error since the last good keyframe
        self._good_key_pts: int | None = None  # of the first keyframe sent after that error
        self._key_seen = False
        self._headless = 0  # packets before the first keyframe, which cannot be decoded
        self._last: Frame | None = None  # last frame emitted
        self._good: Frame | None = None  # last frame emitted that is not concealed
        self._lost_at_start: list[Timestamp] = []  # lost before there was a good frame to conceal them with
        self._packets = self._shown = self._emitted = self._damaged = 0
        self._last_dts: int | None = None
        self._last_key_pts: int | None = None
        self._sought = False
        self._warned_of_order = False

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container = open_input(self._path)
        self._stream = main_video(self._container, self._path)
        self._stream.thread_type = ThreadType.AUTO

    def frames(self) -> Iterator[Frame]:
        """All frames from the first packet on; lost ones are concealed.

        Raises:
            InputError: the file cannot be read any further.
        """
        self._seek()
        for packet in self._from_last_keyframe(self._demux()):
            yield from self._deliver_all(self._decode(packet))
            if self._in_order and self._suspect and self._expected:
                # Without pts, the decoder's error is the only sign that a frame is lost; it belongs to this packet.
                self._suspect = False
                yield from self._conceal([heapq.heappop(self._expected)])
        self.late_streams = late_streams(self._container)
        yield from self._deliver_all(self._decode(None), flush=True)
        if self._expected and not self._in_order:
            yield from self._deliver_all(self._decode_tail_again(), flush=True)
        if self._info.clock == "dts":  # AVI stores a packet per frame: what is still expected was lost
            self._suspect = True
        if self._info.clock != "rate":
            yield from self._conceal(self._lost_before(None))
        if not self._sought:
            self.missing = max(0, self._stream.frames - self._packets - self._avi_duplicates())
            self._count_without_frame()

    def _count_without_frame(self) -> None:
        """Compares packets with frames; a frame of fields may have two packets."""
        rest = max(0, self._shown - self._emitted)
        self.unplaced = min(self._damaged, rest)
        if not (self.deinterlacer.count or self._info.misflagged):
            self.without_picture += rest - self.unplaced

    def _deliver_all(self, decoded: Iterator[av.VideoFrame], flush: bool = False) -> Iterator[Frame]:
        progressive = self.deinterlacer(decoded)
        for frame in chain(progressive, self.deinterlacer.flush()) if flush else progressive:
            yield from self._deliver(frame)

    def _avi_duplicates(self) -> int:
        """Frames that an AVI file counts but does not store, because they only show the frame before for longer."""
        if self._info.clock != "dts" or self._last_dts is None:
            return 0
        return int(self._last_dts + 1 - sum(entry.timestamp <= self._last_dts for entry in self._stream.index_entries))

    # Packets

    def _seek(self) -> None:
        """Seeks to a keyframe at or before the start; stays at the beginning of the file where that fails."""
        if self._begin_s is None or self._info.clock == "rate" or is_joinable(self._container):
            return
        for margin_s in _SEEK_MARGINS_S:
            offset = int((self._begin_s - margin_s) / self._info.time_base)
            with input_errors(self._path):
                try:
                    if self._seeks_early_enough(offset):
                        self._container.seek(offset, stream=self._stream)
                        self._sought = True
                        return
                except av.error.FFmpegError:
                    break  # not seekable
        with input_errors(self._path):
            self._container.close()
            self._open()

    def _seeks_early_enough(self, offset: int) -> bool:
        """Whether seeking to ``offset`` leads to a packet at or before the start; reads that packet."""
        assert self._begin_s is not None
        self._container.seek(offset, stream=self._stream)
        first = next((packet for packet in demux(self._container, [self._stream]) if packet.size), None)
        pts = self._expected_pts(first) if first is not None else None
        return pts is not None and pts <= self._begin_s / self._info.time_base

    def _from_last_keyframe(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """All packets; those of a file that may be joined of several start at the last keyframe before the start.

        Such a file cannot be sought in: its clock may restart, and only reading from the beginning tells which of two
        equal timestamps is meant.
        """
        if self._begin_s is not None and is_joinable(self._container):
            group: list[Packet] = []
            begin = self._begin_s / self._info.time_base
            for packet in packets:
                is_past_start = packet.pts is not None and packet.pts > begin
                if packet.is_keyframe and not is_past_start:
                    group.clear()
                group.append(packet)
                if is_past_start or len(group) > _GROUP_MAX:
                    break
            yield from group
        yield from packets

    def _demux(self) -> Iterator[Packet]:
        """The packets that are not empty, with continuous timestamps."""
        clock = VideoClock() if is_joinable(self._container) else None
        for packet in read_packets(self._container, [self._stream]):
            self._packets += 1
            self._last_dts = packet.dts
            yield clock.follow(packet) if clock else packet

    def _decode(self, packet: Packet | None) -> Iterator[av.VideoFrame]:
        """Sends one packet to the decoder and returns the frames that come out (None: flushes the decoder)."""
        if packet is not None:
            self._expect(packet)
        try:
            return iter(self._stream.codec_context.decode(packet))
        except (av.error.FFmpegError, ValueError) as error:
            log.debug("decoding '%s': %s", self._path.name, error)
            self._suspect, self._good_key_pts = True, None
            self._damaged += 1
            return iter(())

    def _decode_tail_again(self) -> Iterator[av.VideoFrame]:
        """Decodes the last group of pictures again without frame threads, and yields the frames still expected.

        With frame threads an error may come up only while the decoder is flushed, and hides the good frames behind it.
        """
        expected = {pts for pts, _ in self._expected}
        self._container.close()
        self._open()
        self._stream.thread_type = ThreadType.SLICE
        try:
            if self._last_key_pts is not None:
                self._container.seek(self._last_key_pts, stream=self._stream)
            for packet in demux(self._container, [self._stream]):
                try:
                    frames = self._stream.codec_context.decode(packet if packet.size else None)
                except (av.error.FFmpegError, ValueError):
                    continue
                yield from (frame for frame in frames if frame.pts in expected)
        except (av.error.FFmpegError, OSError) as error:
            log.debug("decoding the tail of '%s' again: %s", self._path.name, error)

    # Timestamps: which frames are expected, and which are lost

    def _expect(self, packet: Packet) -> None:
        """Notes the frame that a packet shows."""
        if packet.is_keyframe:
            self._last_key_pts = packet.pts
            self._good_key_pts = packet.pts if self._good_key_pts is None else self._good_key_pts
            self._key_seen = True
        self._damaged += packet.is_corrupt
        if packet.is_corrupt and not self._in_order:
            self._suspect, self._good_key_pts = True, None
        if not shows_frame(self._info.codec, packet):
            self.without_picture += self._info.codec in ("h264", "hevc")
            return
        if packet.is_discard:
            self.hidden += 1
            return
        self._shown += 1
        pts = self._expected_pts(packet)
        if pts is not None:
            self._headless += not self._key_seen
            heapq.heappush(self._expected, (pts, 1 if self._info.clock == "rate" else packet.duration or 0))

    def _expected_pts(self, packet: Packet) -> int | None:
        if self._info.clock == "rate":
            return self._packets - 1
        first, second = (packet.dts, packet.pts) if self._in_order else (packet.pts, packet.dts)
        return first if first is not None else second

    def _lost_before(self, pts: int | None) -> list[Timestamp]:
        """Removes the expected timestamps before a decoded frame's pts, and returns those that were lost.

        Some packets show no frame of their own: the second field of an interlaced frame, or the leading pictures of an
        open group at the beginning. Their timestamps are not lost frames. They are told apart by the decoder, which
        reports no error, and by their distance: too close to a neighbour, or before the first frame of a file that
        begins with a keyframe.

        Args:
            pts: of the decoded frame; None at the end of the file.
        """
        if self._expected and pts is not None and not any(expected == pts for expected, _ in self._expected):
            # The decoder gave this frame a timestamp of its own: it takes the place of the earliest expected one.
            if self._expected[0][0] < pts:
                heapq.heappop(self._expected)
            return []
        lost: list[Timestamp] = []
        while self._expected and (pts is None or self._expected[0][0] < pts):
            expected, duration = heapq.heappop(self._expected)
            before = lost[-1][0] if lost else (self._last.pts if self._last else None)
            room = _MIN_GAP * (duration or self._typical)
            follows = expected - before >= room if before is not None else self._headless > 0
            has_room = follows and (pts is None or pts - expected >= room)
            if self._suspect or has_room:
                lost.append((expected, duration))
        return lost

    def _lost_before_keyframe(self, decoded: av.VideoFrame) -> list[Timestamp]:
        """Where frames take the packets' timestamps in order: those before the first frame, if that is a keyframe."""
        if self._last is not None or not decoded.key_frame:
            return []
        lost = min(self._headless, len(self._expected) - 1)
        return [heapq.heappop(self._expected) for _ in range(lost)]

    def _timestamp_of(self, frame: av.VideoFrame) -> Timestamp:
        """The pts and duration of a decoded frame, which is no longer expected then."""
        if self._in_order and self._expected:
            return heapq.heappop(self._expected)  # decoders put frames out in presentation order
        pts = frame.pts
        if pts is None or self._in_order:
            pts = self._last.pts + (self._last.duration or self._typical) if self._last else self._info.start_pts
        duration = frame.duration
        if self._expected and self._expected[0][0] == pts:
            _, packet_duration = heapq.heappop(self._expected)
            duration = packet_duration or duration
        return pts, duration

    # Frames out

    def _deliver(self, decoded: av.VideoFrame) -> Iterator[Frame]:
        """The frames that a decoded frame completes: those lost before it, then itself."""
        if self._in_order:
            yield from self._conceal(self._lost_before_keyframe(decoded))
        elif decoded.pts is not None:
            yield from self._conceal(self._lost_before(decoded.pts))
        pts, duration = self._timestamp_of(decoded)
        if decoded.is_corrupt:
            self._damaged += 1
            self._suspect = not self._in_order
            yield from self._conceal([(pts, duration)])
            return
        # With frame threads, a keyframe from before the error may come out after it.
        if decoded.key_frame and (self._in_order or (self._good_key_pts is not None and pts >= self._good_key_pts)):
            self._suspect = False
        frame = self._to_frame(decoded, pts, duration)
        lost_at_start, self._lost_at_start = self._lost_at_start, []
        for lost_pts, lost_duration in lost_at_start:
            yield self._emit(replace(frame, pts=lost_pts, duration=lost_duration, concealed=True))
        self._good = frame
        yield self._emit(frame)

    def _conceal(self, lost: list[Timestamp]) -> Iterator[Frame]:
        """Copies of the last good frame at the timestamps of lost ones; without one they wait for the first."""
        if self._good is None:
            self._lost_at_start += lost
            return
        for pts, duration in lost:
            yield self._emit(replace(self._good, pts=pts, duration=duration, concealed=True))

    def _emit(self, frame: Frame) -> Frame:
        """Keeps timestamps ascending: players and encoders cannot show two frames at one time."""
        if self._last is not None and frame.pts <= self._last.pts:
            if not self._warned_of_order:
                log.warning("'%s': timestamps run backwards and are moved forwards.", self._path.name)
            self._warned_of_order = True
            frame = replace(frame, pts=self._last.pts + self._step_after(self._last))
        self._last = frame
        self._emitted += 1
        return frame

    def _step_after(self, last: Frame) -> int:
        """How far behind the last frame to put one that has no time of its own.

        At most halfway to the next expected frame, so that later frames keep their times and nothing drifts.
        """
        following = min((pts for pts, _ in self._expected if pts > last.pts), default=None)
        usual = last.duration if 0 < last.duration <= self._typical else self._typical
        return max(1, min(usual, (following - last.pts) // 2) if following is not None else usual)

    def _to_frame(self, decoded: av.VideoFrame, pts: int, duration: int) -> Frame:
        info, crop = self._info, self._info.crop
        self.lost_side_data.look(decoded)
        stored = info.width_px + crop.left_px + crop.right_px, info.height_px + crop.top_px + crop.bottom_px
        if (decoded.width, decoded.height) != stored or decoded.format.name != info.pixel_format:
            if not self.converted:
                log.warning("'%s' changes its size or pixel format and is converted back.", self._path.name)
            self.converted += 1
            decoded = decoded.reformat(*stored, info.pixel_format)
        frame = Frame(planes_of(decoded), frame_colour(decoded, self._stream), pts, duration, info.time_base)
        return frame if crop == Crop() else _cropped(frame, info)


def _cropped(frame: Frame, info: VideoInfo) -> Frame:
    """The part of a frame that the container wants to be shown."""
    planes = []
    for number, plane in enumerate(frame.planes):
        by_w, by_h = (frame.colour.chroma_w, frame.colour.chroma_h) if number else (1, 1)
        left, top = info.crop.left_px // by_w, info.crop.top_px // by_h
        # -(-a // b) rounds up: an odd luma size has a last chroma sample of its own
        planes.append(plane[top : top - -info.height_px // by_h, left : left - -info.width_px // by_w].copy())
    return frame.with_planes(tuple(planes))
