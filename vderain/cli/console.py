"""What all commands share: one line about what was done or what went wrong, progress on the way, an exit code.

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
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from vderain.errors import Interrupted, VderainError

out = Console(highlight=False, soft_wrap=True, emoji=False)  # names are printed as they are, even :car:
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

PLAIN_EVERY_S = 10.0  # between lines of progress where there is no terminal
EVENT_EVERY_S = 0.5  # between JSON events
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# what moves the cursor, ends a line, turns text around, or is a byte that is no Unicode
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SENTENCE = re.compile(r"(A|The|There|No) ")  # how messages begin, as against the names of files

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is decided along the way.")]


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def one_line(text: str) -> str:
    """A text with escapes for what does not show: names of files may hold anything, commands to a terminal too."""
    return UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found[0])[1:-1]


def given(**flags: Any) -> dict[str, Any]:
    """Flags the user gave; the others keep the defaults of the dataclass they go into."""
    return {name: value for name, value in flags.items() if value is not None}


@contextmanager
def exit_on_error(quiet: bool, verbose: bool) -> Iterator[None]:
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
    detach_terminal(number)
    raise KeyboardInterrupt


def detach_terminal(number: int) -> None:
    """After the signal that a terminal was closed, what would be written there goes nowhere, and does not fail."""
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # one that was closed no longer says that it is a terminal
            os.dup2(nowhere, stream)


def _fail(error: VderainError, verbose: bool, cause: BaseException | None = None) -> NoReturn:
    if verbose:
        trace = cause or error.__cause__
        if trace is not None:
            err.print("".join(traceback.format_exception(trace)), markup=False, style="dim")
    print_error(error.what, error.cure)
    raise typer.Exit(error.exit_code) from None


def print_error(what: str, cure: str, about: str = "") -> None:
    """One line on stderr: what happened, perhaps to which of many files, and what to do."""
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
def progress_display(name: str, quiet: bool, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """A way of showing progress that fits where stderr goes: a bar, plain lines, JSON events, or none."""
    name = one_line(name)
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
    left = f", {clock(state['left_s'])} left" if state["left_s"] is not None else ""
    return f"{name}: {share}, {state['fps']:.1f} frames/s{left}"


def clock(seconds: float) -> str:
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
