"""Finds data that camera makers store beside the streams of MP4 and MOV files, and copies it to an output file.

FFmpeg reads streams and common tags only; everything else would be lost silently. Dashcams with a Novatek chip list
the file offsets of their GPS records in a ``gps `` box inside ``moov``. The records are ``free`` boxes that begin with
``GPS ``, mostly between the samples in ``mdat``. Other cameras write boxes of their own into ``moov``, into its
``udta`` or beside it, or data behind the last box. All are copied byte for byte; only the offsets in the list of GPS
records are those of the new file.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from av.stream import Stream

from vderain.media.mp4.boxes import (
    OFFSET32_MAX,
    Box,
    boxes,
    copy_span,
    file_boxes,
    grow_moov,
    make_box,
    read_span,
    sample_bytes,
)

HOLDERS = ("mp4", "mov")  # muxers whose files have boxes
GPS_INDEX, GPS_MAGIC = b"gps ", b"freeGPS "
_GPS_LABEL = "GPS track of the camera's maker"
_RECORD_MAX_BYTES = 16 << 20
_RECORD_HEAD_BYTES = 24
_SCAN_BYTES = 1 << 20
_INDEX_GROWTH_BYTES = 64 << 20  # chunk offsets with 64 bits instead of 32, for days of video
_FOURCC = re.compile(rb"[ -~\xa9]{4}")

_REMARK = b"IsoMedia File Produced with GPAC"  # common in downloaded files; describes the old file, not its content
_PADDING = frozenset({b"free", b"skip", b"wide"})
_OF_FILES = _PADDING.union(b"ftyp moov mdat moof mfra sidx ssix styp pdin prft emsg".split())
_OF_MOOV = frozenset(b"mvhd trak udta mvex iods meta cmov rmra pssh".split())
_OF_TRAK = frozenset(b"tkhd edts tref mdia udta meta tapt load matt clip imap txas".split())
# What FFmpeg reads from ``udta`` as metadata or chapters, and writes its own way.
_OF_UDTA = frozenset(
    (
        "meta chpl name HMMT tsel hnti ludt kind @PRM @PRQ aART akID apID catg cpil cprt desc disk egid gnre hdvd keyw "
        "ldes loci pcst pgap purd rtng soaa soal soar soco sonm sosn stik trkn tven tves tvnn tvsh tvsn "
        "©ART ©PRD ©alb ©aut ©chp ©cmt ©com ©cpy ©day ©dir ©dis ©ed1 ©enc ©fmt ©gen ©grp ©hst ©inf ©lyr ©mak ©mod "
        "©nam ©ope ©prd ©prf ©req ©src ©st3 ©swr ©too ©trk ©url ©wrn ©wrt ©xyz"
    )
    .encode("latin-1")
    .split()
)
_ABSOLUTE = {b"meta"}  # at the top level it contains absolute file offsets of its own

Place = Literal["file", "moov", "udta", "trak", "end"]


@dataclass(frozen=True, slots=True)
class VendorBox:
    """A part of a file that belongs to no stream and no tag.

    Attributes:
        label: description for people.
        place: at the top level, in ``moov``, in its ``udta``, in one of its tracks, or behind the last box.
        kind: four-character code; ``gps `` for a list of GPS records, ``free`` for records without a list.
        spans: (offset, size) of each piece in bytes: whole boxes, or GPS records.
        table: content of the list of GPS records, else None.
        is_gps: whether the pieces are GPS records, which are evenly spaced in time.
        movable: False if it is valid in its own file only.
    """

    label: str
    place: Place
    kind: bytes
    spans: tuple[tuple[int, int], ...]
    table: bytes | None = None
    is_gps: bool = False
    movable: bool = True

    @property
    def name(self) -> str:
        return f"{self.label} ({len(self.spans)} records)" if self.is_gps else self.label


def find_vendor_boxes(file: BinaryIO, streams: Iterable[Stream] = ()) -> list[VendorBox]:
    """Finds data of the camera's maker beside the streams of an MP4 or MOV file.

    Args:
        file: any file, open for reading; its position changes.
        streams: the same file's streams as demuxed; GPS records between their samples are searched for.

    Returns:
        The parts in order of importance; none for other kinds of file.

    Raises:
        OSError: the file cannot be read.
    """
    tops = [box for box in file_boxes(file) if _FOURCC.fullmatch(box.kind)]
    moov = next((box for box in tops if box.kind == b"moov"), None)
    if moov is None:
        return []
    gps = _gps(file, streams, tops, moov)
    records = {begin for part in gps for begin, _ in part.spans}
    others = [box for box in tops if box.begin not in records and _is_foreign(file, box, _OF_FILES)]
    parts = [_part(box, "file", movable=box.kind not in _ABSOLUTE) for box in others]
    return gps + parts + list(_inside(file, moov)) + _behind(file, tops)


def _inside(file: BinaryIO, moov: Box) -> Iterator[VendorBox]:
    for box in boxes(file, moov.content, moov.end):
        if box.kind == b"udta":
            for child in boxes(file, box.content, box.end):
                if _FOURCC.fullmatch(child.kind) and _is_foreign(file, child, _OF_UDTA):
                    yield _part(child, "udta")
        elif box.kind == b"trak":
            for child in boxes(file, box.content, box.end):
                if _FOURCC.fullmatch(child.kind) and _is_foreign(file, child, _OF_TRAK):
                    yield _part(child, "trak", movable=False)
        elif box.kind != GPS_INDEX and _FOURCC.fullmatch(box.kind) and _is_foreign(file, box, _OF_MOOV):
            yield _part(box, "moov")


def _part(box: Box, place: Place, movable: bool = True) -> VendorBox:
    where = {"file": "", "moov": "moov/", "udta": "moov/udta/", "trak": "moov/trak/", "end": ""}[place]
    name = f"box {where}{box.kind.decode('latin-1').strip()} ({box.size} bytes)"
    return VendorBox(name, place, box.kind, ((box.begin, box.size),), movable=movable)


def _is_foreign(file: BinaryIO, box: Box, known: Set[bytes]) -> bool:
    """Whether a box holds data that FFmpeg does not copy."""
    if box.kind in _PADDING:
        remark = read_span(file, box.content, len(_REMARK)) == _REMARK
        return not remark and not _is_blank(file, box.content, box.end)
    return box.kind not in known


def _is_blank(file: BinaryIO, begin: int, end: int) -> bool:
    while begin < end:
        part = read_span(file, begin, min(_SCAN_BYTES, end - begin))
        if not part or part.strip(b"\0"):
            return not part
        begin += len(part)
    return True


def _behind(file: BinaryIO, tops: list[Box]) -> list[VendorBox]:
    """Data behind the last box that is not a box itself; a truncated box does not count."""
    begin, end = tops[-1].end, os.fstat(file.fileno()).st_size
    cut_off = read_span(file, begin, 8)[4:8] in _OF_FILES
    if begin >= end or cut_off or _is_blank(file, begin, end):
        return []
    return [VendorBox(f"{end - begin} bytes behind the last box", "end", b"", ((begin, end - begin),))]


def _gps(file: BinaryIO, streams: Iterable[Stream], tops: list[Box], moov: Box) -> list[VendorBox]:
    """The camera's GPS track: the listed records or, without a list, the records found in the file."""
    for box in boxes(file, moov.content, moov.end):
        if box.kind == GPS_INDEX:
            table = read_span(file, box.content, box.end - box.content)
            spans = _listed(table, os.fstat(file.fileno()).st_size)
            return [VendorBox(_GPS_LABEL, "moov", GPS_INDEX, spans, table, is_gps=True)]
    found = [(box.begin, box.size) for box in tops if box.kind in _PADDING and _holds_record(file, box.content - 4)]
    media = [box for box in tops if box.kind == b"mdat"]
    more = sum(box.end - box.content for box in media) - sample_bytes(file, moov)
    if more >= _RECORD_HEAD_BYTES and not any(box.kind == b"moof" for box in tops):  # mdat holds more than samples
        found += _unlisted(file, streams, media[0].content)
    if not found:
        return []
    return [VendorBox(_GPS_LABEL, "file", b"free", tuple(sorted(set(found))), is_gps=True)]


