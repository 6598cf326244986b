"""What is done to frames: options and a generator enter, then frames, and the same frames less their rain leave."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vderain.model.checkpoint import load_checkpoint
from vderain.model.released import DROPS_MODEL, weights_file
from vderain.options import Options, needs_network
from vderain.restore.compare import compare
from vderain.restore.derain import Derainer
from vderain.restore.device import choose_place, cores, side_by_side
from vderain.restore.gate import Gate, by_gate
from vderain.restore.guard import guard
from vderain.restore.parallel import StageClock, ordered_map
from vderain.restore.picture import looked_at_again
from vderain.restore.spells import Spell, by_spell, spells, survey
from vderain.restore.steady import steady
from vderain.restore.temporal import RADIUS, Derained, sights, still, windows_of
from vderain.restore.wiper import Wiper, enlarged
from vderain.video.clip import Reader
from vderain.video.colour import add_residual
from vderain.video.frame import Frame


@dataclass(frozen=True, slots=True)
class Loaded:
    """Generators at their place, ready for as many files as come; no wiper where drops are not looked for."""

    name: str
    derainer: Derainer
    wiper: Wiper | None


def load(options: Options) -> Loaded | None:
    """What `process` needs of a model; None where these options need no network, though they name one that is there.

    Raises:
        CheckpointError: there is no such model, or it is unusable.
        DeviceError: the device asked for is not there.
    """
    place = choose_place(options.device, options.precision)
    if not needs_network(options):
        weights_file(options.model)
        return None
    checkpoint = load_checkpoint(options.model)
    wiper = Wiper(Derainer(load_checkpoint(DROPS_MODEL).generator, place), options.guard) if options.drops else None
    return Loaded(checkpoint.name, Derainer(checkpoint.generator, place, options.batch_size), wiper)


@dataclass(frozen=True, slots=True)
class Done:
    """A frame as decoded, less its rain, and as it is to be written; dry where it was left as it was for that."""

    before: Frame
    after: Frame
    shown: Frame
    dry: bool = False


class Restorer:
    """Frames to frames less rain, by the options.

    Args:
        options: the user's choices.
        clock: is told what each stage takes.
        loaded: what `load` returned for these options.

    Attributes:
        model: name of the generator, or None where none runs.
        device: where it runs, in words, or "-".
    """

    def __init__(self, options: Options, clock: StageClock, loaded: Loaded | None) -> None:
        self.options, self.clock = options, clock
        self.model = loaded.name if loaded else None
        self.device = str(loaded.derainer.place) if loaded else "-"
        self.derain = loaded.derainer if loaded else None
        self.wipe = loaded.wiper if loaded else None

    def __call__(
        self, frames: Iterator[Frame], turns: int, frame_px: int, weather: list[Spell] | None, first: int
    ) -> Iterator[Done]:
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
            for rainy, spell in by_spell(frames, weather, first):
                dry = (self._finish(frame, frame, turns, dry=True) for frame in spell)
                yield from self._restored(spell, turns, frame_px) if rainy else dry

    def _restored(self, frames: Iterator[Frame], turns: int, frame_px: int) -> Iterator[Done]:
        options, timed = self.options, self.clock.timed
        workers = min(side_by_side(frame_px), options.batch_size or cores())
        alone = options.temporal == "off"
        radius = 0 if alone else RADIUS
        clear = sights(frames, workers, turns, timed)
        clear = self.wipe(clear, workers, radius, timed) if self.wipe else clear
        if alone:
            seen = ordered_map(timed("align", still), clear, workers)
        else:
            seen = windows_of(clear, workers, timed, keep_motions=options.temporal == "light")
        if self.derain is None:
            derained = ordered_map(timed("gate", partial(by_gate, gate=Gate())), seen, workers)
        else:
            derained = self.derain(seen, timed)
            if options.guard:
                derained = guard(derained, radius, timed=timed)
            if not alone:
                again = partial(looked_at_again, derainer=self.derain, guarded=options.guard)
                derained = map(timed("network", again), derained)
                derained = steady(derained, options.temporal == "strong", workers, timed)
        return ordered_map(timed("add", partial(self._add, turns=turns)), derained, workers)

    def _add(self, derained: Derained, turns: int) -> Done:
        sight = derained.window.sight
        residual = derained.residual.astype(np.float32)
        if sight.wiped is not None:
            residual += enlarged(sight.wiped, *residual.shape[:2])
        residual *= np.float32(self.options.strength)
        residual = np.rot90(residual, -turns)
        dry = derained.presence == 0 and sight.wet == 0
        return self._finish(sight.frame, add_residual(sight.frame, residual), turns, dry)

    def _finish(self, before: Frame, after: Frame, turns: int, dry: bool = False) -> Done:
        how = self.options.compare
        return Done(before, after, compare(before, after, how, turns) if how else after, dry)

    def weather(self, reader: Reader, turns: int) -> list[Spell] | None:
        """A first reading of the clip, for when it rains; None where nobody asked, or nothing can tell."""
        if not self.options.auto or self.derain is None:
            return None
        return spells(survey(reader.frames(), self.derain, self.wipe, turns))
