"""Training examples for the generator that looks through the windshield: drops that live in time, before moving scenes.

Example number i is a function of the seed and i alone, as windows are (`vderain.train.data.windows`). Successive
examples are frames of one sequence, which is made once. What needs no gradient is computed here as `vderain process`
does: the raindrop generator, optical flow and the memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vderain.model.checkpoint import load_checkpoint
from vderain.model.glass import CELL_PX, GlassUNet
from vderain.model.released import DROPS_MODEL
from vderain.restore.flow import FlowEstimator, flow_luma
from vderain.restore.frames import ConsistentFlow, Residual, add_to_rgb, luma_of
from vderain.restore.glass import (
    STEADY_FRAMES,
    Map,
    Memory,
    Motion,
    Pattern,
    fixed_pattern,
    speeds,
    steadiness,
    stepped,
    surroundings,
)
from vderain.restore.glass_network import GlassNetwork, cell_motion
from vderain.restore.inference import NetworkRunner
from vderain.restore.raindrops import bounded, lasting
from vderain.train.config import Data
from vderain.train.data.windows import (
    Frames,
    mirrored,
)
from vderain.train.distributed import place_training

if TYPE_CHECKING:
    from vderain.train.data.glass_scenes import BehindGlass

LENGTH = 25  # frames of a sequence
PER_SEQUENCE = 6  # examples
FIRST, LAST = 6, 18  # frames of which examples are taken
MISSED_SHARE = {"view": 0.25, "memory": 0.8}  # of sequences in which it misses some drops, as before real glass
MISSED_SOFT = 0.5  # share of half-covered pixels from which drops are too soft to be told from clouds if missed


@dataclass(frozen=True, slots=True)
class ViewExample:
    """A frame, to learn where drops are and how the scene moves behind them.

    Attributes:
        rgb: (3, S, S) uint8.
        residual: (3, S, S) float16 in 0..1 units, of the raindrop generator.
        steady: (2, S, S) uint8, from `steadiness`.
        cover: (1, S, S) uint8, the truth.
        guess: (1, S, S) uint8, a less exact cover, from which the flow was filled in.
        cells: (10, S/8, S/8) float16, the parts of `CellMotion`.
        flow: (4, S/8, S/8) float16 in pixels, the truth: to the frame before and to the next one.
    """

    rgb: Tensor
    residual: Tensor
    steady: Tensor
    cover: Tensor
    guess: Tensor
    cells: Tensor
    flow: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "ViewExample":
        """An uninitialised example of the right shapes and types."""
        cells = side_px // CELL_PX
        return cls(
            *(torch.empty((n, side_px, side_px), dtype=kind) for n, kind in (
                (3, torch.uint8), (3, torch.float16), (2, torch.uint8), (1, torch.uint8), (1, torch.uint8),
            )),
            *(torch.empty((n, cells, cells), dtype=torch.float16) for n in (10, 4)),
        )  # fmt: skip

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop, whose place is rounded down to whole cells; mirroring also reverses horizontal flow.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.
        """
        cell_rows, cell_columns = (slice(part.start // CELL_PX, part.stop // CELL_PX) for part in (rows, columns))
        rows, columns = (slice(part.start * CELL_PX, part.stop * CELL_PX) for part in (cell_rows, cell_columns))
        fine = (self.rgb, self.residual, self.steady, self.cover, self.guess)
        coarse = [mirrored(part[..., cell_rows, cell_columns], flip) for part in (self.cells, self.flow)]
        if flip:
            signs = torch.ones((10, 1, 1), dtype=torch.float16)
            signs[:8:2] = -1
            coarse = [part * signs[: len(part)] for part in coarse]
        return (*(mirrored(part[..., rows, columns], flip) for part in fine), *coarse)


@dataclass(frozen=True, slots=True)
class MemoryExample:
    """A frame and what the memory shows of it, to learn whom to believe.

    Attributes:
        rgb: (3, S, S) uint8.
        residual: (3, S, S) float16 in 0..1 units, of the raindrop generator.
        around: (3, S, S) float16 in 0..1 units, difference of the colours around drops to the frame without drops.
        before: (3, S, S) float16 in 0..1 units, difference of the memory of earlier frames to the frame without drops.
        after: (3, S, S) float16, the same of later frames.
        variances: (2, S, S) float16 in levels squared, of both.
        pattern: (6, S, S) float16 in levels, fine and coarse, what stays in the picture.
        motion: (3, S, S) float16, deviation of luma in levels and both speeds in pixels, see `FixedPattern`.
        cover: (1, S, S) uint8, as the network sees it.
        clear: (3, S, S) uint8, the truth.
        covered: (1, S, S) uint8, the true cover.
    """

    rgb: Tensor
    residual: Tensor
    around: Tensor
    before: Tensor
    after: Tensor
    variances: Tensor
    pattern: Tensor
    motion: Tensor
    cover: Tensor
    clear: Tensor
    covered: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "MemoryExample":
        """An uninitialised example of the right shapes and types."""
        half, byte = torch.float16, torch.uint8
        maps = ((3, half), (3, half), (3, half), (3, half), (2, half), (6, half), (3, half))
        kinds = ((3, byte), *maps, (1, byte), (3, byte), (1, byte))
        return cls(*(torch.empty((n, side_px, side_px), dtype=kind) for n, kind in kinds))

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.
        """
        parts = (
            self.rgb, self.residual, self.around, self.before, self.after, self.variances, self.pattern, self.motion,
            self.cover, self.clear, self.covered,
        )  # fmt: skip
        return tuple(mirrored(part[..., rows, columns], flip) for part in parts)


Draw = Callable[[int], tuple["BehindGlass", np.random.Generator]]  # see `glass_scenes.sequences`
_Motions = tuple[Motion | None, Motion | None]  # to the frame before and to the next one
_Recalled = tuple[list[Map], list[_Motions], list[Memory], list[Memory]]


@dataclass(frozen=True)
class _Sequence:
    """Frames behind a wet glass; lists have one entry for each frame."""

    rainy: Frames
    clear: Frames
    covers: list[Map]
    residuals: list[Residual]
    to_before: list[ConsistentFlow | None]
    to_after: list[ConsistentFlow | None]

    def wiped(self, index: int) -> NDArray[np.float32]:
        """(S, S, 3) in levels, a frame without drops, as the raindrop generator leaves it."""
        change = self.residuals[index].astype(np.float32) * np.float32(255)
        return np.asarray(self.rainy[index] + change, np.float32)

    def steady(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Mean and deviation of luma around a frame."""
        return steadiness([luma_of(self.rainy[place]) for place in _around(index)])

    def pattern(self, index: int) -> Pattern:
        """What stays in the picture around a frame."""
        return fixed_pattern([add_to_rgb(self.rainy[place], self.residuals[place]) for place in _around(index)])


def _around(index: int) -> range:
    return range(max(0, index - STEADY_FRAMES), min(LENGTH, index + STEADY_FRAMES + 1))


class _GlassMaker:
    """Makes sequences behind glass.

    Args:
        draw: draws a sequence of `LENGTH` frames behind glass by its number.
        data: section of the recipe.
        seed: of the run.
    """

    def __init__(self, draw: Draw, data: Data, seed: int) -> None:
        self._draw, self.data, self.seed = draw, data, seed
        self.side_px = data.side_px + 2 * data.border_px
        self._drops = NetworkRunner(load_checkpoint(DROPS_MODEL).generator, place_training("cpu", False))
        self._estimator = FlowEstimator()
        self._latest: tuple[int, _Sequence] | None = None

    def sequence(self, number: int) -> _Sequence:
        """Sequence number `number`."""
        if self._latest is None or self._latest[0] != number:
            cv2.setNumThreads(1)
            self._latest = number, self._wiped(*self._draw(number))
        return self._latest[1]

    def _wiped(self, behind: "BehindGlass", rng: np.random.Generator) -> _Sequence:
        """Run the raindrop generator and measure flow, as `vderain process` does."""
        rainy, clear, covers = behind
        raw = [bounded(frame, self._drops.restore_image(frame)) for frame in rainy]
        share: Map | np.float32 = np.float32(1)
        if rng.random() < MISSED_SHARE[self.data.part] and _softness(covers[LENGTH // 2]) < MISSED_SOFT:
            share = _removed_share(self.side_px, rng)
        residuals = [(share * lasting(raw[max(0, at - 2) : at + 3])).astype(np.float16) for at in range(LENGTH)]
        wiped = [add_to_rgb(frame, residual) for frame, residual in zip(rainy, residuals, strict=True)]
        to_before, to_after = self._flows(wiped)
        return _Sequence(rainy, clear, covers, residuals, to_before, to_after)

    def _flows(
        self, frames: list[NDArray[np.uint8]], rainy: bool = True
    ) -> tuple[list[ConsistentFlow | None], list[ConsistentFlow | None]]:
        """The flow of each frame to the one before and to the next one; None at the ends."""
        lumas = [flow_luma(frame, rainy) for frame in frames]
        to_before: list[ConsistentFlow | None] = [None]
        to_after: list[ConsistentFlow | None] = []
        for one, other in pairwise(lumas):
            onward, back = self._estimator.both_ways(one, other)
            to_after.append(onward)
            to_before.append(back)
        return to_before, [*to_after, None]

    def _inner(self, picture: NDArray[np.generic], cell_px: int = 1) -> Tensor:
        """(S, S) or (S, S, C) to (C, s, s), without the border, where flow has no context."""
        border, side = self.data.border_px // cell_px, self.data.side_px // cell_px
        inner = picture[border : border + side, border : border + side]
        inner = inner[..., None] if inner.ndim == 2 else inner
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(inner, -1, 0)))


class ViewMaker(_GlassMaker, Dataset[ViewExample]):
    """Makes examples of drops and of the motion behind them."""

    def __getitem__(self, index: int) -> ViewExample:
        sequence = self.sequence(index // PER_SEQUENCE)
        rng = np.random.default_rng((self.seed, 7, index))
        at = int(rng.integers(1, LENGTH - 1))
        cover = sequence.covers[at]
        guess = _guessed(cover, rng)
        before, after = sequence.to_before[at], sequence.to_after[at]
        if rng.random() < 0.1:  # at the ends of a shot there is one of both
            before, after = (None, after) if rng.random() < 0.5 else (before, None)
        cells = cell_motion(before, after, guess)
        around = [sequence.clear[place] for place in (at - 1, at, at + 1)]
        true_before, true_after = self._flows(around, rainy=False)
        truth = [_averaged(flow, cells.trust.shape) for flow in (true_before[1], true_after[1])]
        return ViewExample(
            self._inner(sequence.rainy[at]), self._inner(sequence.residuals[at]),
            self._inner(np.dstack(sequence.steady(at))), self._inner(_bytes(cover)), self._inner(_bytes(guess)),
            self._inner(np.dstack(cells).astype(np.float16), CELL_PX),
            self._inner(np.dstack(truth).astype(np.float16), CELL_PX),
        )  # fmt: skip


class MemoryMaker(_GlassMaker, Dataset[MemoryExample]):
    """Makes examples of what the memory shows.

    Args:
        draw: draws a sequence of `LENGTH` frames behind glass by its number.
        data: section of the recipe.
        seed: of the run.
        generator: that sees drops and the motion behind them.
    """

    def __init__(self, draw: Draw, data: Data, seed: int, generator: GlassUNet) -> None:
        super().__init__(draw, data, seed)
        self._network = GlassNetwork(generator, place_training("cpu", False))
        self._remembered: tuple[int, _Recalled] | None = None

    def __getitem__(self, index: int) -> MemoryExample:
        number = index // PER_SEQUENCE
        sequence = self.sequence(number)
        if self._remembered is None or self._remembered[0] != number:
            self._remembered = number, self._memories(sequence)
        _, (covers, motions, befores, afters) = self._remembered
        rng = np.random.default_rng((self.seed, 8, index))
        at = int(rng.integers(FIRST, LAST + 1))
        wiped = sequence.wiped(at)
        candidates = surroundings(wiped, covers[at]), befores[at].rgb, afters[at].rgb
        changes = [((rgb - wiped) / np.float32(255)).astype(np.float16) for rgb in candidates]
        variances = np.dstack([befores[at].variance, afters[at].variance]).astype(np.float16)
        pattern = sequence.pattern(at)
        motion = np.dstack([pattern.deviation / np.float32(4), speeds(motions[at], wiped.shape)])
        return MemoryExample(
            self._inner(sequence.rainy[at]), self._inner(sequence.residuals[at]),
            self._inner(changes[0]), self._inner(changes[1]), self._inner(changes[2]), self._inner(variances),
            self._inner(np.dstack([pattern.fine, pattern.coarse])), self._inner(motion.astype(np.float16)),
            self._inner(_bytes(covers[at])), self._inner(sequence.clear[at]),
            self._inner(_bytes(sequence.covers[at])),
        )  # fmt: skip

    def _memories(self, sequence: _Sequence) -> "_Recalled":
        """Cover, motion, and the memory of earlier and of later frames, for each frame."""
        covers: list[Map] = []
        motions: list[_Motions] = []
        for at, (rgb, residual) in enumerate(zip(sequence.rainy, sequence.residuals, strict=True)):
            covers.append(self._network.cover(rgb, residual, sequence.steady(at)))
            flows = sequence.to_before[at], sequence.to_after[at]
            motions.append(self._network.motions(*flows, covers[at], rgb, residual))
        places = range(LENGTH)
        befores = _remembered(sequence, covers, [before for before, _ in motions], list(places))
        afters = _remembered(sequence, covers, [after for _, after in motions], list(reversed(places)))
        return covers, motions, befores, afters


def _remembered(
    sequence: _Sequence, covers: list[Map], motions: list[Motion | None], order: list[int]
) -> list[Memory]:  # fmt: skip
    """The memory as it is carried to each frame, before it sees it."""
    found: dict[int, Memory] = {}
    memory: Memory | None = None
    for at in order:
        wiped, motion = sequence.wiped(at), motions[at]
        found[at], memory = stepped(wiped, covers[at], motion, memory)
    return [found[at] for at in sorted(found)]


def _softness(cover: Map) -> float:
    """Share of half-covered pixels among all that are covered."""
    covered = cover > 0.1
    return float((cover[covered] < 0.9).mean()) if covered.any() else 0.0


def _removed_share(side_px: int, rng: np.random.Generator) -> Map:
    """(S, S, 1), how much of a drop is removed: all here, little there, for as long as the drop stays."""
    cells = int(rng.integers(5, 24))
    coarse = rng.normal(rng.uniform(-1, 1), 1.5, (cells, cells)).astype(np.float32)
    smooth = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1 / (1 + np.exp(-3 * smooth)), np.float32)[..., None]


def _averaged(flow: ConsistentFlow | None, cells: tuple[int, ...]) -> Map:
    """(h, w, 2) flow in cells, in pixels of a frame twice as large as the flow."""
    assert flow is not None
    return np.asarray(2 * cv2.resize(flow.flow, cells[1::-1], interpolation=cv2.INTER_AREA), np.float32)


def _bytes(cover: Map) -> NDArray[np.uint8]:
    return np.asarray(np.clip(cover * np.float32(255) + np.float32(0.5), 0, 255), np.uint8)


def _guessed(cover: Map, rng: np.random.Generator) -> Map:
    """A cover as a network may see it: blurred, stronger or weaker."""
    if rng.random() < 0.3:
        return cover
    soft = cv2.GaussianBlur(cover, (0, 0), math.exp(rng.uniform(-0.7, 1.2))) * np.float32(rng.uniform(0.6, 1.3))
    return np.asarray(np.clip(soft, 0, 1), np.float32)
