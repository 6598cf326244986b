"""Estimates time and disk space of a batch by processing the first frames of a few files."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vderain.batch.plan import Item
from vderain.errors import VderainError
from vderain.media.clip import open_source
from vderain.options import Options
from vderain.process import Hooks, LoadedModels, load_models, process

OPENED = 500  # files, from all over the list: to open each of a long list would take minutes
TRIALS = 3  # of these
TRIAL_FRAMES = 36
WARM_UP_FRAMES = 4  # before the first trial: the first frames of a process take longer


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What processing one file would take.

    Attributes:
        item: the file.
        frames: according to its container; 0 where unknown.
        seconds, bytes_out: for the whole file on one device; None where nothing could be measured.
        error, cure: why it would fail, or empty.
        opened: whether the file was opened; else `frames` is guessed from its size.
    """

    item: Item
    frames: int = 0
    seconds: float | None = None
    bytes_out: int | None = None
    error: str = ""
    cure: str = ""
    opened: bool = True


@dataclass(frozen=True, slots=True)
class _Probe:
    """Length and size of a file; where it was not opened, both are guessed."""

    item: Item
    frames: int
    frame_px: int
    rate: float
    opened: bool = True


def estimate(items: Sequence[Item], options: Options) -> list[Estimate]:
    """Opens the files, or a sample of a long list, and processes the first frames of a few.

    Args:
        items: the files.
        options: the user's choices.

    Returns:
        An estimate for each file, in the same order.

    Raises:
        VderainError: the model or the device does not exist.
    """
    models = load_models(options)
    probes, failures = _probe(_spread(items, OPENED), options)
    trials = _spread(probes, TRIALS)
    for probe in trials[:1]:
        _measure(probe, options, models, WARM_UP_FRAMES)
    measured = [each for probe in trials if (each := _measure(probe, options, models, TRIAL_FRAMES)) is not None]
    pixels = sum(px for px, _, _ in measured)
    estimates = dict(failures)
    for probe in [*probes, *_guess(items, probes, failures)]:
        seconds = bytes_out = None
        if pixels and probe.frames:
            share = probe.frames * probe.frame_px / pixels
            seconds = share * sum(seconds for _, seconds, _ in measured)
            bytes_out = round(share * sum(written for _, _, written in measured))
        estimates[probe.item] = Estimate(probe.item, probe.frames, seconds, bytes_out, opened=probe.opened)
    return [estimates[item] for item in items]


def _probe(items: Iterable[Item], options: Options) -> tuple[list[_Probe], dict[Item, Estimate]]:
    """Probes of the files that can be opened, and the errors of the others."""
    probes: list[_Probe] = []
    failures: dict[Item, Estimate] = {}
    for item in items:
        try:
            part = {"start_s": options.start_s, "duration_s": options.duration_s}
            with open_source(item.source, strict=options.strict, rate=options.rate, **part) as source:
                frame_px = source.size_px[0] * source.size_px[1]
                probes.append(_Probe(item, source.frames_estimate or 0, frame_px, float(source.average_rate or 30)))
        except VderainError as error:
            failures[item] = Estimate(item, error=error.what, cure=error.cure)
    return probes, failures


def _guess(items: Iterable[Item], probes: Sequence[_Probe], failures: Mapping[Item, Estimate]) -> Iterator[_Probe]:
    """Probes of the files that were not opened, by their sizes and the frames of those that were."""
    opened = {probe.item for probe in probes} | failures.keys()
    frames = sum(probe.frames for probe in probes)
    frames_per_byte = frames / max(1, sum(_size(probe.item) for probe in probes))
    frame_px = sum(probe.frames * probe.frame_px for probe in probes) // max(1, frames)
    for item in items:
        if item not in opened:
            yield _Probe(item, round(_size(item) * frames_per_byte), frame_px, 30.0, opened=False)


def _size(item: Item) -> int:
    with suppress(OSError):
        return item.source.stat().st_size
    return 0


def _spread(several: Sequence[T], count: int) -> list[T]:
    """At most so many, evenly spread over the list."""
    count = min(count, len(several))
    return [several[number * (len(several) - 1) // max(1, count - 1)] for number in range(count)]


def _measure(
    probe: _Probe, options: Options, models: LoadedModels | None, frames: int
) -> tuple[float, float, float] | None:  # fmt: skip
    """Pixels, seconds and bytes written of the first frames of a file; None where it cannot be processed."""
    with tempfile.TemporaryDirectory(prefix="vderain-") as folder:
        target = Path(folder) / Path(probe.item.target).name
        part_s = min(frames / probe.rate, options.duration_s or math.inf)
        try:
            result = process(probe.item.source, target, replace(options, duration_s=part_s), hooks=Hooks(models=models))
        except VderainError:
            return None
        return result.frames * probe.frame_px, result.seconds, target.stat().st_size
