"""Starts the command line: as `vderain`, as `python -m vderain`, or with `torchrun -m vderain train ...`."""

import os
import signal


def main() -> None:
    """Entry point of the `vderain` command. Until a command has begun, Ctrl-C exits at once and in silence."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from vderain.cli.main import main as run_command_line  # takes a tenth of a second

    run_command_line()


if __name__ == "__main__":
    main()
