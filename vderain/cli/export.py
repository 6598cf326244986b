"""`vderain export`: writes a model as an ONNX file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vderain.cli.console import exit_on_error, out, show
from vderain.cli.flags import DEFAULTS, Json, Overwrite, Quiet, Verbose


def export_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Released model or .safetensors file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.onnx", help="The file to write.")],
    overwrite: Overwrite = DEFAULTS.overwrite,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write MODEL as an ONNX file, and compare it with PyTorch. Needs `pip install "vderain[onnx]"`."""
    with exit_on_error(quiet, verbose):
        from vderain.media.clip import check_name
        from vderain.model.released import weights_file

        check_name(output, weights_file(model), overwrite)
        from vderain.model.export import export_onnx

        done = export_onnx(model, output, overwrite)
        if as_json:
            facts = {"event": "done", "target": done.target, "inputs": done.inputs, "difference": done.difference}
            out.print(json.dumps(facts, default=str), markup=False)
        elif not quiet:
            inputs = ", ".join(f"{name} {tuple(shape)}" for name, shape in done.inputs.items())
            show(f"{done.target}: {inputs}; differs from PyTorch by at most {done.difference:.1g}")
