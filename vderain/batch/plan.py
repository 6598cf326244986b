"""What is to be done: files, folders and patterns enter; each file with the place of its result leaves."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vderain.batch.search import WILD, Problem, Search, is_there, matches, opened, real, split
from vderain.errors import UsageError
from vderain.media.image.sequence import SUFFIXES as PICTURES
from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX

VIDEOS = (
    *CONTAINERS, ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".m2v", ".mpe",
    ".mpeg", ".mpg", ".mxf", ".ogm", ".ogv", ".vob", ".wmv", ".y4m",
)  # fmt: skip
FRONT, REAR = "front", "rear"
FOLDERS = {"front": FRONT, "f": FRONT, "rear": REAR, "back": REAR, "r": REAR}
# 20260131_120000_F, 20260131_120000_NR (a letter for the mode before it), 120000F, 2026_0131_120000_001A, drive-rear
ENDINGS = re.compile(r"(?:^|[\W_]|(?<=\d))(?:[eimnpt]?(?P<letter>[fr])|(?P<word>front|rear|back)|(?<=\d)(?P<ab>[ab]))$")
_TOGETHER = "Give the folder above both as one input"
_WITHOUT = "Leave one of them out with --exclude"
_TWICE = "or run them with two folders of results"


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
class Selection:
    """Which files are meant.

    Attributes:
        inputs: files, folders (taken whole) and patterns such as ``card/**/*_F.MP4``.
        include: patterns a file that is not named itself must match one of; empty takes every kind of video.
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

    def leaves_out(self, name: str) -> bool:
        """Whether the file or folder of this place below an input is not meant."""
        return any(matches(name, pattern) for pattern in self.exclude)

    def takes(self, name: str, any_kind: bool = False) -> bool:
        """Whether a file found at this place below an input is meant, as far as it is not left out."""
        if self.include:
            return any(matches(name, pattern) for pattern in self.include)
        return any_kind or name.lower().endswith(VIDEOS)


@dataclass(slots=True)
class Plan:
    """The files to do, in order, and what stood in the way of looking for them."""

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def incomplete(self) -> bool:
        """Whether files may be missing."""
        return any(problem.loses for problem in self.problems)


def make_plan(selection: Selection, outdir: Path, go_on: bool = False) -> Plan:
    """Looks for all files that are meant.

    Args:
        selection: what is meant.
        outdir: the folder of results.
        go_on: what would be an error is a problem, and all that it does not touch is planned.

    Raises:
        UsageError: an input does not exist, OUTDIR and the inputs lie in one another, two results would have one name.
    """
    plan = Plan()

    def refuse(error: UsageError) -> None:
        if not go_on:
            raise error
        plan.problems.append(Problem(error.what, error.cure))

    for given in selection.inputs:
        try:
            plan.items += [item(name, source, selection) for name, source in _found(given, selection, outdir, plan)]
        except UsageError as error:
            refuse(error)
    plan.items = _placed(plan.items, outdir, selection.beside, refuse)
    return plan


def roots(selection: Selection) -> list[Path]:
    """The folders in which files that are meant can appear."""
    found = []
    for given in selection.inputs:
        path = Path(given)
        if not is_there(path) and WILD.search(given):
            path = split(given)[0]
        found.append(path if is_there(path, "dir") else path.parent)
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


def _found(given: str, selection: Selection, outdir: Path, plan: Plan) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files that one input means."""
    path = Path(given)
    if is_there(path, "dir"):
        _check_apart(path, outdir)
        found = Search(selection.leaves_out, plan.problems).below(path)
        yield from ((name, source) for name, source, _ in found if selection.takes(name))
    elif is_there(path):
        if not selection.leaves_out(path.name):
            yield path.name, path.absolute()
    elif WILD.search(given):
        yield from _globbed(given, selection, outdir, plan)
    else:
        raise UsageError(f"there is no file or folder {given}.", "Check the path.")


def _globbed(given: str, selection: Selection, outdir: Path, plan: Plan) -> Iterator[tuple[str, Path]]:
    """Places are kept from the first part of the pattern on that has a wildcard; what lies in OUTDIR is not meant."""
    root, pattern = split(given)
    if ".." in pattern:  # the place of a result would lead out of OUTDIR
        raise UsageError(f"the pattern {given} has .. behind a wildcard.", "Name the folder that it leads to.")
    search = Search(selection.leaves_out, plan.problems, real(outdir))
    any_kind = PurePosixPath(pattern[-1]).suffix not in ("", ".*")
    if is_there(root, "dir"):
        for name, source, itself in search.below(root, opened([pattern])):
            if selection.takes(name, any_kind and itself):
                yield name, source
    if not (search.matched or plan.incomplete or selection.patient):
        raise UsageError(f"nothing matches {given}.", "Check the pattern, and quote it.")


def _check_apart(folder: Path, outdir: Path) -> None:
    """Finds out whether results would be looked at as inputs."""
    if real(outdir).is_relative_to(real(folder)):
        raise UsageError(f"the folder of results {outdir} lies inside the input {folder}.", "Choose one outside of it.")


def _placed(
    items: list[Item], outdir: Path, beside: tuple[str, ...], refuse: Callable[[UsageError], None]
) -> list[Item]:
    """The files whose results can all have their names; one that was given twice is done once."""
    results = real(outdir)
    sources = {each: real(each.source) for each in items}
    inputs = set(sources.values())
    owners: dict[str, Item] = {}  # of names below OUTDIR
    unfit: set[Item] = set()

    def leave_out(what: str, cure: str, *which: Item) -> None:
        refuse(UsageError(what, cure))
        unfit.update(which)

    for each, source in sources.items():
        place = outdir / each.target
        if source.is_relative_to(results):
            leave_out(f"the input {each.source} lies inside the folder of results {outdir}.", "Choose another.", each)
        elif real(place.parent) / place.name in inputs:  # a link in OUTDIR leads there
            leave_out(f"the result {place} would replace an input.", "Choose another folder with -o.", each)
        for name in _names(each, beside):
            other = owners.setdefault(name, each)
            if sources[other] != source:
                what = f"{other.source} and {each.source} would both become {outdir / name}."
                apart = other.source.parent != each.source.parent
                leave_out(what, f"{_TOGETHER if apart else _WITHOUT}, {_TWICE}.", other, each)
    for name, each in owners.items():
        for folder in map(str, PurePosixPath(name).parents):
            if owner := owners.get(folder):
                what = f"{owner.source} would become {outdir / folder}, which is the folder for {each.source}."
                leave_out(what, f"{_WITHOUT}, {_TWICE}.", owner, each)
    return [each for each in sources if each not in unfit and owners[each.target] is each]


def _names(item: Item, beside: tuple[str, ...]) -> list[str]:
    """What is written for a file, below OUTDIR."""
    suffixes = beside if item.source.suffix.lower() not in PICTURES else ()
    return [item.target, *(str(PurePosixPath(item.target).with_suffix(suffix)) for suffix in suffixes)]
