"""Owns interlaced pictures: decoded pictures enter, as many leave, at the same instants and without fields.

Half the lines of an interlaced picture were exposed later than the other half. Flow between such pictures follows the
comb and not the street, and a median of them mixes two instants, so the later field is drawn anew from its neighbours
in time and space (bwdif in FFmpeg, after Weston's three-field method of the BBC).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.filter

_SMALLEST_PX = (3, 4)  # width and height that bwdif takes
_TICK = Fraction(1, 25)  # of the filter's own clock, which nobody reads


class Deinterlacer:
    """Makes whole pictures of pictures of two fields; progressive ones pass as they are, to the bit.

    Attributes:
        count: pictures of two fields so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._graph: Any = None
        self._shape: tuple[int, int, str] | None = None
        self._pushed = 0
        self._stamps: deque[int | None] = deque()

    def __call__(self, pictures: Iterable[Any]) -> Iterator[Any]:
        """Whole pictures in the order in which they came, up to one of them later."""
        for picture in pictures:
            fields = picture.interlaced_frame and picture.width >= _SMALLEST_PX[0] and picture.height >= _SMALLEST_PX[1]
            self.count += bool(fields)
            if not fields and self._graph is None:
                yield picture
                continue
            shape = picture.width, picture.height, picture.format.name
            if shape != self._shape:
                yield from self.flush()
                self._open(shape)
            self._stamps.append(picture.pts)
            self._pushed += 1
            picture.pts, picture.time_base = self._pushed, _TICK  # the filter wants rising times
            self._graph.push(picture)
            yield from self._finished()

    def flush(self) -> Iterator[Any]:
        """What still waits for a later neighbour."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._finished()
        self._graph = self._shape = None
        self._stamps.clear()

    def _open(self, shape: tuple[int, int, str]) -> None:
        width, height, name = shape
        graph = av.filter.Graph()
        entry = graph.add_buffer(width=width, height=height, format=av.VideoFormat(name), time_base=_TICK)
        steps = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), graph.add("format", name)
        entry.link_to(steps[0])
        steps[0].link_to(steps[1])
        steps[1].link_to(graph.add("buffersink"))
        graph.configure()
        self._graph, self._shape = graph, shape

    def _finished(self) -> Iterator[Any]:
        while True:
            try:
                picture = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            picture.pts = self._stamps.popleft()
            yield picture
