"""`vderain batch`: removes the rain from many files."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.batch.policy import SETTLE_S, RetryPolicy
from vderain.cli.console import STOP_SIGNALS, Json, Quiet, Verbose, detach_terminal, exit_on_error, print_error
from vderain.cli.flags import MakeOptions, build_options, with_options
from vderain.errors import CheckpointError, DeviceError, Interrupted, OutputError, UsageError, VderainError

if TYPE_CHECKING:
    from vderain.batch.plan import Plan, Selection
    from vderain.batch.run import Run
    from vderain.batch.watch import Watcher
    from vderain.batch.workers.task import Workers
    from vderain.cli.batch_progress import BatchDisplay

INTERRUPTED = 130
POLICY = RetryPolicy()
RAY_ADDRESS = re.compile(r"ray(://[^/:]+(:\d+)?)?")
SELECTION, RUNNING = "Selection of files", "Running"  # help panels


@with_options
def batch_command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or quoted patterns.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUTDIR", help="Folder for the results.")],
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Take only matching files; repeatable.", rich_help_panel=SELECTION),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Skip matching files and folders; repeatable.", rich_help_panel=SELECTION),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and process new files.", rich_help_panel=SELECTION)
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="SECONDS",
            help="Time without changes after which a new file counts as complete.",
            rich_help_panel=SELECTION,
        ),
    ] = SETTLE_S,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            show_default="one per device",
            help="Worker processes.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Further attempts after a worker died or timed out.", rich_help_panel=RUNNING
        ),
    ] = POLICY.retries,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.01, metavar="SECONDS", help="Time limit for one attempt at a file.", rich_help_panel=RUNNING
        ),
    ] = None,
    segment: Annotated[
        int,
        typer.Option(min=1, metavar="FRAMES", help="Save progress every so many frames.", rich_help_panel=RUNNING),
    ] = POLICY.segment_frames,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first file that fails.", rich_help_panel=RUNNING)
    ] = POLICY.fail_fast,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Process files again that are known to be damaged.", rich_help_panel=RUNNING
        ),
    ] = POLICY.retry_failed,
    on: Annotated[
        str | None,
        typer.Option(metavar="ray[://HOST:PORT]", help="Work on a Ray cluster.", rich_help_panel=RUNNING),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the work, with time and space needed.")] = False,
    make_options: MakeOptions = build_options,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove the rain from many files. Finished files are skipped when the command is run again."""
    with exit_on_error(quiet, verbose), _limit_exit_codes():
        from vderain.batch.ledger import Ledger
        from vderain.batch.plan import Selection, make_plan
        from vderain.batch.record import GPX_SUFFIX
        from vderain.batch.run import Run
        from vderain.cli.batch_progress import batch_display

        chosen = make_options()
        if on is not None and not RAY_ADDRESS.fullmatch(on):
            raise UsageError(f"--on must be 'ray' or 'ray://HOST:PORT', not {on!r}.", "Or leave it out.")
        suffix = f".{chosen.container}" if chosen.container else None
        sidecars = (GPX_SUFFIX,) if chosen.gpx else ()
        selection = Selection(
            inputs=tuple(inputs), include=tuple(include or ()), exclude=tuple(exclude or ()), suffix=suffix,
            sidecars=sidecars, allow_empty=watch,
        )  # fmt: skip
        chosen = replace(chosen, container=None)  # the plan names every result; pictures stay pictures
        plan = make_plan(selection, output)
        _check_found(plan, watch)
        if dry_run:
            from vderain.cli.dry_run import print_estimate

            print_estimate(plan, output, chosen, as_json, quiet)
            raise typer.Exit(1 if plan.incomplete else 0)
        _create_folder(output)
        with _stopping() as stop, Ledger(output) as ledger, batch_display(quiet, as_json, verbose) as shown:
            for sentence in ledger.warnings:
                print_error(sentence, "")
            policy = RetryPolicy(retries, fail_fast, retry_failed, segment)
            run = Run(ledger=ledger, options=chosen, policy=policy, emit=shown.tell, stop=stop)
            make_workers = partial(_make_workers, on, chosen.device, workers, timeout, retries)
            if watch:
                from vderain.batch.watch import Watcher

                with Watcher(selection, output, print_error, settle) as watcher:
                    code = _run(run, make_workers, shown, selection, watcher)
            else:
                run.add(plan.items)
                run.check_space()
                code = _run(run, make_workers, shown, selection)
    raise typer.Exit(1 if code == 0 and plan.incomplete else code)


def _run(
    run: "Run",
    make_workers: Callable[[], "Workers"],
    shown: "BatchDisplay",
    selection: "Selection",
    watcher: "Watcher | None" = None,
) -> int:
    """Process the files, write the report and print the summary. Returns the exit code."""
    workers: Workers | None = None
    whole = False

    def page() -> None:
        run.write_report("vderain batch", _settings_table(run, selection))

    try:
        if watcher is not None:
            workers = make_workers()
            run.work(workers, watcher, page)
        elif run.todo:
            workers = make_workers()
            run.work(workers)
        whole = True
    finally:
        summary = run.close(workers)
        if not whole and summary.ended:  # report the files that ended before the interruption
            with suppress(OutputError):
                page()
            shown.close(summary)
    page()  # in any case: the run before may have been killed on the way to it
    shown.close(summary)
    return INTERRUPTED if summary.stopped else 1 if summary.failed else 0


def _make_workers(on: str | None, device: str, count: int | None, timeout: float | None, retries: int) -> "Workers":
    if on is not None:
        from vderain.batch.workers.ray import RayWorkers

        return RayWorkers(on, count, device, timeout, retries)
    from vderain.batch.workers.local import LocalWorkers

    return LocalWorkers(count, device, timeout)


def _settings_table(run: "Run", selection: "Selection") -> dict[str, str]:
    """The run's settings, for the report."""
    chosen = run.options
    codec = chosen.encode.codec or "the source's"
    return {
        "inputs": ", ".join(selection.inputs),
        "model": f"{chosen.model} ({run.weights[:12]})" if run.weights else "none",
        "temporal": chosen.temporal,
        "strength": f"{chosen.strength:g}",
        "codec": codec,
        "guard": "on" if chosen.guard else "off",
    }


def _check_found(plan: "Plan", watch: bool) -> None:
    if watch:
        return  # files may still appear, and the watcher reports problems
    for problem in plan.problems:
        print_error(problem.what, problem.cure)
    if not plan.items:
        if plan.incomplete:
            raise VderainError("no input could be read.", "See the lines above.")
        raise UsageError("there is no video in the inputs.", "Name other kinds of files with --include.")


def _create_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {output} cannot be created ({error.strerror}).", "Choose another folder with -o."
        ) from error


@contextmanager
def _limit_exit_codes() -> Iterator[None]:
    """Map errors that stop the whole batch to exit code 2 where another flag would help, else to 1."""
    try:
        yield
    except (UsageError, Interrupted):
        raise
    except (CheckpointError, DeviceError) as error:
        raise UsageError(error.what, error.cure) from error
    except VderainError as error:
        raise VderainError(error.what, error.cure) from error


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set an event at the first Ctrl-C (or SIGTERM, SIGHUP), and exit at once at the second."""
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # workers exit with their parent; the next run continues from their segments
        detach_terminal(number)
        stop.set()

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    yield stop
