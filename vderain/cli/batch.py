"""`vderain batch`: files and folders enter, how each of them fared is said."""

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

from vderain.cli.console import STOPPING, Quiet, Verbose, detach_terminal, exit_on_error, given, print_error
from vderain.cli.flags import Make, options, with_options
from vderain.errors import CheckpointError, DeviceError, Interrupted, OutputError, UsageError, VderainError

if TYPE_CHECKING:
    from vderain.batch.plan import Plan, Selection
    from vderain.batch.run import Run
    from vderain.batch.watch import Watcher
    from vderain.batch.workers.task import Workers
    from vderain.cli.batch_progress import BatchDisplay

INTERRUPTED = 130
PLACE = re.compile(r"ray(://[^/:]+(:\d+)?)?")


@with_options
def batch_command(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders (with all in them), or quoted patterns.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUTDIR", help="Folder of the results.")],
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Take only such files of folders and patterns; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave out such files and folders; repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes. Default: one for each device.")] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Further attempts where a worker died or hung.")] = 1,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds for one attempt at a file.")] = None,
    segment: Annotated[
        int | None, typer.Option(metavar="FRAMES", help="Go on from after a crash, in steps of this. Default 300.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first file that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, how long and how large.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on: take new files as they are completed.")] = False,
    settle: Annotated[
        float | None, typer.Option(metavar="S", help="A file at rest for so long is complete. Default 5.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="ray[://HOST:PORT]", help="Work on a Ray cluster instead of here.")
    ] = None,
    options: Make = options,
    as_json: Annotated[bool, typer.Option("--json", help="What happens as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take the rain out of many files; what is done already is not done again."""
    with exit_on_error(quiet, verbose), _one_for_all():
        from vderain.batch.ledger import TRACK, Ledger
        from vderain.batch.plan import Selection, make_plan
        from vderain.batch.run import RetryPolicy, Run
        from vderain.cli.batch_progress import batch_display

        chosen = options()
        _check(workers, retries, timeout, segment, settle)
        if on is not None and not PLACE.fullmatch(on):
            raise UsageError(f"--on {on} is no place to work.", "Give ray, or ray://HOST:PORT of a cluster's head.")
        suffix = f".{chosen.container}" if chosen.container else None
        beside = (TRACK,) if chosen.gpx else ()
        selection = Selection(tuple(inputs), tuple(include or ()), tuple(exclude or ()), suffix, beside, patient=watch)
        chosen = replace(chosen, container=None)  # the plan names every result; pictures stay pictures
        plan = make_plan(selection, output)
        _check_found(plan, watch)
        if dry_run:
            from vderain.cli.dry_run import print_estimate

            print_estimate(plan, output, chosen, as_json, quiet)
            raise typer.Exit(1 if plan.incomplete else 0)
        _make(output)
        with _stopping() as stop, Ledger(output) as ledger, batch_display(quiet, as_json, verbose) as shown:
            for sentence in ledger.said:
                print_error(sentence, "")
            run = Run(
                ledger, chosen, RetryPolicy(retries, fail_fast, **given(segment_frames=segment)), shown.tell, stop
            )
            make_workers = partial(_make_workers, on, chosen.device, workers, timeout, retries)
            if watch:
                from vderain.batch.watch import SETTLE_S, Watcher

                with Watcher(selection, output, print_error, settle or SETTLE_S) as watcher:
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
    """Works, sums up, writes the page; returns the exit code."""
    workers: Workers | None = None
    whole = False

    def page() -> None:
        run.report("vderain batch", _in_words(run, selection))

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
        if not whole and summary.ended:  # what was done before it broke off is told, too
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


def _in_words(run: "Run", selection: "Selection") -> dict[str, str]:
    """What the run was told, for the page."""
    chosen = run.options
    codec = chosen.encode.codec or "as each container likes it"
    return {
        "inputs": ", ".join(selection.inputs),
        "model": f"{chosen.model} ({run.weights[:12]})" if run.weights else "none",
        "temporal": chosen.temporal,
        "strength": f"{chosen.strength:g}",
        "codec": codec,
        "guard": "on" if chosen.guard else "off",
    }


def _check(workers: int | None, retries: int, timeout: float | None, segment: int | None, settle: float | None) -> None:
    if settle is not None and not settle > 0:
        raise UsageError(f"--settle {settle:g} is out of range.", "Give seconds, more than 0.")
    if segment is not None and segment < 1:
        raise UsageError(f"--segment {segment} is out of range.", "Give 1 frame or more.")
    if workers is not None and not 1 <= workers <= 1024:
        raise UsageError(f"--workers {workers} is out of range.", "Give 1 or more.")
    if retries < 0:
        raise UsageError(f"--retries {retries} is out of range.", "Give 0 or more.")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"--timeout {timeout:g} is out of range.", "Give seconds, more than 0.")


def _check_found(plan: "Plan", watch: bool) -> None:
    if watch:
        return  # the watcher says what it meets, and files may still come
    for problem in plan.problems:
        print_error(problem.what, problem.cure)
    if not plan.items:
        if plan.incomplete:
            raise VderainError("there is no file to do in what can be read.", "See the lines above.")
        raise UsageError("there is no video in the inputs.", "Name other kinds of files with --include.")


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {output} cannot be made ({error.strerror}).", "Choose another folder with -o."
        ) from error


@contextmanager
def _one_for_all() -> Iterator[None]:
    """A batch ends with 0, 1, 2 or 130: what forbids all of it is usage where another flag would help, else 1."""
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
    """The first Ctrl-C asks for an end, the second one is one."""
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # workers end with their parent, and the next run finds what they had
        detach_terminal(number)
        stop.set()

    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    yield stop
