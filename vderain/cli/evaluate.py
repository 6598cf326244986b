"""`vderain evaluate`: measures how well rain was removed."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.cli.console import counted, exit_on_error, out, progress_display, show
from vderain.cli.flags import (
    DEFAULTS,
    Device,
    Mode,
    Model,
    NetworkPrecision,
    Quiet,
    Strength,
    Verbose,
    advanced,
    option,
)  # fmt: skip
from vderain.errors import UsageError
from vderain.media.encode import EncodeOptions
from vderain.options import Options

NETWORK_FLAGS = ("model", "strength", "temporal", "device", "precision")

if TYPE_CHECKING:
    from vderain.evaluation.evaluate import PairedScores, Report, UnpairedScores
    from vderain.evaluation.footage import Footage
    from vderain.evaluation.over_time import OverTime
    from vderain.process import Progress


Rain = Annotated[Path, option(metavar="PATH", help="Rainy video, image, or folder of images.")]
Clear = Annotated[Path | None, option(metavar="PATH", help="Ground truth: the scene without rain, frame by frame.")]
Out = Annotated[
    Path | None, option("--out", metavar="PATH", help="Measure this derained clip instead of processing --rain.")
]
Single = Annotated[bool, option("--single", help="Treat the folder as unrelated images, not as a video.")]
Identity = Annotated[bool, option("--identity", help="Also process the clear clip, to measure unwanted changes.")]
Limit = Annotated[int | None, option(min=1, metavar="N", help="Use the first N frames only.")]
Sheet = Annotated[Path | None, option(metavar="FILE.png", help="Write a contact sheet: before, after, difference.")]
Plot = Annotated[
    Path | None, option(metavar="FILE.png", help="Without --clear: write the measures of each frame as a plot.")
]
AsJson = Annotated[bool, advanced("--json", help="Print one JSON object.")]


def evaluate_command(
    ctx: typer.Context,
    rain: Rain,
    clear: Clear = None,
    derained: Out = None,
    single: Single = False,
    identity: Identity = False,
    strength: Strength = DEFAULTS.strength,
    model: Model = DEFAULTS.model,
    device: Device = DEFAULTS.device,
    limit: Limit = None,
    sheet: Sheet = None,
    plot: Plot = None,
    temporal: Mode = DEFAULTS.temporal,
    precision: NetworkPrecision = DEFAULTS.precision,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how well rain is removed, with or without ground truth."""
    with exit_on_error(quiet, verbose):
        chosen = [name for name in NETWORK_FLAGS if _was_given(ctx, name)]
        _check(rain, clear, derained, single, identity, chosen, plot)
        from vderain.evaluation.contact_sheet import check_target, write_sheet
        from vderain.evaluation.footage import Footage, zip_frames

        for picture in filter(None, (sheet, plot)):
            check_target(picture)
        network = Options(
            model=model or DEFAULTS.model, strength=strength, temporal=temporal or DEFAULTS.temporal, device=device,
            precision=precision,
        )  # fmt: skip
        before = Footage(rain, single, limit)
        truth = Footage(clear, single, limit) if clear else None
        given = Footage(derained, single, limit) if derained else None
        for _ in zip_frames([each for each in (before, truth, given) if each]):
            pass  # reports clips that do not match before the long work
        with TemporaryDirectory(prefix="vderain-") as folder:
            work = Work(Path(folder), replace(network, encode=EncodeOptions(codec="ffv1")), quiet)
            after = given or work.derained(before, "out")
            kept = work.derained(truth, "clear") if truth and identity else None
            found = _measure(before, after, truth, kept, quiet)
            over_time = None if truth else _over_time(before, after, plot)
            if sheet:
                write_sheet(sheet, before, after, truth, found.frames)
        if as_json:
            named = {"rain": rain, "out": derained, "clear": clear, "model": work.model, "device": work.device}
            _print_json(named, found, over_time)
        else:
            _print(found, rain, work, over_time)


def _measure(
    before: "Footage", after: "Footage", truth: "Footage | None", kept: "Footage | None", quiet: bool
) -> "Report":
    """Compare all clips, with progress.

    Args:
        before: the rainy clip.
        after: the clip without rain.
        truth: the clear clip, if there is one.
        kept: the clear clip after processing, if asked for.
        quiet: show no progress.
    """
    from vderain.evaluation.evaluate import evaluate_against_truth, evaluate_without_truth
    from vderain.process import Progress

    with progress_display("measuring", quiet, False) as report:

        def on_progress(frames: int) -> None:
            report(Progress(frames, 0, None))

        if truth:
            return evaluate_against_truth(before, after, truth, kept, on_progress)
        return evaluate_without_truth(before, after, on_progress)


def _over_time(before: "Footage", after: "Footage", target: Path | None) -> "OverTime":
    """Measure a clip of real rain frame by frame, and draw that where `target` is given."""
    from vderain.evaluation.contact_sheet import write_png
    from vderain.evaluation.fixed_detail import measure_detail
    from vderain.evaluation.over_time import measure_over_time, plot, summary

    facts = measure_over_time(before, after)
    if target:
        write_png(target, plot(facts))
    details = [measure_detail(footage.pictures()) for footage in (before, after)]
    return replace(summary(facts), detail_in=details[0], detail_out=details[1])


