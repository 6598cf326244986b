"""The main job, for one file: decode, derain, smooth, encode. A source enters, a result and a file leave."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Event

import cv2
import numpy as np

from vderain.errors import UsageError
from vderain.model.checkpoint import DEFAULT_MODEL, load_checkpoint
from vderain.restore.compare import COMPARISONS, Comparison, compare
from vderain.restore.derain import Derainer
from vderain.restore.device import choose_place, cores, side_by_side
from vderain.restore.gate import Gate, by_gate
from vderain.restore.guard import guard
from vderain.restore.parallel import StageClock, give_back_memory, ordered_map, prefetch, tame_allocator, unless
from vderain.restore.steady import steady
from vderain.restore.temporal import RADIUS, TEMPORAL_MODES, Derained, Temporal, alone, windows
from vderain.video.clip import (
    Progress,
    Reader,
    Writer,
    check_name,
    check_source,
    duration_s,
    open_clip,
    quarter_turns,
)
from vderain.video.colour import add_residual
from vderain.video.encoders import EncodeOptions
from vderain.video.frame import Frame
from vderain.video.gps import gpx_file, read_fixes
from vderain.video.pictures import PictureReader, PictureWriter, is_pictures
from vderain.video.reader import VideoReader
from vderain.video.streams import CONTAINERS, DEFAULT_SUFFIX
from vderain.video.writer import VideoWriter

__all__ = ["Options", "Progress", "Result", "default_target", "process"]

log = logging.getLogger(__name__)

TRIM_EVERY = 8  # frames
AHEAD = 4  # frames decoded before, and restored frames waiting for, the slower side


@dataclass(frozen=True, slots=True)
class Options:
    """What the user can choose; the single home of these defaults.

    Attributes:
        model: name of a released generator, or a file of weights.
        strength: factor on everything that is added to a frame; 0 leaves every code value as it is.
        temporal: ``off`` looks at each frame alone; ``light`` lets the network see aligned neighbours and steadies its
            result along the same motion; ``strong`` looks for motion again in that result, which rain no longer
            hides, and steadies along that; ``only`` takes for rain what the neighbours show, without a network.
        device, precision: see `restore.device`.
        batch_size: frames at once; None fits it to memory.
        encode: codec and quality of a video.
        start_s, duration_s: the part to process, in seconds; None is the beginning, or the rest.
        rate: frames a second of a folder of pictures.
        guard: leave frames of dry scenes as they are, to the bit; see `restore.guard`.
        gpx: write the camera's GPS track beside the video, as ``.gpx``.
        container: file suffix of the output without its dot; must be that of the target, where one is given.
        compare: ``side`` or ``split`` shows before and after in one picture.
        overwrite: replace an output that exists.
        strict: stop at damage in the input instead of bridging it, and at interlaced pictures.
    """

    model: str = DEFAULT_MODEL
    strength: float = 1.0
    temporal: Temporal = "strong"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    start_s: float | None = None
    duration_s: float | None = None
    rate: Fraction = Fraction(30)
    guard: bool = True
    gpx: bool = False
    container: str | None = None
    compare: Comparison | None = None
    overwrite: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 2:
            raise UsageError(f"strength {self.strength:g} is out of range.", "Give a number from 0 to 2.")
        if self.temporal not in TEMPORAL_MODES:
            raise UsageError(f"there is no temporal mode {self.temporal!r}.", f"Choose {', '.join(TEMPORAL_MODES)}.")
        if self.compare is not None and self.compare not in COMPARISONS:
            raise UsageError(f"there is no comparison {self.compare!r}.", f"Choose {' or '.join(COMPARISONS)}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is out of range.", "Give 1 or more.")
        if self.start_s is not None and not 0 <= self.start_s < math.inf:
            raise UsageError(f"start {self.start_s:g} is out of range.", "Give seconds from the beginning.")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"duration {self.duration_s:g} is out of range.", "Give the number of seconds to process.")
        if self.encode.crf is not None and not 0 <= self.encode.crf <= 63:
            raise UsageError(f"crf {self.encode.crf:g} is out of range.", "Give 0 to 51, for av1 and vp9 up to 63.")
        if self.container is not None and f".{self.container}" not in CONTAINERS:
            known = ", ".join(suffix[1:] for suffix in CONTAINERS)
            raise UsageError(f"there is no container {self.container!r}.", f"Choose one of {known}.")
        if self.rate <= 0:
            raise UsageError("a rate must be above 0.", "Give frames per second, such as 30 or 30000/1001.")


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Attributes:
        source, target: files or folders.
        frames: written.
        repeated: frames that stood in for damaged ones.
        dry: frames that were left as they are because it does not rain in them.
        missing: frames beyond the end of a truncated file, which nothing stands in for.
        damage: what was broken, in words.
        kept, dropped: what else was copied, and what the container could not hold.
        changed: what is there in another form, in words.
        gpx: the file with the camera's GPS track, or None where none was written.
        model: name of the generator, or None where none ran.
        device: where it ran, in words, or "-".
        seconds: wall-clock time.
        stages_s: processor seconds of each stage.
    """

    source: Path
    target: Path
    frames: int
    repeated: int
    missing: int
    dry: int
    damage: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    changed: tuple[str, ...]
    gpx: Path | None
    model: str | None
    device: str
    seconds: float
    stages_s: dict[str, float] = field(default_factory=dict)


