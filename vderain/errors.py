"""Errors for users: each one has a description of what happened, a cure, and an exit code.

Code below the command line never prints or exits; it raises one of these errors. The command line prints it as one line
on stderr and exits with its code. docs/errors.md lists them.
"""

from typing import ClassVar


class VderainError(Exception):
    """A failure with a cure.

    Args:
        what: one sentence, what happened, naming the file or the flag.
        cure: one sentence, what the user can do. May be empty where nothing can be done.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what} {cure}".strip())
        self.what = what
        self.cure = cure


class UsageError(VderainError):
    """A flag or a combination of flags that cannot be honoured."""

    exit_code = 2


class InputError(VderainError):
    """The input is missing, empty, not a video, or has no picture in it."""

    exit_code = 3


class OutputError(VderainError):
    """The output cannot be created, written, or moved to its final name."""

    exit_code = 4


class DeviceError(VderainError):
    """A device was asked for that this machine does not have, or its memory does not hold one frame."""

    exit_code = 5


class CheckpointError(VderainError):
    """A file of weights is missing, corrupt, or not one of ours."""

    exit_code = 6


class DamageError(VderainError):
    """The input is damaged and ``--strict`` asked to stop there."""

    exit_code = 7


class Interrupted(VderainError):
    """The user asked to stop (Ctrl-C)."""

    exit_code = 130
