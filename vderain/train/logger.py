"""Logs a training run: JSON lines, contact sheets, and TensorBoard if it is installed.

A log that cannot be written never stops a run.
"""

import errno
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from torch import Tensor

from vderain.errors import UsageError
from vderain.restore.frames import Picture
from vderain.train.torchvision_import import require_torchvision

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

LOG = "log.jsonl"
PICTURES = "pictures"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, slots=True)
class Examples:
    """The first batch of a run, to look at.

    Attributes:
        iteration: before which it was made.
        pairs: (N, 3, H, W) in 0..1, rainy and clear crops in turn.
    """

    iteration: int
    pairs: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stepped:
    """An iteration is finished.

    Attributes:
        iteration: its number, from 1.
        iterations: length of the run.
        loss: of this iteration.
        crops: examples in it.
    """

    iteration: int
    iterations: int
    loss: float
    crops: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log.

    Attributes:
        iteration: finished ones.
        iterations: length of the run.
        loss: mean since the last line.
        parts: losses that it is the sum of, if there are several.
        rate: learning rate.
        crops_per_s: examples per second, over all processes.
        waiting: share of the time, 0..1, spent waiting for data.
    """

    iteration: int
    iterations: int
    loss: float
    parts: dict[str, float]
    rate: float
    crops_per_s: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of the generator on one validation set.

    Attributes:
        psnr_y_db: mean over its images.
        ssim_y: mean over its images.
        psnr_in_db: mean PSNR (Y) of the inputs.
        weight: in the blend.
    """

    psnr_y_db: float
    ssim_y: float
    psnr_in_db: float
    weight: float


@dataclass(frozen=True, slots=True)
class Validated:
    """The generator was validated.

    Attributes:
        iteration: finished ones.
        sets: scores by name of the set.
        blend_db: weighted mean over the sets.
        best: whether it is the highest so far.
        picture: (H, W, 3) uint8, rows of input, output, truth and what was removed.
    """

    iteration: int
    sets: dict[str, Score]
    blend_db: float
    best: bool
    picture: Picture = field(repr=False, default_factory=lambda: np.zeros((1, 1, 3), np.uint8))


Event = Examples | Stepped | Progress | Validated


class RunLogger:
    """Writes the log of a run.

    Args:
        out: folder of the run.
        iteration: from which it continues; lines of later iterations are removed.
    """

    def __init__(self, out: Path, iteration: int) -> None:
        self.out = out
        self._warned = False
        self._writer: SummaryWriter | None = None
        self._try(partial(self._truncate, iteration))
        self._try(partial(self._open_tensorboard, iteration))

    def __call__(self, event: Event) -> None:
        """Log an event."""
        match event:
            case Progress():
                self._progress(event)
            case Validated():
                self._validated(event)
            case Examples():
                self._tensorboard(partial(_add_examples, event))

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        self._tensorboard(lambda writer: writer.close())

    def _progress(self, event: Progress) -> None:
        self._line({"event": "progress"} | asdict(event))
        scalars = {"loss": event.loss, "rate": event.rate, "crops_per_s": event.crops_per_s}
        scalars |= {"waiting": event.waiting}
        scalars |= {f"loss/{name}": value for name, value in event.parts.items()}
        self._tensorboard(partial(_add_scalars, event.iteration, scalars))

    def _validated(self, event: Validated) -> None:
        scores = {name: asdict(score) for name, score in event.sets.items()}
        facts = {"iteration": event.iteration, "blend_db": event.blend_db, "best": event.best}
        self._line({"event": "validation"} | facts | {"sets": scores})
        self._try(partial(self._write_picture, event))
        keys = ("psnr_y_db", "ssim_y")
        scalars = {f"{name}/{key}": score[key] for name, score in scores.items() for key in keys}
        self._tensorboard(partial(_add_scalars, event.iteration, scalars | {"blend_db": event.blend_db}))
        self._tensorboard(partial(_add_picture, event))

    def _write_picture(self, event: Validated) -> None:
        folder = self.out / PICTURES
        folder.mkdir(exist_ok=True)
        encoded = cv2.imencode(".png", cv2.cvtColor(event.picture, cv2.COLOR_RGB2BGR))[1]
        (folder / f"{event.iteration:06}.png").write_bytes(encoded.tobytes())

    def _line(self, entry: dict[str, Any]) -> None:
        self._try(partial(append, self.out / LOG, (json.dumps(entry) + "\n").encode()))

    def _truncate(self, iteration: int) -> None:
        path = self.out / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _iteration_of(line) <= iteration]
            path.write_text("".join(kept), encoding="utf-8")

    def _open_tensorboard(self, iteration: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(self.out / TENSORBOARD), purge_step=iteration + 1)

    def _tensorboard(self, write: "Callable[[SummaryWriter], None]") -> None:
        """Write to TensorBoard, and give it up when that fails: its writer does not recover from a full disk."""
        if self._writer is not None and not self._try(partial(write, self._writer)):
            self._writer = None

    def _try(self, write: Callable[[], None]) -> bool:
        """Write something, and warn the first time that fails; returns whether it was written."""
        try:
            write()
        except OSError as error:
            if not self._warned:
                log.warning("the log cannot be written (%s); training continues", error.strerror or error)
            self._warned = True
            return False
        return True


def append(path: Path, data: bytes) -> None:
    """Append to a file all of the data or nothing.

    Args:
        path: created if missing.
        data: to append.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        size_bytes = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size_bytes)
            raise


def _add_scalars(iteration: int, scalars: dict[str, float], writer: "SummaryWriter") -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, iteration)


def _add_picture(event: Validated, writer: "SummaryWriter") -> None:
    writer.add_image("pictures", event.picture, event.iteration, dataformats="HWC")


def _add_examples(event: Examples, writer: "SummaryWriter") -> None:
    """Add a grid of crops, two pairs in a row."""
    try:
        require_torchvision("a grid of examples")
    except UsageError:  # it is optional, and nothing depends on the grid
        return
    from torchvision.utils import make_grid

    writer.add_image("examples", make_grid(event.pairs, nrow=4), event.iteration)


def _iteration_of(line: str) -> float:
    """Iteration of a line of the log; infinite for a truncated line, which a full disk leaves."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
