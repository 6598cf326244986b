"""A contact sheet: clips enter, a PNG of some of their frames beside each other leaves."""

from pathlib import Path

import cv2
import numpy as np

from vderain.errors import OutputError, UsageError
from vderain.evaluation.footage import Footage, Picture, zip_frames

ROWS = 4
CELL_W_PX = 400
BAND_PX = 24  # of labels, above each row
GAIN = 4  # what was removed is too faint to be seen as it is
REMOVED = f"removed x{GAIN} (grey: nothing)"
MIDDLE = 128  # of a removed picture: nothing was removed
TEXT, PAPER = (230, 230, 230), (24, 24, 24)


def checked(target: Path) -> None:
    """Find out before the work begins whether the sheet can be written.

    Raises:
        UsageError: it would not be a PNG.
        OutputError: it is there already, or its folder is not.
    """
    if target.suffix.lower() != ".png":
        raise UsageError(f"{target.name} does not end in .png.", "A contact sheet is a PNG.")
    if target.exists():
        raise OutputError(f"{target} exists already.", "Name another file for the sheet.")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist.", "Create it, or choose another.")


def write_sheet(target: Path, rain: Footage, out: Footage, clear: Footage | None, frames: int) -> None:
    """Write some frames, evenly spread: before, after, the truth where known, and what was removed.

    Args:
        target: a PNG.
        rain: before.
        out: after.
        clear: the truth, or None.
        frames: how many there are of each.

    Raises:
        OutputError: the disk refuses it.
    """
    chosen = {(2 * row + 1) * frames // (2 * ROWS) for row in range(ROWS)}
    labels = ["input", "output", *(["truth"] if clear else []), REMOVED]
    rows = []
    for number, pictures in enumerate(zip_frames([rain, out, *([clear] if clear else [])])):
        if number in chosen:
            named = [f"{labels[0]}, frame {number}", *labels[1:]]
            rows.append(row([*pictures, removed(*pictures[:2])], named))
    try:
        target.write_bytes(png(np.vstack(rows)))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.", "Check the space left.") from error


def removed(before: Picture, after: Picture) -> Picture:
    """What was taken out, enlarged around a grey that stands for nothing."""
    difference = (before.astype(np.int16) - after) * GAIN + MIDDLE
    return np.asarray(np.clip(difference, 0, 255), np.uint8)


def png(picture: Picture) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return data.tobytes() if done else b""


def row(pictures: list[Picture], labels: list[str]) -> Picture:
    """One frame's pictures beside each other, under their labels."""
    height_px, width_px = pictures[0].shape[:2]
    cell = CELL_W_PX, max(1, round(height_px * CELL_W_PX / width_px))
    way = cv2.INTER_AREA if width_px > CELL_W_PX else cv2.INTER_NEAREST
    beside = np.hstack([np.asarray(cv2.resize(picture, cell, interpolation=way), np.uint8) for picture in pictures])
    band = np.full((BAND_PX, beside.shape[1], 3), PAPER, np.uint8)
    for column, text in enumerate(labels):
        where = column * CELL_W_PX + 6, BAND_PX - 7
        cv2.putText(band, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)
    return np.vstack([band, beside])
