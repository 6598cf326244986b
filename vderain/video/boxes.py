"""Boxes of MP4 and MOV files that FFmpeg does not see: a path enters, what would be lost in silence leaves, by name.

Dashcams with a Novatek chip list their GPS records in a ``gps `` box inside ``moov``, and keep the records in ``free``
boxes that begin with ``freeGPS``; neither is a stream, so copying streams loses them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BOXES_MAX = 100_000  # a damaged file cannot keep us for ever
GPS_INDEX, GPS_RECORD = b"gps ", b"freeGPS"


def hidden_boxes(path: Path) -> list[str]:
    """Names of what a camera maker hid in a file and we cannot carry over; empty for other kinds of file."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        records = index = 0
        for kind, begin, end in _boxes(file, 0, size_bytes):
            if kind in (b"free", b"skip"):
                records += _holds_record(file, begin)
            elif kind == b"moov":
                index += sum(inner == GPS_INDEX for inner, _, _ in _boxes(file, begin, end))
    return ["GPS track of the camera maker (gps and freeGPS boxes)"] if records or index else []


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box (ISO/IEC 14496-12, 4.2); stops where sizes make no sense."""
    for _ in range(BOXES_MAX):
        file.seek(begin)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        content = begin + 8
        if size == 1:  # a 64-bit size follows
            size, content = int.from_bytes(header[8:16], "big"), begin + 16
        elif size == 0:  # to the end of the file
            size = end - begin
        if len(kind) < 4 or size < content - begin or begin + size > end:
            return
        yield kind, content, begin + size
        begin += size


def _holds_record(file: BinaryIO, begin: int) -> bool:
    """Whether a box is one of GPS records; some cameras put a length in front of the name."""
    file.seek(begin)
    return GPS_RECORD in file.read(16)
