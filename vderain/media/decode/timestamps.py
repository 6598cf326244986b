"""Repairs packets after demuxing: continuous clocks of appended recordings, missing DTS, hidden frames and audio.

Recorders append one transport stream after another to the same file, and the clock restarts at each joint. The video
says by how much; every other stream moves with it, so that audio stays in sync.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

from av.container import Container
from av.stream import Disposition

from vderain.media.decode.media_file import Packet

_JOINABLE = frozenset({"mpegts", "mpeg"})  # formats that can be joined by appending bytes
_BACKWARDS_S = Fraction(1)  # a smaller step back is a slip of the muxer, not another recording
_WRAP_S = Fraction(2**33, 90_000)  # FFmpeg adds this to timestamps that jump back; no true pause lasts half of it
_FAR_S = Fraction(5)  # a packet this far from the video around it belongs to a recording still to come
_WAITING_MAX = 1000  # packets: several seconds of several streams
_REORDER_MAX = 16  # frames in a decoded picture buffer (ITU-T H.264, A.3.1)
_END_MARKS = {  # behind a start code or a length, which are the same bytes where a length fills four bytes
    "h264": (b"\0\0\0\x01\x0a", b"\0\0\0\x01\x0b"),  # end of sequence and of stream (ITU-T H.264, table 7-1)
    "hevc": (b"\0\0\0\x01\x48\x01", b"\0\0\0\x02\x48\x01", b"\0\0\0\x01\x4a\x01", b"\0\0\0\x02\x4a\x01"),
}
_MARK_BYTES = 6
_LEAD_IN_S = Fraction(1, 20)  # encoder delay; that of Apple's AAC encoder is 2112 samples


def is_joinable(container: Container) -> bool:
    """Whether the clock of a file of this format may restart on the way."""
    return container.format.name in _JOINABLE


class VideoClock:
    """Makes the timestamps of a video stream continuous where recordings were joined.

    Attributes:
        shifts_s: what was added to the timestamps of each recording so far, the first one's 0 included.
        now_s: time of the last packet, on the continuous clock.
    """

    def __init__(self) -> None:
        self.shifts_s = [Fraction(0)]
        self.now_s: Fraction | None = None
        self._step_s = Fraction(0)  # between the last two packets; the demuxer may take a field for a frame
        self._end_s = Fraction(0)  # of the last packet

    def follow(self, packet: Packet) -> Packet:
        """Moves the next packet of the video to the continuous clock, in place."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return packet
        time_s = stamp * packet.time_base + self.shifts_s[-1]
        if self.now_s is not None and not -_BACKWARDS_S < time_s - self.now_s < _WRAP_S / 2:
            self.shifts_s.append(self.shifts_s[-1] + self._end_s - time_s)
            time_s = self._end_s
        else:
            self._step_s = time_s - self.now_s if self.now_s is not None else Fraction(0)
        self.now_s = time_s
        self._end_s = time_s + max(self._step_s, (packet.duration or 0) * packet.time_base)
        return _moved(packet, self.shifts_s[-1])

    def place(self, packet: Packet) -> Packet | None:
        """Moves a packet of another stream; None if it seems to belong behind a joint still to come."""
        nearest_s, away_s = self._nearest(packet)
        return None if away_s > _FAR_S else _moved(packet, nearest_s)

    def place_at_last(self, packet: Packet) -> Packet:
        """Moves a packet of another stream when no more packets of the video will come."""
        return _moved(packet, self._nearest(packet)[0])

    def _nearest(self, packet: Packet) -> tuple[Fraction, Fraction]:
        """The shift of whichever of the last two recordings brings a packet nearest to the video, and how near."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or self.now_s is None:
            return self.shifts_s[-1], Fraction(0)
        ways = [(abs(stamp * packet.time_base + shift - self.now_s), shift) for shift in self.shifts_s[-2:]]
        away_s, shift_s = min(ways)
        return shift_s, away_s


def continuous(packets: Iterable[Packet], main_index: int) -> Iterator[Packet]:
    """The packets of all streams but the main video, moved to its continuous clock.

    Args:
        packets: of the main video and other streams, in the order of the file.
        main_index: index of the main video's stream.
    """
    clock = VideoClock()
    waiting: deque[Packet] = deque()
    for packet in packets:
        if packet.stream_index == main_index:
            clock.follow(packet)
        else:
            waiting.append(packet)
        while waiting and ((placed := clock.place(waiting[0])) is not None or len(waiting) > _WAITING_MAX):
            yield placed if placed is not None else clock.place_at_last(waiting[0])
            waiting.popleft()
    yield from map(clock.place_at_last, waiting)


def _moved(packet: Packet, shift_s: Fraction) -> Packet:
    if shift_s:
        ticks = round(shift_s / packet.time_base)
        packet.pts = packet.pts + ticks if packet.pts is not None else None
        packet.dts = packet.dts + ticks if packet.dts is not None else None
    return packet


def shows_frame(codec: str, packet: Packet) -> bool:
    """Whether a packet shows a frame; some of VP8 and VP9 hold nothing but a hidden reference frame.

    Some of H.264 and HEVC hold nothing but the mark that ends a sequence, which a camera may store as a frame.

    Args:
        codec: FFmpeg's name.
        packet: of that codec, not empty.
    """
    if codec == "vp8":
        return bool(bytes(packet)[0] >> 4 & 1)  # show_frame (RFC 6386, section 9.1)
    if codec == "vp9":
        # A superframe of hidden and shown frames ends with an index, marked 0b110 (VP9 specification, Annex B).
        data = bytes(packet)
        return data[-1] >> 5 == 0b110 or _vp9_shows(data[0])
    return not (packet.size <= _MARK_BYTES and bytes(packet) in _END_MARKS.get(codec, ()))


def _vp9_shows(first: int) -> bool:
    """Reads show_frame from the first byte of a VP9 frame (uncompressed header, VP9 specification 6.2)."""
    if first >> 6 != 0b10 or first >> 4 & 0b11 == 0b11:  # no frame marker, or profile 3 with its extra bit
        return True
    show_existing_frame = first >> 3 & 1
    return bool(show_existing_frame or first >> 1 & 1)


def with_decode_times(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Fills in the missing DTS of the first packets of each video stream.

    Matroska stores none. FFmpeg derives them, but not for the packets before it knows the reorder depth.
    """
    waiting: dict[int, list[Packet]] = {}
    begun: set[int] = set()
    for packet in packets:
        index = packet.stream_index
        if index in begun or packet.stream.type != "video" or packet.stream.disposition & Disposition.attached_pic:
            yield packet
            continue
        held = waiting.setdefault(index, [])
        held.append(packet)
        if packet.dts is not None or len(held) > _REORDER_MAX:
            begun.add(index)
            yield from _counted_back(waiting.pop(index))
    for held in waiting.values():
        yield from held


def _counted_back(held: list[Packet]) -> list[Packet]:
    """Sets the DTS of packets before one that has it, counting back by that packet's duration."""
    *early, known = held
    if known.dts is not None:
        for distance, packet in enumerate(reversed(early), 1):
            packet.dts = known.dts - distance * (known.duration or 1)
    return held


def without_hidden(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Drops audio packets that an edit list hides, except the lead-in that a decoder needs to converge."""
    hidden: defaultdict[int, deque[Packet]] = defaultdict(deque)
    for packet in packets:
        if packet.stream.type != "audio":
            yield packet
            continue
        held = hidden[packet.stream_index]
        while held and ((packet.pts or 0) - (held[0].pts or 0)) * packet.time_base > _LEAD_IN_S:
            held.popleft()
        held.append(packet)
        if not packet.is_discard:
            yield from held
            held.clear()
