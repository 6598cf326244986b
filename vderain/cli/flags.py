"""The flags that choose how a file is processed, declared once for `process`, `batch` and `evaluate`."""

import inspect
from collections.abc import Callable
from fractions import Fraction
from functools import partial, wraps
from typing import Annotated

import typer

from vderain.errors import UsageError
from vderain.media.encode import CRF_MAX, EncodeOptions
from vderain.options import SPEEDS, STRENGTH_MAX, Comparison, Engine, Options, Precision, Speed, Temporal

DEFAULTS = Options()

MakeOptions = Callable[[], Options]

option, advanced = typer.Option, partial(typer.Option, rich_help_panel="Advanced")

Faster = Annotated[Speed, option(help="`fast` takes a smaller network; `preview` leaves thin streaks of large video.")]
Model = Annotated[
    str | None,
    option(
        metavar="NAME|FILE",
        show_default=DEFAULTS.model,
        help="Released model (see `vderain info`) or .safetensors file.",
    ),
]
Strength = Annotated[
    float, option(min=0, max=STRENGTH_MAX, metavar="X", help="How much of the detected rain to remove.")
]
Drops = Annotated[bool, option("--drops/--no-drops", help="Also remove raindrops on the windshield.")]
Device = Annotated[str, advanced(metavar="auto|cpu|cuda|mps", help="Where to run the network.")]
Codec = Annotated[
    str | None,
    option(
        metavar="NAME", show_default="that of INPUT", help="h264, hevc, av1, vp9, ffv1, prores or any FFmpeg encoder."
    ),
]
Crf = Annotated[
    float | None, option(min=0, max=CRF_MAX, metavar="X", show_default="by codec", help="Quality; lower is better.")
]
Start = Annotated[float | None, option(min=0, metavar="SECONDS", help="Where to begin.")]
Duration = Annotated[float | None, option(min=0, metavar="SECONDS", help="How much to process.")]
Compare = Annotated[Comparison | None, option(help="Show before and after in one frame.")]
Overwrite = Annotated[bool, option("--overwrite", help="Replace existing output.")]

Mode = Annotated[
    Temporal | None,
    advanced(show_default=DEFAULTS.temporal, help="Use of neighbouring frames. `only` runs no network."),
]
Guard = Annotated[bool, advanced("--guard/--no-guard", help="Copy dry scenes unchanged.")]
Auto = Annotated[
    bool | None,
    advanced(
        "--auto/--no-auto",
        show_default="off; on in batch",
        help="Look for rain first, skip dry parts, and do not encode dry files (faster).",
    ),
]
Container = Annotated[
    str | None,
    advanced(metavar="mp4|mov|mkv|...", show_default="that of -o or INPUT", help="Container of the output."),
]
Lossless = Annotated[bool, advanced("--lossless", help="Encode without loss.")]
Preset = Annotated[str | None, advanced(metavar="NAME", show_default="by codec", help="Speed preset of the encoder.")]
EncoderOpts = Annotated[list[str] | None, advanced(metavar="NAME=VALUE", help="Further encoder option; repeatable.")]
NetworkEngine = Annotated[Engine, advanced(help="What runs the network; auto takes OpenVINO where it is installed.")]
NetworkPrecision = Annotated[Precision, advanced(help="Precision of the network.")]
BatchSize = Annotated[
    int | None,
    advanced(min=1, metavar="N", show_default="what fits into memory", help="Frames per network call."),
]
Rate = Annotated[str, advanced(metavar="FPS", help="Frame rate of a folder of images, such as 30000/1001.")]
Gpx = Annotated[bool, advanced("--gpx", help="Write the camera's GPS track to a .gpx file.")]
Strict = Annotated[bool, advanced("--strict", help="Stop at damaged frames, and refuse interlaced video.")]
Json = Annotated[bool, advanced("--json", help="Print progress and result as JSON lines.")]
Quiet = Annotated[bool, advanced("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, advanced("--verbose", "-v", help="Print decisions and tracebacks.")]


def with_options(command: Callable[..., None], auto: bool = False) -> Callable[..., None]:
    """Add the flags of `build_options` to a command that has a parameter ``make_options``.

    The command receives a function that builds the `Options`, so that it can report an invalid value like any other
    error.

    Args:
        command: the command.
        auto: the default of ``--auto`` while ``--guard`` is on.
    """
    shared = inspect.signature(build_options).parameters
    own = inspect.signature(command).parameters

    @wraps(command)
    def expanded(**values: object) -> None:
        chosen = {name: values.pop(name) for name in shared}
        if chosen["auto"] is None:
            chosen["auto"] = auto and chosen["guard"]
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
    drops: Drops = DEFAULTS.drops,
    speed: Faster = "best",
    model: Model = None,
    device: Device = DEFAULTS.device,
    codec: Codec = DEFAULTS.encode.codec,
    crf: Crf = DEFAULTS.encode.crf,
    start: Start = DEFAULTS.start_s,
    duration: Duration = DEFAULTS.duration_s,
    compare: Compare = DEFAULTS.compare,
    overwrite: Overwrite = DEFAULTS.overwrite,
    temporal: Mode = None,
    guard: Guard = DEFAULTS.guard,
    auto: Auto = None,
    container: Container = DEFAULTS.container,
    lossless: Lossless = DEFAULTS.encode.lossless,
    preset: Preset = DEFAULTS.encode.preset,
    encoder_opt: EncoderOpts = None,
    precision: NetworkPrecision = DEFAULTS.precision,
    engine: NetworkEngine = DEFAULTS.engine,
    batch_size: BatchSize = DEFAULTS.batch_size,
    rate: Rate = str(DEFAULTS.rate),
    gpx: Gpx = DEFAULTS.gpx,
    strict: Strict = DEFAULTS.strict,
) -> Options:
    """Build the options of one file from the values of the flags.

    Raises:
        UsageError: a value is out of range.
    """
    chosen = SPEEDS[speed]
    encode = EncodeOptions(codec, crf, preset, _pairs(encoder_opt or []), lossless, chosen.fast_preset)
    return Options(
        model=model or chosen.model, strength=strength, temporal=temporal or chosen.temporal,
        device=device, precision=precision, batch_size=batch_size,
        encode=encode, start_s=start, duration_s=duration, rate=_fraction(rate), drops=drops, guard=guard,
        half_size=chosen.half_size,
        auto=bool(auto), gpx=gpx, engine=engine,
        container=container.lower().lstrip(".") if container else None, compare=compare, overwrite=overwrite,
        strict=strict,
    )  # fmt: skip


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
