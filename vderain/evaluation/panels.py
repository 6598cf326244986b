"""Draws line charts over the frames of a clip, below each other, by OpenCV."""

from dataclasses import dataclass

import cv2
import numpy as np

from vderain.restore.frames import Picture

PANEL_PX = (1000, 170)  # width and height of a panel
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 70, 20, 28, 24  # margins around the chart
BACKGROUND_RGB, AXIS_RGB, TEXT_RGB = (24, 24, 24), (90, 90, 90), (230, 230, 230)
LINES_RGB = ((120, 170, 255), (255, 190, 90))
ENLARGED = 0.05  # of the range, that is added to it above and below


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: shown beside the title, in the line's colour; may be empty.
        values: one for each frame; None leaves a gap.
    """

    name: str
    values: list[float | None]


def draw(panels: list[tuple[str, list[Line]]]) -> Picture:
    """Draw charts below each other.

    Args:
        panels: a title and up to two lines each.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return np.vstack([_panel(title, lines) for title, lines in panels])


def _panel(title: str, lines: list[Line]) -> Picture:
    width_px, height_px = PANEL_PX
    picture = np.full((height_px, width_px, 3), BACKGROUND_RGB, np.uint8)
    low, high = _range([value for line in lines for value in line.values if value is not None])
    right_px, bottom_px = width_px - RIGHT_PX, height_px - BOTTOM_PX
    cv2.rectangle(picture, (LEFT_PX, TOP_PX), (right_px, bottom_px), AXIS_RGB, 1)
    count = len(lines[0].values)
    for text, x_px, y_px in (
        (f"{high:.4g}", 6, TOP_PX + 10), (f"{low:.4g}", 6, bottom_px), ("frame 0", LEFT_PX, height_px - 6),
        (str(count - 1), right_px - 30, height_px - 6), (title, LEFT_PX, TOP_PX - 9),
    ):  # fmt: skip
        _write(picture, text, x_px, y_px, TEXT_RGB)
    for number, line in enumerate(lines):
        colour = LINES_RGB[number % len(LINES_RGB)]
        _write(picture, line.name, right_px - 150 + 75 * number, TOP_PX - 9, colour)
        for begin, part in _unbroken(line.values):
            x = LEFT_PX + (right_px - LEFT_PX) * (np.arange(begin, begin + len(part)) / max(1, count - 1))
            y = bottom_px - (bottom_px - TOP_PX) * (np.array(part) - low) / (high - low)
            points = np.stack([x, y], axis=1).round().astype(np.int32)
            cv2.polylines(picture, [points[:, None]], False, colour, 1, cv2.LINE_AA)
    return picture


def _range(values: list[float]) -> tuple[float, float]:
    """The lowest and highest value, with some space; of something wherever there is nothing."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    space = ENLARGED * (high - low) or 0.5
    return low - space, high + space


def _unbroken(values: list[float | None]) -> list[tuple[int, list[float]]]:
    """The parts of a line without gaps: their first frames and their values."""
    parts: list[tuple[int, list[float]]] = []
    previous: float | None = None
    for number, value in enumerate(values):
        if value is not None:
            if previous is None:
                parts.append((number, []))
            parts[-1][1].append(value)
        previous = value
    return parts


def _write(picture: Picture, text: str, x_px: int, y_px: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, (x_px, y_px), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
