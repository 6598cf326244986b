"""The records of a frame in restoration, `PreparedFrame`, `AlignedWindow` and `Restoration`, and operations on pixels.

Each stage takes one of these records and returns the next one. All of them are frozen: a stage that changes a frame
makes a new record.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vderain.media.frame import Frame

RADIUS = 2  # frames on each side of the centre that the network sees
WINDOW = 2 * RADIUS + 1

DROPS_LINES = 360  # of the shorter side, at which raindrops are removed

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Luma = NDArray[np.uint8]  # (h, w), at the size at which flow is computed
Residual = NDArray[np.float16]  # (H, W, 3) RGB, or (H, W, 1) the same for all three, in 0..1 units; added to a frame
_T = TypeVar("_T", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class ConsistentFlow:
    """Optical flow from one frame to another, with its confidence.

    Attributes:
        flow: (h, w, 2) float32, x and y displacement in flow-size pixels.
        confidence: (h, w) uint8, from 0 (occluded or lost) to 255 (forward and backward flow agree).
    """

    flow: NDArray[np.float32]
    confidence: NDArray[np.uint8]


FlowPair = tuple[ConsistentFlow, ConsistentFlow]  # from one frame to another, and back


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A decoded frame, converted for restoration.

    Attributes:
        frame: the decoded frame.
        rgb: (H, W, 3) uint8, upright; in a preview of half the frame's size. The raindrop stage replaces it by
            the frame without raindrops.
        luma: (h, w) uint8, median-filtered luma that flow is computed on.
        number: index in the stream, from 0.
        shot: index of its shot, from 0.
        is_still_image: whether it is the only frame of its shot.
        raindrop_residual: (h, w, 3) float16 in 0..1 units at the raindrop network's size; None where it added nothing.
        raindrop_score: confidence that there are raindrops on the glass, 0 to 1.
        flows_to_previous: flow to and from the frame before; None across a cut, at the start of the stream, or before
            flow has been computed.
    """

    frame: Frame
    rgb: Picture
    luma: Luma
    number: int = 0
    shot: int = 0
    is_still_image: bool = False
    raindrop_residual: Residual | None = None
    raindrop_score: float = 0.0
    flows_to_previous: FlowPair | None = None


@dataclass(frozen=True, slots=True)
class Lasting:
    """A frame and what the raindrop generator takes for raindrops in most of its neighbours.

    Attributes:
        frame: the frame.
        residual: (h, w, 3) float32 in 0..1 units.
        level: its `raindrop_level`.
        score: confidence that there are raindrops on the glass, 0 to 1.
    """

    frame: PreparedFrame
    residual: NDArray[np.float32]
    level: float
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class AlignedWindow:
    """A frame and its four neighbours, aligned to it.

    Attributes:
        centre: the frame to restore.
        sources: numbers of the frames in the four neighbour places; the centre's own number where there is none.
        flows_to_neighbours: from the centre to each source; None for the centre itself. Empty where not kept.
        aligned: (5, H, W, 3) uint8, in time order, the centre in the middle.
        confidence: (H, W) uint8, mean confidence of the four alignments.
    """

    centre: PreparedFrame
    sources: tuple[int, ...]
    flows_to_neighbours: tuple[ConsistentFlow | None, ...]
    aligned: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Restoration:
    """A frame and the residual that removes its rain.

    Attributes:
        frame: the decoded frame.
        rgb: (H, W, 3) uint8, upright, without raindrops: what the residual is added to.
        residual: (H, W, 3 or 1) float16 in 0..1 units: finer than a 12-bit code value below 0.25.
        number: index in the stream, from 0.
        shot: index of its shot.
        is_still_image: whether it is the only frame of its shot.
        sources: see `AlignedWindow`.
        flows_to_neighbours: see `AlignedWindow`.
        rain_score: rain detected around this frame, from 0 (dry) to 1; scales whatever later stages add.
        raindrop_residual: see `PreparedFrame`.
        raindrop_score: see `PreparedFrame`.
    """

    frame: Frame
    rgb: Picture
    residual: Residual
    number: int
    shot: int
    is_still_image: bool
    sources: tuple[int, ...]
    flows_to_neighbours: tuple[ConsistentFlow | None, ...]
    rain_score: float = 1.0
    raindrop_residual: Residual | None = None
    raindrop_score: float = 0.0

    @classmethod
    def of_window(cls, window: AlignedWindow, residual: Residual) -> "Restoration":
        """Attach a residual to a window's centre and drop the aligned pixels, which no later stage needs.

        Args:
            window: what the residual was computed from.
            residual: (H, W, 3) float16 in 0..1 units.
        """
        alone = cls.of_frame(window.centre, residual)
        return replace(alone, sources=window.sources, flows_to_neighbours=window.flows_to_neighbours)

    @classmethod
    def of_frame(cls, prepared: PreparedFrame, residual: Residual) -> "Restoration":
        """Attach a residual, (H, W, 3 or 1) float16 in 0..1 units, to a frame without an aligned window."""
        return cls(
            frame=prepared.frame,
            rgb=prepared.rgb,
            residual=residual,
            number=prepared.number,
            shot=prepared.shot,
            is_still_image=prepared.is_still_image,
            sources=(),
            flows_to_neighbours=(),
            raindrop_residual=prepared.raindrop_residual,
            raindrop_score=prepared.raindrop_score,
        )

    @property
    def restored_rgb(self) -> Picture:
        """(H, W, 3) uint8, the frame with its residual added."""
        return add_to_rgb(self.rgb, self.residual)


