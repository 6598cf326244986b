"""Drafts of outputs: exclusive names, one run at a time, publishing without replacing, permissions, the disk."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import names_in

from vderain.errors import OutputError
from vderain.runtime import files as module
from vderain.runtime.files import Draft

posix = pytest.mark.skipif(sys.platform == "win32", reason="links, locks and permissions of POSIX")
ROOT = Path(__file__).parents[2]


def written(draft: Draft, data: bytes = b"new") -> Draft:
    draft.create()
    draft.path.write_bytes(data)
    return draft


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_draft_gets_its_name_when_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with written(Draft(target)) as draft:
        assert names_in(tmp_path) == {draft.path.name}
        draft.publish()
    assert names_in(tmp_path) == {"out.mp4"}
    assert target.read_bytes() == b"new"


def test_a_draft_that_is_not_published_is_removed(tmp_path: Path) -> None:
    with written(Draft(tmp_path / "out.mp4")):
        pass
    folder = Draft(tmp_path / "out")
    folder.create(folder=True)
    (folder.path / "1.png").touch()
    folder.discard()
    assert names_in(tmp_path) == set()


def test_a_second_run_on_a_target_is_refused(tmp_path: Path) -> None:
    with written(Draft(tmp_path / "out.mp4")) as first:
        with pytest.raises(OutputError, match="another run is writing"), Draft(tmp_path / "out.mp4") as second:
            second.create()
        assert names_in(tmp_path) == {first.path.name}
        with Draft(tmp_path / "other.mp4") as other:
            other.create()
        first.publish()


def test_the_draft_of_a_killed_run_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = {".out.mp4.partial.mp4", ".out.mp4.0123456.partial.mp4", ".out.mp4.01234567.partial.mkv", "x.txt"}
    for name in {".out.mp4.01234567.partial.mp4"} | others:
        (tmp_path / name).write_text("of another")
    with Draft(tmp_path / "out.mp4") as draft:
        draft.create()
        assert names_in(tmp_path) == others | {draft.path.name}
    assert all((tmp_path / name).read_text() == "of another" for name in others)


@posix
def test_links_in_the_way_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.secrets, "token_hex", lambda count: "0" * 8)
    (tmp_path / "victim").write_text("precious")
    link = tmp_path / ".out.mp4.00000000.partial.mp4"
    link.symlink_to("victim")
    with pytest.raises(OutputError), Draft(tmp_path / "out.mp4") as draft:
        draft.create()
    assert link.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_during_the_run_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(module.os, "link", refused)
    target = tmp_path / "out.mp4"
    with pytest.raises(OutputError, match="--overwrite"), written(Draft(target, overwrite=False)) as draft:
        target.write_bytes(b"of another")
        draft.publish()
    assert target.read_bytes() == b"of another"
    with written(Draft(target, overwrite=True)) as draft:
        draft.publish()
    assert target.read_bytes() == b"new"
    target.unlink()
    with written(Draft(target, overwrite=False)) as draft:
        draft.publish()
    assert names_in(tmp_path) == {"out.mp4"}


def refused(*args: object, **kwargs: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_that_appears_before_the_draft_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"of another")
    with pytest.raises(OutputError, match="exists already"), Draft(tmp_path / "out.mp4", overwrite=False) as draft:
        draft.create()
    assert names_in(tmp_path) == {"out.mp4"}


@posix
@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o400, 0o600), (0o640, 0o640), (0o777, 0o644)])
def test_an_output_is_not_more_readable_than_its_input(tmp_path: Path, mode: int, expected: int) -> None:
    source = tmp_path / "in.mp4"
    source.touch()
    source.chmod(mode)
    before = os.umask(0o022)
    try:
        with written(Draft(tmp_path / "out.mp4", like=source)) as draft:
            assert mode_of(draft.path) == expected
            draft.publish()
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "out.mp4") == expected


@posix
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, bool]] = []

    def watched(name: str) -> Callable[..., None]:
        original = getattr(os, name)

        def call(*args: object, **kwargs: object) -> None:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)  # type: ignore[call-overload]
            events.append((name, is_folder))
            original(*args, **kwargs)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(module.os, name, watched(name))
    with written(Draft(tmp_path / "out.mp4", overwrite=False)) as draft:
        draft.publish()
    assert events == [("fsync", False), ("link", False), ("fsync", True)]


def test_a_disk_that_does_not_take_the_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OutputError, match="disk is full"), written(Draft(tmp_path / "out.mp4")) as draft:
        draft.publish()
    assert names_in(tmp_path) == set()


@posix
def test_of_many_runs_on_a_target_one_wins(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from vderain.errors import OutputError
from vderain.runtime.files import Draft
while time.time() < {time.time() + 2.0}: pass
try:
    with Draft(Path(sys.argv[1]), overwrite=False) as draft:
        draft.create()
        time.sleep(1)
        draft.path.write_bytes(b"whole")
        draft.publish()
except OutputError as error:
    sys.exit(error.exit_code)
"""
    runs = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], cwd=ROOT) for _ in range(4)]
    assert sorted(run.wait(timeout=60) for run in runs) == [0, 4, 4, 4]
    assert names_in(tmp_path) == {"out"}
    assert (tmp_path / "out").read_bytes() == b"whole"
