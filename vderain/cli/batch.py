"""`vderain batch`: removes the rain from many files."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vderain.batch.policy import SETTLE_S, RetryPolicy
from vderain.cli.console import (
    STOP_SIGNALS,
    counted,
    detach_terminal,
    err,
    exit_on_error,
    format_days,
    format_size,
    format_time,
    out,
    print_error,
)
from vderain.cli.flags import Json, MakeOptions, Quiet, Verbose, build_options, with_options
from vderain.errors import CheckpointError, DeviceError, InputError, Interrupted, OutputError, UsageError, VderainError
from vderain.options import DryAction, Options, settings, weights
from vderain.runtime.text import one_line

if TYPE_CHECKING:
    from vderain.batch.estimate import Estimate
    from vderain.batch.ledger import Ledger
    from vderain.batch.plan import Item, Plan, Selection
    from vderain.batch.run import Run
    from vderain.batch.watch import Watcher
    from vderain.batch.workers.task import Workers
    from vderain.cli.batch_output import BatchDisplay
    from vderain.runtime.threads import StopFlag

INTERRUPTED = 130
POLICY = RetryPolicy()
RAY_ADDRESS = re.compile(r"ray(://[^/:]+(:\d+)?)?")

selection_flag = partial(typer.Option, rich_help_panel="Selection of files")
running_flag = partial(typer.Option, rich_help_panel="Running")

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or quoted patterns.")]
Outdir = Annotated[Path, typer.Option("-o", "--output", metavar="OUTDIR", help="Folder for the results.")]
Include = Annotated[list[str] | None, selection_flag(metavar="PATTERN", help="Take only matching files; repeatable.")]
Exclude = Annotated[
    list[str] | None, selection_flag(metavar="PATTERN", help="Skip matching files and folders; repeatable.")
]
Watch = Annotated[bool, selection_flag("--watch", help="Keep running, and process new files.")]
Settle = Annotated[
    float,
    selection_flag(min=0.01, metavar="SECONDS", help="Time without changes after which a new file counts as complete."),
]
WorkerCount = Annotated[
    int | None,
    running_flag(min=1, max=1024, metavar="N", show_default="one per device", help="Worker processes."),
]
Retries = Annotated[int, running_flag(min=0, metavar="N", help="Further attempts after a worker died or timed out.")]
Timeout = Annotated[
    float | None, running_flag(min=0.01, metavar="SECONDS", help="Time limit for one attempt at a file.")
]
Segment = Annotated[int, running_flag(min=1, metavar="FRAMES", help="Save progress every so many frames.")]
FailFast = Annotated[bool, running_flag("--fail-fast", help="Stop at the first file that fails.")]
RetryFailed = Annotated[bool, running_flag("--retry-failed", help="Process files again that are known to be damaged.")]
On = Annotated[str | None, running_flag(metavar="ray[://HOST:PORT]", help="Work on a Ray cluster.")]
Dry = Annotated[
    DryAction, running_flag(help="What OUTDIR gets of a dry file: a copy, a link that shares its data, or nothing.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the work, with time and space needed.")]


@partial(with_options, auto=True)
def batch_command(
    inputs: Inputs,
    output: Outdir,
    include: Include = None,
    exclude: Exclude = None,
    watch: Watch = False,
    settle: Settle = SETTLE_S,
    workers: WorkerCount = None,
    retries: Retries = POLICY.retries,
    timeout: Timeout = None,
    segment: Segment = POLICY.segment_frames,
    fail_fast: FailFast = POLICY.fail_fast,
    retry_failed: RetryFailed = POLICY.retry_failed,
    on: On = None,
    dry: Dry = "skip",
    dry_run: DryRun = False,
    make_options: MakeOptions = build_options,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove the rain from many files. Finished files are skipped when the command is run again."""
    with exit_on_error(quiet, verbose), _limit_exit_codes():
        from vderain.batch.ledger import Ledger
        from vderain.batch.plan import make_plan
        from vderain.batch.run import Run
        from vderain.batch.watch import Watcher
        from vderain.cli.batch_output import batch_display

        _check_ray_address(on)
        chosen = make_options()
        selection = _selection(inputs, include, exclude, chosen, watch)
        options = replace(chosen, container=None, dry=dry)  # the plan names every result; images stay images
        plan = make_plan(selection, output)
        _check_found(plan, watch)
        if dry_run:
            raise typer.Exit(_print_estimate(plan, output, options, as_json, quiet))
        _create_folder(output)
        watching = Watcher(selection, output, print_error, settle) if watch else nullcontext()
        with _stopping() as stop, Ledger(output) as ledger, batch_display(quiet, as_json, verbose) as display:
            _print_warnings(ledger)
            policy = RetryPolicy(retries, fail_fast, retry_failed, segment)
            run = Run(ledger=ledger, options=options, policy=policy, emit=display.tell, stop=stop)
            make_workers = partial(_make_workers, on, options.device, workers, timeout, retries)
            with watching as watcher:
                if watcher is None:
                    run.add(plan.items)
                    run.check_space()
                code = _run(run, make_workers, display, selection, watcher)
    raise typer.Exit(1 if code == 0 and plan.incomplete else code)


