"""Terminal output shared by all commands: error lines with exit codes, log lines and progress.

Results go to stdout, everything else to stderr.
"""

import io
import json
import logging
import os
import re
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console

from vderain.errors import Interrupted, OutputError, VderainError
from vderain.runtime.text import one_line

if TYPE_CHECKING:
    from vderain.media.clip import Progress

out = Console(highlight=False, soft_wrap=True, emoji=False)  # without emoji, so that a file name like :car: stays
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

PLAIN_EVERY_S = 10.0  # between lines of progress where there is no terminal
EVENT_EVERY_S = 0.5  # between JSON events
HINT_AFTER_S, HINT_FROM_S = 8.0, 120.0  # a run that then has at least this long to go could be made faster
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SENTENCE = re.compile(r"(A|The|There|No) ")  # starts a message, where others start with a file name


ProgressHandler = Callable[["Progress"], None]


def counted(number: int, what: str) -> str:
    """A number with its noun in the singular or plural: ``1 frame``, ``2 frames``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show(text: str) -> None:
    """Print one line to stdout. Names in it, of files or from within them, may contain anything."""
    out.print(one_line(text), markup=False)


@contextmanager
def exit_on_error(quiet: bool, verbose: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code, and log records into lines on stderr.

    Once the block has ended, signals are ignored: everything is cleaned up, and the exit code is decided.

    Raises:
        typer.Exit: an error occurred; carries its exit code.
    """
    _configure_logging(quiet, verbose)
    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup and in a shell's background
                signal.signal(number, _interrupt)
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
    finally:
        _ignore_signals()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGINT, SIGTERM and SIGHUP alike. Further signals are ignored, so that the clean-up is not interrupted."""
    _ignore_signals()
    detach_terminal(number)
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            # with SIG_IGN, Python would print a traceback for a signal that is already pending
            signal.signal(number, _ignore)


def ignore_signals_for_good() -> None:
    """Ignore them while the interpreter ends too: it would set its own handlers back to the default, death."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _ignore:
            signal.signal(number, signal.SIG_IGN)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def detach_terminal(number: int) -> None:
    """After SIGHUP, redirect output to a closed terminal to the null device, so that writing does not fail."""
    if number != getattr(signal, "SIGHUP", None):
        return
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # isatty() is false for a closed terminal
            _discard(stream)


def _discard(stream: int) -> None:
    """Redirect a file descriptor to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)


class _StandardStream(io.TextIOWrapper):
    """Standard output or error, which may be redirected to a file on a full disk.

    Text that standard error cannot take is dropped, because it must not stop the work. Standard output raises an
    `OutputError`. Broken pipes stay as they are: Typer and rich handle them.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        _discard(self.fileno())  # else the text still in the buffer would fail again when Python exits
        if self is sys.stdout:
            what = f"standard output cannot be written ({error.strerror})."
            raise OutputError(what, "Free some space, or redirect it elsewhere.") from error


def check_standard_streams() -> None:
    """Report errors of standard output, and drop those of standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # surrogateescape: file names that are not UTF-8 are printed byte for byte
        sys.stdout = _checked(sys.stdout, "surrogateescape")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _checked(sys.stderr, sys.stderr.errors or "backslashreplace")


def _checked(stream: io.TextIOWrapper, errors: str) -> _StandardStream:
    encoding, line_buffering = stream.encoding, stream.line_buffering
    return _StandardStream(stream.detach(), encoding, errors, line_buffering=line_buffering)


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
    handler.setFormatter(_OneLine("vderain: %(message)s"))
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logger = logging.getLogger("vderain")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


class _OneLine(logging.Formatter):
    """Formats log records whose messages hold names from files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


