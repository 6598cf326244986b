"""Looking for files: a folder, or a folder and a pattern, enters; what fits leaves, with its place below the folder."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vderain.media.image.sequence import natural_key

WILD = re.compile(r"[*?\[]")
Pattern = tuple[str, ...]  # its parts; ``**`` is any number of folders, and () fits a folder with all that is in it
ALL: frozenset[Pattern] = frozenset({()})


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the inputs that cannot be looked at.

    Attributes:
        what, cure: as in `VderainError`.
        loses: whether files may be missing from the plan for it.
    """

    what: str
    cure: str
    loses: bool = True


class Search:
    """One look below a folder; links are followed, but not in circles, and names that begin with a dot are passed over.

    Args:
        leaves_out: whether the file or folder of a place is not meant.
        problems: gets what cannot be looked into.
        results: a folder that is not meant, whatever leads there.

    Attributes:
        matched: whether anything fitted, or may have among what was left out.
    """

    def __init__(self, leaves_out: Callable[[str], bool], problems: list[Problem], results: Path | None = None) -> None:
        self._leaves_out, self._problems, self._results = leaves_out, problems, results
        self.matched = False

    def below(
        self, folder: Path, patterns: frozenset[Pattern] = ALL, place: str = "",
        above: frozenset[tuple[int, int]] = frozenset(),
    ) -> Iterator[tuple[str, Path, bool]]:  # fmt: skip
        """Files of a folder and its folders in natural order.

        Args:
            folder: to look into.
            patterns: what of the pattern may still come, one for each way in which the folder fitted.
            place: of the folder below the input, empty or with a slash at the end.
            above: device and inode of the folders on the way here.

        Yields:
            The place of a file, its path, and whether it fits by itself, not by a folder it is in.
        """
        try:
            facts = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
        except OSError as error:
            what = f"the folder {folder} cannot be read ({error.strerror})."
            self._problems.append(Problem(what, "Change its permissions, and run again."))
            return
        here = (facts.st_dev, facts.st_ino)
        if here in above:
            what = f"the link {folder} leads back to a folder above it: passed over."
            self._problems.append(Problem(what, "", loses=False))
            return
        for entry in entries:
            rest = after(patterns, entry.name)
            if entry.name.startswith(".") or not rest:
                continue  # macOS leaves ._NAME.MP4 beside each file of a card
            name, path = place + entry.name, Path(entry.path)
            left_out = self._leaves_out(name) or self._is_result(path)
            self.matched = self.matched or left_out or () in rest
            if left_out:
                continue
            if is_there(path, "dir"):
                yield from self.below(path, rest, f"{name}/", above | {here})
            elif () in rest:
                yield name, path.absolute(), () in after(patterns - ALL, entry.name)

    def _is_result(self, path: Path) -> bool:
        return self._results is not None and real(path).is_relative_to(self._results)


def split(given: str) -> tuple[Path, Pattern]:
    """A pattern's folder, and its parts from the first wildcard on."""
    parts = Path(given).parts
    first = next(number for number, part in enumerate(parts) if WILD.search(part))
    return Path(*parts[:first]), parts[first:]


def opened(patterns: Iterable[Pattern]) -> frozenset[Pattern]:
    """The patterns, and for each ``**`` at the beginning what follows it, for it may stand for no folder at all."""
    found: set[Pattern] = set()
    for pattern in patterns:
        rest = pattern
        while rest[:1] == ("**",):
            found.add(rest)
            rest = rest[1:]
        found.add(rest)
    return frozenset(found)


def after(patterns: frozenset[Pattern], name: str) -> frozenset[Pattern]:
    """What of the patterns may still come below a file or folder of this name; nothing where none fits."""
    lasting = {pattern for pattern in patterns if pattern[:1] in ((), ("**",))}
    fitting = {pattern[1:] for pattern in patterns - lasting if fnmatchcase(name, pattern[0])}
    return opened(lasting | fitting)


def matches(name: str, pattern: str) -> bool:
    """Whether a path, or for patterns without a slash any part of it, is as a pattern says, in either case."""
    name, pattern = name.lower(), pattern.lower()
    if "/" in pattern:
        return fnmatchcase(name, pattern.rstrip("/"))
    return any(fnmatchcase(part, pattern) for part in name.split("/"))


def real(path: Path) -> Path:
    """Without links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def is_there(path: Path, what: str = "any") -> bool:
    """Whether there is something, or a folder (``dir``), as far as one may look."""
    try:
        return path.is_dir() if what == "dir" else path.exists()
    except OSError:  # a name too long, a folder that may not be looked into
        return False
