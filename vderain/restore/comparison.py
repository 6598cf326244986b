"""Before and after in one picture: two frames enter, one leaves."""

from typing import Literal

import numpy as np

from vderain.media.frame import Frame, Plane

Comparison = Literal["side", "split"]
COMPARISONS: tuple[Comparison, ...] = ("side", "split")


def compare_frames(before: Frame, after: Frame, how: Comparison, turns: int = 0) -> Frame:
    """Both frames as one.

    Args:
        before: the frame as it was.
        after: the same instant, restored.
        how: ``side`` puts the whole pictures beside each other, twice as wide; ``split`` shows the left half as it was
            and the right half as it is now, with a white line between.
        turns: quarter turns counter-clockwise that a player makes before showing; left and right are meant as shown.
    """
    join = _side if how == "side" else _split
    planes: list[Plane] = []
    for index, (old, new) in enumerate(zip(before.planes, after.planes, strict=True)):
        joined = join(np.rot90(old, turns), np.rot90(new, turns))
        if how == "split" and (index == 0 or before.colour.matrix == "rgb"):
            middle = joined.shape[1] // 2
            joined[:, max(0, middle - 1) : middle + 1] = 235 << (before.colour.depth_bits - 8)
        width = _side_width(before, index, turns) if how == "side" else joined.shape[1]
        joined = joined[:, :width]  # of two odd widths one chroma sample is left over
        planes.append(np.ascontiguousarray(np.rot90(joined, -turns)))  # type: ignore[arg-type]
    return after.with_planes(tuple(planes))


def _side_width(frame: Frame, index: int, turns: int) -> int:
    """Samples across both pictures in one plane, as shown."""
    sideways = turns % 2
    shown_px = 2 * (frame.height_px if sideways else frame.width_px)
    covered = (frame.colour.chroma_h if sideways else frame.colour.chroma_w) if index else 1
    return -(-shown_px // covered)


def _side(old: Plane, new: Plane) -> Plane:
    return np.concatenate([old, new], axis=1)


def _split(old: Plane, new: Plane) -> Plane:
    middle = old.shape[1] // 2
    return np.concatenate([old[:, :middle], new[:, middle:]], axis=1)
