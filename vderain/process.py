"""The main job: decode a file, remove the rain from its frames, and encode them into an output."""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from threading import Event

import cv2

from vderain import __version__
from vderain.errors import DamageError, UsageError
from vderain.media.clip import FrameSink, FrameSource, Progress, check_name, check_source, open_sink, open_source
from vderain.media.decode.reader import VideoReader
from vderain.media.encode import SEGMENT_FRAMES, EncodeOptions
from vderain.media.encode.segments import SegmentStore
from vderain.media.frame import Frame, SinkReport, SourceReport
from vderain.media.gps import gpx_file, read_fixes
from vderain.media.image.sequence import is_image_source
from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX
from vderain.options import DryAction, Options, settings, weights
from vderain.pipeline import LoadedModels, Pipeline, RestoredFrame, load_models
from vderain.restore import quick_look
from vderain.restore.frames import RADIUS
from vderain.restore.quick_look import QuickLook
from vderain.restore.rain_intervals import RainInterval, dry_frames
from vderain.restore.raindrops import EVERY
from vderain.restore.scene_state import MEMORY
from vderain.restore.temporal_filter import STILL_RADIUS
from vderain.runtime.copies import copy_file
from vderain.runtime.device import configure_malloc, trim_memory
from vderain.runtime.files import Draft, fingerprint
from vderain.runtime.threads import measure_stages, prefetch, until_stopped

__all__ = [
    "Hooks", "LoadedModels", "Options", "Progress", "Result", "default_target", "is_clearly_dry", "load_models",
    "may_stay_untouched", "process",
]  # fmt: skip

log = logging.getLogger(__name__)

TRIM_EVERY = 8  # frames
# Frames on each side that a result depends on, through all stages of the pipeline that have no memory.
CONTEXT = 4 * RADIUS + STILL_RADIUS + 2 * MEMORY + EVERY
AHEAD = 4  # frames decoded before, and restored frames waiting for, the slower side

