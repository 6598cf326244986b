"""What is to be done: files, folders and patterns enter; each file with the place of its result leaves."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from vderain.errors import UsageError
from vderain.video.pictures import SUFFIXES as PICTURES
from vderain.video.pictures import natural_key
from vderain.video.streams import CONTAINERS, DEFAULT_SUFFIX

VIDEOS = (
    *CONTAINERS, ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".m2v", ".mpe",
    ".mpeg", ".mpg", ".mxf", ".ogm", ".ogv", ".vob", ".wmv", ".y4m",
)  # fmt: skip
FRONT, REAR = "front", "rear"
FOLDERS = {"front": FRONT, "f": FRONT, "rear": REAR, "back": REAR, "r": REAR}
# 20260131_120000_F, 20260131_120000_NR (a letter for the mode before it), 120000F, 2026_0131_120000_001A, drive-rear
ENDINGS = re.compile(r"(?:^|[\W_]|(?<=\d))(?:[eimnpt]?(?P<letter>[fr])|(?P<word>front|rear|back)|(?<=\d)(?P<ab>[ab]))$")
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Item:
    """One file to do.

    Attributes:
        source: the file.
        name: its path below the folder that was given, with forward slashes.
        target: of the result below OUTDIR, with forward slashes.
        group: ``front``, ``rear``, or empty where neither folder nor name says so.
    """

    source: Path
    name: str
    target: str
    group: str


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


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files are meant.

    Attributes:
        inputs: files, folders (taken whole) and patterns such as ``card/**/*_F.MP4``.
        include: patterns a file found in a folder must match one of; empty takes every kind of video.
        exclude: patterns of files and folders to leave out.
        suffix: of the results; None keeps that of the source where it can be written.
        beside: suffixes of what is written beside each result.
        patient: a pattern that nothing matches yet is no error.
    """

    inputs: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    suffix: str | None = None
    beside: tuple[str, ...] = ()
    patient: bool = False

    def __post_init__(self) -> None:
        if self.suffix is not None and self.suffix not in CONTAINERS:
            raise UsageError(f"there is no container {self.suffix!r}.", f"Choose one of {', '.join(CONTAINERS)}.")

    def takes(self, name: str) -> bool:
        """Whether a file found at this place below an input is meant."""
        if any(_matches(name, pattern) for pattern in self.exclude):
            return False
        if self.include:
            return any(_matches(name, pattern) for pattern in self.include)
        return name.lower().endswith(VIDEOS)


@dataclass(slots=True)
class Plan:
    """The files to do, in order, and what stood in the way of looking for them."""

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def incomplete(self) -> bool:
        """Whether files may be missing."""
        return any(problem.loses for problem in self.problems)


def make_plan(selection: Selection, outdir: Path) -> Plan:
    """Looks for all files that are meant.

    Raises:
        UsageError: an input does not exist, OUTDIR and the inputs lie in one another, two results would have one name.
    """
    plan = Plan()
    for given in selection.inputs:
        for name, source in _found(given, selection, outdir, plan.problems):
            plan.items.append(item(name, source, selection))
    _check_places(plan.items, outdir, selection.beside)
    return plan


def roots(selection: Selection) -> list[Path]:
    """The folders in which files that are meant can appear."""
    found = []
    for given in selection.inputs:
        path = Path(given)
        if not _is(path, "exists") and WILD.search(given):
            path = _split(given)[0]
        found.append(path if _is(path, "dir") else path.parent)
    return found


def item(name: str, source: Path, selection: Selection) -> Item:
    """A file and where its result goes."""
    old = PurePosixPath(name).suffix
    kept = old.lower() in CONTAINERS or old.lower() in PICTURES
    suffix = old if kept and (selection.suffix is None or old.lower() in PICTURES) else selection.suffix
    return Item(source, name, str(PurePosixPath(name).with_suffix(suffix or DEFAULT_SUFFIX)), group_of(name))


def group_of(name: str) -> str:
    """Which camera a file is from, by the end of its name, else by the folders it lies in."""
    path = PurePosixPath(name.lower())
    if found := ENDINGS.search(path.stem):
        said = found["letter"] or found["word"] or {"a": "f", "b": "r"}[found["ab"]]
        return FOLDERS[said]
    return next((FOLDERS[folder] for folder in reversed(path.parts[:-1]) if folder in FOLDERS), "")


