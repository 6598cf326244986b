"""`vderain train`: a recipe enters, weights leave."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vderain.commands.screen import Quiet, Verbose, err, out, reporting
from vderain.errors import Interrupted

if TYPE_CHECKING:
    from vderain.train.loop import Progress


def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe, such as configs/base.toml.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/latest"),
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a value; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state saved in the folder.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a generator by a recipe; Ctrl-C saves, --resume goes on."""
    with reporting(quiet, verbose):
        from vderain.train.config import load_recipe
        from vderain.train.loop import train

        recipe = load_recipe(config, tuple(override or ()))

        def report(p: "Progress") -> None:
            if not quiet:
                parts = "".join(f"  {name} {value:.4f}" for name, value in p.parts.items())
                err.print(
                    f"{p.iteration}/{p.iterations}  loss {p.loss:.5f}{parts}  rate {p.rate:.2e}  "
                    f"{p.crops_per_s:.0f} crops/s  waiting for data {p.waiting:.0%}"
                )

        try:
            weights = train(recipe, out_dir, resume, report)
        except KeyboardInterrupt:
            raise Interrupted("interrupted.", f"The state is in {out_dir}: --resume goes on from there.") from None
        if not quiet:
            out.print(str(weights), markup=False)
