"""Reads the boxes of MP4 and MOV files (ISO/IEC 14496-12), inserts boxes into a finished file, and renames entries.

A box inserted into ``moov`` moves everything behind it, including the media data that the chunk offset tables
(``stco``, ``co64``) point at; their offsets are corrected.

FFmpeg's muxer writes every data track it has no codec for as GoPro's ``gpmd``. Other cameras use other codes, such as
``camm``. A sample entry that consists of its code alone can be written by FFmpeg and be renamed afterwards.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BOXES_MAX = 100_000  # bounds the time that a damaged file takes
OFFSET32_MAX = 2**32 - 1
Places = NDArray[np.int64]
_TO_THE_CHUNKS = (b"trak", b"mdia", b"minf", b"stbl")
_COPY_BYTES = 4 << 20
_PLAIN_BYTES = 16  # a header, six reserved bytes and the number of a data reference (ISO/IEC 14496-12, 8.5.2)
_PADDING = (b"", bytes(4))  # FFmpeg ends its own entry of this kind with four zeros
_TO_THE_ENTRIES = (b"mdia", b"minf", b"stbl", b"stsd")


@dataclass(frozen=True, slots=True)
class Box:
    """Position of a box in its file.

    Attributes:
        kind: its four-character code.
        begin: offset of its header in bytes.
        content: offset of its content.
        end: offset of the first byte behind it.
    """

    kind: bytes
    begin: int
    content: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def boxes(file: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    """The boxes between two offsets of a file; stops where a size is invalid.

    Args:
        file: open for reading; its position changes.
        begin: offset of the first box in bytes.
        end: offset of the end of the last one.
    """
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
        yield Box(kind, begin, content, begin + size)
        begin += size


def file_boxes(file: BinaryIO) -> list[Box]:
    """The boxes of a whole file."""
    return list(boxes(file, 0, os.fstat(file.fileno()).st_size))


def read_span(file: BinaryIO, begin: int, size: int) -> bytes:
    """Reads bytes at an offset.

    Args:
        file: open for reading; its position changes.
        begin: offset in bytes.
        size: number of bytes; fewer are returned where the file ends before.
    """
    file.seek(begin)
    return file.read(size)


def make_box(kind: bytes, content: bytes) -> bytes:
    """A box with its header; the size takes 64 bits where 32 are too few."""
    size = 8 + len(content)
    if size > OFFSET32_MAX:
        return b"\0\0\0\1" + kind + (size + 8).to_bytes(8, "big") + content
    return size.to_bytes(4, "big") + kind + content


def grow_moov(path: Path, into_moov: bytes, into_udta: bytes, behind: int, appended: int) -> int:
    """Inserts boxes into ``moov`` of a finished file, in place, and moves everything behind it.

    Args:
        path: the file.
        into_moov: boxes for ``moov``.
        into_udta: boxes for ``moov/udta``, which is created if it is missing.
        behind: bytes to leave free right behind ``moov``.
        appended: bytes that will be added at the end of the file later.

    Returns:
        Offset of the first byte behind the new ``moov``.

    Raises:
        OSError: the file cannot be written, or has no ``moov``.
    """
    with path.open("r+b") as file:
        moov = next((box for box in file_boxes(file) if box.kind == b"moov"), None)
        if moov is None:
            raise OSError(f"'{path.name}' has no index")
        content = read_span(file, moov.content, moov.end - moov.content)
        added = len(into_moov) + len(into_udta) + behind + appended
        wide = os.fstat(file.fileno()).st_size + 2 * moov.size + added > OFFSET32_MAX

        def index(shift: int) -> bytes:
            chunks = _moved(content, lambda places: np.where(places >= moov.end, places + shift, places), wide)
            return make_box(b"moov", _with_udta(chunks, into_udta) + into_moov)

        shift = len(index(0)) + behind - moov.size  # the size of moov does not depend on its offsets
        _push(file, moov.end, shift)
        file.seek(moov.begin)
        file.write(index(shift))
    return moov.end + shift - behind


def _moved(content: bytes, move: Callable[[Places], Places], wide: bool) -> bytes:
    """The content of a box with all chunk offsets moved; ``stco`` (32 bits) becomes ``co64`` where ``wide``."""
    file, parts, end = BytesIO(content), [], 0
    for box in boxes(file, 0, len(content)):
        body, kind = content[box.content : box.end], box.kind
        if kind in _TO_THE_CHUNKS:
            body = _moved(body, move, wide)
        elif kind in (b"stco", b"co64"):
            offsets = np.frombuffer(body[8:], ">u4" if kind == b"stco" else ">u8").astype(np.int64)
            kind = b"co64" if wide else kind
            body = body[:8] + move(offsets).astype(">u8" if kind == b"co64" else ">u4").tobytes()
        parts.append(make_box(kind, body))
        end = box.end
    return b"".join(parts) + content[end:]


def sample_bytes(file: BinaryIO, box: Box) -> int:
    """The total size of all samples below a box, from the sample size tables (``stsz``)."""
    total = 0
    for inner in boxes(file, box.content, box.end):
        if inner.kind in _TO_THE_CHUNKS:
            total += sample_bytes(file, inner)
        elif inner.kind == b"stsz":
            content = read_span(file, inner.content, inner.end - inner.content)
            same, count = int.from_bytes(content[4:8], "big"), int.from_bytes(content[8:12], "big")
            listed = np.frombuffer(content[12 : 12 + (len(content) - 12) // 4 * 4], ">u4")
            total += same * count if same else int(listed.sum(dtype=np.int64))
    return total


def _with_udta(content: bytes, added: bytes) -> bytes:
    """The content of ``moov`` with boxes added at the front of ``udta``, which may end with four zero bytes."""
    if not added:
        return content
    for box in boxes(BytesIO(content), 0, len(content)):
        if box.kind == b"udta":
            grown = make_box(b"udta", added + content[box.content : box.end])
            return content[: box.begin] + grown + content[box.end :]
    return content + make_box(b"udta", added)


def _push(file: BinaryIO, begin: int, shift: int) -> None:
    """Moves everything from an offset on towards the end; last part first, so that nothing is overwritten unread."""
    end = os.fstat(file.fileno()).st_size
    while end > begin:
        start = max(begin, end - _COPY_BYTES)
        part = read_span(file, start, end - start)
        file.seek(start + shift)
        file.write(part)
        end = start


def copy_span(source: BinaryIO, target: BinaryIO, begin: int, size: int) -> None:
    """Copies a span of one file to the current position of another.

    Args:
        source: open for reading.
        target: open for writing.
        begin: offset in the source, in bytes.
        size: number of bytes.

    Raises:
        OSError: the source ends early, or the target cannot be written.
    """
    source.seek(begin)
    while size > 0:
        part = source.read(min(size, _COPY_BYTES))
        if not part:
            raise OSError("a file ended while it was copied")
        target.write(part)
        size -= len(part)


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
