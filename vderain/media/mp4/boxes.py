"""Boxes of MP4 and MOV files (ISO/IEC 14496-12): a file enters, its boxes leave; new ones go into a finished one.

A box that is put into ``moov`` pushes aside all that lies behind it, and with it the bytes that the tables of chunks
(``stco``, ``co64``) point at; those are moved along.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BOXES_MAX = 100_000  # a damaged file cannot keep us for ever
OFFSET32_MAX = 2**32 - 1
Places = NDArray[np.int64]
_TO_THE_CHUNKS = (b"trak", b"mdia", b"minf", b"stbl")
_COPY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box lies in its file, in bytes: its kind, the first byte of its header, of its content, and its end."""

    kind: bytes
    begin: int
    content: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def boxes(file: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    """The boxes between two places of a file; stops where sizes make no sense."""
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
    """Bytes of a file; fewer where it ends before."""
    file.seek(begin)
    return file.read(size)


def make_box(kind: bytes, content: bytes) -> bytes:
    """A box of a kind around its content."""
    size = 8 + len(content)
    if size > OFFSET32_MAX:
        return b"\0\0\0\1" + kind + (size + 8).to_bytes(8, "big") + content
    return size.to_bytes(4, "big") + kind + content


def grow_moov(path: Path, into_moov: bytes, into_udta: bytes, behind: int, appended: int) -> int:
    """Puts boxes into the index of a finished file, in place, and moves everything behind it along.

    Args:
        path: the file.
        into_moov: boxes for ``moov``.
        into_udta: boxes for ``moov/udta``, which is made where there is none.
        behind: bytes to leave free right behind the index.
        appended: bytes that will be added at the end of the file later.

    Returns:
        The first byte behind the new index.

    Raises:
        OSError: the file cannot be written, or has no index.
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

        shift = len(index(0)) + behind - moov.size  # the size of the index does not depend on what it says
        _push(file, moov.end, shift)
        file.seek(moov.begin)
        file.write(index(shift))
    return moov.end + shift - behind


def _moved(content: bytes, move: Callable[[Places], Places], wide: bool) -> bytes:
    """The content of a box in which all places of chunks have been moved, with 64 bits each where ``wide``."""
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
    """The sizes of all samples that an index lists, in ``stsz``, the box of sample sizes."""
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
    """The content of ``moov`` with more in its ``udta``, in front: an old ``udta`` may end with four zero bytes."""
    if not added:
        return content
    for box in boxes(BytesIO(content), 0, len(content)):
        if box.kind == b"udta":
            grown = make_box(b"udta", added + content[box.content : box.end])
            return content[: box.begin] + grown + content[box.end :]
    return content + make_box(b"udta", added)


def _push(file: BinaryIO, begin: int, shift: int) -> None:
    """Moves everything from a place on towards the end of the file, the last part first."""
    end = os.fstat(file.fileno()).st_size
    while end > begin:
        start = max(begin, end - _COPY_BYTES)
        part = read_span(file, start, end - start)
        file.seek(start + shift)
        file.write(part)
        end = start


def copy_span(source: BinaryIO, target: BinaryIO, begin: int, size: int) -> None:
    """Copies bytes of one file to where another one stands."""
    source.seek(begin)
    while size > 0:
        part = source.read(min(size, _COPY_BYTES))
        if not part:
            raise OSError("a file ended while it was copied")
        target.write(part)
        size -= len(part)
