"""Joins a frame and its restored version into one frame, for comparison."""

from typing import Literal

import numpy as np

from vderain.media.frame import Frame, Plane

Comparison = Literal["side", "split"]


def compare_frames(before: Frame, after: Frame, mode: Comparison, rotation_quarters: int = 0) -> Frame:
    """Join two frames of one timestamp.

    Args:
        before: the frame as decoded.
        after: the restored frame.
        mode: ``side`` puts both beside each other, twice as wide; ``split`` shows the left half of `before` and the
            right half of `after`, with a white line between.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing; left and right are
            meant as shown.
    """
    join = _side if mode == "side" else _split
    planes: list[Plane] = []
    for index, (old, new) in enumerate(zip(before.planes, after.planes, strict=True)):
        joined = join(np.rot90(old, rotation_quarters), np.rot90(new, rotation_quarters))
        if mode == "split" and (index == 0 or before.colour.matrix == "rgb"):
            middle = joined.shape[1] // 2
            joined[:, max(0, middle - 1) : middle + 1] = 235 << (before.colour.depth_bits - 8)
        width = _side_width(before, index, rotation_quarters) if mode == "side" else joined.shape[1]
        joined = joined[:, :width]  # two frames of odd width have one chroma sample too many
        planes.append(np.ascontiguousarray(np.rot90(joined, -rotation_quarters)))  # type: ignore[arg-type]
    return after.with_planes(tuple(planes))


def _side_width(frame: Frame, index: int, rotation_quarters: int) -> int:
    """Width of the joined frames in one plane, in samples, as shown."""
    sideways = rotation_quarters % 2
    shown_px = 2 * (frame.height_px if sideways else frame.width_px)
    covered = (frame.colour.chroma_h if sideways else frame.colour.chroma_w) if index else 1
    return -(-shown_px // covered)


def _side(old: Plane, new: Plane) -> Plane:
    return np.concatenate([old, new], axis=1)


def _split(old: Plane, new: Plane) -> Plane:
    middle = old.shape[1] // 2
    return np.concatenate([old[:, :middle], new[:, middle:]], axis=1)
