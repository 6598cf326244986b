"""Compares two snapshots and lists what differs, by column of the matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fidelity.snapshot import Snapshot, Stream

Differences = list[str]
READS_AS = {"mp2": "mp3"}  # MP4 has one codec name for both layers, FFmpeg one decoder
MINOR_MARKS = frozenset({"default"})  # a muxer marks the first stream of a kind where none is marked


@dataclass(frozen=True)
class Expected:
    """What an output has to hold.

    Attributes:
        snapshot: of the source, trimmed and shifted as the output is.
        tick: the output's time base in seconds; timestamps are exact to half of it.
        pixels: whether samples have to be equal.
    """

    snapshot: Snapshot
    tick: Fraction
    pixels: bool


def _frames(want: Expected, got: Snapshot) -> Differences:
    a, b = len(want.snapshot.times), len(got.times)
    return [] if a == b else [f"{a} frames became {b}"]


def _pts(want: Expected, got: Snapshot) -> Differences:
    pairs = zip(want.snapshot.times, got.times, strict=False)
    return [f"{float(a)} s became {float(b)} s" for a, b in pairs if abs(a - b) > want.tick / 2][:3]


def _pixels(want: Expected, got: Snapshot) -> Differences:
    if not want.pixels:
        return []
    pairs = zip(want.snapshot.pictures, got.pictures, strict=False)
    wrong = [i for i, (a, b) in enumerate(pairs) if a != b]
    return [f"pictures {wrong[:5]} differ"] if wrong else []


def _colour(want: Expected, got: Snapshot) -> Differences:
    found = []
    a, b = _meaning(want.snapshot), _meaning(got)
    if want.snapshot.pixel_format.startswith("gbr"):
        a, b = a[:2], b[:2]  # an encoder of YCbCr has to choose a matrix
    if a != b:
        found.append(f"tags {a} became {b}")
    if want.snapshot.chroma != got.chroma:
        found.append(f"chroma at {want.snapshot.chroma} became {got.chroma}")
    if want.snapshot.light != got.light:
        found.append(f"{len(want.snapshot.light)} light metadata became {len(got.light)}, or others")
    return found


def _meaning(snapshot: Snapshot) -> tuple[int, ...]:
    """Colour tags, where an unspecified range means limited."""
    primaries, transfer, matrix, range_ = snapshot.tags
    return primaries, transfer, matrix, max(1, range_)


def _rotation(want: Expected, got: Snapshot) -> Differences:
    a, b = want.snapshot.matrix, got.matrix
    identity = (65536, 0, 0, 0, 65536, 0, 0, 0, 1073741824)
    return [] if (a or identity) == (b or identity) else [f"display matrix {a} became {b}"]


def _aspect(want: Expected, got: Snapshot) -> Differences:
    found = []
    if want.snapshot.aspect != got.aspect:
        found.append(f"pixel aspect {want.snapshot.aspect} became {got.aspect}")
    if want.snapshot.size != got.size:
        found.append(f"size {want.snapshot.size} became {got.size}")
    return found


def _depth(want: Expected, got: Snapshot) -> Differences:
    a, b = want.snapshot.pixel_format, got.pixel_format
    return [] if a == b else [f"{a} became {b}"]


def _streams(want: Expected, got: Snapshot) -> Differences:
    found: Differences = []
    rest = list(got.streams)
    for stream in want.snapshot.streams:
        twin = next((s for s in rest if _alike(stream, s)), None)
        if twin is None:
            found.append(f"{stream.kind} {stream.codec} is gone")
            continue
        rest.remove(twin)
        found += _packets(stream, twin, want.tick)
        if stream.detail != twin.detail:
            found.append(f"{stream.kind} {stream.codec}: {stream.detail} became {twin.detail}")
    return found + [f"{s.kind} {s.codec} appeared" for s in rest]


def _alike(a: Stream, b: Stream) -> bool:
    codecs = {READS_AS.get(stream.codec, stream.codec) for stream in (a, b)}
    same = a.kind == b.kind and len(codecs) == 1
    return (same and [p[2] for p in a.packets][:1] == [p[2] for p in b.packets][:1]) or (same and not b.packets)


def _packets(a: Stream, b: Stream, tick: Fraction) -> Differences:
    name = f"{a.kind} {a.codec}"
    if [p[2] for p in a.packets] != [p[2] for p in b.packets]:
        return [f"{name}: {len(a.packets)} packets became {len(b.packets)}, or others"]
    tick = max(tick, a.tick, b.tick)
    late = [(x[0], y[0]) for x, y in zip(a.packets, b.packets, strict=True) if abs(x[0] - y[0]) > tick]
    if late:
        return [f"{name}: packet at {float(late[0][0])} s is at {float(late[0][1])} s"]
    if a.kind in ("subtitle", "data"):
        spans = [(x[1], y[1]) for x, y in zip(a.packets, b.packets, strict=True) if abs(x[1] - y[1]) > tick]
        return [f"{name}: lasts {float(spans[0][0])} s became {float(spans[0][1])} s"] if spans else []
    return []


def _metadata(want: Expected, got: Snapshot) -> Differences:
    found = _missing("file", want.snapshot.metadata, got.metadata)
    pairs = [(want.snapshot.video, got.video)]
    rest = list(got.streams)
    for stream in want.snapshot.streams:
        twin = next((s for s in rest if _alike(stream, s)), None)
        if twin is not None:
            rest.remove(twin)
            pairs.append((stream, twin))
    stamp = "creation_time"  # of a stream is not lost where the file says the same
    for a, b in pairs:
        repeated = {stamp} if a.metadata.get(stamp) == got.metadata.get(stamp) else set()
        own = {key: value for key, value in a.metadata.items() if key not in repeated}
        found += _missing(f"{a.kind} {a.codec}", own, b.metadata)
        if a.marks - MINOR_MARKS != b.marks - MINOR_MARKS:
            found.append(f"{a.kind} {a.codec}: marks {sorted(a.marks)} became {sorted(b.marks)}")
    return found


def _missing(where: str, a: dict[str, str], b: dict[str, str]) -> Differences:
    a = {key: value for key, value in a.items() if (key, value) != ("language", "und")}
    return [f"{where}: {key} {value!r} became {b.get(key)!r}" for key, value in a.items() if b.get(key) != value]


def _chapters(want: Expected, got: Snapshot) -> Differences:
    a, b = want.snapshot.chapters, got.chapters
    tick = max(want.tick, Fraction(1, 1000))
    same = len(a) == len(b) and all(
        x[2] == y[2] and abs(x[0] - y[0]) <= tick and abs(x[1] - y[1]) <= tick for x, y in zip(a, b, strict=True)
    )
    return [] if same else [f"chapters {_read(a)} became {_read(b)}"]


def _read(chapters: Sequence[tuple[Fraction, Fraction, str]]) -> str:
    return str([(float(begin), float(end), title) for begin, end, title in chapters])


COLUMNS: dict[str, Callable[[Expected, Snapshot], Differences]] = {
    "frames": _frames,
    "pts": _pts,
    "pixels": _pixels,
    "colour": _colour,
    "rotation": _rotation,
    "aspect": _aspect,
    "depth": _depth,
    "streams": _streams,
    "metadata": _metadata,
    "chapters": _chapters,
}


def differences(want: Expected, got: Snapshot) -> dict[str, Differences]:
    """List the differences by column; columns without one are left out."""
    found = {column: check(want, got) for column, check in COLUMNS.items()}
    return {column: said for column, said in found.items() if said}
