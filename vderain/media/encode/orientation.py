"""Owns turning pictures where a container has no place for a display matrix: frames enter, upright ones leave.

Rows and columns change places or directions, and no code value changes.
"""

from dataclasses import dataclass, replace

import numpy as np

from vderain.media.decode.probe import VideoInfo
from vderain.media.frame import Frame, Plane
from vderain.media.pixel_format import Layout, nearest_layout

_ONE = 1 << 16  # of the matrix's fixed point


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways in which a picture can lie.

    Attributes:
        transposed: whether rows become columns.
        step_y, step_x: 1, or -1 where rows or columns then run the other way.
    """

    transposed: bool
    step_y: int
    step_x: int

    @classmethod
    def of(cls, matrix: tuple[int, ...]) -> "Orientation | None":
        """What a display matrix asks for (ISO/IEC 14496-12, 6.2.2); None where it is no turn by right angles."""
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if abs(a) == abs(d) == _ONE and b == c == 0:
            return cls(False, d // _ONE, a // _ONE)
        if abs(b) == abs(c) == _ONE and a == d == 0:
            return cls(True, b // _ONE, c // _ONE)
        return None

    def info(self, info: VideoInfo) -> VideoInfo:
        """What is known of the stream once its pictures are upright."""
        if not self.transposed:
            return replace(info, display_matrix=None, rotation_deg=0)
        layout = nearest_layout(info.pixel_format)
        if layout.chroma_w != layout.chroma_h:  # 4:2:2 would become 4:4:0, which few know
            layout = Layout(layout.kind, layout.depth_bits)
        aspect = info.sample_aspect_ratio
        return replace(
            info, width_px=info.height_px, height_px=info.width_px, pixel_format=layout.name, display_matrix=None,
            rotation_deg=0, sample_aspect_ratio=1 / aspect if aspect else None,
        )  # fmt: skip

    def frame(self, frame: Frame) -> Frame:
        """The frame upright."""
        planes, colour = tuple(self._turned(plane) for plane in frame.planes), frame.colour
        if self.transposed and colour.chroma_w != colour.chroma_h:
            rows = planes[0].shape[0]
            planes = (planes[0], *(_repeated(plane, colour.chroma_w, rows) for plane in planes[1:]))
            colour = replace(colour, chroma_w=1, chroma_h=1)
        return replace(frame, planes=planes, colour=colour)

    def _turned(self, plane: Plane) -> Plane:
        turned = plane.T if self.transposed else plane
        upright: Plane = np.ascontiguousarray(turned[:: self.step_y, :: self.step_x])  # type: ignore[assignment]
        return upright


def _repeated(plane: Plane, times: int, rows: int) -> Plane:
    repeated: Plane = np.repeat(plane, times, axis=0)[:rows]  # type: ignore[assignment]
    return repeated
