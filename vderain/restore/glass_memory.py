"""Looks through a wet windshield: what a raindrop hides in one frame, others show.

While the car moves, a place behind a drop was seen before, or is seen a second later. The frames without raindrops, as
the raindrop generator leaves them, are carried along the optical flow behind drops (`vderain.restore.glass`), forward
and, over a few frames, backward. A network then chooses for each pixel whom to believe (`vderain.model.glass`).

The memory is finite. Every `PERIOD` frames it is replaced by one that began `WARM_UP` frames earlier, and later frames
are looked at in chunks of `CHUNK` whose places are multiples of it: so frames made again from a joint equal those of an
uninterrupted run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from vderain.restore.flow import FlowEstimator, flow_luma
from vderain.restore.frames import ConsistentFlow, FlowPair, Lasting, Luma, Picture, add_to_rgb, downscaled, luma_of
from vderain.restore.glass import (
    STEADY_FRAMES,
    Map,
    Memory,
    Motion,
    Pattern,
    fixed_pattern,
    share_revealed,
    speeds,
    steadiness,
    stepped,
)
from vderain.runtime.threads import ordered_map, sliding_window, stage

if TYPE_CHECKING:
    from vderain.restore.glass_network import GlassNetwork

PERIOD, WARM_UP = 48, 24  # frames
CHUNK = 12  # frames whose memory of later ones is made at a time, from at least as many frames ahead
COVER_EVERY = 3  # frames, of which drops are looked for in one: they stay for longer
REACH = PERIOD + WARM_UP + STEADY_FRAMES + 2  # frames before a frame that it depends on


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame at the size of the networks.

    Attributes:
        item: the frame.
        rgb: (h, w, 3) uint8.
        luma: (h, w) uint8.
        flow_luma: that flow is measured on, without raindrops.
        wiped8: (h, w, 3) uint8, without raindrops, as the raindrop generator leaves it.
        cover: (h, w) in 0..1.
        pattern: what stays in the picture.
        flows: to and from the frame before; None where there is none.
        motions: to the frame before and to the next one; None where there is none.
    """

    item: Lasting
    rgb: Picture
    luma: Luma
    wiped8: Picture
    flow_luma: Luma
    cover: Map | None = None
    pattern: Pattern | None = None
    flows: FlowPair | None = None
    motions: tuple[Motion | None, Motion | None] = (None, None)

    @property
    def number(self) -> int:
        """Index of the frame in the stream."""
        return self.item.frame.number

    @property
    def wiped(self) -> Map:
        """`wiped8` in float32, not rounded."""
        return self.rgb.astype(np.float32) + np.float32(255) * self.item.residual


class GlassMemory:
    """Completes the residuals of raindrops by what other frames show.

    Args:
        network: with the generator for the windshield.
    """

    def __init__(self, network: "GlassNetwork") -> None:
        self._network = network

    def __call__(self, frames: Iterable[Lasting], workers: int) -> Iterator[Lasting]:
        """The frames with completed residuals, in order; those behind dry glass and still images as they are.

        Args:
            frames: of one clip.
            workers: number of threads.
        """

        def kind(item: Lasting) -> tuple[bool, int]:
            return item.score > 0 and not item.frame.is_still_image, item.frame.shot

        for (wet, _), run in groupby(frames, kind):
            if wet:
                yield from self._complete(run, workers)
            else:
                yield from run

    def _complete(self, frames: Iterable[Lasting], workers: int) -> Iterator[Lasting]:
        """The frames of one shot behind wet glass."""
        small = ordered_map(_downscale, frames, workers)
        sparse = ordered_map(self._cover, sliding_window(small, STEADY_FRAMES), workers)
        covered = ordered_map(_covered_like, sliding_window(sparse, 1), workers)
        flowing = ordered_map(_measure, sliding_window(covered, 1), workers)
        moving = ordered_map(self._move, sliding_window(flowing, 1), workers)
        return ordered_map(self._choose, _both_memories(moving), workers)

    @stage("raindrops")
    def _cover(self, around: tuple[_Seen | None, ...]) -> _Seen:
        """See drops in one frame in `COVER_EVERY`, and where the frame that shares them is missing."""
        now = around[STEADY_FRAMES]
        assert now is not None
        other = around[STEADY_FRAMES + _to_seen(now.number)]
        if other is not None and other is not now:
            return now
        others = list(filter(None, around))
        steady = steadiness([other.luma for other in others])
        pattern = fixed_pattern([other.wiped8 for other in others])
        return replace(now, cover=self._network.cover(now.rgb, now.item.residual, steady), pattern=pattern)

    @stage("raindrops")
    def _move(self, around: tuple[_Seen | None, ...]) -> _Seen:
        """Complete the flow behind drops."""
        now = around[1]
        assert now is not None and now.cover is not None
        flows = _consistent(around)
        return replace(now, motions=self._network.motions(*flows, now.cover, now.rgb, now.item.residual))

    @stage("raindrops")
    def _choose(self, remembered: tuple[_Seen, Memory, Memory]) -> Lasting:
        seen, before, after = remembered
        assert seen.cover is not None and seen.pattern is not None
        item = seen.item
        speed_px = speeds(seen.motions, seen.luma.shape)
        share = np.float32(share_revealed(seen.cover))
        if share == 0:
            return item
        change = self._network.chosen(seen.rgb, item.residual, seen.cover, before, after, seen.pattern, speed_px)
        return replace(item, residual=item.residual + share * change.astype(np.float32))