@contextmanager
def progress_display(
    name: str, quiet: bool, as_json: bool, fast_share: float | None = None
) -> Iterator[ProgressHandler]:
    """Show the progress of one file: a bar on a terminal, else plain lines, JSON events or nothing.

    Args:
        name: what is processed.
        quiet: show nothing.
        as_json: print JSON events to stdout.
        fast_share: how long ``--speed fast`` would take, as a share; None where it does not apply. Printed once, in a
            long run.

    Yields:
        A function to call with the progress after each frame.
    """
    name = one_line(name)
    if as_json:
        yield _Throttled(EVENT_EVERY_S, lambda state: out.print(json.dumps(_event(state)), markup=False))
    elif quiet:
        yield lambda progress: None
    elif not err.is_terminal:
        lines = _Throttled(PLAIN_EVERY_S, lambda state: err.print(_plain_line(name, state), markup=False))
        yield _with_hint(lines, fast_share)
    else:
        with _bar(name) as update:
            yield _with_hint(update, fast_share)


class _Pace:
    """The speed since the first frame: to load models and to look for rain takes time, but not for each frame."""

    def __init__(self) -> None:
        self._made_s = time.monotonic()
        self._began: tuple[float, Progress] | None = None

    def __call__(self, progress: "Progress") -> tuple[float, float, float | None]:
        """Take the progress after a frame into account.

        Returns:
            Seconds since the first frame, frames a second, and the seconds left or None where they are unknown.
        """
        now_s = time.monotonic()
        if self._began is None:  # nothing else is known yet
            self._began = now_s, progress
            elapsed_s, frames, done_s = now_s - self._made_s, 1, progress.done_s / max(1, progress.frames)
        else:
            began_s, first = self._began
            elapsed_s, frames, done_s = now_s - began_s, progress.frames - first.frames, progress.done_s - first.done_s
        left_s = None
        if progress.total_s and done_s > 0:
            left_s = max(0.0, progress.total_s - progress.done_s) * elapsed_s / done_s
        return elapsed_s, frames / max(1e-6, elapsed_s), left_s


def _with_hint(show: ProgressHandler, fast_share: float | None) -> ProgressHandler:
    """Print once, after the first seconds of a long run, how long it takes and how much less a faster one would."""
    pace, said = _Pace(), fast_share is None

    def update(progress: "Progress") -> None:
        nonlocal said
        show(progress)
        elapsed_s, fps, left_s = pace(progress)
        if not said and elapsed_s >= HINT_AFTER_S and left_s is not None:
            said = True
            if left_s >= HINT_FROM_S:
                fast = _about((fast_share or 1.0) * left_s)
                err.print(f"{fps:.1f} frames/s, {_about(left_s)} left; --speed fast: {fast}", markup=False)

    return update


def _about(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(seconds / 3600)} h"


class _Throttled:
    """Passes on progress at most once in a given time, with the speed so far."""

    def __init__(self, every_s: float, show: Callable[[dict[str, Any]], None]) -> None:
        self.every_s, self.show = every_s, show
        self.shown_s, self.pace = time.monotonic(), _Pace()

    def __call__(self, progress: "Progress") -> None:
        _, fps, left_s = self.pace(progress)
        now_s = time.monotonic()
        if now_s - self.shown_s < self.every_s:
            return
        self.shown_s = now_s
        share = min(1.0, progress.done_s / progress.total_s) if progress.total_s else None
        self.show({"frames": progress.frames, "fps": fps, "share": share, "left_s": left_s})


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


def format_days(seconds: float) -> str:
    """A duration in days and hours, below two days as `format_time` does."""
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h" if days >= 2 else format_time(seconds)


def format_size(size_bytes: int) -> str:
    """A size in MB, from 1 GB on in GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


@contextmanager
def _bar(name: str) -> Iterator[ProgressHandler]:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
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
    with Bars(*columns, console=err, transient=True, expand=True) as bars:
        task, pace = bars.add_task(name, total=None, fps=0.0), _Pace()

        def update(progress: "Progress") -> None:
            done_s = min(progress.done_s, progress.total_s) if progress.total_s else progress.done_s
            _, fps, _ = pace(progress)
            bars.update(task, completed=done_s, total=progress.total_s, fps=fps)

        yield update
