"""What a batch would take: files and options enter; time and space leave, measured on the first frames of a few."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vderain.batch.plan import Item
from vderain.errors import VderainError
from vderain.media.clip import open_source
from vderain.options import Options
from vderain.process import LoadedModels, load_models, process

TRIALS = 3  # files, from all over the list
TRIAL_FRAMES = 36
WARMING_FRAMES = 4  # before the first trial: the first frames of a process take longer


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one file would take.

    Attributes:
        item: the file.
        frames: as its container says; 0 where it does not.
        seconds, bytes_out: of the whole file on one device; None where nothing could be measured.
        error, cure: why it would fail, or empty.
    """

    item: Item
    frames: int = 0
    seconds: float | None = None
    bytes_out: int | None = None
    error: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class _Size:
    """A file before it is measured."""

    item: Item
    frames: int
    frame_px: int
    rate: float


def estimate(items: Sequence[Item], options: Options) -> list[Estimate]:
    """Looks into every file, and processes the first frames of a few.

    Raises:
        VderainError: the model or the device is not there.
    """
    loaded = load_models(options)
    sizes, failures = _looked_into(items, options)
    trials = _some(sizes)
    for size in trials[:1]:
        _measured(size, options, loaded, WARMING_FRAMES)
    found = [_measured(size, options, loaded, TRIAL_FRAMES) for size in trials]
    measured = [each for each in found if each is not None]
    pixels = sum(px for px, _, _ in measured)
    per_px_s = sum(seconds for _, seconds, _ in measured) / pixels if pixels else None
    per_px_bytes = sum(written for _, _, written in measured) / pixels if pixels else None
    sound = {
        size.item: Estimate(
            size.item,
            size.frames,
            size.frames * size.frame_px * per_px_s if per_px_s is not None and size.frames else None,
            round(size.frames * size.frame_px * per_px_bytes) if per_px_bytes is not None and size.frames else None,
        )
        for size in sizes
    }
    return [sound.get(item) or failures[item] for item in items]


def _looked_into(items: Iterable[Item], options: Options) -> tuple[list[_Size], dict[Item, Estimate]]:
    sizes: list[_Size] = []
    failures: dict[Item, Estimate] = {}
    for item in items:
        try:
            part = {"start_s": options.start_s, "duration_s": options.duration_s}
            with open_source(item.source, strict=options.strict, rate=options.rate, **part) as reader:
                frame_px = reader.size_px[0] * reader.size_px[1]
                sizes.append(_Size(item, reader.frames_estimate or 0, frame_px, float(reader.average_rate or 30)))
        except VderainError as error:
            failures[item] = Estimate(item, error=error.what, cure=error.cure)
    return sizes, failures


def _some(sizes: list[_Size]) -> list[_Size]:
    """A few of them, from the first to the last."""
    count = min(TRIALS, len(sizes))
    return [sizes[number * (len(sizes) - 1) // max(1, count - 1)] for number in range(count)]


def _measured(
    size: _Size, options: Options, loaded: LoadedModels | None, frames: int
) -> tuple[float, float, float] | None:  # fmt: skip
    """Pixels, seconds for them, and bytes they became; None where the file cannot be done."""
    with tempfile.TemporaryDirectory(prefix="vderain-") as folder:
        target = Path(folder) / Path(size.item.target).name
        part_s = min(frames / size.rate, options.duration_s or math.inf)
        try:
            done = process(size.item.source, target, replace(options, duration_s=part_s), loaded=loaded)
        except VderainError:
            return None
        return done.frames * size.frame_px, done.seconds, target.stat().st_size
