"""Owns the directories of TIFF, which EXIF has too: bytes enter, the numbers behind their tags leave."""

from collections.abc import Iterator

_MOST = 1000  # directories, and entries of each: a file that refers to itself comes to an end
_SHORT = 3  # the type of numbers of two bytes


def directories(data: bytes) -> Iterator[dict[int, int]]:
    """By tag the number in each entry, which is a place in the file where the value does not fit the entry.

    Args:
        data: a TIFF or BigTIFF from its header on; of any other there are none.
    """
    big = _number(data, 2, 2) == 43
    if data[:2] not in (b"II", b"MM") or not (big or _number(data, 2, 2) == 42):
        return
    count_bytes, entry_bytes, place_bytes = (8, 20, 8) if big else (2, 12, 4)
    at = _number(data, 8 if big else 4, place_bytes)
    for _ in range(_MOST):
        if not 0 < at < len(data):
            return
        count = min(_number(data, at, count_bytes), _MOST)
        found = {}
        for entry in range(at + count_bytes, at + count_bytes + entry_bytes * count, entry_bytes):
            size = 2 if _number(data, entry + 2, 2) == _SHORT else place_bytes
            found[_number(data, entry, 2)] = _number(data, entry + entry_bytes - place_bytes, size)
        yield found
        at = _number(data, at + count_bytes + entry_bytes * count, place_bytes)


def rational(data: bytes, at: int) -> float:
    """The fraction at a place of a file, 0 where there is none."""
    over, under = _number(data, at, 4), _number(data, at + 4, 4)
    return over / under if under else 0.0


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little" if data[:2] == b"II" else "big")
