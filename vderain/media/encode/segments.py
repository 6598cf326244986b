"""Encodes a video in segments that are kept in a SQLite file, so that work can be resumed after a crash.

Each segment has an encoder of its own and is one transaction: it is stored completely or not at all. Where segments end
depends on the number of frames alone, so a video that was resumed is identical to one that was not. Each segment has a
checksum; a store that was damaged or changed by others is discarded.
"""

import errno
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import av
from av.container import OutputContainer

from vderain.errors import VderainError
from vderain.media.decode.media_file import Packet
from vderain.media.encode import SEGMENT_FRAMES
from vderain.media.frame import Frame
from vderain.runtime.files import has_posix_locks, output_error

log = logging.getLogger(__name__)

WAIT_S = 60.0  # for a worker that was given up to end its transaction
SCHEMA = """
    BEGIN;
    CREATE TABLE work (key TEXT NOT NULL, origin_s TEXT);
    CREATE TABLE segments (number INTEGER PRIMARY KEY, frames INTEGER NOT NULL, dry INTEGER NOT NULL, last_s TEXT,
                           checksum BLOB NOT NULL);
    CREATE TABLE packets (segment INTEGER, number INTEGER, pts INTEGER, duration INTEGER, key INTEGER, data BLOB,
                          PRIMARY KEY (segment, number)) WITHOUT ROWID;
    COMMIT;
"""


# Of the system rather than of the content of the file.
_SYSTEM_ERRORS = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
})  # fmt: skip


class PacketEncoder(Protocol):
    """Turns frames into packets, at once or when all frames are there."""

    def encode(self, frame: Frame, time_s: Fraction) -> Iterable[Packet]:
        """Encodes one frame.

        Args:
            frame: of the size and layout that the encoder was opened for.
            time_s: when the frame is shown, on the output's clock.

        Returns:
            The packets that are complete.
        """

    def finish(self) -> Iterable[Packet]:
        """The packets that are left, after the last frame."""


class HasDry(Protocol):
    """A restored frame; ``dry`` tells whether it was left unchanged because it does not rain in it."""

    @property
    def dry(self) -> bool: ...


Restored = TypeVar("Restored", bound=HasDry)


