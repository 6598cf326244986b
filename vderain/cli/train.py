"""`vderain train`: trains a generator from a TOML recipe."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import err, exit_on_error, format_time, out
from vderain.cli.flags import Quiet, Verbose
from vderain.errors import Interrupted, VderainError

if TYPE_CHECKING:
    from vderain.train.logger import Event, Progress, Validated


# Most failures happen in all processes, and torchrun stops all of them when one exits. The others
# therefore wait for the first process to report it; one that still runs after this time reports its own error.
REPORT_DELAY_S = 30


def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Recipe, such as configs/base.toml.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for checkpoints and logs.")] = Path(
        "runs/latest"
    ),
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of the recipe; repeatable."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N|mps", help="Where to train; auto: CUDA if there is any, else the CPU."
        ),
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state saved in the folder.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a generator. Ctrl-C saves the state, and --resume continues from it."""
    is_worker = int(os.environ.get("RANK", "0")) > 0 and "TORCHELASTIC_RUN_ID" in os.environ
    if is_worker:
        err.quiet = out.quiet = quiet = True  # only the first of torchrun's processes prints
    with exit_on_error(quiet, verbose):
        from vderain.train.config import load_recipe
        from vderain.train.loop import train
        from vderain.train.trainer import RESUME

        recipe = load_recipe(config, tuple(override or ()))
        try:
            with _progress_lines(quiet) as report:
                weights = train(recipe, out_dir, resume=resume, device=device, on_event=report)
        except KeyboardInterrupt:
            saved = (out_dir / RESUME).exists()
            cure = f"The state is in {out_dir}: --resume continues from there." if saved else "Nothing was saved yet."
            raise Interrupted("interrupted.", cure) from None
        except VderainError:
            if is_worker:
                time.sleep(REPORT_DELAY_S)
                err.quiet = False
            raise
        if not quiet:
            out.print(str(weights), markup=False)


@contextmanager
def _progress_lines(quiet: bool) -> "Iterator[Callable[[Event], None]]":
    """Print log lines, and on a terminal a progress bar below them."""
    if quiet:
        yield lambda event: None
    elif err.is_terminal:
        with _bar() as update:
            yield update
    else:
        yield _Lines()


class _Lines:
    """Prints progress and validation lines with the remaining time."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.first: int | None = None  # iteration at which this run started

    def __call__(self, event: "Event") -> None:
        from vderain.train.logger import Progress, Stepped, Validated

        match event:
            case Stepped() if self.first is None:
                self.first = event.iteration - 1
            case Progress():
                err.print(_progress(event, self._left_s(event)), markup=False)
            case Validated():
                err.print(_validated(event), markup=False)

    def _left_s(self, progress: "Progress") -> float:
        done = progress.iteration - (self.first or 0)
        return (time.monotonic() - self.started_s) * (progress.iterations - progress.iteration) / max(1, done)


def _progress(p: "Progress", left_s: float) -> str:
    parts = "".join(f"  {name} {value:.4f}" for name, value in p.parts.items())
    left = f"  {format_time(left_s)} left" if p.iteration < p.iterations else ""
    return (
        f"{p.iteration}/{p.iterations}  loss {p.loss:.5f}{parts}  rate {p.rate:.2e}  "
        f"{p.crops_per_s:.0f} images/s  waiting for data {p.waiting:.0%}{left}"
    )


def _validated(v: "Validated") -> str:
    sets = "  ".join(f"{name} {s.psnr_in_db:.2f} to {s.psnr_y_db:.2f} dB, {s.ssim_y:.4f}" for name, s in v.sets.items())
    return f"{v.iteration}  {sets}  blend {v.blend_db:.2f} dB{', the best so far' if v.best else ''}"


@contextmanager
def _bar() -> "Iterator[Callable[[Event], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vderain.train.logger import Stepped

    fields = TextColumn("loss {task.fields[loss]:.5f}"), TextColumn("{task.fields[pace]:.1f} images/s")
    columns = (BarColumn(), MofNCompleteColumn(), *fields, TimeRemainingColumn(compact=True), TextColumn("left"))
    lines = _Lines()
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("", total=None, loss=float("nan"), pace=0.0)

        def update(event: "Event") -> None:
            if isinstance(event, Stepped):
                if lines.first is None:  # estimate the time left from this run alone
                    bars.reset(task, total=event.iterations, completed=event.iteration)
                pace = (bars.tasks[0].speed or 0) * event.crops
                bars.update(task, completed=event.iteration, loss=event.loss, pace=pace)
            lines(event)

        yield update
