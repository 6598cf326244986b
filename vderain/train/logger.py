"""What a run leaves for people to look at: progress and scores enter; lines of JSON, pictures and TensorBoard leave.

A disk that refuses them costs the line or the picture, never the run.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vderain.evaluation.contact_sheet import png
from vderain.evaluation.footage import Picture
from vderain.train.board import Board, append

log = logging.getLogger(__name__)

LOG = "log.jsonl"
PICTURES = "pictures"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, slots=True)
class Stepped:
    """One iteration is done.

    Attributes:
        iteration, iterations: done, and in all.
        loss: of this one.
        crops: examples in it.
    """

    iteration: int
    iterations: int
    loss: float
    crops: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a training log.

    Attributes:
        iteration, iterations: done, and in all.
        loss: mean since the last line.
        parts: the losses it is the sum of, where there are several.
        rate: of the optimisers.
        crops_per_s: examples, all told.
        waiting: share of the time that was spent waiting for data.
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
    """How near the generator comes to the truth on one set.

    Attributes:
        psnr_y_db, ssim_y: means over its pictures.
        psnr_in_db: of the pictures as they were.
        weight: in the blend.
    """

    psnr_y_db: float
    ssim_y: float
    psnr_in_db: float
    weight: float


@dataclass(frozen=True, slots=True)
class Validated:
    """A look at the generator.

    Attributes:
        iteration: done.
        sets: by name.
        blend_db: weighted mean over the sets.
        best: whether no earlier one was higher.
        picture: rows of input, output, truth and what was removed.
    """

    iteration: int
    sets: dict[str, Score]
    blend_db: float
    best: bool
    picture: Picture = field(repr=False, default_factory=lambda: np.zeros((1, 1, 3), np.uint8))


Event = Stepped | Progress | Validated


class RunLogger:
    """Writes down what happens.

    Args:
        out: folder of the run.
        iteration: from which it goes on; what was written of later ones is taken back.
    """

    def __init__(self, out: Path, iteration: int) -> None:
        self.out = out
        self._refused = False
        self._board: Board | None = None
        with suppress(ImportError):
            self._kept(lambda: self._open_board(iteration))
        self._kept(lambda: self._take_back(iteration))

    def note(self, event: Event) -> None:
        match event:
            case Progress():
                self._line({"event": "progress"} | asdict(event))
                scalars = {"loss": event.loss, "rate": event.rate, "crops_per_s": event.crops_per_s}
                scalars |= {"waiting": event.waiting} | {f"loss/{name}": value for name, value in event.parts.items()}
                self._scalars(event.iteration, scalars)
            case Validated():
                self._validated(event)

    def _validated(self, event: Validated) -> None:
        scores = {name: asdict(score) for name, score in event.sets.items()}
        self._line({
            "event": "validation", "iteration": event.iteration, "blend_db": event.blend_db, "best": event.best,
            "sets": scores,
        })  # fmt: skip
        encoded = png(event.picture)
        self._kept(lambda: self._hang(event.iteration, encoded))
        scalars = {f"{name}/{key}": score[key] for name, score in scores.items() for key in ("psnr_y_db", "ssim_y")}
        self._scalars(event.iteration, {"blend_db": event.blend_db} | scalars)
        if self._board:
            self._kept(partial(self._board.picture, event.iteration, event.picture, encoded))

    def _hang(self, iteration: int, encoded: bytes) -> None:
        folder = self.out / PICTURES
        folder.mkdir(exist_ok=True)
        (folder / f"{iteration:06}.png").write_bytes(encoded)

    def _line(self, entry: dict[str, Any]) -> None:
        self._kept(partial(append, self.out / LOG, (json.dumps(entry) + "\n").encode()))

    def _scalars(self, iteration: int, scalars: dict[str, float]) -> None:
        if self._board:
            self._kept(partial(self._board.scalars, iteration, scalars))

    def _open_board(self, iteration: int) -> None:
        self._board = Board(self.out / TENSORBOARD, iteration)

    def _take_back(self, iteration: int) -> None:
        path = self.out / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(line for line in lines if _iteration(line) <= iteration), encoding="utf-8")

    def _kept(self, write: Callable[[], None]) -> None:
        """Write, or say once that the disk refuses."""
        try:
            write()
        except OSError as error:
            if not self._refused:
                log.warning("the log cannot be written (%s); training goes on", error.strerror or error)
            self._refused = True


def _iteration(line: str) -> float:
    """Of a line of the log; never kept where the line is torn, as a full disk leaves it."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
