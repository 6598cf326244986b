"""Owns what packets lack, or are too many of, before they can be copied: those of a demuxer enter, and leave in order.

All that is asked of a stream is known from its own packets, a few at a time.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from av.stream import Disposition

_REORDER_MAX = 16  # pictures that a decoder may have to keep (ITU-T H.264, A.3.1)
_LEAD_IN_S = Fraction(1, 20)  # of encoders; Apple's for AAC has 2112 samples


def with_decode_times(packets: Iterable[Any]) -> Iterator[Any]:
    """Gives the first packets of each video a time of decoding.

    Matroska stores none. FFmpeg makes them up, but not for the packets that come before it has seen how far pictures
    are put out of order.
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
    """Gives packets before one that has a time of decoding such times, as far apart as that one lasts."""
    *early, known = held
    for distance, packet in enumerate(reversed(early if known.dts is not None else []), 1):
        packet.dts = known.dts - distance * (known.duration or 1)
    return held


def without_hidden(packets: Iterable[Any]) -> Iterator[Any]:
    """Leaves out the sound that an edit list hides, but for the lead-in, which a decoder needs before it is right."""
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
