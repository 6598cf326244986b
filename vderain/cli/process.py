"""`vderain process`: flags to options, and the closing line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import Quiet, Verbose, clock, counted, exit_on_error, out, progress_display
from vderain.cli.flags import Make, options, with_options
from vderain.errors import Interrupted

if TYPE_CHECKING:
    from vderain.process import Result


@with_options
def process_command(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A video, a picture, or a folder of numbered pictures.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: INPUT.derained.EXT beside it.")
    ] = None,
    options: Make = options,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is finished of a long video, and go on from what was kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress and result as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take the rain out of INPUT; everything else of the file stays."""
    with exit_on_error(quiet, verbose):
        from vderain.media.clip import check_source
        from vderain.media.encode.segments import remove
        from vderain.process import default_target, process
        from vderain.runtime.files import temporary_path

        chosen, pieces = options(), None
        if resume:
            check_source(source)
            target = output or default_target(source, chosen.container)
            pieces = temporary_path(target, ".segments")
        try:
            with progress_display(source.name, quiet, as_json) as report:
                result = process(source, output, chosen, report, resume=pieces)
        except KeyboardInterrupt:
            if pieces is None or not pieces.exists():
                raise
            raise Interrupted(
                "interrupted: what is finished is kept.", "The same command goes on from there."
            ) from None
        if pieces is not None:
            remove(pieces)
        _tell(result, as_json, quiet)


def _tell(result: "Result", as_json: bool, quiet: bool) -> None:
    """The closing line."""
    if as_json:
        facts = asdict(result)
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
        return
    if quiet:
        return
    damage = f", {counted(result.repeated, 'damaged frame')} bridged" if result.repeated else ""
    damage += f", {counted(result.missing, 'frame')} missing" if result.missing else ""
    damage += f", {counted(result.dry, 'dry frame')} left as they were" if result.dry else ""
    rate = result.frames / max(1e-6, result.seconds)
    model = f"{result.model} on {result.device}" if result.model else "no network"
    out.print(
        f"{result.target}: {counted(result.frames, 'frame')}{damage} in {clock(result.seconds)} "
        f"({rate:.1f} frames/s, {model})", markup=False,
    )  # fmt: skip
    ends = [clock(interval.begin_s) for interval in result.spells[1:]] + ["the end"]
    for interval, end in zip(result.spells, ends, strict=False):
        weather = "rain" if interval.rainy else "dry, left as it was"
        out.print(f"  {clock(interval.begin_s)} to {end}: {weather} (presence {interval.rain_score:.2f})", markup=False)
    if result.gpx:
        out.print(f"{result.gpx}: GPS track", markup=False)
