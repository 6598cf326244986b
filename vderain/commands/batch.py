"""`vderain batch`: files and folders enter, how each of them fared is said."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.commands.flags import Make, options, with_options
from vderain.commands.screen import STOPPING, Quiet, Verbose, complain, given, reporting
from vderain.errors import OutputError, UsageError, VderainError

if TYPE_CHECKING:
    from vderain.batch.plan import Plan, Selection
    from vderain.batch.run import Run
    from vderain.batch.task import Workers
    from vderain.commands.board import Board

INTERRUPTED = 130


@with_options
def batch_command(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders (with all in them), or quoted patterns.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUTDIR", help="Folder of the results.")],
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Take only such files of folders; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave out such files and folders; repeatable.")
    ] = None,
    container: Annotated[
        str | None, typer.Option(metavar=".EXT", help="Of the results. Default: that of each input.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes. Default: one for each device.")] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Further attempts where a worker died or hung.")] = 1,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds for one attempt at a file.")] = None,
    segment: Annotated[
        int | None, typer.Option(metavar="FRAMES", help="Go on from after a crash, in steps of this. Default 300.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first file that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, how long and how large.")] = False,
    options: Make = options,
    as_json: Annotated[bool, typer.Option("--json", help="What happens as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take the rain out of many files; what is done already is not done again."""
    with reporting(quiet, verbose):
        from vderain.batch.ledger import Ledger
        from vderain.batch.plan import Selection, make_plan
        from vderain.batch.run import Manner, Run
        from vderain.commands.board import board

        chosen = options()
        _check(workers, retries, timeout, segment)
        selection = Selection(
            tuple(inputs), tuple(include or ()), tuple(exclude or ()), container and f".{container.lower().lstrip('.')}"
        )
        plan = make_plan(selection, output)
        _check_found(plan)
        _make(output)
        with _stopping() as stop, Ledger(output) as ledger, board(quiet, as_json, verbose) as shown:
            for sentence in ledger.said:
                complain(sentence, "")
            run = Run(ledger, chosen, Manner(retries, fail_fast, **given(segment_frames=segment)), shown.tell, stop)
            run.add(plan.items)
            code = _run(run, chosen.device, workers, timeout, shown, selection)
    raise typer.Exit(1 if code == 0 and any(problem.loses for problem in plan.problems) else code)


def _run(
    run: "Run", device: str, workers: int | None, timeout: float | None, shown: "Board", selection: "Selection"
) -> int:
    """Works, sums up, writes the page; returns the exit code."""
    crew: Workers | None = None
    try:
        if run.todo:
            from vderain.batch.pool import LocalWorkers

            crew = LocalWorkers(workers, device, timeout)
            run.work(crew)
    finally:
        summary = run.close(crew)
    if summary.done or summary.failed or not (run.outdir / "report.html").exists():
        run.report("vderain batch", _in_words(run, selection))
    shown.close(summary)
    return INTERRUPTED if summary.stopped else 1 if summary.failed else 0


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


def _check(workers: int | None, retries: int, timeout: float | None, segment: int | None) -> None:
    if segment is not None and segment < 1:
        raise UsageError(f"--segment {segment} is out of range.", "Give 1 frame or more.")
    if workers is not None and not 1 <= workers <= 1024:
        raise UsageError(f"--workers {workers} is out of range.", "Give 1 or more.")
    if retries < 0:
        raise UsageError(f"--retries {retries} is out of range.", "Give 0 or more.")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"--timeout {timeout:g} is out of range.", "Give seconds, more than 0.")


def _check_found(plan: "Plan") -> None:
    for problem in plan.problems:
        complain(problem.what, problem.cure)
    if not plan.items:
        if any(problem.loses for problem in plan.problems):
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
def _stopping() -> Iterator[threading.Event]:
    """The first Ctrl-C asks for an end, the second one is one."""
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # workers end with their parent, and the next run finds what they had
        stop.set()

    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    yield stop
