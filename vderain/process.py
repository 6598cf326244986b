"""The main job: decode a file, remove the rain from its frames, and encode them into an output."""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event

import cv2

from vderain import __version__
from vderain.errors import UsageError
from vderain.media.clip import FrameSink, FrameSource, Progress, check_name, check_source, open_sink, open_source
from vderain.media.decode.reader import VideoReader
from vderain.media.encode import SEGMENT_FRAMES
from vderain.media.encode.segments import SegmentStore
from vderain.media.frame import Frame
from vderain.media.gps import gpx_file, read_fixes
from vderain.media.image.sequence import is_image_source
from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX
from vderain.options import Options, settings, weights
from vderain.pipeline import LoadedModels, Pipeline, RestoredFrame, load_models
from vderain.restore.frames import RADIUS
from vderain.restore.rain_intervals import RainInterval
from vderain.runtime.device import configure_malloc, trim_memory
from vderain.runtime.files import fingerprint
from vderain.runtime.threads import measure_stages, prefetch, until_stopped

__all__ = ["LoadedModels", "OnFrame", "Options", "Progress", "Result", "default_target", "load_models", "process"]

log = logging.getLogger(__name__)

TRIM_EVERY = 8  # frames
CONTEXT = 4 * RADIUS  # frames on each side that a result depends on, through all stages of the pipeline
AHEAD = 4  # frames decoded before, and restored frames waiting for, the slower side

OnFrame = Callable[[Frame, Frame, int], None]  # frame as decoded, frame without rain, quarter turns to show it


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was done to one file.

    Attributes:
        source, target: files or folders.
        frames: written.
        repeated: lost frames that were concealed with a neighbouring frame.
        missing: frames that a truncated or overwritten file does not have, and that were not concealed.
        dry: frames that were left as they are because it does not rain in them.
        damage: descriptions of what is damaged in the source.
        kept: names of the streams and metadata that were copied.
        dropped: names of what the output cannot hold.
        changed: descriptions of what is there in another form.
        gpx: the file with the camera's GPS track, or None if none was written.
        model: name of the generator, or None if none ran.
        device: description of the device it ran on, or "-".
        seconds: wall-clock time.
        rain_intervals: rainy and dry intervals, if `Options.auto` looked for them.
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
    rain_intervals: tuple[RainInterval, ...] = ()
    stages_s: dict[str, float] = field(default_factory=dict)


def process(
    source: Path,
    target: Path | None = None,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    loaded: LoadedModels | None = None,
    on_frame: OnFrame = lambda before, after, rotation_quarters: None,
    resume: Path | None = None,
    segment_frames: int = SEGMENT_FRAMES,
) -> Result:
    """Remove the rain from one video, image, or folder of numbered images.

    Args:
        source: what to read.
        target: what to write; `default_target` if None.
        options: the user's choices.
        on_progress: called after every frame that was written.
        loaded: what `load_models` returned for these options; loaded here if None.
        on_frame: called with every frame before and after restoration, in order.
        resume: a file that keeps the encoded segments of a video longer than one segment. If it has some of the same
            input and options, the work continues after them. It is not removed; that is up to the caller.
        segment_frames: length of a segment.

    Returns:
        What was done.

    Raises:
        VderainError: whatever goes wrong; nothing is left under the target's name then.
    """
    started_s, cpu_s = time.monotonic(), time.process_time()
    options = options or Options()
    target = _checked_target(source, target, options)
    _configure_runtime()
    pipeline = Pipeline(options, loaded or load_models(options))
    with (
        measure_stages() as stages_s,
        _open_source(source, options) as reader,
        _open_store(resume, reader, target, options, pipeline.device, segment_frames) as store,
        ExitStack() as work,  # closed after the sink, so that an unfinished file is removed at once
        _gps_track(target, reader, options) as gpx,
        _open_sink(target, reader, options, store) as sink,
    ):
        intervals = pipeline.find_rain(reader.frames(), reader.rotation_quarters)
        restored = work.enter_context(closing(_restore(pipeline, reader, intervals, store, on_frame)))
        tally = _Tally(reader, store)
        for frame in restored:
            sink.write(frame.shown)
            on_progress(tally.count(frame))
    stages_s["video"] = max(0.0, time.process_time() - cpu_s - sum(stages_s.values()))
    return Result(
        source=source, target=target, gpx=gpx, frames=tally.frames, dry=tally.dry,
        repeated=reader.report.repeated, missing=reader.report.missing, damage=reader.report.damage,
        kept=sink.report.kept, dropped=sink.report.dropped, changed=(*reader.report.changed, *sink.report.changed),
        model=pipeline.model, device=pipeline.device, seconds=time.monotonic() - started_s,
        rain_intervals=tuple(intervals or ()), stages_s=stages_s,
    )  # fmt: skip


