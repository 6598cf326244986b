"""Terminal output shared by all commands: error lines with exit codes, log lines and progress.

Results go to stdout, everything else to stderr.
"""

import json
import logging
import os
import re
import signal
import stat
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn, Protocol

import typer
from rich.console import Console

from vderain.errors import Interrupted, VderainError

out = Console(highlight=False, soft_wrap=True, emoji=False)  # without emoji, so that a file name like :car: stays
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

PLAIN_EVERY_S = 10.0  # between lines of progress where there is no terminal
EVENT_EVERY_S = 0.5  # between JSON events
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# control characters, line separators, direction overrides, and bytes that are not UTF-8 (surrogate escapes)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SENTENCE = re.compile(r"(A|The|There|No) ")  # starts a message, where others start with a file name

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel="Advanced")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print decisions and tracebacks.", rich_help_panel="Advanced")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print progress and result as JSON lines.", rich_help_panel="Advanced")
]


class HasProgress(Protocol):
    """Progress of one file, as `process` and `render` report it."""

    @property
    def frames(self) -> int:
        """Frames written so far."""

    @property
    def done_s(self) -> float:
        """Seconds of media written so far."""

    @property
    def total_s(self) -> float | None:
        """Seconds of media in all, where known."""


ProgressHandler = Callable[[HasProgress], None]


def counted(number: int, what: str) -> str:
    """A number with its noun in the singular or plural: ``1 frame``, ``2 frames``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def one_line(text: str) -> str:
    """Escape characters that a terminal would act on; file names may contain any."""
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found[0])[1:-1]


@contextmanager
def exit_on_error(quiet: bool, verbose: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code, and log records into lines on stderr.

    Raises:
        typer.Exit: an error occurred; carries its exit code.
    """
    _configure_logging(quiet, verbose)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup and in a shell's background
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
    """Handle SIGINT, SIGTERM and SIGHUP alike. Further signals are ignored, so that the clean-up is not interrupted."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    detach_terminal(number)
    raise KeyboardInterrupt


def detach_terminal(number: int) -> None:
    """After SIGHUP, redirect output to a closed terminal to the null device, so that writing does not fail."""
    if number != getattr(signal, "SIGHUP", None):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # isatty() is false for a closed terminal
            os.dup2(null, stream)


def _fail(error: VderainError, verbose: bool, cause: BaseException | None = None) -> NoReturn:
    if verbose:
        trace = cause or error.__cause__
        if trace is not None:
            err.print("".join(traceback.format_exception(trace)), markup=False, style="dim")
    print_error(error.what, error.cure)
    raise typer.Exit(error.exit_code) from None


def print_error(what: str, cure: str, about: str = "") -> None:
    """Print one line to stderr.

    Args:
        what: what happened.
        cure: what the user can do; may be empty.
        about: a prefix, such as the file concerned.
    """
    what = what[:1].lower() + what[1:] if SENTENCE.match(what) else what
    err.print(one_line(f"vderain: {about}{what} {cure}".rstrip()), markup=False)


def _configure_logging(quiet: bool, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vderain: %(message)s"))
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logger = logging.getLogger("vderain")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


@contextmanager
def progress_display(name: str, quiet: bool, as_json: bool) -> Iterator[ProgressHandler]:
    """Show the progress of one file: a bar on a terminal, else plain lines, JSON events or nothing.

    Args:
        name: what is processed.
        quiet: show nothing.
        as_json: print JSON events to stdout.

    Yields:
        A function to call with the progress after each frame.
    """
    name = one_line(name)
    if as_json:
        yield _Throttled(EVENT_EVERY_S, lambda state: out.print(json.dumps(_event(state)), markup=False))
    elif quiet:
        yield lambda progress: None
    elif not err.is_terminal:
        yield _Throttled(PLAIN_EVERY_S, lambda state: err.print(_plain_line(name, state), markup=False))
    else:
        with _bar(name) as update:
            yield update


class _Throttled:
    """Passes on progress at most once in a given time, with the speed so far."""

    def __init__(self, every_s: float, show: Callable[[dict[str, Any]], None]) -> None:
        self.every_s, self.show = every_s, show
        self.started_s = self.shown_s = time.monotonic()

    def __call__(self, progress: HasProgress) -> None:
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


def _plain_line(name: str, state: dict[str, Any]) -> str:
    share = f"{state['share']:.0%}" if state["share"] is not None else f"{state['frames']} frames"
    left = f", {format_time(state['left_s'])} left" if state["left_s"] is not None else ""
    return f"{name}: {share}, {state['fps']:.1f} frames/s{left}"


def format_time(seconds: float) -> str:
    """A duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def _bar(name: str) -> Iterator[ProgressHandler]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Name(TextColumn):  # a TextColumn would read markup in the name
        def render(self, task: Any) -> Text:
            return Text(name, overflow="ellipsis", no_wrap=True)

    columns = (
        Name("", table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=None, table_column=Column(ratio=3)),
        TaskProgressColumn(),
        TextColumn("{task.fields[fps]:.1f} frames/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, transient=True, expand=True) as bars:
        task = bars.add_task(name, total=None, fps=0.0)
        started_s = time.monotonic()

        def update(progress: HasProgress) -> None:
            done_s = min(progress.done_s, progress.total_s) if progress.total_s else progress.done_s
            fps = progress.frames / max(1e-6, time.monotonic() - started_s)
            bars.update(task, completed=done_s, total=progress.total_s, fps=fps)

        yield update