OnFrame = Callable[[Frame, Frame, int], None]  # frame as decoded, frame without rain, quarter turns to show it
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Rarely used arguments of `process`, for callers that process many files or resume.

    Attributes:
        models: what `load_models` returned for the same options; None loads them.
        on_frame: called with every frame before and after restoration, in order.
        segments: a file that keeps the encoded segments of a video longer than one segment. If it has some of the same
            input and options, the work continues after them. The caller removes it.
        segment_frames: length of a segment.
    """

    models: LoadedModels | None = None
    on_frame: OnFrame = lambda before, after, rotation_quarters: None
    segments: Path | None = None
    segment_frames: int = SEGMENT_FRAMES


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
        untouched: what became of a dry file, see `Options.dry`; None where a file was restored. Its `frames` are an
            estimate, because they were not decoded, and its target does not exist where it was skipped.
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
    untouched: DryAction | None = None


def process(
    source: Path,
    target: Path | None = None,
    options: Options | None = None,
    on_progress: OnProgress = lambda progress: None,
    hooks: Hooks | None = None,
) -> Result:
    """Remove the rain from one video, image, or folder of numbered images.

    Args:
        source: what to read.
        target: what to write; `default_target` if None.
        options: the user's choices.
        on_progress: called after every frame that was written.
        hooks: loaded models, a callback for frames, and segments to resume from.

    Raises:
        VderainError: whatever goes wrong; nothing is left under the target's name then.
    """
    job = _Job(source, target, options or Options(), hooks or Hooks())
    with measure_stages() as stages_s, job.open_source() as reader:
        if job.stays_untouched(reader):
            return job.leave_untouched(reader, on_progress, stages_s)
        with (
            job.open_store(reader) as store,
            closing(job.restore(reader, store)) as restored,  # after the sink, which removes an unfinished file at once
            job.open_gps_track(reader) as gpx,
            job.open_sink(reader, store) as sink,
        ):
            for frame in restored:
                sink.write(frame.shown)
                on_progress(job.count(frame, reader))
    return job.result(reader, sink.report, gpx, stages_s)


def may_stay_untouched(source: Path, target: Path, options: Options) -> bool:
    """Whether the result for a file is nothing, or the file itself, if it turns out to be dry.

    Args:
        source: the file.
        target: its output.
        options: the user's choices.
    """
    same_kind = source.suffix.lower() == target.suffix.lower()
    return options.auto and (options.dry == "skip" or (_keeps_dry_parts(options) and same_kind))


def _keeps_dry_parts(options: Options) -> bool:
    """Whether what is dry can be written as it is stored, because neither a part nor another encoding is wanted."""
    is_whole = options.start_s is None and options.duration_s is None
    return is_whole and replace(options.encode, fast_preset=False) == EncodeOptions() and options.compare is None


def is_clearly_dry(reader: FrameSource, look: QuickLook | None) -> bool:
    """Whether a few small keyframes show that it does not rain in a sound video.

    Damage is counted while frames are decoded. So a video that is known to be damaged is not clearly dry, and none is
    where damage is an error.

    Args:
        reader: an open source.
        look: of `LoadedModels`.
    """
    if look is None or not isinstance(reader, VideoReader) or reader.strict:
        return False
    groups = reader.keyframe_groups(quick_look.FRAMES, quick_look.EVERY_S, quick_look.LINES_PX)
    try:
        with closing(groups):
            return look.is_dry(groups, reader.rotation_quarters, *reader.part_s)
    except DamageError:
        return False


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


class _Job:
    """One call of `process`: its arguments, the parts that it opens, and what it has counted so far."""

    def __init__(self, source: Path, target: Path | None, options: Options, hooks: Hooks) -> None:
        self._started_s, self._started_cpu_s = time.monotonic(), time.process_time()
        self._source, self._options, self._hooks = source, options, hooks
        self._target = _checked_target(source, target, options)
        self._draft = Draft(self._target, options.overwrite, source)
        cv2.setNumThreads(1)  # whole frames are processed in parallel instead
        configure_malloc()
        self._pipeline = Pipeline(options, hooks.models or load_models(options))
        self._intervals: list[RainInterval] | None = None
        self._clearly_dry = False
        self._unchanged: list[range] = []
        self._frames, self._dry = 0, 0
        self._first_s: Fraction | None = None

    def open_source(self) -> FrameSource:
        """The frames to restore; not yet entered."""
        options = self._options
        return open_source(
            self._source,
            strict=options.strict,
            start_s=options.start_s,
            duration_s=options.duration_s,
            rate=options.rate,
        )

    def stays_untouched(self, reader: FrameSource) -> bool:
        """Whether the file is dry, and its output can be the file itself; looks for rain first where that matters."""
        options = self._options
        if reader.media is None or not options.auto or not (options.dry == "skip" or _keeps_dry_parts(options)):
            return False
        self._intervals = self._find_rain(reader)
        if self._intervals is None or any(interval.rainy for interval in self._intervals):
            return False
        # No rain was found, but it is not clear that there is none: the result is the file itself rather than nothing.
        return may_stay_untouched(self._source, self._target, replace(options, dry=self._dry_action))

    @property
    def _dry_action(self) -> DryAction:
        return "copy" if self._options.dry == "skip" and not self._clearly_dry else self._options.dry

    def _find_rain(self, reader: FrameSource) -> list[RainInterval] | None:
        """Rainy and dry intervals of the source; None where they are not asked for."""
        self._clearly_dry = is_clearly_dry(reader, self._pipeline.quick_look)
        if self._clearly_dry:
            return [RainInterval(first=0, begin_s=0.0, rainy=False, rain_score=0.0)]
        if not self._options.auto:
            return None
        found = self._pipeline.find_rain(*self._pipeline.upright(reader.frames(), reader.rotation_quarters))
        if found is not None and reader.report == SourceReport() and _keeps_dry_parts(self._options):
            self._unchanged = dry_frames(found)
        return found

    def leave_untouched(self, reader: FrameSource, on_progress: OnProgress, stages_s: dict[str, float]) -> Result:
        """Copy, link or skip a dry file.

        Args:
            reader: the source.
            on_progress: called once, at the end.
            stages_s: processor seconds of each stage.
        """
        action = self._dry_action
        self._frames = self._dry = reader.frames_estimate or 0
        gpx = None
        if action != "skip":
            with self.open_gps_track(reader) as gpx:
                copy_file(self._source, self._draft, share=action == "link")
        duration_s = reader.duration_s or 0.0
        on_progress(Progress(self._frames, duration_s, duration_s))
        return replace(self.result(reader, SinkReport(), gpx, stages_s), untouched=action)

    @contextmanager
    def open_store(self, reader: FrameSource) -> Iterator[SegmentStore | None]:
        """The encoded segments; None where they are not kept, or the video is not longer than one segment."""
        path, length, options = self._hooks.segments, self._hooks.segment_frames, self._options
        estimate = reader.frames_estimate
        if path is None or reader.media is None or (estimate is not None and estimate <= length):
            yield None
            return
        facts = (
            fingerprint(reader.path), settings(options), weights(options), self._pipeline.device,
            self._target.suffix.lower(), __version__,
        )  # fmt: skip
        with self._draft:
            self._draft.create()  # before the store, so that a second run does not touch that of the first
            with SegmentStore(path, repr(facts), length) as store:
                self._frames, self._dry, self._first_s = store.frames, store.dry, store.origin_s
                yield store

    def restore(self, reader: FrameSource, store: SegmentStore | None) -> Generator[RestoredFrame, None, None]:
        """Decode and restore the frames that are not in the store; each of the two in a thread of its own."""
        first = self._pipeline.context_begins(store.frames - CONTEXT) if store else 0
        (width_px, height_px), turns, stop = reader.size_px, reader.rotation_quarters, Event()
        if self._intervals is None:
            self._intervals = self._find_rain(reader)
        frames, rain_turns = self._pipeline.upright(reader.frames(), turns)
        decoded = until_stopped(stop, prefetch(islice(frames, first, None), AHEAD))
        restored = self._pipeline(decoded, turns, width_px * height_px, self._intervals, first, rain_turns)
        with closing(prefetch(restored, AHEAD, stop)) as ahead:
            shown = self._report(ahead, turns)
            yield from store.remaining(shown, first) if store else shown

    def _report(self, restored: Iterator[RestoredFrame], turns: int) -> Iterator[RestoredFrame]:
        """Call the hook for each frame, and return freed memory to the system from time to time."""
        for number, frame in enumerate(restored, 1):
            self._hooks.on_frame(frame.before, frame.after, turns)
            yield frame
            if number % TRIM_EVERY == 0:
                trim_memory()

    @contextmanager
    def open_gps_track(self, reader: FrameSource) -> Iterator[Path | None]:
        """Write the GPS track of a video; the file gets its name when the video has been written."""
        options = self._options
        if not options.gpx or reader.media is None:
            yield None
            return
        path = self._target.with_suffix(".gpx")
        check_name(path, reader.path, options.overwrite)
        end_s = None if options.duration_s is None else (options.start_s or 0) + options.duration_s
        fixes = read_fixes(reader.media, options.start_s, end_s)
        if not fixes:
            log.warning("'%s' has no GPS track that can be read: no .gpx was written.", reader.path.name)
            yield None
            return
        with gpx_file(Draft(path, options.overwrite, reader.path), fixes, reader.path.stem):
            yield path

    def open_sink(self, reader: FrameSource, store: SegmentStore | None) -> FrameSink:
        """Where the restored frames are written; not yet entered."""
        width_px, height_px = reader.size_px
        if self._options.compare == "side":  # side by side as shown: stored below each other if the video is rotated
            rotated = reader.rotation_quarters % 2
            width_px, height_px = (width_px, 2 * height_px) if rotated else (2 * width_px, height_px)
        return open_sink(self._draft, reader, self._options.encode, (width_px, height_px), store, self._unchanged)

    def count(self, restored: RestoredFrame, reader: FrameSource) -> Progress:
        """Count a frame that was written, and return the progress; frames of an earlier run are included."""
        frame = restored.shown
        if self._first_s is None:
            self._first_s = frame.pts * frame.time_base
        self._frames += 1
        self._dry += restored.dry
        now_s = float((frame.pts + frame.duration) * frame.time_base)
        return Progress(self._frames, now_s - float(self._first_s), reader.duration_s)

    def result(self, reader: FrameSource, kept: SinkReport, gpx: Path | None, stages_s: dict[str, float]) -> Result:
        """What was done, once everything is closed.

        Args:
            reader: the source.
            kept: what became of everything beside the frames.
            gpx: the file with the GPS track.
            stages_s: processor seconds of each stage; those of decoding, encoding and the rest are added as ``video``.
        """
        cpu_s = time.process_time() - self._started_cpu_s
        return Result(
            source=self._source,
            target=self._target,
            frames=self._frames,
            repeated=reader.report.repeated,
            missing=reader.report.missing,
            dry=self._dry,
            damage=reader.report.damage,
            kept=kept.kept,
            dropped=kept.dropped,
            changed=(*reader.report.changed, *kept.changed),
            gpx=gpx,
            model=self._pipeline.model,
            device=self._pipeline.device,
            seconds=time.monotonic() - self._started_s,
            rain_intervals=tuple(self._intervals or ()),
            stages_s=stages_s | {"video": max(0.0, cpu_s - sum(stages_s.values()))},
        )