def default_target(source: Path, container: str | None = None) -> Path:
    """``name.derained.ext`` beside the source, ``name.derained`` for a folder.

    The suffix is that of the container asked for, else the source's own, or .mp4 for files that we cannot write.
    """
    if source.name in ("", ".."):  # the folder one is in, or the one above
        source = source.resolve()
    if not source.is_file():
        return source.with_name(f"{source.name}.derained")
    writable = is_pictures(source) or source.suffix.lower() in CONTAINERS
    suffix = f".{container}" if container else source.suffix if writable else DEFAULT_SUFFIX
    return source.with_name(f"{source.stem}.derained{suffix}")


def process(
    source: Path, target: Path | None = None, options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Result:  # fmt: skip
    """Take the rain out of one video, picture or folder of numbered pictures.

    Args:
        source: what to read.
        target: what to write; `default_target` where None.
        options: the user's choices.
        report: is told of progress after every frame.

    Raises:
        VderainError: whatever goes wrong; nothing is left under the target's name then.
    """
    options = options or Options()
    check_source(source)
    _check_container(source, target, options.container)
    target = target or default_target(source, options.container)
    check_name(target, source, options.overwrite)
    started_s, cpu_s = time.monotonic(), time.process_time()
    reader: Reader
    writer: Writer
    cv2.setNumThreads(1)  # frames are worked on side by side
    tame_allocator()
    clock = StageClock()
    restorer = _Restorer(options, clock)
    stop = Event()
    with ExitStack() as stack:
        reader = _open(source, options)
        stack.enter_context(reader)
        single = isinstance(reader, PictureReader) and reader.count == 1
        decoded = unless(stop, prefetch(reader.frames(), AHEAD))
        restored = prefetch(restorer(decoded, quarter_turns(reader), single, _pixels(reader)), AHEAD, stop)
        stack.enter_context(closing(restored))  # left after the writer, so that an unfinished file is gone at once
        gpx = stack.enter_context(_track(target, reader, options))
        writer = _create(target, reader, options)
        stack.enter_context(writer)
        total_s, first_s, frames = duration_s(reader), None, 0
        for frame in restored:
            writer.write(frame)
            frames += 1
            if frames % TRIM_EVERY == 0:
                give_back_memory()
            now_s = float((frame.pts + frame.duration) * frame.time_base)
            first_s = float(frame.pts * frame.time_base) if first_s is None else first_s
            report(Progress(frames, now_s - first_s, total_s))
    damage = reader.damage if isinstance(reader, VideoReader) else None
    stages_s = clock.seconds
    stages_s["video"] = max(0.0, time.process_time() - cpu_s - sum(stages_s.values()))
    return Result(
        source, target, frames, damage.frames if damage else 0, damage.missing if damage else 0, restorer.dry,
        tuple(damage.events) if damage else (),
        tuple(getattr(writer, "kept", ())), tuple(getattr(writer, "dropped", ())),
        (*getattr(reader, "changed", ()), *getattr(writer, "changed", ())), gpx, restorer.model, restorer.device,
        time.monotonic() - started_s, stages_s,
    )  # fmt: skip


class _Restorer:
    """Frames to frames less rain, by the options."""

    def __init__(self, options: Options, clock: StageClock) -> None:
        self.options, self.clock = options, clock
        self.model, self.device, self.dry, self._derain = None, "-", 0, None
        if options.temporal == "only" or options.strength == 0:
            return
        checkpoint = load_checkpoint(options.model)
        place = choose_place(options.device, options.precision)
        self.model, self.device = checkpoint.name, str(place)
        self._derain = Derainer(checkpoint.generator, place, options.batch_size)

    def __call__(self, frames: Iterator[Frame], turns: int, single: bool, frame_px: int) -> Iterator[Frame]:
        options, timed = self.options, self.clock.timed
        if options.strength == 0:
            return map(partial(self._finish, turns=turns), ((frame, frame) for frame in frames))
        workers = min(side_by_side(frame_px), options.batch_size or cores())
        still = options.temporal == "off" or single
        if still:
            seen = ordered_map(timed("align", partial(alone, turns=turns)), frames, workers)
        else:
            seen = windows(frames, workers, turns, timed, keep_motions=options.temporal == "light")
        if self._derain is None:
            derained = ordered_map(timed("gate", partial(by_gate, gate=Gate())), seen, workers)
        else:
            derained = self._derain(seen, timed)
            if options.guard:
                derained = guard(derained, 0 if still else RADIUS, self._note, timed)
            derained = derained if still else steady(derained, options.temporal == "strong", workers, timed)
        return ordered_map(timed("add", partial(self._add, turns=turns)), derained, workers)

    def _note(self, presence: float) -> None:
        self.dry += presence == 0

    def _add(self, derained: Derained, turns: int) -> Frame:
        frame = derained.window.sight.frame
        residual = np.rot90(derained.residual, -turns).astype(np.float32) * np.float32(self.options.strength)
        return self._finish((frame, add_residual(frame, residual)), turns)

    def _finish(self, pair: tuple[Frame, Frame], turns: int) -> Frame:
        before, after = pair
        return compare(before, after, self.options.compare, turns) if self.options.compare else after


def _open(source: Path, options: Options) -> Reader:
    return open_clip(source, options.strict, options.start_s, options.duration_s, options.rate)


def _check_container(source: Path, target: Path | None, container: str | None) -> None:
    if container is None:
        return
    if is_pictures(source):
        raise UsageError(f"{source} is no video, so --container has no part in it.", "Leave it out.")
    if target is not None and target.suffix.lower() != f".{container}":
        raise UsageError(f"{target} is not the name of a {container} file.", "Leave out --container, or change -o.")


@contextmanager
def _track(target: Path, reader: Reader, options: Options) -> Iterator[Path | None]:
    """The GPS track of a video, which takes its name when the video has been written."""
    if not options.gpx or isinstance(reader, PictureReader):
        yield None
        return
    gpx = target.with_suffix(".gpx")
    check_name(gpx, reader.path, options.overwrite)
    end_s = None if options.duration_s is None else (options.start_s or 0) + options.duration_s
    fixes = read_fixes(reader.path, options.start_s, end_s)
    if not fixes:
        log.warning("'%s' has no GPS track that can be read: no .gpx was written.", reader.path.name)
        yield None
        return
    with gpx_file(gpx, fixes, reader.path.stem):
        yield gpx


def _create(target: Path, reader: Reader, options: Options) -> Writer:
    if isinstance(reader, PictureReader):
        return PictureWriter(target, reader)
    width_px, height_px = reader.info.width_px, reader.info.height_px
    if options.compare == "side":  # beside each other as shown: a clip on its side grows upwards as stored
        width_px, height_px = (width_px, 2 * height_px) if quarter_turns(reader) % 2 else (2 * width_px, height_px)
    return VideoWriter(target, reader, options.encode, (width_px, height_px))


def _pixels(reader: Reader) -> int:
    size = reader if isinstance(reader, PictureReader) else reader.info
    return size.width_px * size.height_px
