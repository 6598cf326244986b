"""The flags that say how a file is processed, declared once for all commands that process files."""

import inspect
from collections.abc import Callable
from fractions import Fraction
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import given
from vderain.errors import UsageError

if TYPE_CHECKING:
    from vderain.options import Options

Make = Callable[[], "Options"]

Model = Annotated[str | None, typer.Option(help="A released model (see `vderain info`) or a .safetensors file.")]
Strength = Annotated[float | None, typer.Option(help="How much of the rain to take, 0 to 2. Default 1.")]
Mode = Annotated[str | None, typer.Option(help="off, light, strong or only (no network). Default strong.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. Default auto.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16. Default auto.")]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the flags of `options` in the place of its parameter ``options``.

    The command is called with a function there that makes the `Options`: a flag that is out of range is then an error
    of the command like any other.
    """
    own = inspect.signature(command).parameters
    flags = inspect.signature(options).parameters

    @wraps(command)
    def expanded(**values: object) -> None:
        made = partial(options, **{name: values.pop(name) for name in flags})  # type: ignore[arg-type]
        command(**values, options=made)

    together = [p for name, each in own.items() for p in (flags.values() if name == "options" else [each])]
    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in together]
    expanded.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return expanded


def options(
    model: Model = None,
    strength: Strength = None,
    temporal: Mode = None,
    device: Device = None,
    precision: Precision = None,
    batch_size: Annotated[int | None, typer.Option(help="Frames at once. Default: what memory holds.")] = None,
    codec: Annotated[
        str | None,
        typer.Option(help="h264, hevc, av1, vp9, ffv1, prores or any FFmpeg encoder. Default: the source's."),
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
    drops: Annotated[
        bool | None,
        typer.Option("--drops/--no-drops", help="Drops on the windshield, too. Default: on.", show_default=False),
    ] = None,
    guard: Annotated[
        bool | None,
        typer.Option("--guard/--no-guard", help="Leave dry scenes untouched. Default: on.", show_default=False),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Look first when it rains, and leave dry spells alone: faster.")
    ] = False,
    container: Annotated[
        str | None, typer.Option(help="mp4, mov, mkv, webm ... Default: that of INPUT, or of -o.")
    ] = None,
    gpx: Annotated[bool, typer.Option("--gpx", help="Write the camera's GPS track too, beside the video.")] = False,
    compare: Annotated[str | None, typer.Option(help="Before and after in one picture: side or split.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a damaged frame instead of bridging it; refuse interlaced video.")
    ] = False,
) -> "Options":
    """The options that these flags ask for.

    Raises:
        UsageError: a value is out of range.
    """
    from vderain.media.encode.encoder import EncodeOptions
    from vderain.options import Options

    chosen = given(codec=codec, crf=crf, preset=preset, encoder_opts=_pairs(encoder_opt))
    encode = EncodeOptions(lossless=lossless, **chosen)
    return Options(
        encode=encode, auto=auto, gpx=gpx, compare=compare, overwrite=overwrite, strict=strict,  # type: ignore[arg-type]
        **given(
            model=model, strength=strength, temporal=temporal, device=device, precision=precision,
            batch_size=batch_size, start_s=start, duration_s=duration, rate=_fraction(rate), drops=drops, guard=guard,
            container=container.lower().lstrip(".") if container else None,
        ),
    )  # fmt: skip


def _pairs(given: list[str] | None) -> tuple[tuple[str, str], ...] | None:
    if not given:
        return None
    pairs = [option.partition("=") for option in given]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"--encoder-opt {key!r} is not of the form name=value.", "Write for example tune=film.")
    return tuple((key, value) for key, _, value in pairs)


def _fraction(rate: str | None) -> Fraction | None:
    try:
        return Fraction(rate) if rate is not None else None
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--rate {rate!r} is no rate.", "Give frames per second, such as 30 or 30000/1001.") from error
