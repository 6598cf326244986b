"""The command-line application. Commands import their heavy modules when they run, so that --help is instant."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vderain import __version__
from vderain.cli.batch import batch_command
from vderain.cli.console import check_standard_streams, exit_on_error, ignore_signals_for_good, out, print_error
from vderain.cli.evaluate import evaluate_command
from vderain.cli.export import export_command
from vderain.cli.info import info_command
from vderain.cli.process import process_command
from vderain.cli.render import render_command
from vderain.cli.train import train_command
from vderain.errors import UsageError, VderainError

EMPTY = re.compile(r"(--[^=]+=)?")  # what an unset shell variable leaves of an argument
ParserError: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, which typer does not export


class Commands(TyperGroup):
    """All commands. Every mistake on the command line is reported in one line."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse empty arguments, which as paths would mean the current folder."""
        if not ctx.resilient_parsing and any(EMPTY.fullmatch(argument) for argument in args):
            with exit_on_error(quiet=False, verbose=False):
                raise UsageError("an argument is empty.", "Give a value, or leave it out.")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Suggest `vderain process FILE` where a file name stands in place of a command."""
        name = args[0]
        if name not in self.commands and (Path(name).suffix or Path(name).exists()):
            ctx.fail(f"There is no command {name!r}. Did you mean `vderain process {shlex.quote(name)}`?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command, and report mistakes in its flags."""
        try:
            return super().invoke(ctx)
        except ParserError as error:
            _report(error)
            raise typer.Exit(UsageError.exit_code) from None


def _report(error: Any) -> None:
    """Print a mistake on the command line as one sentence, with the command that shows the help."""
    message = error.format_message().replace("Value error, ", "")  # a prefix of pydantic, which typer validates with
    message = message[:1].lower() + message[1:] + ("" if message.endswith((".", "?")) else ".")
    command = error.ctx.command_path if error.ctx else "vderain"
    print_error(message, "" if message.endswith("?") else f"See `{command} --help`.")


app = typer.Typer(
    cls=Commands,
    help="Removes rain from videos and keeps everything else in the file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("process")(process_command)
app.command("batch")(batch_command)
app.command("info")(info_command)
app.command("evaluate")(evaluate_command)
app.command("render")(render_command)
app.command("train")(train_command)
app.command("export")(export_command)


def main() -> None:
    """Run the command line with the arguments of this process, and exit."""
    check_standard_streams()
    try:
        app()
    except VderainError as error:  # outside of the commands, which report their own: the help could not be printed
        print_error(error.what, error.cure)
        sys.exit(error.exit_code)
    finally:
        ignore_signals_for_good()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Print the version if asked for."""
    if version:
        out.print(f"vderain {__version__}")
        raise typer.Exit