def add_to_rgb(rgb: Picture, residual: NDArray[np.floating]) -> Picture:
    """Add a residual to an image; rounds and clips.

    Args:
        rgb: (H, W, 3) uint8.
        residual: (H, W, 3 or 1) floats in 0..1 units.

    Returns:
        (H, W, 3) uint8.
    """
    change = to_float32(residual) * np.float32(255)
    planes = [change[..., channel] for channel in range(change.shape[2])]
    interleaved = cv2.merge(planes * (3 // len(planes)))  # networks return planes
    return np.asarray(cv2.add(rgb, interleaved, dtype=cv2.CV_8U), np.uint8)


def upscaled(residual: NDArray[np.floating], height_px: int, width_px: int) -> NDArray[np.float32]:
    """A residual at the size of its frame.

    Args:
        residual: (h, w, 3 or 1) in 0..1 units.
        height_px: of the frame.
        width_px: of the frame.

    Returns:
        (height_px, width_px, 3 or 1) float32.
    """
    change = to_float32(residual)
    if change.shape[:2] == (height_px, width_px):
        return change
    larger = cv2.resize(change, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray(larger, np.float32).reshape(height_px, width_px, -1)


def to_float32(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert by PyTorch, which takes a tenth of NumPy's time for float16. May return the same array."""
    return np.asarray(torch.from_numpy(values).float().numpy(), np.float32)


def to_float16(values: NDArray[np.floating]) -> NDArray[np.float16]:
    """The inverse of `to_float32`."""
    return np.asarray(torch.from_numpy(values).half().numpy(), np.float16)


def luma_of(rgb: Picture) -> Luma:
    """The luma of an image at its full size, (H, W) uint8."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def downscaled(rgb: Picture) -> Picture:
    """An (H, W, 3) frame at the size at which raindrops are removed."""
    height_px, width_px = rgb.shape[:2]
    scale = min(1.0, DROPS_LINES / min(height_px, width_px))
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb, np.uint8)


def flip_ensemble(restore: Callable[[Picture], Residual], rgb: Picture) -> Residual:
    """The mean of the residuals of an image and of its mirror image, which errs less than either.

    Args:
        restore: gives the residual of an image.
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3 or 1) float16 in 0..1 units.
    """
    flipped = restore(np.ascontiguousarray(rgb[:, ::-1]))
    return (restore(rgb) + flipped[:, ::-1]) / np.float16(2)


def repeat_frame(rgb: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pixels of a window without neighbours.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (5, H, W, 3) uint8, a read-only view of `rgb`, and (H, W) uint8, full confidence.
    """
    return np.broadcast_to(rgb, (WINDOW, *rgb.shape)), np.full(rgb.shape[:2], 255, np.uint8)


def median_of_five(arrays: list[NDArray[_T]]) -> NDArray[_T]:
    """Element-wise median of five arrays of one shape.

    Uses the comparisons of a selection network; sorting every pixel is ten times slower.
    """
    a, b, c, d, e = arrays
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), dtype=e.dtype)
