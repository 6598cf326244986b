"""Writes a contact sheet: a PNG that shows frames of several clips side by side."""

from pathlib import Path

import cv2
import numpy as np

from vderain.errors import OutputError, UsageError
from vderain.evaluation.footage import Footage, zip_frames
from vderain.restore.frames import Picture

ROWS = 4
CELL_W_PX = 400
BAND_PX = 24  # height of the labels above each row
GAIN = 4  # removed rain is too faint to be seen at its own contrast
REMOVED = f"removed x{GAIN} (grey: nothing)"
MIDDLE = 128  # grey level of a difference of 0
TEXT_RGB, BACKGROUND_RGB = (230, 230, 230), (24, 24, 24)


def check_target(target: Path) -> None:
    """Check before the work begins that a picture can be written.

    Raises:
        UsageError: the name does not end in .png.
        OutputError: the file exists, or its folder does not.
    """
    if target.suffix.lower() != ".png":
        raise UsageError(f"{target.name} does not end in .png.", "Contact sheets and plots are PNG.")
    if target.exists():
        raise OutputError(f"{target} exists already.", "Name another file.")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist.", "Create it, or choose another.")


def write_sheet(target: Path, rain: Footage, out: Footage, clear: Footage | None, frames: int) -> None:
    """Write some evenly spaced frames: before, after, ground truth if given, and what was removed.

    Args:
        target: the PNG to write.
        rain: the rainy clip.
        out: the derained clip.
        clear: the ground truth, or None.
        frames: number of frames in each clip.

    Raises:
        OutputError: the file cannot be written.
    """
    chosen = {(2 * row + 1) * frames // (2 * ROWS) for row in range(ROWS)}
    labels = ["input", "output", *(["truth"] if clear else []), REMOVED]
    rows = []
    for number, pictures in enumerate(zip_frames([rain, out, *([clear] if clear else [])])):
        if number in chosen:
            named = [f"{labels[0]}, frame {number}", *labels[1:]]
            rows.append(row([*pictures, removed(*pictures[:2])], named))
    write_png(target, np.vstack(rows))


def write_png(target: Path, picture: Picture) -> None:
    """Write an (H, W, 3) RGB picture.

    Raises:
        OutputError: the file cannot be written.
    """
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    try:
        target.write_bytes(encoded.tobytes())
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.", "Check the space left.") from error


def removed(before: Picture, after: Picture) -> Picture:
    """Show the difference ``before - after``, amplified around mid-grey: (H, W, 3) uint8."""
    difference = (before.astype(np.int16) - after) * GAIN + MIDDLE
    return np.asarray(np.clip(difference, 0, 255), np.uint8)


def row(pictures: list[Picture], labels: list[str]) -> Picture:
    """Lay images of one size side by side, each scaled to `CELL_W_PX` columns and with its label above."""
    height_px, width_px = pictures[0].shape[:2]
    cell = CELL_W_PX, max(1, round(height_px * CELL_W_PX / width_px))
    interpolation = cv2.INTER_AREA if width_px > CELL_W_PX else cv2.INTER_NEAREST
    beside = np.hstack(
        [np.asarray(cv2.resize(picture, cell, interpolation=interpolation), np.uint8) for picture in pictures]
    )
    band = np.full((BAND_PX, beside.shape[1], 3), BACKGROUND_RGB, np.uint8)
    for column, text in enumerate(labels):
        where = column * CELL_W_PX + 6, BAND_PX - 7
        cv2.putText(band, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT_RGB, 1, cv2.LINE_AA)
    return np.vstack([band, beside])
