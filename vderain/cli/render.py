"""`vderain render`: renders rain onto a clear clip."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import Quiet, Verbose, clock, counted, exit_on_error, given, out, progress_display

if TYPE_CHECKING:
    from vderain.rain.render import Result


def render_command(
    source: Annotated[
        Path, typer.Argument(metavar="CLEAR", help="A video, a picture, or a folder of numbered pictures.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="What to write, of the same kind.")],
    style: Annotated[str | None, typer.Option(help="drizzle, shower, downpour or windshield. Default shower.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same rain for the same number. Default 0.")] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the opacity of streaks and drops too, as grey.")
    ] = None,
    veil: Annotated[
        bool | None, typer.Option("--veil/--no-veil", help="The haze of distant rain. Default: on.", show_default=False)
    ] = None,
    noise: Annotated[float | None, typer.Option(metavar="LEVELS", help="Sensor noise, of 255. Default 0.")] = None,
    crf: Annotated[float | None, typer.Option(help="Constant quality, lower is better. Default 23.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. Default cpu.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress and result as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Let it rain on CLEAR, which is the exact truth of what leaves."""
    with exit_on_error(quiet, verbose):
        from vderain.media.encode.encoder import EncodeOptions
        from vderain.rain.render import Options, render

        encode = given(encode=EncodeOptions(crf=crf) if crf is not None else None)
        chosen = given(style=style, seed=seed, haze=veil, noise=noise, device=device) | encode
        options = Options(overwrite=overwrite, **chosen)
        with progress_display(source.name, quiet, as_json) as report:
            result = render(source, output, mask, options, report)
        _tell(result, as_json, quiet)


def _tell(result: "Result", as_json: bool, quiet: bool) -> None:
    """The closing line."""
    if as_json:
        facts = {name: getattr(result, name) for name in result.__slots__}
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
    elif not quiet:
        damage = f", {counted(result.repeated, 'damaged frame')} bridged" if result.repeated else ""
        mask = f", mask in {result.mask}" if result.mask else ""
        rate = result.frames / max(1e-6, result.seconds)
        out.print(
            f"{result.target}: {counted(result.frames, 'frame')} of {result.style}, seed {result.seed}{damage}{mask}, "
            f"in {clock(result.seconds)} ({rate:.1f} frames/s, {result.device})", markup=False,
        )  # fmt: skip
