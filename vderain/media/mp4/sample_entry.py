"""Reads and renames the sample entries of MP4 and MOV tracks: the four-character codes of what a track holds.

FFmpeg's muxer writes every data track it has no codec for as GoPro's ``gpmd``. Other cameras use other codes, such as
``camm``. A sample entry that consists of its code alone can be written by FFmpeg and be renamed afterwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vderain.media.mp4.boxes import Box, boxes, file_boxes, read_span

_PLAIN_BYTES = 16  # a header, six reserved bytes and the number of a data reference (ISO/IEC 14496-12, 8.5.2)
_PADDING = (b"", bytes(4))  # FFmpeg ends its own entry of this kind with four zeros
_TO_THE_ENTRIES = (b"mdia", b"minf", b"stbl", b"stsd")


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample entry: the description of a track's samples.

    Attributes:
        kind: its four-character code.
        begin: offset of its box in bytes.
        plain: whether it holds nothing but its code and padding.
    """

    kind: str
    begin: int
    plain: bool


def sample_entries(path: Path) -> dict[int, SampleEntry]:
    """The first sample entry of each track, by track ID; none for other kinds of file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return read_sample_entries(file)


def read_sample_entries(file: BinaryIO) -> dict[int, SampleEntry]:
    """The same of an open file."""
    return dict(_entries(file))


def rename_entries(path: Path, kinds: Mapping[int, str]) -> None:
    """Overwrites the codes of some tracks' sample entries, in place.

    Args:
        path: the file.
        kinds: new four-character code by track ID.

    Raises:
        OSError: the file cannot be written.
    """
    found = sample_entries(path)
    with path.open("r+b") as file:
        for number, kind in kinds.items():
            file.seek(found[number].begin + 4)
            file.write(kind.encode("latin-1"))


def _entries(file: BinaryIO) -> Iterator[tuple[int, SampleEntry]]:
    for moov in (box for box in file_boxes(file) if box.kind == b"moov"):
        for track in _inside(file, moov, b"trak"):
            header = next(_inside(file, track, b"tkhd"), None)
            entry = _first_entry(file, track)
            if header is not None and entry is not None:
                wide = read_span(file, header.content, 1) == b"\1"  # version 1: 64-bit times precede the track ID
                number = int.from_bytes(read_span(file, header.content + (20 if wide else 12), 4), "big")
                kind = entry.kind.decode("latin-1")
                rest = read_span(file, entry.begin + _PLAIN_BYTES, max(0, min(8, entry.size - _PLAIN_BYTES)))
                yield number, SampleEntry(kind, entry.begin, entry.size >= _PLAIN_BYTES and rest in _PADDING)


def _first_entry(file: BinaryIO, track: Box) -> Box | None:
    box: Box | None = track
    for kind in _TO_THE_ENTRIES:
        box = next(_inside(file, box, kind), None) if box is not None else None
    return next(boxes(file, box.content + 8, box.end), None) if box is not None else None


def _inside(file: BinaryIO, box: Box, kind: bytes) -> Iterator[Box]:
    return (each for each in boxes(file, box.content, box.end) if each.kind == kind)