def _listed(table: bytes, file_bytes: int) -> tuple[tuple[int, int], ...]:
    """The (offset, size) pairs of a list: version and flags, a count, then 32 bits each; (0, 0) where invalid.

    Records that overlap are invalid, so that all of them together are no larger than the file.
    """
    count = min(int.from_bytes(table[4:8], "big"), (len(table) - 8) // 8)
    numbers = [int.from_bytes(table[8 + 4 * i : 12 + 4 * i], "big") for i in range(2 * count)]
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    valid, reached = set(), 0
    for at, size in sorted(set(pairs)):
        if reached <= at and at + size <= file_bytes and size <= _RECORD_MAX_BYTES:
            valid.add((at, size))
            reached = at + size
    return tuple(pair if pair in valid else (0, 0) for pair in pairs)


def _holds_record(file: BinaryIO, begin: int) -> bool:
    """Whether a GPS record begins near an offset; some cameras write a length in front."""
    return GPS_MAGIC in read_span(file, begin, _RECORD_HEAD_BYTES)


def _unlisted(file: BinaryIO, streams: Iterable[Stream], reached: int) -> list[tuple[int, int]]:
    """Records between the samples of all streams, from the offset ``reached`` on."""
    samples = sorted((entry.pos, entry.size) for stream in streams for entry in stream.index_entries)
    if not samples:
        return []
    found = []
    for begin, size in [*samples, (os.fstat(file.fileno()).st_size, 0)]:
        while begin - reached >= _RECORD_HEAD_BYTES:
            head = read_span(file, reached, 12)
            size_bytes = int.from_bytes(head[:4], "big")
            if head[4:12] != GPS_MAGIC or not _RECORD_HEAD_BYTES <= size_bytes <= begin - reached:
                break
            found.append((reached, size_bytes))
            reached += size_bytes
        reached = max(reached, begin + size)
    return found


def within(part: VendorBox, duration_s: float | None, begin_s: float | None, end_s: float | None) -> VendorBox:
    """The part with only those GPS records that lie in a time range; other parts are returned whole.

    Args:
        part: of the source.
        duration_s: duration of the source in seconds, over which its records are evenly spaced; None keeps all.
        begin_s: beginning of the range from the beginning of the source, or None.
        end_s: end of the range, likewise.
    """
    if not part.is_gps or not part.spans or not duration_s or (begin_s is None and end_s is None):
        return part
    pace_s = duration_s / len(part.spans)
    first = int(max(0.0, begin_s or 0.0) / pace_s + 1e-6)
    last = len(part.spans) if end_s is None else int(-(-end_s // pace_s))
    return replace(part, spans=part.spans[first : max(first, last)])


def carry_over(source: Path, parts: list[VendorBox], target: Path) -> list[VendorBox]:
    """Copies parts of a source into a finished MP4 or MOV file.

    Args:
        source: the file that has them.
        parts: what to copy.
        target: a complete file, which is changed in place.

    Returns:
        The parts that do not read back from the target byte for byte.

    Raises:
        OSError: the source cannot be read, or the target cannot be written.
    """
    with source.open("rb") as file:
        _write(file, parts, target)
        wanted = [(part, _digest(file, part)) for part in parts]
    with target.open("rb") as file:
        digests = {_digest(file, part) for part in find_vendor_boxes(file)}
    return [part for part, digest in wanted if digest not in digests]


def _digest(file: BinaryIO, part: VendorBox) -> tuple[bytes, bytes]:
    digests = {span: _digest_of_span(file, *span) for span in set(part.spans)}  # a list may repeat its records
    return part.kind, hashlib.sha256(b"".join(digests[span] for span in part.spans)).digest()


def _digest_of_span(file: BinaryIO, begin: int, size: int) -> bytes:
    total = hashlib.sha256()
    for start in range(begin, begin + size, _SCAN_BYTES):
        total.update(read_span(file, start, min(_SCAN_BYTES, begin + size - start)))
    return total.digest()


def _write(file: BinaryIO, parts: list[VendorBox], target: Path) -> None:
    listed = next((part for part in parts if part.table is not None), None)
    entries = listed.spans if listed is not None else ()
    records = _framed(file, tuple(dict.fromkeys(entries)))
    records_bytes = sum(len(frame) + size for frame, (_, size) in records)
    spans = [span for place in ("file", "end") for part in parts if part.place == place for span in part.spans]
    spans_bytes = sum(size for _, size in spans)
    into_moov, into_udta = (
        b"".join(read_span(file, *part.spans[0]) for part in parts if part.place == place and part.table is None)
        for place in ("moov", "udta")
    )
    if listed is not None and listed.table is not None:  # filled in once the offsets of the records are known
        into_moov += make_box(GPS_INDEX, _table(listed.table, [(0, 0)] * len(entries)))
    # At the end, so that a player need not fetch them first; but offsets in the list have only 32 bits.
    last = target.stat().st_size + 2 * len(into_moov) + records_bytes + spans_bytes + _INDEX_GROWTH_BYTES
    in_front = records_bytes if last > OFFSET32_MAX else 0
    end = grow_moov(target, into_moov, into_udta, in_front, spans_bytes + records_bytes - in_front)
    with target.open("r+b") as output:
        output.seek(end if in_front else 0, os.SEEK_SET if in_front else os.SEEK_END)
        places = dict(zip(dict.fromkeys(entries), _write_records(file, output, records), strict=True))
        output.seek(0, os.SEEK_END)
        for span in spans:
            copy_span(file, output, *span)
        if listed is not None and listed.table is not None:
            _fill(output, _table(listed.table, [places[entry] for entry in entries]))


def _framed(file: BinaryIO, spans: tuple[tuple[int, int], ...]) -> list[tuple[bytes, tuple[int, int]]]:
    """Each record with the header that makes it a ``free`` box; empty if it is a box already."""
    records = []
    for begin, size in spans:
        head = read_span(file, begin, 8)
        is_box = size >= 8 and head == size.to_bytes(4, "big") + b"free"
        records.append((b"" if is_box or not size else (size + 8).to_bytes(4, "big") + b"free", (begin, size)))
    return records


def _write_records(
    file: BinaryIO, output: BinaryIO, records: list[tuple[bytes, tuple[int, int]]]
) -> Iterator[tuple[int, int]]:
    for frame, (begin, size) in records:
        output.write(frame)
        yield (output.tell(), size) if size else (0, 0)
        copy_span(file, output, begin, size)


def _table(old: bytes, places: list[tuple[int, int]]) -> bytes:
    """The content of a list of GPS records: version and flags of the old one, the count, offsets and sizes."""
    numbers = [number for place in places for number in place]
    return old[:4] + b"".join(number.to_bytes(4, "big") for number in (len(places), *numbers))


def _fill(output: BinaryIO, table: bytes) -> None:
    moov = next(box for box in file_boxes(output) if box.kind == b"moov")
    index = next(box for box in boxes(output, moov.content, moov.end) if box.kind == GPS_INDEX)
    output.seek(index.content)
    output.write(table)
