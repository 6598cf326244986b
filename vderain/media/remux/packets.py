"""Repairs demuxed packets before remuxing: fills in missing DTS, and drops audio that an edit list hides.

Both look at a few packets of a stream at a time.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from av.stream import Disposition

_REORDER_MAX = 16  # frames in a decoded picture buffer (ITU-T H.264, A.3.1)
_LEAD_IN_S = Fraction(1, 20)  # encoder delay; that of Apple's AAC encoder is 2112 samples


def with_decode_times(packets: Iterable[Any]) -> Iterator[Any]:
    """Fills in the missing DTS of the first packets of each video stream.

    Matroska stores none. FFmpeg derives them, but not for the packets before it knows the reorder depth.
    """
    waiting: dict[int, list[Any]] = {}
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


def _counted_back(held: list[Any]) -> list[Any]:
    """Sets the DTS of packets before one that has it, counting back by that packet's duration."""
    *early, known = held
    for distance, packet in enumerate(reversed(early if known.dts is not None else []), 1):
        packet.dts = known.dts - distance * (known.duration or 1)
    return held


def without_hidden(packets: Iterable[Any]) -> Iterator[Any]:
    """Drops audio packets that an edit list hides, except the lead-in that a decoder needs to converge."""
    hidden: defaultdict[int, deque[Any]] = defaultdict(deque)
    for packet in packets:
        if packet.stream.type != "audio":
            yield packet
            continue
        held = hidden[packet.stream_index]
        while held and (packet.pts - held[0].pts) * packet.time_base > _LEAD_IN_S:
            held.popleft()
        held.append(packet)
        if not packet.is_discard:
            yield from held
            held.clear()
