"""`vderain render`: adds synthetic rain to a clear clip."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import counted, exit_on_error, format_time, out, progress_display, show
from vderain.cli.flags import Device, Json, Quiet, Verbose
from vderain.media.encode import CRF_MAX, EncodeOptions
from vderain.options import NOISE_MAX, RainStyle, RenderOptions

DEFAULTS = RenderOptions()

if TYPE_CHECKING:
    from vderain.rain.render import RenderResult


def render_command(
    source: Annotated[Path, typer.Argument(metavar="CLEAR", help="Video, image, or folder of numbered images.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="Output of the same kind.")],
    style: Annotated[RainStyle, typer.Option(help="Kind of rain.")] = DEFAULTS.style,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed; equal seeds give equal rain.")] = DEFAULTS.seed,
    mask: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also write the opacity of streaks and drops, in grey.")
    ] = None,
    veil: Annotated[bool, typer.Option("--veil/--no-veil", help="Add the haze of distant rain.")] = DEFAULTS.haze,
    noise: Annotated[
        float, typer.Option(min=0, max=NOISE_MAX, metavar="LEVELS", help="Sensor noise, such as 4; 0 adds none.")
    ] = DEFAULTS.noise,
    crf: Annotated[
        float | None, typer.Option(min=0, max=CRF_MAX, metavar="X", help="Quality; lower is better.")
    ] = DEFAULTS.encode.crf,
    device: Device = DEFAULTS.device,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = DEFAULTS.overwrite,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Add synthetic rain to CLEAR, which is then the ground truth for the result."""
    with exit_on_error(quiet, verbose):
        from vderain.rain.render import render

        options = RenderOptions(style, seed, veil, noise, device, EncodeOptions(crf=crf), overwrite)
        with progress_display(source.name, quiet, as_json) as on_progress:
            result = render(source, output, mask, options, on_progress)
        _print_result(result, as_json, quiet)


def _print_result(result: "RenderResult", as_json: bool, quiet: bool) -> None:
    if as_json:
        facts = {name: getattr(result, name) for name in result.__slots__}
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
    elif not quiet:
        damage = f", {counted(result.repeated, 'damaged frame')} concealed" if result.repeated else ""
        mask = f", mask in {result.mask}" if result.mask else ""
        rate = result.frames / max(1e-6, result.seconds)
        show(
            f"{result.target}: {counted(result.frames, 'frame')} of {result.style}, seed {result.seed}{damage}{mask}, "
            f"in {format_time(result.seconds)} ({rate:.1f} frames/s, {result.device})"
        )
