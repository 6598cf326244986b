"""What is done to frames: options and a generator enter, then frames, and the same frames less their rain leave."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vderain.media.clip import Reader
from vderain.media.colour import add_residual
from vderain.media.frame import Frame
from vderain.model.checkpoint import load_checkpoint
from vderain.model.released import DROPS_MODEL, weights_file
from vderain.options import Options, needs_network
from vderain.restore.comparison import compare_frames
from vderain.restore.inference import NetworkRunner
from vderain.restore.median_baseline import MedianGate, restore_by_median
from vderain.restore.rain_detection import zero_dry_scenes
from vderain.restore.rain_intervals import RainInterval, by_interval, rain_intervals, scan
from vderain.restore.raindrops import RaindropRemover, enlarged
from vderain.restore.still_image import refine_still
from vderain.restore.temporal_filter import filter_over_time
from vderain.restore.window import RADIUS, Restoration, align_windows, prepare_frames, single_frame_window
from vderain.runtime.device import choose_device, cores, frames_in_flight
from vderain.runtime.threads import StageClock, ordered_map


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Generators at their place, ready for as many files as come; no wiper where drops are not looked for."""

    name: str
    network: NetworkRunner
    raindrop_remover: RaindropRemover | None


def load_models(options: Options) -> LoadedModels | None:
    """What `process` needs of a model; None where these options need no network, though they name one that is there.

    Raises:
        CheckpointError: there is no such model, or it is unusable.
        DeviceError: the device asked for is not there.
    """
    place = choose_device(options.device, options.precision)
    if not needs_network(options):
        weights_file(options.model)
        return None
    checkpoint = load_checkpoint(options.model)
    raindrop_remover = (
        RaindropRemover(NetworkRunner(load_checkpoint(DROPS_MODEL).generator, place), options.guard)
        if options.drops
        else None
    )
    return LoadedModels(
        checkpoint.name, NetworkRunner(checkpoint.generator, place, options.batch_size), raindrop_remover
    )


@dataclass(frozen=True, slots=True)
class RestoredFrame:
    """A frame as decoded, less its rain, and as it is to be written; dry where it was left as it was for that."""

    before: Frame
    after: Frame
    shown: Frame
    dry: bool = False


class Pipeline:
    """Frames to frames less rain, by the options.

    Args:
        options: the user's choices.
        clock: is told what each stage takes.
        loaded: what `load` returned for these options.

    Attributes:
        model: name of the generator, or None where none runs.
        device: where it runs, in words, or "-".
    """

    def __init__(self, options: Options, clock: StageClock, loaded: LoadedModels | None) -> None:
        self.options, self.clock = options, clock
        self.model = loaded.name if loaded else None
        self.device = str(loaded.network.place) if loaded else "-"
        self.derain = loaded.network if loaded else None
        self.wipe = loaded.raindrop_remover if loaded else None

    def __call__(
        self, frames: Iterator[Frame], turns: int, frame_px: int, weather: list[RainInterval] | None, first: int
    ) -> Iterator[RestoredFrame]:
        """The frames in order, each with what became of it.

        Args:
            frames: of a clip, from one of its numbers on.
            turns: quarter turns counter-clockwise before they are shown.
            frame_px: pixels of a frame.
            weather: what `weather` found.
            first: the number of the first frame.
        """
        if self.options.strength == 0:
            yield from (self._finish(frame, frame, turns) for frame in frames)
        elif weather is None:
            yield from self._restored(frames, turns, frame_px)
        else:
            for rainy, interval in by_interval(frames, weather, first):
                dry = (self._finish(frame, frame, turns, dry=True) for frame in interval)
                yield from self._restored(interval, turns, frame_px) if rainy else dry

    def _restored(self, frames: Iterator[Frame], turns: int, frame_px: int) -> Iterator[RestoredFrame]:
        options, timed = self.options, self.clock.timed
        workers = min(frames_in_flight(frame_px), options.batch_size or cores())
        alone = options.temporal == "off"
        radius = 0 if alone else RADIUS
        clear = prepare_frames(frames, workers, turns, timed)
        clear = self.wipe(clear, workers, radius, timed) if self.wipe else clear
        if alone:
            seen = ordered_map(timed("align", single_frame_window), clear, workers)
        else:
            seen = align_windows(clear, workers, timed, keep_flows=options.temporal == "light")
        if self.derain is None:
            derained = ordered_map(timed("gate", partial(restore_by_median, gate=MedianGate())), seen, workers)
        else:
            derained = self.derain(seen, timed)
            if options.guard:
                derained = zero_dry_scenes(derained, radius, timed=timed)
            if not alone:
                again = partial(refine_still, network=self.derain, guarded=options.guard)
                derained = map(timed("network", again), derained)
                derained = filter_over_time(derained, options.temporal == "strong", workers, timed)
        return ordered_map(timed("add", partial(self._add, turns=turns)), derained, workers)

    def _add(self, derained: Restoration, turns: int) -> RestoredFrame:
        prepared = derained.window.prepared
        residual = derained.residual.astype(np.float32)
        if prepared.raindrop_residual is not None:
            residual += enlarged(prepared.raindrop_residual, *residual.shape[:2])
        residual *= np.float32(self.options.strength)
        residual = np.rot90(residual, -turns)
        dry = derained.rain_score == 0 and prepared.raindrop_score == 0
        return self._finish(prepared.frame, add_residual(prepared.frame, residual), turns, dry)

    def _finish(self, before: Frame, after: Frame, turns: int, dry: bool = False) -> RestoredFrame:
        how = self.options.compare
        return RestoredFrame(before, after, compare_frames(before, after, how, turns) if how else after, dry)

    def weather(self, reader: Reader, turns: int) -> list[RainInterval] | None:
        """A first reading of the clip, for when it rains; None where nobody asked, or nothing can tell."""
        if not self.options.auto or self.derain is None:
            return None
        return rain_intervals(scan(reader.frames(), self.derain, self.wipe, turns))