def default_target(source: Path, container: str | None = None) -> Path:
    """The name of the output if none is given: ``name.derained.ext`` beside the source, ``name.derained`` for a folder.

    Args:
        source: the input.
        container: suffix of the output without its dot; None takes the source's own, or mp4 if that cannot be written.

    Raises:
        UsageError: the source is the root of a file system, which has nothing beside it.
    """
    if source.name in ("", ".."):  # the current folder, or the one above
        source = source.resolve()
    if not source.name:
        raise UsageError(f"there is no place beside {source} for the output.", "Name the output with -o.")
    if not source.is_file():
        return source.with_name(f"{source.name}.derained")
    writable = is_image_source(source) or source.suffix.lower() in CONTAINERS
    suffix = f".{container}" if container else source.suffix if writable else DEFAULT_SUFFIX
    return source.with_name(f"{source.stem}.derained{suffix}")


def _checked_target(source: Path, target: Path | None, options: Options) -> Path:
    """The name of the output, after all checks that need no file to be opened."""
    check_source(source)
    container = options.container
    if container is not None and is_image_source(source):
        raise UsageError(f"--container only applies to video, and {source} is not one.", "Leave it out.")
    if container is not None and target is not None and target.suffix.lower() != f".{container}":
        raise UsageError(f"{target} is not the name of a {container} file.", "Leave out --container, or change -o.")
    target = target or default_target(source, container)
    check_name(target, source, options.overwrite)
    return target


def _configure_runtime() -> None:
    cv2.setNumThreads(1)  # whole frames are processed in parallel instead
    configure_malloc()


def _open_source(source: Path, options: Options) -> FrameSource:
    return open_source(
        source,
        strict=options.strict,
        start_s=options.start_s,
        duration_s=options.duration_s,
        rate=options.rate,
    )


def _open_store(
    path: Path | None,
    reader: FrameSource,
    target: Path,
    options: Options,
    device: str,
    segment_frames: int,
) -> AbstractContextManager[SegmentStore | None]:
    """The store of encoded segments; None if it was not asked for, or the video is not longer than one segment."""
    if path is None or is_image_source(reader.path):
        return nullcontext()
    if reader.frames_estimate is not None and reader.frames_estimate <= segment_frames:
        return nullcontext()
    facts = (fingerprint(reader.path), settings(options), weights(options), device, target.suffix.lower(), __version__)
    return SegmentStore(path, repr(facts), segment_frames)


@contextmanager
def _gps_track(target: Path, reader: FrameSource, options: Options) -> Iterator[Path | None]:
    """Writes the GPS track of a video; it gets its name when the video has been written."""
    if not options.gpx or not isinstance(reader, VideoReader):
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


def _open_sink(target: Path, reader: FrameSource, options: Options, store: SegmentStore | None) -> FrameSink:
    width_px, height_px = reader.size_px
    if options.compare == "side":  # side by side as shown: stored below each other if the video is rotated
        rotated = reader.rotation_quarters % 2
        width_px, height_px = (width_px, 2 * height_px) if rotated else (2 * width_px, height_px)
    return open_sink(target, reader, options.encode, (width_px, height_px), store)


def _restore(
    pipeline: Pipeline,
    reader: FrameSource,
    intervals: list[RainInterval] | None,
    store: SegmentStore | None,
    on_frame: OnFrame,
) -> Generator[RestoredFrame, None, None]:
    """Decodes and restores the frames that are not in the store; each of the two in a thread of its own."""
    first = max(0, store.frames - CONTEXT) if store else 0  # the frames before those that are missing are context
    width_px, height_px = reader.size_px
    turns, stop = reader.rotation_quarters, Event()
    decoded = until_stopped(stop, prefetch(islice(reader.frames(), first, None), AHEAD))
    restored = prefetch(pipeline(decoded, turns, width_px * height_px, intervals, first), AHEAD, stop)
    with closing(restored):
        shown = _reported(restored, on_frame, turns)
        yield from store.remaining(shown, first) if store else shown


def _reported(restored: Iterator[RestoredFrame], on_frame: OnFrame, turns: int) -> Iterator[RestoredFrame]:
    """Calls `on_frame` for each frame, and returns freed memory to the system from time to time."""
    for number, frame in enumerate(restored, 1):
        on_frame(frame.before, frame.after, turns)
        yield frame
        if number % TRIM_EVERY == 0:
            trim_memory()


class _Tally:
    """Counts the frames that were written, those of an earlier run included."""

    def __init__(self, reader: FrameSource, store: SegmentStore | None) -> None:
        self.frames, self.dry = (store.frames, store.dry) if store else (0, 0)
        self._first_s = store.origin_s if store else None
        self._total_s = reader.duration_s

    def count(self, restored: RestoredFrame) -> Progress:
        """Counts one frame, and tells the progress."""
        frame = restored.shown
        if self._first_s is None:
            self._first_s = frame.pts * frame.time_base
        self.frames += 1
        self.dry += restored.dry
        now_s = float((frame.pts + frame.duration) * frame.time_base)
        return Progress(self.frames, now_s - float(self._first_s), self._total_s)
