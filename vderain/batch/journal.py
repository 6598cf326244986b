"""What became of files, a line for each result that got its name: what a new ledger can be made from."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

from vderain.batch.record import Record


class Journal:
    """The journal of a folder of results.

    Args:
        path: of the file, which need not be there; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, record: Record) -> None:
        """Adds a line, in one piece: other runs add theirs.

        Raises:
            OSError: there is no room for it.
        """
        line = json.dumps(record.as_row()).encode("ascii") + b"\n"
        with self._path.open("a+b", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line  # behind what a kill or a full disk has torn
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def noted(self) -> dict[str, Record]:
        """The last that was noted of each file, by its target; lines that were torn are passed over."""
        lasting: dict[str, Record] = {}
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    record = Record.from_row(json.loads(line))
                    lasting[record.target] = record
        return lasting