class Work:
    """Processes the clips to measure, into a temporary folder.

    Attributes:
        model, device: as in `process.Result`; None where nothing was processed.
    """

    def __init__(self, folder: Path, options: Options, quiet: bool) -> None:
        self.folder, self.options, self.quiet = folder, options, quiet
        self.model: str | None = None
        self.device: str | None = None

    def derained(self, footage: "Footage", name: str) -> "Footage":
        """Process footage to a lossless result: a video as FFV1, images as PNG."""
        from vderain.media.image.sequence import is_image_source
        from vderain.process import Progress

        source = footage.path
        target = self.folder / name
        with progress_display(source.name, self.quiet, False) as report:
            if footage.single and source.is_dir():
                target.mkdir()
                files = footage.files()
                for number, file in enumerate(files, 1):
                    self._process(file, target / f"{file.stem}.png")
                    report(Progress(number, number, len(files)))
            else:
                target = (
                    target if source.is_dir() else target.with_suffix(".png" if is_image_source(source) else ".mkv")
                )
                self._process(source, target, footage.limit_s(), report)
        return replace(footage, path=target)

    def _process(
        self, source: Path, target: Path, duration_s: float | None = None,
        report: "Callable[[Progress], None]" = lambda progress: None,
    ) -> None:  # fmt: skip
        from vderain.process import process

        result = process(source, target, replace(self.options, duration_s=duration_s), report)
        self.model, self.device = result.model, result.device


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check(
    rain: Path,
    clear: Path | None,
    derained: Path | None,
    single: bool,
    identity: bool,
    chosen: list[str],
    plot: Path | None,
) -> None:
    """Refuse contradictory flags.

    Args:
        rain: value of ``--rain``.
        clear: value of ``--clear``.
        derained: value of ``--out``.
        single: value of ``--single``.
        identity: value of ``--identity``.
        chosen: flags for the network that were given.
        plot: value of ``--plot``.

    Raises:
        UsageError: flags that contradict each other.
    """
    if identity and not clear:
        raise UsageError("--identity needs clear footage.", "Add --clear.")
    if plot and clear:
        raise UsageError("--plot is for clips without ground truth.", "Leave out --plot or --clear.")
    if single and not clear:
        raise UsageError("--single needs ground truth: rain is measured by its motion.", "Add --clear.")
    if single and not rain.is_dir():
        raise UsageError("--single is for folders of images.", "Leave it out.")
    if derained and chosen and not identity:
        raise UsageError(f"--{chosen[0]} does not apply to --out, which is measured as it is.", "Leave out either.")


def _print_json(named: dict[str, Path | str | None], found: "Report", over_time: "OverTime | None") -> None:
    facts = asdict(found) | ({"over_time": asdict(over_time)} if over_time else {})
    out.print(json.dumps(named | facts, default=str), markup=False)


def _print(found: "Report", rain: Path, work: Work, over_time: "OverTime | None") -> None:
    """Print a table with one row per measure."""
    from rich.table import Table

    from vderain.evaluation.evaluate import PairedScores

    by = f", {work.model} on {work.device}" if work.model else ""
    show(f"{rain}: {counted(found.frames, 'frame')}{by}")
    table = Table("", box=None, pad_edge=False)
    rows = _paired_rows(found) if isinstance(found, PairedScores) else _unpaired_rows(found)
    for column in ("in", "out", "clear, derained")[: len(rows[0]) - 1]:
        table.add_column(column, justify="right")
    for row in rows + (_over_time_rows(over_time) if over_time else []):
        table.add_row(*row)
    out.print(table)


def _paired_rows(found: "PairedScores") -> list[list[str]]:
    sides = [q for q in (found.quality_in, found.quality_out, found.quality_clear) if q]
    rows = [
        ["PSNR Y, dB", *(f"{q.psnr_y_db:.2f}" for q in sides)],
        ["SSIM Y", *(f"{q.ssim_y:.4f}" for q in sides)],
        ["PSNR RGB, dB", *(f"{q.psnr_rgb_db:.2f}" for q in sides)],
        ["SSIM RGB", *(f"{q.ssim_rgb:.4f}" for q in sides)],
        ["worst 8x8 block, levels", *(f"{q.worst8_levels:.1f}" for q in sides)],
        ["edges kept", *(f"{q.edges_kept:.1%}" for q in sides)],
        ["new edges where smooth", *(f"{q.edges_new:.2%}" for q in sides)],
    ]
    stabilities = [each for each in (found.stability_in, found.stability_out) if each]
    if stabilities:
        rows.append(["E_warp / clear", *("-" if each.ratio is None else f"{each.ratio:.2f}" for each in stabilities)])
    return rows


def _unpaired_rows(found: "UnpairedScores") -> list[list[str]]:
    sides = (found.scores_in, found.scores_out)
    return [
        ["residual rain, levels", *(f"{t.residual_rain_levels:.4f}" for t in sides)],
        ["E_warp, own motion", *("-" if t.warp is None else f"{t.warp:.3f}" for t in sides)],
    ]


def _over_time_rows(found: "OverTime") -> list[list[str]]:
    rows = []
    if found.static_in and found.static_out:
        sides = found.static_in, found.static_out
        rows = [
            ["PSNR in static places, dB", *(f"{side.psnr_db:.2f}" for side in sides)],
            ["brighter there, levels^2", *(f"{side.bright:.3f}" for side in sides)],
            ["darker there, levels^2", *(f"{side.dark:.3f}" for side in sides)],
        ]
    if found.detail_in and found.detail_out:
        sides_of_detail = found.detail_in, found.detail_out
        rows += [
            ["detail that stays, levels^2", *(f"{side.static:.1f}" for side in sides_of_detail)],
            ["detail that moves, levels^2", *(f"{side.moving:.1f}" for side in sides_of_detail)],
        ]
    if found.direction_deg is not None:
        rows.append(["streaks from the vertical, degrees", f"{found.direction_deg:.0f}", ""])
    if found.unsteadiness is not None:
        rows.append(["largest change / frames around", "", f"{found.unsteadiness:.2f}"])
    return rows
