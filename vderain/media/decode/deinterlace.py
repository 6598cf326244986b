"""Deinterlaces frames that consist of two fields, with FFmpeg's bwdif filter; progressive frames pass unchanged.

Half the lines of an interlaced frame were exposed later than the other half. Optical flow between such frames follows
the comb instead of the scene, and a temporal median mixes two times, so the later field is interpolated from its
neighbours in time and space (bwdif, after Weston's three-field method of the BBC).

Cameras and editors also flag progressive frames as interlaced (progressive segmented frames). A comb shows where
something moves (FFmpeg's idet filter), so the flag is ignored where only progressive frames are seen.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice

import av
import av.filter

_MIN_PX = (3, 4)  # width and height that bwdif takes
_TICK = Fraction(1, 25)  # time base of the filters' own timestamps, which have no meaning
_DEINTERLACE = (("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),)
# idet sets the interlaced flag again where several frames in a row show a comb.
_DETECT = (("setfield", "prog"), ("idet", None))
_DETECTED = "lavfi.idet.single.current_frame"
_DETECT_MAX = 120  # frames that are looked at
_PROGRESSIVE_MIN = 12  # progressive ones in a row that settle it; of telecined film, two of five show a comb

FramePair = tuple[av.VideoFrame, av.VideoFrame]  # a frame, and what the filters made of it


def shows_fields(frames: Iterable[av.VideoFrame]) -> bool:
    """Whether frames that are flagged as interlaced are so; without motion they count as interlaced.

    Args:
        frames: decoded, in presentation order; as many are read as it takes, 120 at most.
    """
    detect, progressive = _FilterGraph(_DETECT), 0
    detected = (after for frame in islice(frames, _DETECT_MAX) for _, after in detect(frame))
    for after in detected:
        kind = after.metadata.get(_DETECTED)
        if kind in ("tff", "bff"):
            return True
        progressive += kind == "progressive"
        if progressive >= _PROGRESSIVE_MIN:
            return False
    return True


class Deinterlacer:
    """Makes progressive frames of interlaced ones; progressive frames pass bit for bit.

    Args:
        trust_flags: whether flagged frames are taken to be interlaced; else they have to show a comb as well.

    Attributes:
        count: interlaced frames so far.
    """

    def __init__(self, trust_flags: bool = True) -> None:
        self.count = 0
        self._deinterlace = _FilterGraph(_DEINTERLACE)
        self._detect = None if trust_flags else _FilterGraph(_DETECT)

    def __call__(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The same number of frames in the same order, delayed by one or two of them."""
        for frame in frames:
            if self._detect is None:
                yield from self._process(frame, frame.interlaced_frame)
            else:
                yield from self._process_detected(self._detect(frame))

    def flush(self) -> Iterator[av.VideoFrame]:
        """The frames that still wait for a later neighbour."""
        if self._detect is not None:
            yield from self._process_detected(self._detect.flush())
        yield from _with_old_pts(self._deinterlace.flush())

    def _process_detected(self, pairs: Iterator[FramePair]) -> Iterator[av.VideoFrame]:
        for frame, detected in pairs:
            yield from self._process(frame, frame.interlaced_frame and detected.interlaced_frame)

    def _process(self, frame: av.VideoFrame, interlaced: bool) -> Iterator[av.VideoFrame]:
        interlaced = interlaced and frame.width >= _MIN_PX[0] and frame.height >= _MIN_PX[1]
        self.count += bool(interlaced)
        if interlaced or (self._deinterlace.is_open and not frame.interlaced_frame):
            # bwdif passes frames without the flag; they go through it as neighbours of interlaced ones
            yield from _with_old_pts(self._deinterlace(frame))
        else:
            yield from _with_old_pts(self._deinterlace.flush())
            yield frame


def _with_old_pts(pairs: Iterator[FramePair]) -> Iterator[av.VideoFrame]:
    for before, after in pairs:
        after.pts = before.pts
        yield after


class _FilterGraph:
    """A chain of FFmpeg filters, rebuilt for frames of another size; yields pairs of input and output frame.

    Args:
        steps: name and options of each filter.
    """

    def __init__(self, steps: tuple[tuple[str, str | None], ...]) -> None:
        self._steps = steps
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._pushed = 0
        self._waiting: deque[av.VideoFrame] = deque()

    @property
    def is_open(self) -> bool:
        return self._graph is not None

    def __call__(self, frame: av.VideoFrame) -> Iterator[FramePair]:
        """Sends one frame in, and yields the pairs that are ready."""
        shape = frame.width, frame.height, frame.format.name
        if shape != self._shape or self._graph is None:
            yield from self.flush()
            self._graph, self._shape = self._build(shape), shape
        self._waiting.append(frame)
        self._pushed += 1
        pts = frame.pts
        frame.pts, frame.time_base = self._pushed, _TICK  # filters need ascending timestamps
        self._graph.push(frame)
        frame.pts = pts
        yield from self._ready(self._graph)

    def flush(self) -> Iterator[FramePair]:
        """Yields the pairs that still waited; the next frame starts a new chain."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready(self._graph)
        self._graph = self._shape = None
        self._waiting.clear()

    def _build(self, shape: tuple[int, int, str]) -> av.filter.Graph:
        width, height, name = shape
        graph = av.filter.Graph()
        last = graph.add_buffer(width=width, height=height, format=av.VideoFormat(name), time_base=_TICK)
        for step in (*self._steps, ("format", name), ("buffersink", None)):
            following = graph.add(*step) if step[1] is not None else graph.add(step[0])
            last.link_to(following)
            last = following
        graph.configure()
        return graph

    def _ready(self, graph: av.filter.Graph) -> Iterator[FramePair]:
        while True:
            try:
                made = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(made, av.VideoFrame)
            yield self._waiting.popleft(), made
