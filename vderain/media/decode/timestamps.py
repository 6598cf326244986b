"""Owns one clock for a file that was joined of several: packets enter, and leave at times that go on.

Recorders write one transport stream after another into the same file, and the clock begins again at each joint. The
video says by how much; every other stream moves with it, so that sound stays where it was beside the pictures.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

_JOINABLE = frozenset({"mpegts", "mpeg"})  # what can be joined by appending bytes
_BACKWARDS_S = Fraction(1)  # less than this is a slip of the muxer, not another recording
_WRAP_S = Fraction(2**33, 90_000)  # FFmpeg adds this to times that jump back; no true pause lasts half of it
_FAR_S = Fraction(5)  # a packet this far from the pictures around it belongs to a recording still to come
_WAITING_MAX = 1000  # packets: several seconds of several streams


def is_joinable(container: Any) -> bool:
    """Whether the clock of a file of this kind may begin again on the way."""
    return container.format.name in _JOINABLE


class VideoClock:
    """Follows the video's packets and moves those behind a joint.

    Attributes:
        shifts_s: what was added to the times of each recording so far, the first one's 0 included.
        now_s: instant of the last packet, on the one clock.
    """

    def __init__(self) -> None:
        self.shifts_s = [Fraction(0)]
        self.now_s: Fraction | None = None
        self._step_s = Fraction(0)  # to the packet before; the demuxer may take a field for a frame
        self._end_s = Fraction(0)

    def follow(self, packet: Any) -> Any:
        """The packet at its time on the one clock."""
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

    def place(self, packet: Any) -> Any | None:
        """A packet of another stream on the one clock; None where it seems to belong behind a joint still to come."""
        nearest_s, away_s = self._nearest(packet)
        return None if away_s > _FAR_S else _moved(packet, nearest_s)

    def place_at_last(self, packet: Any) -> Any:
        """The same where no more can be known."""
        return _moved(packet, self._nearest(packet)[0])

    def _nearest(self, packet: Any) -> tuple[Fraction, Fraction]:
        """Of the last two recordings, the one whose time is nearer to the pictures: its shift, and how near."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or self.now_s is None:
            return self.shifts_s[-1], Fraction(0)
        ways = [(abs(stamp * packet.time_base + shift - self.now_s), shift) for shift in self.shifts_s[-2:]]
        away_s, shift_s = min(ways)
        return shift_s, away_s


def continuous(packets: Iterable[Any], main_index: int) -> Iterator[Any]:
    """The packets of all streams but the main video, on its clock.

    Args:
        packets: of the main video and others, in the order of the file.
        main_index: the main video's stream.
    """
    clock = VideoClock()
    waiting: deque[Any] = deque()
    for packet in packets:
        if packet.stream_index == main_index:
            clock.follow(packet)
        else:
            waiting.append(packet)
        while waiting and ((placed := clock.place(waiting[0])) is not None or len(waiting) > _WAITING_MAX):
            yield placed if placed is not None else clock.place_at_last(waiting[0])
            waiting.popleft()
    yield from map(clock.place_at_last, waiting)


def _moved(packet: Any, shift_s: Fraction) -> Any:
    if shift_s:
        ticks = round(shift_s / packet.time_base)
        packet.pts = packet.pts + ticks if packet.pts is not None else None
        packet.dts = packet.dts + ticks if packet.dts is not None else None
    return packet
