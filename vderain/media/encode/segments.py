"""A video written in pieces, so that work can go on after a crash: Frames enter, and wait encoded until all are in.

Every piece has an encoder of its own and is one transaction of a small SQLite file: it is there whole or not at all.
Where the pieces end depends on the number of frames alone, so that a video written in one go and one written in five
are the same.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.container import OutputContainer

from vderain.errors import VderainError
from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import add_encoder
from vderain.media.encode.options import SEGMENT_FRAMES, EncodeOptions
from vderain.media.encode.preflight import output_error
from vderain.media.encode.writer import VideoWriter
from vderain.media.frame import Frame

log = logging.getLogger(__name__)

WAIT_S = 60.0  # for the last moments of a worker that was given up
SCHEMA = """
    BEGIN;
    CREATE TABLE work (key TEXT NOT NULL, origin_s TEXT);
    CREATE TABLE segments (number INTEGER PRIMARY KEY, frames INTEGER NOT NULL, dry INTEGER NOT NULL, last_s TEXT);
    CREATE TABLE packets (segment INTEGER, number INTEGER, pts INTEGER, duration INTEGER, key INTEGER, data BLOB,
                          PRIMARY KEY (segment, number)) WITHOUT ROWID;
    COMMIT;
"""


class SegmentStore:
    """The encoded pieces of one video.

    Args:
        path: of the file; it stays until somebody removes it.
        key: says what the pieces are made from and how; those of another key are thrown away.
        segment_frames: length of a piece.

    Attributes:
        frames: in whole pieces.
        dry: how many of those were left as they are.
        origin_s: instant of the first frame, on the clock of the reader; None before.
        last_s: instant of the last frame of the whole pieces, on the clock of the output.

    Raises:
        OutputError: on entering, where the file cannot be made.
    """

    def __init__(self, path: Path, key: str, segment_frames: int = SEGMENT_FRAMES) -> None:
        self.path, self.segment_frames = path, segment_frames
        self.frames = self.dry = self._segments = 0
        self.origin_s: Fraction | None = None
        self.last_s = Fraction(0)
        self._key = f"{key} {segment_frames}"
        self._packets = 0

    def __enter__(self) -> Self:
        with output_errors(self.path), self._as_os_errors():
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._start_over()  # damaged
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()  # what is not committed is gone

    def begin(self, origin_s: Fraction) -> None:
        """Starts a piece.

        Raises:
            VderainError: another process adds pieces, too.
        """
        with self._as_os_errors():
            self._db.execute("BEGIN IMMEDIATE")
            there, key = self._db.execute("SELECT (SELECT count(*) FROM segments), key FROM work").fetchone()
            if (there, key) != (self._segments, self._key):
                raise self._shared()
            if self.origin_s is None:
                self.origin_s = origin_s
                self._db.execute("UPDATE work SET origin_s = ?", (str(origin_s),))

    def add(self, packet: Any) -> None:
        """Adds a packet to the piece."""
        values = (self._segments, self._packets, packet.pts, packet.duration, packet.is_keyframe, bytes(packet))
        with self._as_os_errors():
            self._db.execute("INSERT INTO packets VALUES (?, ?, ?, ?, ?, ?)", values)
        self._packets += 1

    def end(self, frames: int, dry: int, last_s: Fraction) -> None:
        """Ends a piece: from now on it is there."""
        with self._as_os_errors():
            self._db.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", (self._segments, frames, dry, str(last_s)))
            self._db.execute("COMMIT")
        self._segments += 1
        self._packets = 0
        self.frames, self.dry, self.last_s = self.frames + frames, self.dry + dry, last_s

    def packets(self) -> Iterator[Any]:
        """All packets in the order of decoding, each with its pts, and a dts that fits those of all pieces."""
        with self._as_os_errors():
            stamps = self._db.execute("SELECT pts FROM packets ORDER BY segment, number").fetchall()
            rows = self._db.execute("SELECT pts, duration, key, data FROM packets ORDER BY segment, number")
            for dts, (pts, duration, key, data) in zip(decode_stamps([pts for (pts,) in stamps]), rows, strict=True):
                packet: Any = av.Packet(data)
                packet.pts, packet.dts, packet.duration, packet.is_keyframe = pts, dts, duration, bool(key)
                yield packet

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        if not self._db.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone():
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT INTO work VALUES (?, NULL)", (self._key,))
        key, origin_s = self._db.execute("SELECT key, origin_s FROM work").fetchone() or ("", None)
        if key != self._key:
            log.info("'%s' was begun from another input or with other settings: it starts over.", self.path.name)
            self._start_over()
            return
        for frames, dry, last_s in self._db.execute("SELECT frames, dry, last_s FROM segments ORDER BY number"):
            self.frames, self.dry, self.last_s = self.frames + frames, self.dry + dry, Fraction(last_s)
            self._segments += 1
        self.origin_s = Fraction(origin_s) if origin_s is not None else None

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
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_BUSY:
                raise self._shared() from error
            full = code == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, f"{error}: {self.path.name}") from error


def remove(path: Path) -> None:
    """Removes a store with what SQLite may have left beside it."""
    for ending in ("", "-journal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{ending}").unlink()


def decode_stamps(pts: list[int]) -> list[int]:
    """Decoding times for pictures in the order of decoding.

    The n-th picture is decoded when the n-th picture is shown, less the delay that no picture may be late by.
    """
    shown = sorted(pts)
    rank = {stamp: number for number, stamp in enumerate(shown)}
    delay = max((number - rank[stamp] for number, stamp in enumerate(pts)), default=0)
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return [shown[n - delay] if n >= delay else shown[0] - (delay - n) * step for n in range(len(pts))]


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns what the system raises into an OutputError."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


class SegmentedWriter(VideoWriter):
    """A `VideoWriter` whose pictures wait in a store until the last one is in; then the file is written in one go.

    Args:
        target, like, options, size_px: as of `VideoWriter`.
        store: entered; what it holds already is not to be written again.
    """

    def __init__(
        self, target: str | os.PathLike[str], like: VideoReader, options: EncodeOptions,
        size_px: tuple[int, int] | None, store: SegmentStore,
    ) -> None:  # fmt: skip
        super().__init__(target, like, options, size_px)
        self._store = store
        self._main: Any = None  # the encoder that the file's header was made with
        self._scratch: OutputContainer | None = None  # holds the encoder of the current piece
        self._inside = self._dry = 0

    def __enter__(self) -> "SegmentedWriter":
        super().__enter__()
        self._main = self._encoder
        if self._store.origin_s is not None:
            self._begin_at(self._store.origin_s)
        if self._store.frames and self._store.origin_s is not None:
            self._count, self._last_s = self._store.frames, self._store.last_s
            self._first_s = self._store.origin_s - self._shift_s
        return self

    def write(self, frame: Frame, dry: bool = False) -> None:
        """Encodes one frame at its own pts.

        Args:
            frame: as for `VideoWriter`.
            dry: whether it was left as it is.

        Raises:
            OutputError: the store cannot be written any further.
        """
        with self._output_errors():
            if self._scratch is None:
                self._open_segment(frame.pts * frame.time_base)
            pts = self._note_time(frame)
            self._keep(self._encoder.encode(self._picture(frame, pts)))
            self._inside += 1
            self._dry += dry
            if self._inside == self._store.segment_frames:
                self._close_segment()

    def _open_segment(self, time_s: Fraction) -> None:
        self._store.begin(time_s)
        self._begin_at(self._store.origin_s or Fraction(0))
        self._scratch = av.open(BytesIO(), "w", format=self._muxer)  # never written: encoders heed the container
        self._encoder = add_encoder(self._scratch, self._options, self._info, self._info.time_base, self._source_rate)

    def _close_segment(self) -> None:
        if self._scratch is None:
            return
        self._keep(super()._flush())
        self._store.end(self._inside, self._dry, self._last_s)
        self._scratch.close()
        self._scratch, self._inside, self._dry = None, 0, 0

    def _keep(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration) or packet.duration
            self._store.add(packet)

    def _flush(self) -> list[Any]:
        return []  # nothing ever went into the encoder of the file

    def _finish(self) -> None:
        self._close_segment()
        self._encoder = self._main
        if self._store.origin_s is not None:
            self._start(self._store.origin_s)
            for packet in self._store.packets():
                packet.time_base = self._main.codec_context.time_base
                self._mux([packet])
        super()._finish()

    def _discard(self) -> None:
        super()._discard()
        with suppress(Exception):
            if self._scratch is not None:
                self._scratch.close()
