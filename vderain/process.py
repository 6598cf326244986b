"""The main job, for one file: decode, derain, smooth, encode. A source enters, a result and a file leave."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event

import cv2

from vderain import __version__
from vderain.errors import UsageError
from vderain.media.clip import (
    Progress,
    Reader,
    Writer,
    check_name,
    check_source,
    create_clip,
    duration_s,
    open_clip,
    quarter_turns,
)
from vderain.media.decode.reader import VideoReader
from vderain.media.encode.options import SEGMENT_FRAMES
from vderain.media.encode.segments import SegmentedWriter, SegmentStore
from vderain.media.fingerprint import fingerprint
from vderain.media.frame import Frame
from vderain.media.gps import gpx_file, read_fixes
from vderain.media.image.sequence import ImageReader, is_image_source
from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX
from vderain.options import Options, settings, weights
from vderain.pipeline import LoadedModels, Pipeline, load_models
from vderain.restore.frames import RADIUS
from vderain.restore.rain_intervals import RainInterval
from vderain.runtime.memory import configure_malloc, trim_memory
from vderain.runtime.profiling import measure_stages
from vderain.runtime.threads import prefetch, until_stopped

__all__ = ["LoadedModels", "Options", "Progress", "Result", "See", "default_target", "load_models", "process"]

log = logging.getLogger(__name__)

TRIM_EVERY = 8  # frames
CONTEXT = 4 * RADIUS  # frames on each side that a result depends on: of wiper, windows, guard, and steadying
AHEAD = 4  # frames decoded before, and restored frames waiting for, the slower side


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Attributes:
        source, target: files or folders.
        frames: written.
        repeated: frames that stood in for damaged ones.
        dry: frames that were left as they are because it does not rain in them.
        missing: frames that are not in a truncated or overwritten file, which nothing stands in for.
        damage: what was broken, in words.
        kept, dropped: what else was copied, and what the container could not hold.
        changed: what is there in another form, in words.
        gpx: the file with the camera's GPS track, or None where none was written.
        model: name of the generator, or None where none ran.
        device: where it ran, in words, or "-".
        seconds: wall-clock time.
        spells: of rain and of dry weather, where `Options.auto` looked for them.
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
    spells: tuple[RainInterval, ...] = ()
    stages_s: dict[str, float] = field(default_factory=dict)


See = Callable[[Frame, Frame, int], None]  # frame as decoded, frame less rain, quarter turns to be shown by


def default_target(source: Path, container: str | None = None) -> Path:
    """``name.derained.ext`` beside the source, ``name.derained`` for a folder.

    The suffix is that of the container asked for, else the source's own, or .mp4 for files that we cannot write.

    Raises:
        UsageError: nothing can be beside the source, which is the root of a file system.
    """
    if source.name in ("", ".."):  # the folder one is in, or the one above
        source = source.resolve()
    if not source.name:
        raise UsageError(f"there is no place beside {source} for the output.", "Name the output with -o.")
    if not source.is_file():
        return source.with_name(f"{source.name}.derained")
    writable = is_image_source(source) or source.suffix.lower() in CONTAINERS
    suffix = f".{container}" if container else source.suffix if writable else DEFAULT_SUFFIX
    return source.with_name(f"{source.stem}.derained{suffix}")


def process(
    source: Path, target: Path | None = None, options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    loaded: LoadedModels | None = None, see: See = lambda before, after, turns: None, resume: Path | None = None,
    segment_frames: int = SEGMENT_FRAMES,
) -> Result:  # fmt: skip
    """Take the rain out of one video, picture or folder of numbered pictures.

    Args:
        source: what to read.
        target: what to write; `default_target` where None.
        options: the user's choices.
        report: is told of progress after every frame.
        loaded: what `load` returned for these options; loaded here where None.
        see: is shown every frame as it was and as it is now, in order.
        resume: a file for the encoded pieces of a video that is longer than one of them. Where it has some of the same
            input and options, the work goes on behind them. It stays, and is the caller's to remove.
        segment_frames: length of such a piece.

    Raises:
        VderainError: whatever goes wrong; nothing is left under the target's name then.
    """
    options = options or Options()
    check_source(source)
    _check_container(source, target, options.container)
    target = target or default_target(source, options.container)
    check_name(target, source, options.overwrite)
    started_s, cpu_s = time.monotonic(), time.process_time()
    cv2.setNumThreads(1)  # frames are worked on side by side
    configure_malloc()
    restorer = Pipeline(options, loaded or load_models(options))
    stop = Event()
    with ExitStack() as stack:
        stages_s = stack.enter_context(measure_stages())
        reader = open_clip(source, options.strict, options.start_s, options.duration_s, options.rate)
        stack.enter_context(reader)
        store = _store(resume, reader, target, options, restorer.device, segment_frames)
        if store is not None:
            stack.enter_context(store)
        kept = store.frames if store is not None else 0
        skipped = max(0, kept - CONTEXT)  # the frames before a joint are looked at, not written
        turns = quarter_turns(reader)
        work = stack.enter_context(ExitStack())  # left after the writer, so that an unfinished file is gone at once
        gpx = stack.enter_context(_track(target, reader, options))
        writer = _create(target, reader, options, store)
        stack.enter_context(writer)  # before any work, for what it refuses
        weather = restorer.find_rain(reader.frames(), turns)
        decoded = until_stopped(stop, prefetch(islice(reader.frames(), skipped, None), AHEAD))
        restored = prefetch(restorer(decoded, turns, _pixels(reader), weather, skipped), AHEAD, stop)
        work.enter_context(closing(restored))
        total_s, frames, dry = duration_s(reader), kept, store.dry if store else 0
        first_s = float(store.origin_s) if store and store.origin_s is not None else None
        for number, done in enumerate(restored, skipped):
            frame = done.shown
            see(done.before, done.after, turns)
            if number < kept:
                continue
            if isinstance(writer, SegmentedWriter):
                writer.write(frame, done.dry)
            else:
                writer.write(frame)
            frames, dry = frames + 1, dry + done.dry
            if frames % TRIM_EVERY == 0:
                trim_memory()
            now_s = float((frame.pts + frame.duration) * frame.time_base)
            first_s = float(frame.pts * frame.time_base) if first_s is None else first_s
            report(Progress(frames, now_s - first_s, total_s))
    damage = reader.damage if isinstance(reader, VideoReader) else None
    stages_s["video"] = max(0.0, time.process_time() - cpu_s - sum(stages_s.values()))
    return Result(
        source, target, frames, damage.frames if damage else 0, damage.missing if damage else 0, dry,
        tuple(damage.events) if damage else (),
        tuple(getattr(writer, "kept", ())), tuple(getattr(writer, "dropped", ())),
        (*getattr(reader, "changed", ()), *getattr(writer, "changed", ())), gpx, restorer.model, restorer.device,
        time.monotonic() - started_s, tuple(weather or ()), stages_s,
    )  # fmt: skip


def _check_container(source: Path, target: Path | None, container: str | None) -> None:
    if container is None:
        return
    if is_image_source(source):
        raise UsageError(f"{source} is no video, so --container has no part in it.", "Leave it out.")
    if target is not None and target.suffix.lower() != f".{container}":
        raise UsageError(f"{target} is not the name of a {container} file.", "Leave out --container, or change -o.")


@contextmanager
def _track(target: Path, reader: Reader, options: Options) -> Iterator[Path | None]:
    """The GPS track of a video, which takes its name when the video has been written."""
    if not options.gpx or isinstance(reader, ImageReader):
        yield None
        return
    gpx = target.with_suffix(".gpx")
    check_name(gpx, reader.path, options.overwrite)
    end_s = None if options.duration_s is None else (options.start_s or 0) + options.duration_s
    fixes = read_fixes(reader.media, options.start_s, end_s)
    if not fixes:
        log.warning("'%s' has no GPS track that can be read: no .gpx was written.", reader.path.name)
        yield None
        return
    with gpx_file(gpx, fixes, reader.path.stem):
        yield gpx


def _store(
    resume: Path | None, reader: Reader, target: Path, options: Options, device: str, segment_frames: int
) -> SegmentStore | None:
    """Where pieces are kept; None where nobody wants them, or the whole is not longer than one."""
    if resume is None or isinstance(reader, ImageReader):
        return None
    if reader.info.frames_estimate is not None and reader.info.frames_estimate <= segment_frames:
        return None
    facts = (fingerprint(reader.path), settings(options), weights(options), device, target.suffix.lower(), __version__)
    return SegmentStore(resume, repr(facts), segment_frames)


def _create(target: Path, reader: Reader, options: Options, store: SegmentStore | None) -> Writer:
    if isinstance(reader, ImageReader):
        return create_clip(target, reader, options.encode)
    width_px, height_px = reader.info.width_px, reader.info.height_px
    if options.compare == "side":  # beside each other as shown: a clip on its side grows upwards as stored
        width_px, height_px = (width_px, 2 * height_px) if quarter_turns(reader) % 2 else (2 * width_px, height_px)
    if store is not None:
        return SegmentedWriter(target, reader, options.encode, (width_px, height_px), store)
    return create_clip(target, reader, options.encode, (width_px, height_px))


def _pixels(reader: Reader) -> int:
    size = reader if isinstance(reader, ImageReader) else reader.info
    return size.width_px * size.height_px
