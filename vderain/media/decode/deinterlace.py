"""Owns interlaced pictures: decoded pictures enter, as many leave, at the same instants and without fields.

Half the lines of an interlaced picture were exposed later than the other half. Flow between such pictures follows the
comb and not the street, and a median of them mixes two instants, so the later field is drawn anew from its neighbours
in time and space (bwdif in FFmpeg, after Weston's three-field method of the BBC).

Cameras and editors also flag whole pictures as interlaced (progressive segmented frames). Whether there is a comb can
be seen where something moves (idet in FFmpeg): the flag is not believed where nothing but whole pictures is seen.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import av.filter

_SMALLEST_PX = (3, 4)  # width and height that bwdif takes
_TICK = Fraction(1, 25)  # of the filters' own clock, which nobody reads
_DRAW = (("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),)
_LOOK = (("setfield", "prog"), ("idet", None))  # sets the flag anew, where several pictures in a row have a comb
_SEEN = "lavfi.idet.single.current_frame"
_LOOK_MAX = 120  # pictures
_ENOUGH = 12  # whole ones; of film that was made interlaced, two of five show a comb


def shows_fields(pictures: Iterable[Any]) -> bool:
    """Whether pictures that are flagged as interlaced are so; where nothing moves they are taken for it.

    Args:
        pictures: decoded, from somewhere on; as many are looked at as it takes.
    """
    look, whole = _Graph(_LOOK), 0
    seen = (after for picture in islice(pictures, _LOOK_MAX) for _, after in look(picture))
    for after in seen:
        kind = after.metadata.get(_SEEN)
        if kind in ("tff", "bff"):
            return True
        whole += kind == "progressive"
        if whole >= _ENOUGH:
            return False
    return True


class Deinterlacer:
    """Makes whole pictures of pictures of two fields; progressive ones pass as they are, to the bit.

    Args:
        trust_flags: whether pictures that are flagged as interlaced are; else they have to show a comb as well.

    Attributes:
        count: pictures of two fields so far.
    """

    def __init__(self, trust_flags: bool = True) -> None:
        self.count = 0
        self._draw = _Graph(_DRAW)
        self._look = None if trust_flags else _Graph(_LOOK)

    def __call__(self, pictures: Iterable[Any]) -> Iterator[Any]:
        """Whole pictures in the order in which they came, up to one or two of them later."""
        for picture in pictures:
            if self._look is None:
                yield from self._whole(picture, picture.interlaced_frame)
            else:
                yield from self._seen(self._look(picture))

    def flush(self) -> Iterator[Any]:
        """What still waits for a later neighbour."""
        if self._look is not None:
            yield from self._seen(self._look.flush())
        yield from self._drawn(self._draw.flush())

    def _seen(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
        for picture, seen in pairs:
            yield from self._whole(picture, picture.interlaced_frame and seen.interlaced_frame)

    def _whole(self, picture: Any, fields: bool) -> Iterator[Any]:
        fields = fields and picture.width >= _SMALLEST_PX[0] and picture.height >= _SMALLEST_PX[1]
        self.count += bool(fields)
        if fields or (self._draw.is_open and not picture.interlaced_frame):  # bwdif lets the latter pass
            yield from self._drawn(self._draw(picture))
        else:
            yield from self._drawn(self._draw.flush())
            yield picture

    def _drawn(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
        for before, picture in pairs:
            picture.pts = before.pts
            yield picture


class _Graph:
    """A chain of FFmpeg's filters, opened anew for pictures of another size: each leaves beside what it was made of.

    Args:
        steps: name and options of each filter.
    """

    def __init__(self, steps: tuple[tuple[str, str | None], ...]) -> None:
        self._steps = steps
        self._graph: Any = None
        self._shape: tuple[int, int, str] | None = None
        self._pushed = 0
        self._waiting: deque[Any] = deque()

    @property
    def is_open(self) -> bool:
        return self._graph is not None

    def __call__(self, picture: Any) -> Iterator[tuple[Any, Any]]:
        """The pairs that are ready once one more has come."""
        shape = picture.width, picture.height, picture.format.name
        if shape != self._shape:
            yield from self.flush()
            self._open(shape)
        self._waiting.append(picture)
        self._pushed += 1
        stamp = picture.pts
        picture.pts, picture.time_base = self._pushed, _TICK  # filters want rising times
        self._graph.push(picture)
        picture.pts = stamp
        yield from self._finished()

    def flush(self) -> Iterator[tuple[Any, Any]]:
        """The pairs that still waited; the next picture begins a new chain."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._finished()
        self._graph = self._shape = None
        self._waiting.clear()

    def _open(self, shape: tuple[int, int, str]) -> None:
        width, height, name = shape
        graph = av.filter.Graph()
        last = graph.add_buffer(width=width, height=height, format=av.VideoFormat(name), time_base=_TICK)
        for step in (*self._steps, ("format", name), ("buffersink", None)):
            following = graph.add(*step) if step[1] is not None else graph.add(step[0])
            last.link_to(following)
            last = following
        graph.configure()
        self._graph, self._shape = graph, shape

    def _finished(self) -> Iterator[tuple[Any, Any]]:
        while True:
            try:
                made = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield self._waiting.popleft(), made
