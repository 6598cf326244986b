"""Runs the networks of the windshield (`vderain.model.glass`) on numpy arrays."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.model.glass import CELL_PX, FixedPattern, GlassUNet, Remembered, pooled
from vderain.restore.frames import ConsistentFlow, Luma, Picture
from vderain.restore.glass import FLOOR_PX, Map, Memory, Motion, Pattern, filled, seen, surroundings
from vderain.restore.inference import finite_half
from vderain.runtime.device import DevicePlacement

LEVELS = np.float32(255)


class CellMotion(NamedTuple):
    """The flow from a frame to the one before and to the next one, in cells: the input of the flow network.

    Attributes:
        measured: (h, w, 4) float32 in pixels of the frame.
        filled: (h, w, 4), the same, filled in behind drops.
        trust: (h, w, 2) in 0..1.
    """

    measured: Map
    filled: Map
    trust: Map


def cell_motion(before: ConsistentFlow | None, after: ConsistentFlow | None, cover: Map) -> CellMotion:
    """The input of the flow network.

    Args:
        before: flow to the frame before; None where there is none: the scene is taken to move on evenly.
        after: flow to the next frame, likewise.
        cover: (H, W) in 0..1.
    """
    cells = tuple(-(-side // CELL_PX) for side in cover.shape)
    parts = [None if flow is None else _in_cells(flow, cover, cells) for flow in (before, after)]
    nothing = np.zeros((*cells, 2), np.float32)
    found = []
    for own, other in (parts, parts[::-1]):
        if own is not None:
            found.append(own)
        elif other is not None:
            found.append((-other[0], -other[1], np.zeros(cells, np.float32)))
        else:
            found.append((nothing, nothing, nothing[..., 0]))
    (measured, smooth, trust), (measured2, smooth2, trust2) = found
    return CellMotion(
        np.dstack([measured, measured2]), np.dstack([smooth, smooth2]), np.dstack([trust, trust2])
    )  # fmt: skip


def _in_cells(flow: ConsistentFlow, cover: Map, cells: tuple[int, ...]) -> tuple[Map, Map, Map]:
    """Measured and filled flow, (h, w, 2) in pixels of the frame, and trust in the first, (h, w)."""
    trust = trusted(flow, cover)
    weight = seen(_resized(cover, trust.shape)) * np.float32(0.05) + np.float32(0.95) * trust
    smooth = filled(flow.flow, weight)
    scale = _scale(flow, cover.shape)
    parts = (cv2.resize(part, cells[::-1], interpolation=cv2.INTER_AREA) for part in (flow.flow, smooth, trust))
    measured, smooth, trust = (np.asarray(part, np.float32) for part in parts)
    return measured * scale, smooth * scale, trust


def trusted(flow: ConsistentFlow, cover: Map) -> Map:
    """Trust in a measured flow, at its size, 0..1: forward and backward flow agree, and no drop is in front."""
    return seen(_resized(cover, flow.confidence.shape)) * flow.confidence.astype(np.float32) / LEVELS


def _scale(flow: ConsistentFlow, shape: tuple[int, ...]) -> Map:
    h, w = flow.confidence.shape
    return np.array([shape[1] / w, shape[0] / h], np.float32)


def _resized(x: Map, shape: tuple[int, ...]) -> Map:
    if x.shape[:2] == shape[:2]:
        return x
    smaller = shape[0] < x.shape[0]
    return np.asarray(cv2.resize(x, shape[1::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR))


class GlassNetwork:
    """A generator for the windshield on its device.

    Args:
        generator: trained.
        placement: device and precision.
    """

    def __init__(self, generator: GlassUNet, placement: DevicePlacement) -> None:
        self._generator, self._device = placement.place(generator), placement.device

    def cover(self, rgb: Picture, residual: NDArray[np.floating], steady: tuple[Luma, Luma]) -> Map:
        """How far pixels are covered by drops.

        Args:
            rgb: (H, W, 3) uint8.
            residual: (H, W, 3) in 0..1 units, of the raindrop generator.
            steady: mean and deviation of luma, from `steadiness`.

        Returns:
            (H, W) float32 in 0..1.
        """
        with torch.inference_mode():
            mean, deviation = (self._upload(part) for part in steady)
            logits = self._generator.covered(self._upload(rgb), self._upload(residual), mean, deviation / 4)
            return _download(torch.sigmoid(logits))[..., 0]

    def motions(
        self,
        before: ConsistentFlow | None,
        after: ConsistentFlow | None,
        cover: Map,
        rgb: Picture,
        residual: NDArray[np.floating],
    ) -> tuple[Motion | None, Motion | None]:
        """Optical flow to the frame before and to the next one, behind drops too; None where there is none.

        Args:
            before: flow to the frame before, measured on frames without drops.
            after: flow to the next frame, likewise.
            cover: (H, W) in 0..1.
            rgb: (H, W, 3) uint8.
            residual: (H, W, 3) in 0..1 units, of the raindrop generator.
        """
        cells = cell_motion(before, after, cover)
        with torch.inference_mode():
            measured, filled, trust = (self._upload(part) for part in cells)
            wiped = pooled(self._upload(rgb) + self._upload(residual))
            flows, log_errors = self._generator.completed(measured, filled, trust, pooled(self._upload(cover)), wiped)
            both, errors = _download(flows), np.exp(_download(log_errors))
        first = None if before is None else _joined(before, both[..., :2], errors[..., 0], cover)
        second = None if after is None else _joined(after, both[..., 2:], errors[..., 1], cover)
        return first, second

    def chosen(
        self,
        rgb: Picture,
        residual: NDArray[np.floating],
        cover: Map,
        before: Memory,
        after: Memory,
        pattern: Pattern,
        speed_px: Map,
    ) -> NDArray[np.float16]:
        """The change of a frame without drops, by what is trusted of the memory: (H, W, 3) float16 in 0..1 units.

        Args:
            rgb: (H, W, 3) uint8, the frame.
            residual: (H, W, 3) in 0..1 units, of the raindrop generator.
            cover: (H, W) in 0..1.
            before: the memory of earlier frames, carried to this one.
            after: the memory of later frames, likewise.
            pattern: what stays in the picture.
            speed_px: (H, W, 2), from `speeds`.
        """
        wiped = rgb.astype(np.float32) + LEVELS * residual.astype(np.float32)
        with torch.inference_mode():
            first, second = (
                Remembered(self._upload((m.rgb - wiped) / LEVELS), self._upload(m.variance)) for m in (before, after)
            )
            around = self._upload((surroundings(wiped, cover) - wiped) / LEVELS)
            maps = self._upload(rgb), self._upload(residual), self._upload(cover), around
            fixed = FixedPattern(
                self._upload(pattern.fine) / 255, self._upload(pattern.coarse) / 255,
                self._upload(pattern.deviation) / 4, self._upload(speed_px),
            )  # fmt: skip
            change = self._generator.chosen(*maps, first, second, fixed)
            return np.asarray(np.moveaxis(finite_half(change[0]).cpu().numpy(), 0, -1))

    def _upload(self, x: NDArray[np.generic]) -> Tensor:
        """(H, W) or (H, W, C) to (1, C, H, W) float32; bytes become 0..1."""
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(self._device)
        tensor = (tensor[..., None] if tensor.ndim == 2 else tensor).permute(2, 0, 1)[None]
        return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def _joined(measured: ConsistentFlow, completed: Map, error_px: Map, cover: Map) -> Motion:
    """The measured flow where it is trusted, else the completed one, at the size of the frame."""
    trust = trusted(measured, cover)
    shape = trust.shape
    own = measured.flow * _scale(measured, cover.shape)
    flow = _resized(completed, shape)
    flow = flow + trust[..., None] * (own - flow)
    error = _resized(error_px, shape)
    error = error + trust * (np.float32(FLOOR_PX) - error)
    return Motion(_resized(flow, cover.shape), _resized(error, cover.shape))


def _download(x: Tensor) -> Map:
    """(1, C, h, w) to (h, w, C) float32."""
    return np.ascontiguousarray(x[0].permute(1, 2, 0).cpu().numpy())