class SegmentStore:
    """The encoded segments of one video.

    Args:
        path: of the file; it is never removed here, see `remove`.
        key: identifies the input and the settings; segments with another key, and damaged ones, are discarded.
        segment_frames: length of a segment.

    Attributes:
        frames: in complete segments.
        dry: how many of those were left unchanged because it does not rain in them.
        origin_s: time of the first frame on the reader's clock; None before it is known.
        last_s: time of the last frame of the complete segments, on the output's clock.

    Raises:
        OutputError: on entering, if the file cannot be created.
    """

    def __init__(self, path: Path, key: str, segment_frames: int = SEGMENT_FRAMES) -> None:
        self.path, self.segment_frames = path, segment_frames
        self.frames = self.dry = self._segments = 0
        self.origin_s: Fraction | None = None
        self.last_s = Fraction(0)
        self._key = f"{key} {segment_frames}"
        self._packets = 0
        self._dry = 0  # frames of the current segment
        self._checksum = hashlib.sha256()  # of the current segment

    def __enter__(self) -> Self:
        with output_errors(self.path), self._as_os_errors():
            try:
                self._open()
            except (sqlite3.Error, ValueError, TypeError, ArithmeticError) as error:
                if _code(error) in _SYSTEM_ERRORS:
                    raise
                log.warning("'%s' is damaged: its segments are discarded, and all frames are made again.", self.path)
                self._start_over()
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()  # what is not committed is gone

    def remaining(self, restored: Iterable[Restored], first: int) -> Iterator[Restored]:
        """The frames that are not in the store yet; counts those that are dry.

        Args:
            restored: frames of the video, from number `first` on.
            first: at most `frames`.
        """
        kept = self.frames
        for number, frame in enumerate(restored, first):
            if number >= kept:
                self._dry += frame.dry
                yield frame

    def set_origin(self, time_s: Fraction) -> Fraction:
        """Sets `origin_s` if it is unknown.

        Args:
            time_s: of the first frame that is written, on the reader's clock.

        Returns:
            `origin_s`, which is earlier if there are frames in the store already.
        """
        if self.origin_s is None:
            self.origin_s = time_s
        return self.origin_s

    def begin(self) -> None:
        """Begins a segment.

        Raises:
            VderainError: another process adds segments, too.
        """
        with self._as_os_errors():
            self._db.execute("BEGIN IMMEDIATE")
            there, key = self._db.execute("SELECT (SELECT count(*) FROM segments), key FROM work").fetchone()
            if (there, key) != (self._segments, self._key):
                raise self._shared()
            self._db.execute("UPDATE work SET origin_s = ?", (str(self.origin_s),))
        self._checksum = self._new_checksum(self._segments, str(self.origin_s))

    def add(self, packet: Packet) -> None:
        """Adds a packet to the current segment."""
        data = bytes(packet)
        values = (self._packets, packet.pts, packet.duration, int(packet.is_keyframe))
        with self._as_os_errors():
            self._db.execute("INSERT INTO packets VALUES (?, ?, ?, ?, ?, ?)", (self._segments, *values, data))
        _update(self._checksum, values, data)
        self._packets += 1

    def end(self, frames: int, last_s: Fraction) -> None:
        """Commits the current segment.

        Args:
            frames: how many it has.
            last_s: time of its last frame on the output's clock.
        """
        with self._as_os_errors():
            values = (frames, self._dry, str(last_s))
            _update(self._checksum, values)
            row = (self._segments, *values, self._checksum.digest())
            self._db.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", row)
            self._db.execute("COMMIT")
        self._segments += 1
        self.frames, self.dry, self.last_s = self.frames + frames, self.dry + self._dry, last_s
        self._packets = self._dry = 0

    def packets(self) -> Iterator[Packet]:
        """All packets in decoding order, each with its pts and a dts that is monotonic over all segments."""
        with self._as_os_errors():
            stamps = self._db.execute("SELECT pts FROM packets ORDER BY segment, number").fetchall()
            rows = self._db.execute("SELECT pts, duration, key, data FROM packets ORDER BY segment, number")
            for dts, (pts, duration, key, data) in zip(decode_stamps([pts for (pts,) in stamps]), rows, strict=True):
                packet: Packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration, packet.is_keyframe = pts, dts, duration, bool(key)
                yield packet

    def _open(self) -> None:
        self._segments = self.frames = self.dry = 0
        self.origin_s, self.last_s = None, Fraction(0)
        if self.path.is_symlink():
            self.path.unlink()
        with suppress(FileExistsError):  # readable for its owner only, as the source may be
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        uri = self.path.absolute().as_uri() + ("" if has_posix_locks(self.path) else "?vfs=unix-none")
        self._db = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)
        if not self._db.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone():
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT INTO work VALUES (?, NULL)", (self._key,))
        key, origin_s = self._db.execute("SELECT key, origin_s FROM work").fetchone() or ("", None)
        if key != self._key:
            log.warning("'%s' was begun from another input or with other settings: it starts over.", self.path.name)
            self._start_over()
            return
        self._read_segments(origin_s)

    def _read_segments(self, origin_s: object) -> None:
        """Counts the frames of the segments, after a check of all that is stored.

        Args:
            origin_s: as stored.

        Raises:
            ValueError, TypeError, ArithmeticError, sqlite3.Error: the store is damaged.
        """
        if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise ValueError("the file is malformed")
        checksums: dict[int, hashlib._Hash] = {}
        for segment, *values, data in self._db.execute("SELECT * FROM packets ORDER BY segment, number"):
            checksum = checksums.setdefault(segment, self._new_checksum(segment, origin_s))
            _update(checksum, tuple(values), data)
        for number, *values, stored in self._db.execute("SELECT * FROM segments ORDER BY number").fetchall():
            checksum = checksums.pop(number, self._new_checksum(number, origin_s))
            _update(checksum, tuple(values))
            if number != self._segments or checksum.digest() != stored:
                raise ValueError("a checksum does not match")
            frames, dry, last_s = values
            self.frames, self.dry, self.last_s = self.frames + frames, self.dry + dry, Fraction(last_s)
            self._segments += 1
        if checksums:
            raise ValueError("packets of no segment")
        self.origin_s = Fraction(str(origin_s)) if self._segments else None

    def _new_checksum(self, segment: int, origin_s: object) -> "hashlib._Hash":
        return hashlib.sha256(repr((self._key, segment, origin_s)).encode("utf-8", "surrogateescape"))

    def _start_over(self) -> None:
        self._db.close()
        remove(self.path)
        self._open()

    def _shared(self) -> VderainError:
        return VderainError(
            f"another process is at work on '{self.path}'.", "Wait until it has ended, and run the same command again."
        )

    @contextmanager
    def _as_os_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = _code(error)
            if code == sqlite3.SQLITE_BUSY:
                raise self._shared() from error
            full = code == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, f"{error}: {self.path.name}") from error


