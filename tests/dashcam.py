"""Makes files as dashcams write them: GPS records and boxes of the maker that FFmpeg does not see."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RECORD_BYTES = 0x400  # real ones have 0x4000 or 0x8000


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def record(second: int, at: int = 48, status: bytes = b"ASW\0", year: int = 25) -> bytes:
    """A GPS record of a Novatek chip: 33 deg 52.5' S, 151 deg 12' W and a little further each second, at 36 knots."""
    body = struct.pack("<6I", 14, 7, second, year, 11, 22) + status
    body += struct.pack("<4f", 3352.5 + second / 100, 15112.0, 36.0, 271.5)
    head = b"GPS " + struct.pack("<I", 0x4C if at == 48 else 0x3F0)
    return box(b"free", (head.ljust(at - 8, b"\0") + body).ljust(RECORD_BYTES - 8, b"\xee"))


def top(data: bytes, begin: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the boxes of a file or of the content of a box."""
    end = len(data)
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        if size == 1:
            size = struct.unpack_from(">Q", data, begin + 8)[0]
        assert size >= 8, "a box of no size"
        yield kind, begin, begin + size
        begin += size


def content(data: bytes, *path: bytes) -> bytes | None:
    """What is in the box at the end of a path, such as moov, udta; None where there is none."""
    for kind in path:
        found = next((data[begin:end] for k, begin, end in top(data) if k == kind), None)
        if found is None:
            return None
        data = found[16 if found[:4] == b"\0\0\0\1" else 8 :]
    return data


@dataclass(frozen=True)
class Dashcam:
    """What the maker put into a file.

    ``where`` the records lie: in ``mdat`` behind the samples, in boxes beside it, or nowhere.
    """

    records: tuple[bytes, ...] = ()
    where: str = "mdat"
    listed: bool = True
    in_moov: bytes = b""
    in_udta: bytes = b""
    beside: bytes = b""
    behind: bytes = b""


def dashcam(plain: Path, target: Path, extra: Dashcam) -> Path:
    """A copy of an MP4 or MOV file, whose ``moov`` is its last box, with what a dashcam adds."""
    data = plain.read_bytes()
    parts = {kind: data[begin:end] for kind, begin, end in top(data)}
    assert list(parts)[-1] == b"moov", "made without fast start"
    moov_at = data.rindex(parts[b"moov"])
    mdat = parts[b"mdat"]
    before = data[: moov_at - len(mdat)]
    where = [moov_at + sum(map(len, extra.records[:i])) for i in range(len(extra.records))]
    joined = b"".join(extra.records)
    if extra.where == "mdat":
        assert mdat[:4] != b"\0\0\0\1"
        mdat = struct.pack(">I", len(mdat) + len(joined)) + mdat[4:]
    table = b"".join(struct.pack(">II", at, len(r)) for at, r in zip(where, extra.records, strict=True))
    index = box(b"gps ", struct.pack(">II", 0x101, len(where)) + table) if extra.records and extra.listed else b""
    inside = parts[b"moov"][8:]
    udta = content(parts[b"moov"], b"moov", b"udta")
    if extra.in_udta:
        inside = inside.replace(box(b"udta", udta), b"") if udta is not None else inside
        inside += box(b"udta", (udta or b"") + extra.in_udta)
    moov = box(b"moov", inside + extra.in_moov + index)
    target.write_bytes(before + mdat + joined + extra.beside + moov + extra.behind)
    return target


def listed_records(path: Path) -> list[bytes]:
    """The records that the list in ``moov`` of a file points at."""
    data = path.read_bytes()
    table = content(data, b"moov", b"gps ")
    if table is None:
        return []
    _, count = struct.unpack_from(">II", table)
    places = [struct.unpack_from(">II", table, 8 + 8 * i) for i in range(count)]
    return [data[at : at + size] for at, size in places]