def _print_warnings(ledger: "Ledger") -> None:
    for warning in ledger.warnings:
        print_error(warning, "")


def _check_ray_address(on: str | None) -> None:
    if on is not None and not RAY_ADDRESS.fullmatch(on):
        raise UsageError(f"--on must be 'ray' or 'ray://HOST:PORT', not {on!r}.", "Or leave it out.")


def _selection(
    inputs: list[str], include: list[str] | None, exclude: list[str] | None, options: Options, watch: bool
) -> "Selection":
    from vderain.batch.plan import Selection
    from vderain.batch.record import GPX_SUFFIX

    return Selection(
        inputs=tuple(inputs),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        suffix=f".{options.container}" if options.container else None,
        sidecars=(GPX_SUFFIX,) if options.gpx else (),
        allow_empty=watch,
    )


def _run(
    run: "Run",
    make_workers: Callable[[], "Workers"],
    display: "BatchDisplay",
    selection: "Selection",
    watcher: "Watcher | None",
) -> int:
    """Process the files, write the report and print the summary. Returns the exit code."""
    workers: Workers | None = None
    complete = False
    write_report = partial(run.write_report, "vderain batch", _settings_table(run, selection))

    try:
        if watcher is not None:
            workers = make_workers()
            run.work(workers, watcher, write_report)
        elif run.todo:
            workers = make_workers()
            run.work(workers)
        complete = True
    finally:
        summary = run.close(workers)
        if not complete and summary.ended:  # report the files that ended before the interruption
            with suppress(OutputError):
                write_report()
            display.close(summary)
    write_report()  # in any case: the run before may have been killed on the way to it
    display.close(summary)
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
        "dry files": {"copy": "copied", "link": "linked", "skip": "skipped"}[chosen.dry] if chosen.auto else "encoded",
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
def _stopping() -> Iterator["StopFlag"]:
    """Set a flag at the first Ctrl-C (or SIGTERM, SIGHUP), and exit at once at the second."""
    from vderain.runtime.threads import StopFlag

    stop = StopFlag()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # workers exit with their parent; the next run continues from their segments
        detach_terminal(number)
        stop.set()

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    yield stop


def _print_estimate(plan: "Plan", outdir: Path, options: Options, as_json: bool, quiet: bool) -> int:
    """Print what a run would do, with the estimated time and space. Nothing is written to OUTDIR.

    Returns:
        The exit code.
    """
    from vderain.batch.estimate import estimate

    items = _todo(plan, outdir, options)
    if items and not (quiet or as_json):
        err.print("Reading the files, looking for rain, and measuring the first frames of a few ...")
    found = estimate(items, options) if items else []
    total = _total(found, len(plan.items) - len(items), _free_bytes(outdir))
    if as_json:
        lines = [json.dumps(each, default=str) for each in (*map(_estimate_facts, found), total)]
    else:
        lines = [one_line(line) for line in (*map(_estimate_line, found), _total_line(total, outdir))]
    out.print("\n".join(lines), markup=False)  # at once: each call of rich takes a while
    return 1 if plan.incomplete else 0


