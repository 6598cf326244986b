"""`vderain info`: describes this installation, or a file and what processing keeps of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vderain import __version__
from vderain.cli.console import exit_on_error, format_size, out, show
from vderain.cli.flags import Verbose

LINES_MAX = 50  # a damaged file may announce thousands of streams


def info_command(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A video to describe.")] = None,
    container: Annotated[
        str | None,
        typer.Option(
            metavar="mp4|mov|mkv|...", show_default="that of FILE", help="Report what this container could keep."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Describe this installation, or FILE: its streams and what processing will keep of them."""
    with exit_on_error(False, verbose):
        facts = _facts_of_file(file, container) if file else _facts_of_installation()
        if as_json:
            out.print(json.dumps(facts, default=str), markup=False)
        elif file:
            _print_file(facts)
        else:
            for name, value in facts.items():
                show(f"{name:>12}  {', '.join(value) if isinstance(value, list) else value}")


def _facts_of_installation() -> dict[str, Any]:
    import av
    import torch

    from vderain.media.encode.codec_choice import working_encoders
    from vderain.model.released import DROPS_MODEL, GLASS_MODEL, released_models
    from vderain.runtime.device import choose_device, cores

    names = ["cpu"] + [
        n for n, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if there
    ]
    return {
        "vderain": __version__,
        "devices": names,
        "chosen": str(choose_device()),
        "engine": _engine(),
        "threads": str(cores()),
        "models": [name for name in released_models() if name not in {DROPS_MODEL, GLASS_MODEL}],
        "encoders": [encoder.codec for encoder in working_encoders()],
        "torch": torch.__version__,
        "ffmpeg": av.ffmpeg_version_info,
    }


def _engine() -> str:
    """What runs the network of the default model."""
    from vderain.model.checkpoint import DEFAULT_MODEL, load_checkpoint
    from vderain.model.engine import choose_engine
    from vderain.runtime.device import choose_device

    return choose_engine("auto", load_checkpoint(DEFAULT_MODEL), choose_device()).engine or "PyTorch"


def _facts_of_file(file: Path, container: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from vderain.media.describe import describe
    from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX

    own = file.suffix if file.suffix.lower() in CONTAINERS else DEFAULT_SUFFIX
    return asdict(describe(file, f".{container.lower().lstrip('.')}" if container else own))


def _print_rest(parts: Sequence[dict[str, Any]], what: str) -> None:
    """Count the parts of a file that are not printed."""
    if len(parts) > LINES_MAX:
        kept = sum(part["kept"] for part in parts[LINES_MAX:])
        show(f"  and {len(parts) - LINES_MAX} more {what}, of which {kept} are copied (--json lists all)")


def _print_file(facts: dict[str, Any]) -> None:
    from vderain.media.frame import listing

    length = f"{facts['duration_s']:.2f} s" if facts["duration_s"] is not None else "unknown length"
    show(f"{facts['path']}: {facts['container']}, {length}, {format_size(facts['size_bytes'])}")
    for stream in facts["streams"][:LINES_MAX]:
        lost = "empty" if stream["empty"] else "NOT KEPT"
        outcome = "derained" if stream["processed"] else "copied" if stream["kept"] else lost
        outcome = f"written as {stream['becomes']}" if stream["becomes"] else outcome
        language = f" ({listing([stream['language']])})" if stream["language"] else ""
        detail = listing([stream["detail"]])
        show(f"  #{stream['index']} {stream['kind']}: {stream['codec']}, {detail}{language}: {outcome}")
    _print_rest(facts["streams"], "streams")
    if facts["interlaced"]:
        show("  interlaced: the fields are combined into whole frames")
    for part in facts["hidden"][:LINES_MAX]:
        show(f"  {listing([part['name']])}: {'copied' if part['kept'] else 'NOT KEPT'}")
    _print_rest(facts["hidden"], "parts")
    if facts["gps_fixes"]:
        show(f"  {facts['gps_fixes']} GPS positions, which --gpx writes to a .gpx file")
    if facts["chapters"]:
        show(f"  {facts['chapters']} chapters: copied")
