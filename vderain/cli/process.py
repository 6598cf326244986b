"""`vderain process`: removes the rain from one file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import counted, exit_on_error, format_time, out, print_error, progress_display, show
from vderain.cli.flags import Json, MakeOptions, Quiet, Verbose, build_options, with_options
from vderain.errors import Interrupted
from vderain.options import FAST_SHARE, is_best

if TYPE_CHECKING:
    from vderain.process import Result

COPIED = "no rain was found, the file was copied byte for byte"
NOTHING_DONE = "no rain was found, nothing was changed"


@with_options
def process_command(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Video, image, or folder of numbered images.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PATH", show_default="INPUT.derained.EXT", help="Output file or folder."
        ),
    ] = None,
    make_options: MakeOptions = build_options,
    resume: Annotated[
        bool, typer.Option("--resume", help="Save progress, and continue after an interruption.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove the rain from INPUT. Sound, subtitles and metadata are kept."""
    with exit_on_error(quiet, verbose):
        from vderain.media.clip import check_source
        from vderain.media.encode.segments import remove
        from vderain.process import Hooks, default_target, process
        from vderain.runtime.files import temporary_path

        options, segments = make_options(), None
        if resume:
            check_source(source)
            target = output or default_target(source, options.container)
            segments = temporary_path(target, ".segments")
        try:
            faster = FAST_SHARE if is_best(options) else None
            with progress_display(source.name, quiet, as_json, faster) as on_progress:
                result = process(source, output, options, on_progress, Hooks(segments=segments))
        except KeyboardInterrupt:
            if segments is None or not segments.exists():
                raise
            raise Interrupted(
                "interrupted: finished segments are kept.", "Run the same command again to continue."
            ) from None
        if segments is not None:
            remove(segments)
        _print_result(result, as_json, quiet)


def _print_result(result: "Result", as_json: bool, quiet: bool) -> None:
    if as_json:
        facts = asdict(result)
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
    elif quiet:
        if result.dry == result.frames:
            done = COPIED if result.untouched else NOTHING_DONE
            print_error(f"{result.source}: {done}.", "Add --no-guard to process it anyway.")
    else:
        show(_closing_line(result))
        _print_intervals(result)
        if result.gpx:
            show(f"{result.gpx}: GPS track")


def _closing_line(result: "Result") -> str:
    if result.untouched:
        lost = result.repeated + result.missing
        notes = f", {counted(lost, 'frame')} damaged or missing" if lost else ""
        return f"{result.target}: {COPIED}{notes}, in {format_time(result.seconds)}"
    notes = f", {counted(result.repeated, 'damaged frame')} concealed" if result.repeated else ""
    notes += f", {counted(result.missing, 'frame')} missing" if result.missing else ""
    if result.dry == result.frames:
        notes += f", {NOTHING_DONE}"
    elif result.dry:
        notes += f", {counted(result.dry, 'dry frame')} left unchanged"
    rate = result.frames / max(1e-6, result.seconds)
    model = f"{result.model} on {result.device}" if result.model else "no network"
    return (
        f"{result.target}: {counted(result.frames, 'frame')}{notes} in {format_time(result.seconds)} "
        f"({rate:.1f} frames/s, {model})"
    )


def _print_intervals(result: "Result") -> None:
    """Print when it rains, where `--auto` scanned the video."""
    ends = [format_time(interval.begin_s) for interval in result.rain_intervals[1:]] + ["the end"]
    for interval, end in zip(result.rain_intervals, ends, strict=False):
        weather = "rain" if interval.rainy else "dry, left unchanged"
        begin = format_time(interval.begin_s)
        show(f"  {begin} to {end}: {weather} (rain score {interval.rain_score:.2f})")
