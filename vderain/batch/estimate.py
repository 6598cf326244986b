"""Estimates time and space of a batch: looks for rain in some files, and processes the first frames of a few."""

import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vderain.batch.plan import Item
from vderain.errors import VderainError
from vderain.media.clip import open_source
from vderain.options import Options
from vderain.process import Hooks, LoadedModels, is_clearly_dry, load_models, may_stay_untouched, process
from vderain.restore.rain_intervals import SAMPLE_FRAMES, SAMPLE_INTERVAL_S

OPENED = 500  # files, from all over the list: to open each of a long list would take minutes
TRIALS = 3  # of these
TRIAL_FRAMES = 36
WARM_UP_FRAMES = 4  # before the first trial: the first frames of a process take longer
LOOKED_AT = 40  # files in which rain is looked for, while that takes no longer than `LOOK_S`
LOOK_S = 30.0
LOOK_PART_S = 60.0  # of a file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What processing one file would take.

    Attributes:
        item: the file.
        frames: according to its container; 0 where unknown.
        seconds, bytes_out: for the whole file on one device; None where nothing could be measured. Of a file in which
            rain was not looked for: the mean of what they are if it is rainy and if it is dry, weighted by how many of
            the others are rainy.
        error, cure: why it would fail, or empty.
        opened: whether the file was opened; else `frames` is guessed from its size.
        dry: whether its first minute is clearly dry; None where rain was not looked for.
    """

    item: Item
    frames: int = 0
    seconds: float | None = None
    bytes_out: int | None = None
    error: str = ""
    cure: str = ""
    opened: bool = True
    dry: bool | None = None


@dataclass(frozen=True, slots=True)
class _Probe:
    """Length and size of a file; where it was not opened, both are guessed."""

    item: Item
    frames: int
    frame_px: int
    rate: float
    opened: bool = True

    @property
    def pixels(self) -> int:
        return self.frames * self.frame_px


@dataclass(frozen=True, slots=True)
class _Look:
    """A look for rain at the beginning of a file: what it found, how long it took, and how much there was to see."""

    dry: bool
    seconds: float
    pixels: int


@dataclass(frozen=True, slots=True)
class _Rates:
    """What a pixel takes, as measured on a few files; None where nothing was.

    Attributes:
        restore_s, restore_bytes: of rainy files.
        look_s: of dry files.
        rainy_share: expected share of rainy files among those in which rain was not looked for.
    """

    restore_s: float | None
    restore_bytes: float | None
    look_s: float | None
    rainy_share: float


def estimate(items: Sequence[Item], options: Options) -> list[Estimate]:
    """Opens the files, or a sample of a long list, looks for rain in some, and processes the first frames of a few.

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
    looks = _look(probes, options, models)
    rainy = [probe for probe in probes if probe.item in looks and not looks[probe.item].dry]
    trials = _spread(rainy or probes, TRIALS)
    for probe in trials[:1]:
        _measure(probe, options, models, WARM_UP_FRAMES)
    measured = [each for probe in trials if (each := _measure(probe, options, models, TRIAL_FRAMES)) is not None]
    rates = _rates(measured, looks)
    estimates = dict(failures)
    for probe in [*probes, *_guess(items, probes, failures)]:
        dry = looks[probe.item].dry if probe.item in looks else None
        estimates[probe.item] = _estimate(probe, options, rates, dry)
    return [estimates[item] for item in items]


def _look(probes: Sequence[_Probe], options: Options, models: LoadedModels | None) -> dict[Item, _Look]:
    """Looks for rain in some of the files that would be left as they are without it."""
    looks: dict[Item, _Look] = {}
    until_s = time.monotonic() + LOOK_S
    look = models.quick_look if models else None
    for probe in random.Random(0).sample(probes, len(probes)):
        item = probe.item
        if look is None or len(looks) >= LOOKED_AT or time.monotonic() > until_s:
            break
        if not may_stay_untouched(item.source, Path(item.target), options):
            continue
        began_s = time.monotonic()
        part = {"start_s": options.start_s, "duration_s": min(LOOK_PART_S, options.duration_s or math.inf)}
        try:
            with open_source(item.source, strict=options.strict, rate=options.rate, **part) as source:
                dry = is_clearly_dry(source, look)
                pixels = (source.frames_estimate or 0) * probe.frame_px
        except VderainError:
            continue
        looks[item] = _Look(dry, time.monotonic() - began_s, pixels)
    return looks


def _rates(measured: Sequence[tuple[float, float, float]], looks: Mapping[Item, _Look]) -> _Rates:
    pixels = sum(px for px, _, _ in measured)
    dry = [look for look in looks.values() if look.dry and look.pixels]
    return _Rates(
        restore_s=sum(seconds for _, seconds, _ in measured) / pixels if pixels else None,
        restore_bytes=sum(written for _, _, written in measured) / pixels if pixels else None,
        look_s=sum(look.seconds for look in dry) / sum(look.pixels for look in dry) if dry else None,
        # Laplace's rule of succession: that a few files are dry does not mean that all are.
        rainy_share=(sum(not look.dry for look in looks.values()) + 1) / (len(looks) + 2) if looks else 1.0,
    )


def _estimate(probe: _Probe, options: Options, rates: _Rates, dry: bool | None) -> Estimate:
    rainy_share = rates.rainy_share if dry is None else float(not dry)
    seconds = bytes_out = None
    if probe.frames and (rates.restore_s is not None or dry):
        kept_bytes = 0 if options.dry == "skip" else _size(probe.item)
        # The scan for rainy intervals sees some of the frames before: at most their share of the time.
        scan_share = min(1.0, SAMPLE_FRAMES / SAMPLE_INTERVAL_S / probe.rate) if options.auto else 0.0
        rainy_s = (1 + scan_share) * (rates.restore_s or 0.0) * probe.pixels
        rainy_bytes = (rates.restore_bytes or 0.0) * probe.pixels
        seconds = rainy_share * rainy_s + (1 - rainy_share) * (rates.look_s or 0.0) * probe.pixels
        bytes_out = round(rainy_share * rainy_bytes + (1 - rainy_share) * kept_bytes)
    return Estimate(probe.item, probe.frames, seconds, bytes_out, opened=probe.opened, dry=dry)


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
    """Pixels, seconds and bytes written of the first frames of a file, as if it were rainy; None where that fails."""
    with tempfile.TemporaryDirectory(prefix="vderain-") as folder:
        target = Path(folder) / Path(probe.item.target).name
        part_s = min(frames / probe.rate, options.duration_s or math.inf)
        part = replace(options, duration_s=part_s, auto=False)
        try:
            result = process(probe.item.source, target, part, hooks=Hooks(models=models))
        except VderainError:
            return None
        return result.frames * probe.frame_px, result.seconds, target.stat().st_size
