"""`vderain process`: flags to options, and the closing line."""

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.commands.screen import Quiet, Verbose, clock, counted, given, out, reporting, shown
from vderain.errors import UsageError

if TYPE_CHECKING:
    from vderain.process import Result


def process_command(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A video, a picture, or a folder of numbered pictures.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: INPUT.derained.EXT beside it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A released model (see `vderain info`) or a .safetensors file.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the rain to take, 0 to 2. Default 1.")] = None,
    temporal: Annotated[
        str | None, typer.Option(help="off, light, strong or only (no network). Default strong.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. Default auto.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16. Default auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Frames at once. Default: what memory holds.")] = None,
    codec: Annotated[
        str | None,
        typer.Option(help="h264, hevc, av1, vp9, ffv1, prores, auto-hw or any FFmpeg encoder. Default: the source's."),
    ] = None,
    crf: Annotated[
        float | None, typer.Option(help="Constant quality, lower is better; the scale is the codec's.")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit of the pictures.")] = False,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed preset.")] = None,
    encoder_opt: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="One more encoder option; repeatable.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="Begin here, in seconds.")] = None,
    duration: Annotated[float | None, typer.Option(help="Process this many seconds.")] = None,
    rate: Annotated[str | None, typer.Option(help="Frames per second of a folder of pictures. Default 30.")] = None,
    guard: Annotated[
        bool | None,
        typer.Option("--guard/--no-guard", help="Leave dry scenes untouched. Default: on.", show_default=False),
    ] = None,
    container: Annotated[
        str | None, typer.Option(help="mp4, mov, mkv, webm ... Default: that of INPUT, or of -o.")
    ] = None,
    gpx: Annotated[bool, typer.Option("--gpx", help="Write the camera's GPS track too, beside the video.")] = False,
    compare: Annotated[str | None, typer.Option(help="Before and after in one picture: side or split.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a damaged frame instead of bridging it; refuse interlaced video.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress and result as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take the rain out of INPUT; everything else of the file stays."""
    with reporting(quiet, verbose):
        from vderain.process import Options, process
        from vderain.video.encoders import EncodeOptions

        chosen = given(codec=codec, crf=crf, preset=preset, encoder_opts=_pairs(encoder_opt))
        encode = EncodeOptions(lossless=lossless, **chosen)
        options = Options(
            encode=encode, gpx=gpx, compare=compare, overwrite=overwrite, strict=strict,  # type: ignore[arg-type]
            **given(
                model=model, strength=strength, temporal=temporal, device=device, precision=precision,
                batch_size=batch_size, start_s=start, duration_s=duration, rate=_fraction(rate), guard=guard,
                container=container.lower().lstrip(".") if container else None,
            ),
        )  # fmt: skip
        with shown(source.name, quiet, as_json) as report:
            result = process(source, output, options, report)
        _tell(result, as_json, quiet)


def _pairs(options: list[str] | None) -> tuple[tuple[str, str], ...] | None:
    if not options:
        return None
    pairs = [option.partition("=") for option in options]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"--encoder-opt {key!r} is not of the form name=value.", "Write for example tune=film.")
    return tuple((key, value) for key, _, value in pairs)


def _fraction(rate: str | None) -> Fraction | None:
    try:
        return Fraction(rate) if rate is not None else None
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--rate {rate!r} is no rate.", "Give frames per second, such as 30 or 30000/1001.") from error


def _tell(result: "Result", as_json: bool, quiet: bool) -> None:
    """The closing line."""
    if as_json:
        facts = {name: getattr(result, name) for name in result.__slots__}
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
        return
    if quiet:
        return
    damage = f", {counted(result.repeated, 'damaged frame')} bridged" if result.repeated else ""
    damage += f", {counted(result.missing, 'frame')} missing at the end" if result.missing else ""
    damage += f", {counted(result.dry, 'dry frame')} left as they were" if result.dry else ""
    rate = result.frames / max(1e-6, result.seconds)
    model = f"{result.model} on {result.device}" if result.model else "no network"
    out.print(
        f"{result.target}: {counted(result.frames, 'frame')}{damage} in {clock(result.seconds)} "
        f"({rate:.1f} frames/s, {model})", markup=False,
    )  # fmt: skip
    if result.gpx:
        out.print(f"{result.gpx}: GPS track", markup=False)
