"""`vderain evaluate`: measures how well rain was removed from a clip."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vderain.cli.console import Verbose, counted, exit_on_error, given, out, progress_display
from vderain.cli.flags import Device, Mode, Model, Precision, Strength
from vderain.errors import UsageError

if TYPE_CHECKING:
    from vderain.evaluation.evaluate import PairedScores, Report, UnpairedScores
    from vderain.evaluation.footage import Footage
    from vderain.process import Options, Progress


def evaluate_command(
    rain: Annotated[Path, typer.Option(help="A rainy video, picture, or folder of pictures.")],
    clear: Annotated[Path | None, typer.Option(help="The truth: the same without rain, in the same order.")] = None,
    derained: Annotated[
        Path | None, typer.Option("--out", help="Judge this derained clip. Default: derain the rainy one.")
    ] = None,
    single: Annotated[bool, typer.Option("--single", help="The pictures of a folder are no clip.")] = False,
    harmless: Annotated[
        bool, typer.Option("--harmless", help="Also derain the clear clip, which should stay.")
    ] = False,
    model: Model = None,
    strength: Strength = None,
    temporal: Mode = None,
    device: Device = None,
    precision: Precision = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Look at the first N frames only.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also write a contact sheet: before, after, removed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")] = False,
    verbose: Verbose = False,
) -> None:
    """Measure how well rain is taken out: against the truth, or by what can be seen without it."""
    with exit_on_error(quiet, verbose):
        choices = given(model=model, strength=strength, temporal=temporal, device=device, precision=precision)
        _check(rain, clear, derained, single, harmless, choices, limit)
        from vderain.evaluation.contact_sheet import check_target, write_sheet
        from vderain.evaluation.evaluate import evaluate_against_truth, evaluate_without_truth
        from vderain.evaluation.footage import Footage, zip_frames
        from vderain.media.encode.encoder import EncodeOptions
        from vderain.process import Options, Progress

        if sheet:
            check_target(sheet)
        options = Options(encode=EncodeOptions(codec="ffv1"), **choices)
        before = Footage(rain, single, limit)
        truth = Footage(clear, single, limit) if clear else None
        known = [before, *([truth] if truth else []), *([Footage(derained, single, limit)] if derained else [])]
        for _ in zip_frames(known):  # clips that do not go together are found out before the long work
            pass
        with TemporaryDirectory(prefix="vderain-") as folder:
            work = Work(Path(folder), options, quiet)
            after = Footage(derained, single, limit) if derained else work.derained(before, "out")
            kept = work.derained(truth, "clear") if truth and harmless else None
            with progress_display("measuring", quiet, False) as report:

                def on_progress(frames: int) -> None:
                    report(Progress(frames, 0, None))

                found = (
                    evaluate_against_truth(before, after, truth, kept, on_progress)
                    if truth
                    else evaluate_without_truth(before, after, on_progress)
                )
            if sheet:
                write_sheet(sheet, before, after, truth, found.frames)
        if as_json:
            named = {"rain": rain, "out": derained, "clear": clear, "model": work.model, "device": work.device}
            out.print(json.dumps(named | asdict(found), default=str), markup=False)
        else:
            _print(found, rain, work)


class Work:
    """Derains what is to be judged, into a folder for results that nobody keeps.

    Attributes:
        model, device: what derained, as `process` names them; None where nothing was derained.
    """

    def __init__(self, folder: Path, options: "Options", quiet: bool) -> None:
        self.folder, self.options, self.quiet = folder, options, quiet
        self.model: str | None = None
        self.device: str | None = None

    def derained(self, footage: "Footage", name: str) -> "Footage":
        """A lossless result: a video as FFV1, pictures as PNG."""
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


def _check(
    rain: Path, clear: Path | None, derained: Path | None, single: bool, harmless: bool,
    choices: dict[str, Any], limit: int | None,
) -> None:  # fmt: skip
    """Refuse what cannot be honoured.

    Raises:
        UsageError: flags that contradict each other, or a limit that leaves nothing.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is out of range.", "Give 1 or more.")
    if harmless and not clear:
        raise UsageError("--harmless needs clear footage.", "Add --clear.")
    if single and not clear:
        raise UsageError("--single needs the truth: rain shows itself by moving.", "Add --clear.")
    if single and not rain.is_dir():
        raise UsageError("--single is for folders of pictures.", "Leave it out.")
    if derained and choices and not harmless:
        raise UsageError(f"--out is judged as it is: --{next(iter(choices))} has no part in it.", "Leave out either.")


def _print(found: "Report", rain: Path, work: Work) -> None:
    """What was found, and in which units."""
    from rich.table import Table

    from vderain.evaluation.evaluate import PairedScores

    by = f", {work.model} on {work.device}" if work.model else ""
    out.print(f"{rain}: {counted(found.frames, 'frame')}{by}", markup=False)
    table = Table("", box=None, pad_edge=False)
    rows = _paired_rows(found) if isinstance(found, PairedScores) else _unpaired_rows(found)
    for column in ("in", "out", "clear, derained")[: len(rows[0]) - 1]:
        table.add_column(column, justify="right")
    for row in rows:
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
    ]
    stabilities = [each for each in (found.stability_in, found.stability_out) if each]
    if stabilities:
        rows.append(["E_warp / clear", *("-" if each.ratio is None else f"{each.ratio:.2f}" for each in stabilities)])
    return rows


def _unpaired_rows(found: "UnpairedScores") -> list[list[str]]:
    sides = (found.scores_in, found.scores_out)
    return [
        ["rain left over, levels", *(f"{t.residual_rain_levels:.4f}" for t in sides)],
        ["E_warp, own motion", *("-" if t.warp is None else f"{t.warp:.3f}" for t in sides)],
    ]