def _found(given: str, selection: Selection, outdir: Path, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files that one input means."""
    path = Path(given)
    if _is(path, "dir"):
        _check_apart(path, outdir)
        yield from _walk(path, "", selection, problems, frozenset())
    elif _is(path, "exists"):
        if not any(_matches(path.name, pattern) for pattern in selection.exclude):
            yield path.name, path.absolute()
    elif WILD.search(given):
        yield from _globbed(given, selection, outdir, problems)
    else:
        raise UsageError(f"there is no file or folder {given}.", "Check the path.")


def _globbed(given: str, selection: Selection, outdir: Path, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    """Places are kept from the first part of the pattern on that has a wildcard; what lies in OUTDIR is not meant."""
    root, pattern = _split(given)
    results = _real(outdir)
    found = sorted(glob.glob(pattern, root_dir=root, recursive=True), key=natural_key)  # noqa: PTH207
    if not found and not selection.patient:
        raise UsageError(f"nothing matches {given}.", "Check the pattern, and quote it.")
    for name in found:
        path = root / name
        posix = Path(name).as_posix()
        if _real(path).is_relative_to(results):
            continue  # results of an earlier run
        if _is(path, "dir"):
            if "**" not in pattern:
                _check_apart(path, outdir)
                yield from _walk(path, f"{posix}/", selection, problems, frozenset())
        elif not any(_matches(posix, exclude) for exclude in selection.exclude) and (
            selection.takes(posix) or PurePosixPath(pattern).suffix not in ("", ".*")
        ):
            yield posix, path.absolute()


def _split(given: str) -> tuple[Path, str]:
    """A pattern's folder, and the rest of it."""
    parts = Path(given).parts
    first = next(number for number, part in enumerate(parts) if WILD.search(part))
    return Path(*parts[:first]), str(Path(*parts[first:]))


def _walk(
    folder: Path, below: str, selection: Selection, problems: list[Problem], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, Path]]:
    """Files of a folder and its folders in natural order; links are followed, but not in circles.

    Args:
        folder: to look into.
        below: its place below the input, empty or with a slash at the end.
        selection: what is meant.
        problems: gets what cannot be looked into.
        above: device and inode of the folders on the way here.
    """
    try:
        facts = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        problems.append(
            Problem(f"the folder {folder} cannot be read ({error.strerror}).", "Change its permissions, and run again.")
        )
        return
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        problems.append(Problem(f"the link {folder} leads back to a folder above it: passed over.", "", loses=False))
        return
    for entry in entries:
        name = below + entry.name
        if entry.name.startswith("."):
            continue  # macOS leaves ._NAME.MP4 beside each file of a card
        if _is(Path(entry.path), "dir"):
            if not any(_matches(name, pattern) for pattern in selection.exclude):
                yield from _walk(Path(entry.path), f"{name}/", selection, problems, above | {here})
        elif selection.takes(name):
            yield name, Path(entry.path).absolute()


def _matches(name: str, pattern: str) -> bool:
    """Whether a path, or for patterns without a slash any part of it, is as a pattern says, in either case."""
    name, pattern = name.lower(), pattern.lower()
    if "/" in pattern:
        return fnmatchcase(name, pattern.rstrip("/"))
    return any(fnmatchcase(part, pattern) for part in name.split("/"))


def _check_apart(folder: Path, outdir: Path) -> None:
    """Finds out whether results would be looked at as inputs."""
    if _real(outdir).is_relative_to(_real(folder)):
        raise UsageError(f"the folder of results {outdir} lies inside the input {folder}.", "Choose one outside of it.")


def _check_places(items: list[Item], outdir: Path, beside: tuple[str, ...]) -> None:
    results = _real(outdir)
    places: dict[str, Item] = {}
    others: dict[str, Item] = {}
    for each in items:
        if _real(each.source).is_relative_to(results):
            raise UsageError(f"the input {each.source} lies inside the folder of results {outdir}.", "Choose another.")
        _check_alone(places.setdefault(each.target, each), each, outdir / each.target)
        for suffix in beside if each.source.suffix.lower() not in PICTURES else ():
            name = str(PurePosixPath(each.target).with_suffix(suffix))
            _check_alone(others.setdefault(name, each), each, outdir / name)
    items[:] = places.values()  # a file that was named twice is done once


def _check_alone(one: Item, other: Item, place: Path) -> None:
    """Finds out whether two files would be written to one place."""
    if one.source == other.source:
        return
    apart = one.source.parent != other.source.parent
    cure = "Give the folder above both as one input" if apart else "Leave one of them out with --exclude"
    raise UsageError(
        f"{one.source} and {other.source} would both become {place}.",
        f"{cure}, or run them with two folders of results.",
    )


def _real(path: Path) -> Path:
    """Without links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def _is(path: Path, what: str) -> bool:
    try:
        return path.is_dir() if what == "dir" else path.exists()
    except OSError:  # a name too long, a folder that may not be looked into
        return False
