"""Cars of the sample scene: a body lofted over a side view, as small shaded faces ready to be projected."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LENGTH_M = 4.35
# Along the car, rear to front: where, height of the top, of the belt line, and width as a share.
PROFILE = np.array(
    [
        (0.00, 0.86, 0.70, 0.93),
        (0.06, 0.98, 0.80, 0.965),
        (0.22, 1.02, 0.88, 0.99),
        (0.42, 1.06, 0.90, 1.0),
        (1.05, 1.40, 0.92, 1.0),
        (1.55, 1.46, 0.92, 1.0),
        (2.25, 1.45, 0.91, 1.0),
        (2.60, 1.38, 0.90, 1.0),
        (3.30, 0.98, 0.88, 1.0),
        (3.90, 0.88, 0.82, 0.985),
        (4.22, 0.78, 0.74, 0.95),
        (4.35, 0.64, 0.60, 0.90),
    ]
)
SKY_BGR = np.array([206.0, 204.0, 200.0])
GLASS_BGR = np.array([34.0, 32.0, 30.0])


@dataclass(frozen=True)
class Faces:
    """Flat faces, in metres, y up, of one car at its place.

    Attributes:
        corners: (N, 4, 3).
        colours: (N, 3), B, G, R in 0..255.
        order: (N,) 0 for the body, higher for what is fixed onto it and drawn later.
    """

    corners: NDArray[np.float64]
    colours: NDArray[np.float64]
    order: NDArray[np.int64]


def car(paint_bgr: tuple[float, float, float], scale: float = 1.0, braking: bool = False) -> Faces:
    """A car around its own origin: x right, y up, z forward from the rear bumper."""
    corners, colours = _body(np.array(paint_bgr))
    parts = [(corners, colours, np.zeros(len(corners), np.int64))]
    for quad, colour, level in _details(np.array(paint_bgr), braking):
        parts.append((np.array([quad]), np.array([colour], np.float64), np.array([level])))
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return Faces(joined[0] * [1, scale, 1], joined[1], joined[2])


def placed(faces: Faces, x_m: float, z_m: float, ahead: bool) -> Faces:
    """The car on the road, its nearer end at z_m, seen from behind where ``ahead``, else from the front."""
    corners = faces.corners.copy()
    if not ahead:
        corners = corners * [-1, 1, -1] + [0, 0, LENGTH_M]
    return Faces(corners + np.array([x_m, 0, z_m]), faces.colours, faces.order)


def _section(top: float, belt: float, wide: float) -> NDArray[np.float64]:
    """(13, 2): x and y from the left sill over the roof to the right sill."""
    cabin = np.clip((top - belt) / 0.4, 0, 1)
    cabin = cabin * cabin * (3 - 2 * cabin)
    shoulder = 0.83 * wide + (0.60 - 0.83 * wide) * cabin
    half = np.array(
        [
            (0.79 * wide, 0.20),
            (0.87 * wide, 0.34),
            (0.89 * wide, 0.60),
            (0.86 * wide, belt),
            (shoulder, top - 0.07 * cabin - 0.012),
            (shoulder * 0.82, top),
        ]
    )
    return np.concatenate([half * [-1, 1], [[0, top + 0.025]], half[::-1]])


def _body(paint: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    stations = np.unique(np.concatenate([np.linspace(0, LENGTH_M, 56), PROFILE[:, 0]]))
    top, belt, wide = (np.interp(stations, PROFILE[:, 0], PROFILE[:, k]) for k in (1, 2, 3))
    top = np.convolve(np.pad(top, 2, mode="edge"), [0.1, 0.2, 0.4, 0.2, 0.1], mode="valid")
    shapes = zip(stations, top, belt, wide, strict=True)
    rings = np.stack([np.column_stack([_section(*shape), np.full(13, z)]) for z, *shape in shapes])  # (stations, 13, 3)
    quads, colours = [], []
    for i in range(len(stations) - 1):
        for j in range(12):
            quad = np.array([rings[i, j], rings[i, j + 1], rings[i + 1, j + 1], rings[i + 1, j]])
            quads.append(quad)
            colours.append(_shade(quad, paint, _is_glass((stations[i] + stations[i + 1]) / 2, j, top[i] - belt[i])))
    return np.array(quads), np.array(colours)


def _is_glass(z: float, j: int, cabin: float) -> bool:
    if j in (3, 8):  # sides, with pillars between the panes
        return cabin > 0.2 and all(abs(z - pillar) > 0.05 for pillar in (1.02, 2.0)) and 0.75 < z < 3.0
    return 4 <= j <= 7 and (0.5 < z < 1.02 or 2.68 < z < 3.22)


def normal(quad: NDArray[np.float64]) -> NDArray[np.float64]:
    across = np.cross(quad[2] - quad[0], quad[3] - quad[1])
    return np.asarray(across / (np.linalg.norm(across) + 1e-9))


def _shade(quad: NDArray[np.float64], paint: NDArray[np.float64], glass: bool) -> NDArray[np.float64]:
    up = abs(normal(quad)[1]) if quad[:, 1].mean() > 0.5 else -0.4
    height = float(np.clip(quad[:, 1].mean() / 1.0, 0.25, 1.1))
    if glass:
        return np.asarray(GLASS_BGR + SKY_BGR * 0.34 * max(up, 0.04) ** 0.8)
    light = 0.42 + 0.34 * max(up, 0) + 0.26 * height
    return np.asarray(paint * light + SKY_BGR * (0.05 + 0.24 * max(up, 0) ** 2))


def _rect(x0: float, x1: float, y0: float, y1: float, z: float, z1: float | None = None) -> NDArray[np.float64]:
    """A face across the car; z belongs to its lower edge, z1 to its upper."""
    upper = z if z1 is None else z1
    return np.array([(x0, y1, upper), (x1, y1, upper), (x1, y0, z), (x0, y0, z)])


Detail = tuple[NDArray[np.float64], tuple[float, ...], int]


def _details(paint: NDArray[np.float64], braking: bool) -> list[Detail]:
    return [*_rear(paint, braking), *_front(paint), *_wheels()]


def _rear(paint: NDArray[np.float64], braking: bool) -> list[Detail]:
    lamp = (60.0, 52.0, 250.0) if braking else (38.0, 30.0, 168.0)
    made: list[Detail] = [
        (_rect(-0.79, 0.79, 0.10, 0.42, 0.3), (20.0, 20.0, 20.0), 0),
        *_panel(-0.80, 0.80, 0.24, 0.86, -0.02, paint),
        (_rect(-0.77, 0.77, 0.74, 0.97, -0.02, 0.05), tuple(paint * 0.74 + 18), 1),
        (_rect(-0.80, 0.80, 0.22, 0.36, -0.03), (34.0, 34.0, 34.0), 2),
        (_rect(-0.78, 0.78, 0.585, 0.60, -0.03), tuple(paint * 0.35), 2),
        (_rect(-0.26, 0.26, 0.63, 0.74, -0.03), (198.0, 204.0, 204.0), 3),
        (_rect(-0.22, 0.22, 0.655, 0.715, -0.035), (120.0, 122.0, 120.0), 4),
    ]
    for side in (-1, 1):
        made.append((_rect(side * 0.48, side * 0.81, 0.68, 0.86, -0.03, 0.0), lamp, 3))
        bright = (150.0, 150.0, 255.0) if braking else (60.0, 52.0, 205.0)
        made.append((_rect(side * 0.58, side * 0.76, 0.72, 0.82, -0.035, -0.005), bright, 4))
        made.append((_rect(side * 0.50, side * 0.56, 0.72, 0.78, -0.035, -0.005), (190.0, 195.0, 205.0), 4))
    return made


def _panel(x0: float, x1: float, y0: float, y1: float, z: float, paint: NDArray[np.float64]) -> list[Detail]:
    """An upright face in strips: it bulges, so its upper part sees the sky and its lower part the road."""
    made: list[Detail] = []
    for a, b in zip(np.linspace(y0, y1, 13)[:-1], np.linspace(y0, y1, 13)[1:], strict=True):
        up = float((a - y0) / (y1 - y0))
        made.append((_rect(x0, x1, float(a), float(b), z), tuple(paint * (0.42 + 0.38 * up) + 22 * up**3), 1))
    return made


def _front(paint: NDArray[np.float64]) -> list[Detail]:
    z = LENGTH_M + 0.02
    made: list[Detail] = [
        (_rect(0.79, -0.79, 0.10, 0.42, z - 0.4), (20.0, 20.0, 20.0), 0),
        *_panel(0.78, -0.78, 0.24, 0.66, z, paint),
        (_rect(0.76, -0.76, 0.60, 0.77, z, z - 0.12), tuple(paint * 0.76 + 16), 1),
        (_rect(0.46, -0.46, 0.50, 0.66, z + 0.01), (28.0, 28.0, 28.0), 2),
        (_rect(0.60, -0.60, 0.24, 0.36, z + 0.01), (30.0, 30.0, 30.0), 2),
        (_rect(0.26, -0.26, 0.38, 0.48, z + 0.015), (200.0, 206.0, 206.0), 3),
    ]
    for side in (-1, 1):
        made.append((_rect(side * 0.48, side * 0.79, 0.56, 0.72, z + 0.01, z - 0.08), (168.0, 170.0, 168.0), 3))
        made.append((_rect(side * 0.54, side * 0.70, 0.585, 0.69, z + 0.015, z - 0.06), (244.0, 252.0, 255.0), 4))
        made.append((_rect(side * 0.90, side * 1.04, 0.92, 1.04, 2.9), tuple(paint * 0.6), 2))
    return made


def _wheels() -> list[Detail]:
    made: list[Detail] = []
    for z in (0.80, 3.52):
        for side in (-1, 1):
            end = z - 0.3 if z < 2 else z + 0.3
            made.append((_rect(side * 0.64, side * 0.86, 0.0, 0.4, end), (16.0, 16.0, 16.0), 0))
            for radius, colour, level in ((0.385, 14.0, 1), (0.32, 30.0, 2), (0.21, 122.0, 3), (0.13, 84.0, 4)):
                made += _disc(side * (0.885 + 0.004 * level), z, radius, colour, level)
    return made


def _disc(x: float, z: float, radius: float, tone: float, level: int) -> list[Detail]:
    """Quarters of a disc seen from the side, around the hub."""
    turn = np.linspace(0, 2 * np.pi, 17)
    ring = np.column_stack([np.full(17, x), 0.32 + radius * np.sin(turn), z + radius * np.cos(turn)])
    ring[:, 1] = np.maximum(ring[:, 1], 0.0)
    hub = np.array([x, 0.32, z])
    return [(np.array([hub, ring[k], ring[k + 1], ring[k + 2]]), (tone, tone, tone), level) for k in range(0, 16, 2)]
