"""The command line: flags enter, one line about what was done or what went wrong leaves, and an exit code.

The only file that prints. Results go to stdout, everything else to stderr. Heavy modules are imported inside the
commands, so that --help is instant.
"""

import io
import json
import logging
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from vderain import __version__
from vderain.errors import Interrupted, UsageError, VderainError

if TYPE_CHECKING:
    from vderain.process import Result
    from vderain.train.loop import Progress as TrainingProgress

app = typer.Typer(
    help="Takes the rain out of videos and leaves everything else of the file as it was.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
out = Console(highlight=False, soft_wrap=True, emoji=False)  # names are printed as they are, even :car:
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

PLAIN_EVERY_S = 10.0  # between lines of progress where there is no terminal
EVENT_EVERY_S = 0.5  # between JSON events
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SENTENCE = re.compile(r"(A|The|There|No) ")  # how messages begin, as against the names of files

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is decided along the way.")]


def main() -> None:
    """Entry point of the `vderain` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are not UTF-8 leave as they came
    app()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(f"vderain {__version__}")
        raise typer.Exit


@app.command("process")
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
        str | None, typer.Option(help="off, light, strong or only (no network). Default light.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. Default auto.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16. Default auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Frames at once. Default: what memory holds.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="h264, hevc, av1, vp9, ffv1 or any FFmpeg encoder. Default h264.")
    ] = None,
    crf: Annotated[
        float | None, typer.Option(help="Constant quality, lower is better; the scale is the codec's.")
    ] = None,
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
    compare: Annotated[str | None, typer.Option(help="Before and after in one picture: side or split.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a damaged frame instead of bridging it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress and result as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take the rain out of INPUT; everything else of the file stays."""
    with _reporting(quiet, verbose):
        from vderain.process import Options, process
        from vderain.video.encoders import EncodeOptions

        encode = EncodeOptions(**_given(codec=codec, crf=crf, preset=preset, encoder_opts=_pairs(encoder_opt)))
        options = Options(
            encode=encode, compare=compare, overwrite=overwrite, strict=strict,  # type: ignore[arg-type]
            **_given(
                model=model, strength=strength, temporal=temporal, device=device, precision=precision,
                batch_size=batch_size, start_s=start, duration_s=duration, rate=_fraction(rate), guard=guard,
            ),
        )  # fmt: skip
        with _shown(source.name, quiet, as_json) as report:
            result = process(source, output, options, report)
        _tell(result, as_json, quiet)


@app.command("info")
def info_command(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A video to describe.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Describe this installation, or FILE: its streams and what processing will keep of them."""
    with _reporting(False, verbose):
        facts = _facts_of_file(file) if file else _facts_of_installation()
        if as_json:
            out.print(json.dumps(facts, default=str), markup=False)
        elif file:
            _print_file(facts)
        else:
            for name, value in facts.items():
                out.print(f"{name:>12}  {', '.join(value) if isinstance(value, list) else value}", markup=False)


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe, such as configs/base.toml.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/latest"),
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a value; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state saved in the folder.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a generator by a recipe; Ctrl-C saves, --resume goes on."""
    with _reporting(quiet, verbose):
        from vderain.train.config import load_recipe
        from vderain.train.loop import train

        recipe = load_recipe(config, tuple(override or ()))

        def report(p: "TrainingProgress") -> None:
            if not quiet:
                err.print(
                    f"{p.iteration}/{p.iterations}  loss {p.loss:.5f}  rate {p.rate:.2e}  "
                    f"{p.crops_per_s:.0f} crops/s  waiting for data {p.waiting:.0%}"
                )

        try:
            weights = train(recipe, out_dir, resume, report)
        except KeyboardInterrupt:
            raise Interrupted("interrupted.", f"The state is in {out_dir}: --resume goes on from there.") from None
        if not quiet:
            out.print(str(weights), markup=False)


def _given(**flags: Any) -> dict[str, Any]:
    """Flags the user gave; the others keep the defaults of the dataclass they go into."""
    return {name: value for name, value in flags.items() if value is not None}


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


@contextmanager
def _reporting(quiet: bool, verbose: bool) -> Iterator[None]:
    """Errors become one line and an exit code; log records lines on stderr."""
    _configure_logging(quiet, verbose)
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells' background jobs have it
            signal.signal(number, _interrupt)
    try:
        yield
    except VderainError as error:
        _fail(error, verbose)
    except KeyboardInterrupt:
        _fail(Interrupted("interrupted: no output was written.", "Run the same command again to start over."), verbose)
    except (typer.Exit, BrokenPipeError):
        raise
    except MemoryError as error:
        _fail(VderainError("there is not enough memory for this.", "Use a smaller --batch-size."), verbose, error)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        what = f"an error in vderain itself: {type(error).__name__}: {reason}."
        _fail(VderainError(what, "Please report it, with the output of the same command with -v."), verbose, error)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Ctrl-C, a polite kill and a closed terminal end alike: cleaned up, which a second one must not disturb."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(error: VderainError, verbose: bool, cause: BaseException | None = None) -> NoReturn:
    if verbose:
        trace = cause or error.__cause__
        if trace is not None:
            err.print("".join(traceback.format_exception(trace)), markup=False, style="dim")
    what = error.what[:1].lower() + error.what[1:] if SENTENCE.match(error.what) else error.what
    err.print(f"vderain: {what} {error.cure}".rstrip(), markup=False)
    raise typer.Exit(error.exit_code) from None


def _configure_logging(quiet: bool, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vderain: %(message)s"))
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logger = logging.getLogger("vderain")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


@contextmanager
def _shown(name: str, quiet: bool, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """A way of showing progress that fits where stderr goes: a bar, plain lines, JSON events, or none."""
    if as_json:
        yield _Paced(EVENT_EVERY_S, lambda p: out.print(json.dumps(_event(p)), markup=False))
    elif quiet:
        yield lambda progress: None
    elif not err.is_terminal:
        yield _Paced(PLAIN_EVERY_S, lambda p: err.print(_plain(name, p), markup=False))
    else:
        with _bar(name) as update:
            yield update


class _Paced:
    """Passes on the first report after each pause, with the speed so far."""

    def __init__(self, every_s: float, show: Callable[[dict[str, Any]], None]) -> None:
        self.every_s, self.show = every_s, show
        self.started_s = self.shown_s = time.monotonic()

    def __call__(self, progress: Any) -> None:
        now_s = time.monotonic()
        if now_s - self.shown_s < self.every_s:
            return
        self.shown_s = now_s
        elapsed_s = now_s - self.started_s
        share = min(1.0, progress.done_s / progress.total_s) if progress.total_s else None
        left_s = elapsed_s * (1 - share) / share if share else None
        self.show({"frames": progress.frames, "fps": progress.frames / elapsed_s, "share": share, "left_s": left_s})


def _event(state: dict[str, Any]) -> dict[str, Any]:
    return {"event": "progress"} | {k: round(v, 3) if isinstance(v, float) else v for k, v in state.items()}


def _plain(name: str, state: dict[str, Any]) -> str:
    share = f"{state['share']:.0%}" if state["share"] is not None else f"{state['frames']} frames"
    left = f", {_clock(state['left_s'])} left" if state["left_s"] is not None else ""
    return f"{name}: {share}, {state['fps']:.1f} frames/s{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def _bar(name: str) -> Iterator[Callable[[Any], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Name(TextColumn):
        def render(self, task: Any) -> Text:
            return Text(name, overflow="ellipsis", no_wrap=True)

    speed = TextColumn("{task.fields[fps]:.1f} frames/s")
    columns = (
        Name(""),
        BarColumn(),
        TaskProgressColumn(),
        speed,
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(name, total=None, fps=0.0)
        started_s = time.monotonic()

        def update(progress: Any) -> None:
            done_s = min(progress.done_s, progress.total_s) if progress.total_s else progress.done_s
            fps = progress.frames / max(1e-6, time.monotonic() - started_s)
            bars.update(task, completed=done_s, total=progress.total_s, fps=fps)

        yield update


def _tell(result: "Result", as_json: bool, quiet: bool) -> None:
    """The closing line."""
    if as_json:
        facts = {name: getattr(result, name) for name in result.__slots__}
        out.print(json.dumps({"event": "done"} | facts, default=str), markup=False)
        return
    if quiet:
        return
    damage = f", {_count(result.repeated, 'damaged frame')} bridged" if result.repeated else ""
    damage += f", {_count(result.missing, 'frame')} missing at the end" if result.missing else ""
    damage += f", {_count(result.dry, 'dry frame')} left as they were" if result.dry else ""
    rate = result.frames / max(1e-6, result.seconds)
    model = f"{result.model} on {result.device}" if result.model else "no network"
    out.print(
        f"{result.target}: {_count(result.frames, 'frame')}{damage} in {_clock(result.seconds)} "
        f"({rate:.1f} frames/s, {model})", markup=False,
    )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _facts_of_installation() -> dict[str, Any]:
    import av
    import torch

    from vderain.model.checkpoint import released_models
    from vderain.restore.device import choose_place, cores
    from vderain.video.encoders import working_encoders

    names = ["cpu"] + [
        n for n, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if there
    ]
    return {
        "vderain": __version__,
        "devices": names,
        "chosen": str(choose_place()),
        "threads": str(cores()),
        "models": released_models(),
        "encoders": [encoder.codec for encoder in working_encoders()],
        "torch": torch.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }


def _facts_of_file(file: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from vderain.video.describe import describe
    from vderain.video.streams import CONTAINERS, DEFAULT_SUFFIX

    return asdict(describe(file, file.suffix if file.suffix.lower() in CONTAINERS else DEFAULT_SUFFIX))


def _print_file(facts: dict[str, Any]) -> None:
    length = f"{facts['duration_s']:.2f} s" if facts["duration_s"] is not None else "unknown length"
    out.print(f"{facts['path']}: {facts['container']}, {length}, {facts['size_bytes'] / 1e6:.1f} MB", markup=False)
    for stream in facts["streams"]:
        fate = "derained" if stream["processed"] else "copied" if stream["kept"] else "NOT KEPT"
        language = f" ({stream['language']})" if stream["language"] else ""
        out.print(
            f"  #{stream['index']} {stream['kind']}: {stream['codec']}, {stream['detail']}{language}: {fate}",
            markup=False,
        )
    for name in facts["hidden"]:
        out.print(f"  {name}: NOT KEPT", markup=False)
    if facts["chapters"]:
        out.print(f"  {facts['chapters']} chapters: copied", markup=False)
