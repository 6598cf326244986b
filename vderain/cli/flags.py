"""The flags that choose how a file is processed, declared once for `process` and `batch`."""

import inspect
from collections.abc import Callable
from fractions import Fraction
from functools import partial, wraps
from typing import Annotated

import typer

from vderain.errors import UsageError
from vderain.media.encode import CRF_MAX, EncodeOptions
from vderain.options import STRENGTH_MAX, Comparison, Options, Precision, Temporal

DEFAULTS = Options()
ADVANCED = "Advanced"

MakeOptions = Callable[[], Options]

Model = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Released model (see `vderain info`) or .safetensors file.")
]
Strength = Annotated[
    float, typer.Option(min=0, max=STRENGTH_MAX, metavar="X", help="How much of the detected rain to remove.")
]
Mode = Annotated[
    Temporal, typer.Option(help="Use of neighbouring frames. `only` runs no network.", rich_help_panel=ADVANCED)
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to run the network.")]
NetworkPrecision = Annotated[Precision, typer.Option(help="Precision of the network.", rich_help_panel=ADVANCED)]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of `build_options` to a command that has a parameter ``make_options``.

    The command receives a function that builds the `Options`, so that it can report an invalid value like any other
    error.
    """
    shared = inspect.signature(build_options).parameters
    own = inspect.signature(command).parameters

    @wraps(command)
    def expanded(**values: object) -> None:
        chosen = {name: values.pop(name) for name in shared}
        command(**values, make_options=partial(build_options, **chosen))  # type: ignore[arg-type]

    together = [p for name, each in own.items() for p in (shared.values() if name == "make_options" else [each])]
    merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in together]
    # typer reads the parameters from here
    expanded.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    return expanded


def build_options(
    *,
    strength: Strength = DEFAULTS.strength,
    drops: Annotated[
        bool, typer.Option("--drops/--no-drops", help="Also remove raindrops on the windshield.")
    ] = DEFAULTS.drops,
    model: Model = DEFAULTS.model,
    device: Device = DEFAULTS.device,
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="that of INPUT",
            help="h264, hevc, av1, vp9, ffv1, prores or any FFmpeg encoder.",
        ),
    ] = DEFAULTS.encode.codec,
    crf: Annotated[
        float | None,
        typer.Option(min=0, max=CRF_MAX, metavar="X", show_default="by codec", help="Quality; lower is better."),
    ] = DEFAULTS.encode.crf,
    start: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Where to begin.")] = DEFAULTS.start_s,
    duration: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How much to process.")
    ] = DEFAULTS.duration_s,
    compare: Annotated[Comparison | None, typer.Option(help="Show before and after in one frame.")] = DEFAULTS.compare,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")] = DEFAULTS.overwrite,
    temporal: Mode = DEFAULTS.temporal,
    guard: Annotated[
        bool,
        typer.Option("--guard/--no-guard", help="Copy dry scenes unchanged.", rich_help_panel=ADVANCED),
    ] = DEFAULTS.guard,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Scan the video first and skip dry parts (faster).", rich_help_panel=ADVANCED),
    ] = DEFAULTS.auto,
    container: Annotated[
        str | None,
        typer.Option(
            metavar="mp4|mov|mkv|...",
            show_default="that of -o or INPUT",
            help="Container of the output.",
            rich_help_panel=ADVANCED,
        ),
    ] = DEFAULTS.container,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Encode without loss.", rich_help_panel=ADVANCED)
    ] = DEFAULTS.encode.lossless,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="by codec", help="Speed preset of the encoder.", rich_help_panel=ADVANCED
        ),
    ] = DEFAULTS.encode.preset,
    encoder_opt: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Further encoder option; repeatable.", rich_help_panel=ADVANCED),
    ] = None,
    precision: NetworkPrecision = DEFAULTS.precision,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="what fits into memory",
            help="Frames per network call.",
            rich_help_panel=ADVANCED,
        ),
    ] = DEFAULTS.batch_size,
    rate: Annotated[
        str,
        typer.Option(
            metavar="FPS", help="Frame rate of a folder of images, such as 30000/1001.", rich_help_panel=ADVANCED
        ),
    ] = str(DEFAULTS.rate),
    gpx: Annotated[
        bool, typer.Option("--gpx", help="Write the camera's GPS track to a .gpx file.", rich_help_panel=ADVANCED)
    ] = DEFAULTS.gpx,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at damaged frames, and refuse interlaced video.", rich_help_panel=ADVANCED),
    ] = DEFAULTS.strict,
) -> Options:
    """Build the options of one file from the values of the flags.

    Raises:
        UsageError: a value is out of range.
    """
    return Options(
        model=model,
        strength=strength,
        temporal=temporal,
        device=device,
        precision=precision,
        batch_size=batch_size,
        encode=EncodeOptions(codec, crf, preset, _pairs(encoder_opt or []), lossless),
        start_s=start,
        duration_s=duration,
        rate=_fraction(rate),
        drops=drops,
        guard=guard,
        auto=auto,
        gpx=gpx,
        container=container.lower().lstrip(".") if container else None,
        compare=compare,
        overwrite=overwrite,
        strict=strict,
    )


def _pairs(encoder_options: list[str]) -> tuple[tuple[str, str], ...]:
    """Split ``NAME=VALUE`` texts.

    Raises:
        UsageError: a text has no name or no equals sign.
    """
    parts = [option.partition("=") for option in encoder_options]
    for name, equals, _ in parts:
        if not name or not equals:
            raise UsageError(f"--encoder-opt {name!r} is not of the form name=value.", "Write for example tune=film.")
    return tuple((name, value) for name, _, value in parts)


def _fraction(rate: str) -> Fraction:
    """Parse a frame rate.

    Raises:
        UsageError: the text is neither a number nor a fraction.
    """
    try:
        return Fraction(rate)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"--rate {rate!r} is not a frame rate.", "Give frames per second, such as 30 or 30000/1001."
        ) from error
