"""A decoded video frame: its planes, their colour meaning and its timestamp."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8] | NDArray[np.uint16]
Matrix = Literal["bt601", "bt709", "bt2020", "rgb"]


@dataclass(frozen=True, slots=True)
class Colour:
    """How code values relate to light.

    Attributes:
        matrix: YCbCr matrix, or ``rgb`` where the planes are R, G, B.
        full_range: True where luma spans 0..2^depth-1, False where it spans 16..235 times 2^(depth-8).
        depth_bits: significant bits of a sample; planes are uint8 up to 8 bits, uint16 above (value in the low bits).
        chroma_w, chroma_h: how many luma samples one chroma sample covers, horizontally and vertically (1 or 2).
    """

    matrix: Matrix
    full_range: bool
    depth_bits: int = 8
    chroma_w: int = 1
    chroma_h: int = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        planes: (Y, Cb, Cr), or (R, G, B) where ``colour.matrix == "rgb"``, or (Y,) for grey. Y is (H, W); chroma is
            (ceil(H / chroma_h), ceil(W / chroma_w)). Never written to: a changed frame is a new frame.
        colour: what the code values mean.
        pts: presentation time, in units of ``time_base`` seconds.
        duration: how long it is shown, in units of ``time_base``; 0 if the source does not say.
        time_base: seconds in one unit of ``pts``.
        concealed: True for a copy of a good neighbour in place of a frame that was lost to damage.
    """

    planes: tuple[Plane, ...]
    colour: Colour
    pts: int
    duration: int
    time_base: Fraction
    concealed: bool = False

    @property
    def height_px(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def width_px(self) -> int:
        return int(self.planes[0].shape[1])

    def with_planes(self, planes: tuple[Plane, ...]) -> "Frame":
        """The same frame with other planes.

        Args:
            planes: of the same sizes and types.
        """
        return replace(self, planes=planes)