def _todo(plan: "Plan", outdir: Path, options: Options) -> list["Item"]:
    from vderain.batch.ledger import read_only
    from vderain.batch.record import Record, is_done
    from vderain.runtime.files import fingerprint

    known, asked, by = read_only(outdir), settings(options), weights(options)

    def done(item: "Item") -> bool:
        if item.target not in known:  # without reading the source
            return False
        try:
            wanted = Record(
                item=item, fingerprint=fingerprint(item.source), settings=asked, weights=by, dry=options.dry
            )
            return is_done(outdir, known.get(item.target), wanted)
        except InputError:
            return False

    return [item for item in plan.items if not done(item)]


def _free_bytes(outdir: Path) -> int:
    there = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _total(found: list["Estimate"], done: int, free_bytes: int) -> dict[str, Any]:
    sound = [each for each in found if not each.error]
    seconds = [each.seconds for each in sound if each.seconds is not None]
    sizes = [each.bytes_out for each in sound if each.bytes_out is not None]
    return {
        "event": "estimate", "files": len(sound), "would_fail": len(found) - len(sound), "done": done,
        "unknown": len(sound) - len(seconds), "guessed": sum(not each.opened for each in sound),
        "looked_at": sum(each.dry is not None for each in sound), "dry": sum(each.dry is True for each in sound),
        "frames": sum(each.frames for each in sound),
        "seconds": round(sum(seconds), 1), "bytes": sum(sizes), "free_bytes": free_bytes,
    }  # fmt: skip


def _estimate_facts(each: "Estimate") -> dict[str, Any]:
    item = each.item
    facts = {"source": item.source, "target": item.target, "group": item.group, "frames": each.frames}
    seconds = round(each.seconds, 1) if each.seconds is not None else None
    return {
        "event": "would", **facts, "seconds": seconds, "bytes": each.bytes_out, "error": each.error,
        "guessed": not each.opened, "dry": each.dry,
    }  # fmt: skip


def _estimate_line(each: "Estimate") -> str:
    name, target = each.item.name, each.item.target
    if each.error:
        return f"{name}: would fail: {each.error} {each.cure}"
    names = name if name == target else f"{name} -> {target}"
    if each.seconds is None or each.bytes_out is None:
        return f"{names}: of unknown length"
    about = "dry, " if each.dry else "" if each.opened else "about "
    need = f"about {format_time(each.seconds)}, {format_size(each.bytes_out)}"
    return f"{names}: {about}{counted(each.frames, 'frame')}, {need}"


def _total_line(total: dict[str, Any], outdir: Path) -> str:
    failing = f", {total['would_fail']} would fail" if total["would_fail"] else ""
    done = f", {total['done']} done before" if total["done"] else ""
    unknown = f" (and {total['unknown']} of unknown length)" if total["unknown"] else ""
    opened = total["files"] + total["would_fail"] - total["guessed"]
    guessed = f" {counted(opened, 'file')} were opened, the others judged by their size." if total["guessed"] else ""
    looked = (
        f" Of {counted(total['looked_at'], 'file')} looked at, {total['dry']} are dry." if total["looked_at"] else ""
    )
    return (
        f"{counted(total['files'], 'file')} to do{failing}{done}: {counted(total['frames'], 'frame')}, about "
        f"{format_days(total['seconds'])} on one device{unknown}; about {format_size(total['bytes'])} of the "
        f"{format_size(total['free_bytes'])} that are free in {outdir}.{guessed}{looked}"
    )
