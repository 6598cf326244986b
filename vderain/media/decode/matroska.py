"""Owns what the elements of a Matroska or WebM file tell of its wholeness (RFC 9559): a path enters, answers leave.

FFmpeg passes over what is lost of such a file without a word, and the file has no list of its pictures.
"""

import os
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_ENTERED = frozenset({_SEGMENT, _CLUSTER})  # what is in them is looked at
_KNOWN = _ENTERED | {
    _EBML, 0xEC, 0xBF,  # void, CRC
    0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,  # of a segment
    0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854,  # of a cluster
}  # fmt: skip
_HEADER_BYTES = 12  # four of the kind, eight of the size


def ends_early(path: Path) -> bool:
    """Whether a file is shorter than it says; one of which the recorder never knew the end is not."""
    with path.open("rb") as file:
        _, content, size = _element(file, 0)
        kind, content, size = _element(file, content + (size or 0))
        return kind == _SEGMENT and size is not None and content + size > os.fstat(file.fileno()).st_size


def has_holes(path: Path) -> bool:
    """Whether something else lies where an element should begin; reads the headers of all of them."""
    with path.open("rb") as file:
        end, position = os.fstat(file.fileno()).st_size, 0
        while position < end:
            kind, content, size = _element(file, position)
            if kind not in _KNOWN:
                return True
            position = content if kind in _ENTERED else content + (size or 0)
        return False


def _element(file: BinaryIO, position: int) -> tuple[int, int, int | None]:
    """What begins at a byte of a file: its kind, where its content begins, and its size; None where that is open."""
    file.seek(position)
    header = file.read(_HEADER_BYTES)
    middle = _length(header[:1])
    end = middle + _length(header[middle : middle + 1])
    unknown = (1 << 7 * (end - middle)) - 1
    size = int.from_bytes(header[middle:end], "big") & unknown
    return int.from_bytes(header[:middle], "big"), position + end, None if size == unknown else size


def _length(first: bytes) -> int:
    """How many bytes a number takes, by the leading zeros of its first one; 1 where there is none."""
    return 9 - first[0].bit_length() if first and first[0] else 1
