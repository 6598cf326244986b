"""Types of PyAV's objects for annotations, and typed access to what PyAV's own stubs leave out."""

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypedDict, cast

import av
from av.container import Container
from av.stream import Stream

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData

    Packet: TypeAlias = av.Packet[Stream]
else:
    Packet = av.Packet  # generic in the stubs only

__all__ = ["Chapter", "Packet", "Stream", "copy_packet", "format_dump", "frame_side_data"]


class Chapter(TypedDict):
    """A chapter as PyAV reads and writes it; ``start`` and ``end`` are in units of ``time_base``."""

    id: int
    start: int
    end: int
    time_base: Fraction | None
    metadata: dict[str, str]


class _Dumpable(Protocol):
    def dumps_format(self) -> str: ...


def format_dump(container: Container) -> str:
    """FFmpeg's own description of an open file (``av_dump_format``), at the current log level."""
    return cast("_Dumpable", container).dumps_format()


def frame_side_data(frame: av.VideoFrame) -> "Iterable[SideData]":
    """The side data of a decoded frame, which PyAV's stubs declare as a dictionary."""
    return cast("Iterable[SideData]", frame.side_data)


def copy_packet(packet: Packet) -> Packet:
    """A copy of a packet that belongs to no stream; muxers change the timestamps of the packets they are given."""
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for side_data in packet.iter_sidedata():
        copy.set_sidedata(side_data)
    return copy
