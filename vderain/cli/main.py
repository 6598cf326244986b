"""The command line. Heavy modules are imported inside the commands, so that --help is instant."""

import io
import re
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from vderain import __version__
from vderain.cli.batch import batch_command
from vderain.cli.console import exit_on_error, out
from vderain.cli.evaluate import evaluate_command
from vderain.cli.info import info_command
from vderain.cli.process import process_command
from vderain.cli.render import render_command
from vderain.cli.train import train_command
from vderain.errors import UsageError

EMPTY = re.compile(r"(--[^=]+=)?")  # as a variable of the shell that is not set leaves it


class Commands(TyperGroup):
    """All commands; none takes an empty argument, which as a path would mean the folder one is in."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if any(EMPTY.fullmatch(argument) for argument in args):
            with exit_on_error(quiet=False, verbose=False):
                raise UsageError("an argument is empty.", "Give a value, or leave it out.")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="Takes the rain out of videos and leaves everything else of the file as it was.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.command("process")(process_command)
app.command("batch")(batch_command)
app.command("info")(info_command)
app.command("train")(train_command)
app.command("render")(render_command)
app.command("evaluate")(evaluate_command)


def main() -> None:
    """Entry point of the `vderain` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are not UTF-8 leave as they came
    app()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(f"vderain {__version__}")
        raise typer.Exit