@stage("raindrops")
def _downscale(item: Lasting) -> _Seen:
    rgb = downscaled(item.frame.rgb)
    wiped = add_to_rgb(rgb, item.residual)
    return _Seen(item, rgb, luma_of(rgb), wiped, flow_luma(wiped))


def _to_seen(number: int) -> int:
    """How far it is to the nearest frame in which drops are looked for, -1, 0 or 1."""
    return -(number % COVER_EVERY) if number % COVER_EVERY < 2 else 1


def _covered_like(around: tuple[_Seen | None, ...]) -> _Seen:
    """A frame with the drops of the frame beside it, unless it has its own."""
    now = around[1]
    assert now is not None
    other = around[1 + _to_seen(now.number)]
    if now.cover is not None or other is None:
        return now
    return replace(now, cover=other.cover, pattern=other.pattern)


@stage("raindrops")
def _measure(around: tuple[_Seen | None, ...]) -> _Seen:
    """Measure the flow to and from the frame before."""
    before, now, _ = around
    assert now is not None
    if before is None:
        return now
    return replace(now, flows=FlowEstimator().both_ways(now.flow_luma, before.flow_luma))


def _consistent(around: tuple[_Seen | None, ...]) -> tuple[ConsistentFlow | None, ConsistentFlow | None]:
    """Flow of the frame in the middle to the one before and to the next one; None where there is none."""
    _, now, after = around
    assert now is not None
    to_before = now.flows[0] if now.flows else None
    to_after = after.flows[1] if after is not None and after.flows else None
    return to_before, to_after


def _both_memories(frames: Iterable[_Seen]) -> Iterator[tuple[_Seen, Memory, Memory]]:
    """Each frame with the memory of earlier and of later frames, before they see it themselves."""
    waiting: list[tuple[_Seen, Memory]] = []
    for seen, before in _forward(frames):
        first = waiting[0][0].number // CHUNK if waiting else 0
        if seen.number % CHUNK == 0 and waiting and seen.number // CHUNK >= first + 2:
            count = sum(other.number // CHUNK == first for other, _ in waiting)
            yield from _with_later(waiting, count)
            waiting = waiting[count:]
        waiting.append((seen, before))
    yield from _with_later(waiting, len(waiting))


def _forward(frames: Iterable[_Seen]) -> Iterator[tuple[_Seen, Memory]]:
    """Each frame with the memory of earlier ones."""
    memory: Memory | None = None
    renewed: Memory | None = None
    for seen in frames:
        place = seen.number % PERIOD
        if place == 0 and renewed is not None:
            memory = renewed
        if place >= PERIOD - WARM_UP:
            _, renewed = _step(seen, seen.motions[0], renewed if place > PERIOD - WARM_UP else None)
        before, memory = _step(seen, seen.motions[0], memory)
        yield seen, before


def _with_later(frames: list[tuple[_Seen, Memory]], count: int) -> list[tuple[_Seen, Memory, Memory]]:
    """The first `count` frames with the memory of all that follow."""
    memory: Memory | None = None
    found = []
    for seen, before in reversed(frames):
        after, memory = _step(seen, seen.motions[1], memory)
        found.append((seen, before, after))
    return found[::-1][:count]


@stage("raindrops")
def _step(seen: _Seen, motion: Motion | None, memory: Memory | None) -> tuple[Memory, Memory]:
    """See `stepped`."""
    assert seen.cover is not None
    return stepped(seen.wiped, seen.cover, motion, memory)