def _code(error: Exception) -> int:
    """SQLite's code of an error, without its extension; 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _update(checksum: "hashlib._Hash", values: tuple[object, ...], data: bytes = b"") -> None:
    checksum.update(repr((*values, len(data))).encode("utf-8", "surrogateescape"))
    checksum.update(data)


def remove(path: Path) -> None:
    """Removes a store and the journal that SQLite may have left beside it."""
    for ending in ("", "-journal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{ending}").unlink()


def decode_stamps(pts: list[int]) -> list[int]:
    """Decoding timestamps (DTS) for frames in decoding order, given their pts.

    The n-th frame is decoded when the n-th frame is shown, less the delay that keeps every dts at or before its pts.
    """
    shown = sorted(pts)
    rank = {stamp: number for number, stamp in enumerate(shown)}
    delay = max((number - rank[stamp] for number, stamp in enumerate(pts)), default=0)
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return [shown[n - delay] if n >= delay else shown[0] - (delay - n) * step for n in range(len(pts))]


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns an error of the operating system into an OutputError."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


class SegmentEncoder:
    """A `PacketEncoder` that keeps its packets in a store, a segment at a time, until the last frame is there.

    Args:
        store: entered; frames that it has already must not be encoded again.
        add_encoder: adds a video stream with an encoder to a container, the same for each segment.
        muxer: FFmpeg's name of the container that the packets are for.
        time_base: of the encoders.
    """

    def __init__(
        self,
        store: SegmentStore,
        add_encoder: Callable[[OutputContainer], PacketEncoder],
        muxer: str,
        time_base: Fraction,
    ) -> None:
        self._store, self._add_encoder, self._muxer, self._time_base = store, add_encoder, muxer, time_base
        self._scratch: OutputContainer | None = None  # holds the encoder of the current segment
        self._encoder: PacketEncoder | None = None
        self._frames = 0  # in the current segment
        self._last_s = Fraction(0)

    def encode(self, frame: Frame, time_s: Fraction) -> list[Packet]:
        """Encodes one frame into the store; see `PacketEncoder`.

        Raises:
            VderainError: another process writes to the store.
        """
        if self._encoder is None:
            self._store.begin()
            # Never written to: encoders take some settings from the format of their container.
            self._scratch = av.open(BytesIO(), "w", format=self._muxer)
            self._encoder = self._add_encoder(self._scratch)
        for packet in self._encoder.encode(frame, time_s):
            self._store.add(packet)
        self._frames += 1
        self._last_s = time_s
        if self._frames == self._store.segment_frames:
            self._end_segment()
        return []

    def finish(self) -> Iterator[Packet]:
        """The packets of all segments."""
        self._end_segment()
        for packet in self._store.packets():
            packet.time_base = self._time_base
            yield packet

    def close(self) -> None:
        """Discards the encoder of an unfinished segment."""
        if self._scratch is not None:
            self._scratch.close()
        self._scratch = self._encoder = None

    def _end_segment(self) -> None:
        if self._encoder is None:
            return
        for packet in self._encoder.finish():
            self._store.add(packet)
        self._store.end(self._frames, self._last_s)
        self._frames = 0
        self.close()
