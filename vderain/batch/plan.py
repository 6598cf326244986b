"""Plans a batch: finds the files that inputs and patterns mean, and assigns each the path of its result."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from vderain.errors import UsageError
from vderain.media.image import SUFFIXES as IMAGE_SUFFIXES
from vderain.media.image import natural_key
from vderain.media.remux.capabilities import CONTAINERS, DEFAULT_SUFFIX

VIDEO_SUFFIXES = (
    *CONTAINERS, ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".m2ts",
    ".m2v", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".ts", ".vob", ".wmv", ".y4m",
)  # fmt: skip
CAMERAS = {"front": "front", "f": "front", "a": "front", "rear": "rear", "back": "rear", "r": "rear", "b": "rear"}
CAMERA_FOLDERS = CAMERAS.keys() - {"a", "b"}
# 20260131_120000_F, 20260131_120000_NR (the recording mode comes first), 120000F, 2026_0131_120000_001A, drive-rear
CAMERA_ENDING = re.compile(
    r"(?:^|[\W_]|(?<=\d))(?:[eimnpt]?(?P<letter>[fr])|(?P<word>front|rear|back)|(?<=\d)(?P<ab>[ab]))$"
)
WILDCARD = re.compile(r"[*?\[]")
_EXCLUDE = "Leave one of them out with --exclude"
_PARENT = "Give the folder above both as one input"
_TWO_FOLDERS = "or run them with two folders of results"

Skip = Callable[[str, Path], bool]  # whether to leave out the file or folder of this name below an input


@dataclass(frozen=True, slots=True)
class Item:
    """One file to process.

    Attributes:
        source: the file.
        name: its path below the input, with forward slashes.
        target: path of the result below OUTDIR, with forward slashes.
        group: the camera: ``front``, ``rear``, or empty where neither file nor folder names say so.
    """

    source: Path
    name: str
    target: str
    group: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The inputs of a batch, and which of their files to take.

    Attributes:
        inputs: files, folders (taken recursively) and patterns such as ``card/**/*_F.MP4``.
        include: patterns that files found in folders must match; empty takes every kind of video.
        exclude: patterns of files and folders to leave out.
        suffix: of all results; None keeps that of the source where it can be written.
        sidecars: suffixes of further files written beside each video.
        allow_empty: whether a pattern may match nothing yet.
    """

    inputs: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    suffix: str | None = None
    sidecars: tuple[str, ...] = ()
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.suffix is not None and self.suffix not in CONTAINERS:
            raise UsageError(f"there is no container {self.suffix!r}.", f"Choose one of {', '.join(CONTAINERS)}.")

    def excludes(self, name: str) -> bool:
        """Whether the file or folder of this name below an input is left out."""
        return any(_matches(name, pattern) for pattern in self.exclude)

    def includes(self, name: str, any_kind: bool = False) -> bool:
        """Whether a file of this name below an input is taken, unless it is excluded."""
        if self.include:
            return any(_matches(name, pattern) for pattern in self.include)
        return any_kind or name.lower().endswith(VIDEO_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the inputs that was passed over.

    Attributes:
        what, cure: as in `VderainError`.
        loses_files: whether files may be missing from the plan.
    """

    what: str
    cure: str
    loses_files: bool = True


@dataclass(slots=True)
class Plan:
    """The files to process, in order, and the problems met while looking for them."""

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def incomplete(self) -> bool:
        """Whether files may be missing."""
        return any(problem.loses_files for problem in self.problems)


def make_plan(selection: Selection, outdir: Path, keep_going: bool = False) -> Plan:
    """Finds all files of a selection and names their results.

    Args:
        selection: which files.
        outdir: the folder of results.
        keep_going: note errors as problems, and plan every file they do not concern.

    Raises:
        UsageError: an input does not exist, an input and OUTDIR contain each other, or two results have one name.
    """
    plan = Plan()

    def report(error: UsageError) -> None:
        if not keep_going:
            raise error
        plan.problems.append(Problem(error.what, error.cure))

    for given in selection.inputs:
        try:
            plan.items += [make_item(name, source, selection) for name, source in _find(given, selection, outdir, plan)]
        except UsageError as error:
            report(error)
    plan.items = _without_conflicts(plan.items, outdir, selection.sidecars, report)
    return plan


def watched_folders(selection: Selection) -> list[Path]:
    """The folders in which files of a selection can appear."""
    folders = []
    for given in selection.inputs:
        path = Path(given)
        if not _exists(path) and WILDCARD.search(given):
            path = _split_pattern(given)[0]
        folders.append(path if _is_folder(path) else path.parent)
    return folders


def make_item(name: str, source: Path, selection: Selection) -> Item:
    """Names the result of a file.

    Args:
        name: path of the file below its input.
        source: the file.
        selection: says which suffix the results have.
    """
    suffix = PurePosixPath(name).suffix
    is_image = suffix.lower() in IMAGE_SUFFIXES
    if not is_image and (selection.suffix is not None or suffix.lower() not in CONTAINERS):
        suffix = selection.suffix or DEFAULT_SUFFIX
    return Item(source, name, str(PurePosixPath(name).with_suffix(suffix)), camera_of(name))


def camera_of(name: str) -> str:
    """Which camera recorded a file, by the end of its name, else by its folders: ``front``, ``rear`` or empty."""
    path = PurePosixPath(name.lower())
    if found := CAMERA_ENDING.search(path.stem):
        return CAMERAS[found["letter"] or found["word"] or found["ab"]]
    return next((CAMERAS[folder] for folder in reversed(path.parts[:-1]) if folder in CAMERA_FOLDERS), "")


def _find(given: str, selection: Selection, outdir: Path, plan: Plan) -> Iterator[tuple[str, Path]]:
    """Yields name and path of each file of one input."""
    path = Path(given)
    if _is_folder(path):
        if _real(outdir).is_relative_to(_real(path)):
            what = f"the folder of results {outdir} lies inside the input {path}."
            raise UsageError(what, "Choose one outside of it.")
        found = _walk(path, lambda name, _: selection.excludes(name), plan.problems)
        yield from ((name, source) for name, source in found if selection.includes(name))
    elif _exists(path):
        if not selection.excludes(path.name):
            yield path.name, path.absolute()
    elif WILDCARD.search(given):
        yield from _glob(given, selection, outdir, plan)
    else:
        raise UsageError(f"there is no file or folder {given}.", "Check the path.")


def _glob(given: str, selection: Selection, outdir: Path, plan: Plan) -> Iterator[tuple[str, Path]]:
    """Yields the files that match a pattern, or lie in a folder that does; passes over OUTDIR.

    The standard library's glob neither reports folders that cannot be read nor detects circular links.
    """
    root, pattern = _split_pattern(given)
    if ".." in pattern:  # the result would lie outside OUTDIR
        raise UsageError(f"the pattern {given} has .. behind a wildcard.", "Name the folder that it leads to.")
    any_kind = PurePosixPath(pattern[-1]).suffix not in ("", ".*")
    results, matched = _real(outdir), False

    def skip(name: str, path: Path) -> bool:
        nonlocal matched
        parts = name.split("/")
        if not _may_match(parts, pattern):
            return True
        excluded = selection.excludes(name) or _real(path).is_relative_to(results)
        matched = matched or excluded or _matches_parts(parts, pattern)
        return excluded

    for name, source in _walk(root, skip, plan.problems) if _is_folder(root) else ():
        parts = name.split("/")
        itself = _matches_parts(parts, pattern)
        in_match = any(_matches_parts(parts[:depth], pattern) for depth in range(1, len(parts)))
        if (itself or in_match) and selection.includes(name, any_kind and itself):
            yield name, source
    if not (matched or plan.incomplete or selection.allow_empty):
        raise UsageError(f"nothing matches {given}.", "Check the pattern, and quote it.")


def _walk(
    folder: Path, skip: Skip, problems: list[Problem], prefix: str = "",
    parents: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, Path]]:  # fmt: skip
    """Yields name and path of all files below a folder, in natural order; passes over hidden ones.

    Args:
        folder: to look into; links are followed.
        skip: says what to leave out.
        problems: receives folders that cannot be read, and links that lead back to a parent folder.
        prefix: of the names; empty, or a path with a slash at its end.
        parents: device and inode of the folders above.
    """
    try:
        stat = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        what = f"the folder {folder} cannot be read ({error.strerror})."
        problems.append(Problem(what, "Change its permissions, and run again."))
        return
    if (stat.st_dev, stat.st_ino) in parents:
        what = f"the link {folder} leads back to a folder above it: passed over."
        problems.append(Problem(what, "", loses_files=False))
        return
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        if entry.name.startswith(".") or skip(name, path):  # macOS puts ._NAME.MP4 beside each file of a memory card
            continue
        if _is_folder(path):
            yield from _walk(path, skip, problems, f"{name}/", parents | {(stat.st_dev, stat.st_ino)})
        else:
            yield name, path.absolute()


def _split_pattern(given: str) -> tuple[Path, tuple[str, ...]]:
    """The folder before the first wildcard, and the parts of the pattern from there on."""
    parts = Path(given).parts
    first = next(number for number, part in enumerate(parts) if WILDCARD.search(part))
    return Path(*parts[:first]), parts[first:]


def _matches_parts(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern; ``**`` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _matches_parts(parts, pattern[1:]):
        return True
    rest = pattern if pattern[0] == "**" else pattern[1:]
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches_parts(parts[1:], rest)


def _may_match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, one of its parents, or anything below it can match a pattern."""
    for part, wanted in zip(parts, pattern, strict=False):
        if wanted == "**":
            return True
        if not fnmatchcase(part, wanted):
            return False
    return True


def _matches(name: str, pattern: str) -> bool:
    """Whether a path matches, ignoring case; a pattern without a slash may match any part of the path."""
    name, pattern = name.lower(), pattern.lower()
    if "/" in pattern:
        return fnmatchcase(name, pattern.rstrip("/"))
    return any(fnmatchcase(part, pattern) for part in name.split("/"))


def _without_conflicts(
    items: list[Item], outdir: Path, sidecars: tuple[str, ...], report: Callable[[UsageError], None]
) -> list[Item]:
    """Removes duplicates of a source, and items whose results would replace each other or an input.

    Args:
        items: all that were found.
        outdir: the folder of results.
        sidecars: suffixes of further files written beside each video.
        report: receives each conflict; it may raise it.
    """
    folders = _RealFolders()
    sources = {item: folders.real(os.fspath(item.source)) for item in items}
    owners: dict[str, Item] = {}  # by path below OUTDIR
    refused: set[Item] = set()

    def refuse(what: str, cure: str, *conflicting: Item) -> None:
        report(UsageError(what, cure))
        refused.update(conflicting)

    _refuse_overlaps(sources, outdir, folders, refuse)
    for item, source in sources.items():
        for path in _outputs(item, sidecars):
            other = owners.setdefault(path, item)
            if sources[other] != source:
                what = f"{other.source} and {item.source} would both become {outdir / path}."
                in_one_folder = other.source.parent == item.source.parent
                refuse(what, f"{_EXCLUDE if in_one_folder else _PARENT}, {_TWO_FOLDERS}.", other, item)
    for path, item in owners.items():
        folder = path
        while folder := folder.rpartition("/")[0]:
            if owner := owners.get(folder):
                what = f"{owner.source} would become {outdir / folder}, which is the folder for {item.source}."
                refuse(what, f"{_EXCLUDE}, {_TWO_FOLDERS}.", owner, item)
    return [item for item in sources if item not in refused and owners[item.target] is item]


def _refuse_overlaps(
    sources: dict[Item, str], outdir: Path, folders: "_RealFolders", refuse: Callable[..., None]
) -> None:  # fmt: skip
    """Refuses inputs inside OUTDIR, and results that would replace an input."""
    results, inputs = os.path.join(_real(outdir), ""), set(sources.values())  # noqa: PTH118
    for item, source in sources.items():
        if source.startswith(results):
            refuse(f"the input {item.source} lies inside the folder of results {outdir}.", "Choose another.", item)
        elif folders.joined(f"{outdir}/{item.target}") in inputs:  # through a link in OUTDIR
            what = f"the result {outdir / item.target} would replace an input."
            refuse(what, "Choose another folder with -o.", item)


class _RealFolders:
    """Follows links in the paths of many files, but only once for each folder."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def real(self, path: str) -> str:
        """The path of a file with all links followed."""
        return os.path.realpath(path) if os.path.islink(path) else self.joined(path)  # noqa: PTH114

    def joined(self, path: str) -> str:
        """The path of a file with the links in the path of its folder followed."""
        folder, name = os.path.split(path)
        if folder not in self._known:
            self._known[folder] = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
        return self._known[folder] + name


def _outputs(item: Item, sidecars: tuple[str, ...]) -> list[str]:
    """All paths below OUTDIR that are written for a file."""
    suffixes = () if item.source.suffix.lower() in IMAGE_SUFFIXES else sidecars
    return [item.target, *(str(PurePosixPath(item.target).with_suffix(suffix)) for suffix in suffixes)]


def _real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, it never raises."""
    return Path(os.path.realpath(path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder without permission
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
