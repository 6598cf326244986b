"""Planning: which files are found, and where their results go."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vderain.batch.plan import Plan, Selection, camera_of, make_plan
from vderain.errors import UsageError

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes empty files below a folder."""

    def build(*names: str) -> Path:
        for name in names:
            path = tmp_path / "card" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "card"

    return build


def planned(*inputs: object, out: Path, **selection: object) -> Plan:
    return make_plan(Selection(tuple(map(str, inputs)), **selection), out)  # type: ignore[arg-type]


def targets(plan: Plan) -> list[str]:
    return [item.target for item in plan.items]


def test_folders_are_mirrored_in_natural_order(tree: Tree, tmp_path: Path) -> None:
    card = tree("DCIM/clip10.mp4", "DCIM/clip9.mp4", "a.MOV", "notes.txt", "DCIM/.hidden.mp4", "._a.MOV", "thumb.jpg")
    assert targets(planned(card, out=tmp_path / "out")) == ["a.MOV", "DCIM/clip9.mp4", "DCIM/clip10.mp4"]


def test_containers_that_cannot_be_written_become_mp4(tree: Tree, tmp_path: Path) -> None:
    card = tree("a.wmv", "b.3gp", "c.mkv", "d.y4m")
    assert targets(planned(card, out=tmp_path / "out")) == ["a.mp4", "b.mp4", "c.mkv", "d.mp4"]
    assert targets(planned(card, out=tmp_path / "out", suffix=".mkv")) == ["a.mkv", "b.mkv", "c.mkv", "d.mkv"]


@pytest.mark.parametrize(("include", "exclude", "found"), [
    (("*_f.mp4",), (), ["x/1_F.mp4"]),
    ((), ("x",), ["y/1_R.mp4"]),
    ((), ("x/1*",), ["x/2.mp4", "y/1_R.mp4"]),
    (("*.txt", "1*"), ("*_R*",), ["x/1_F.mp4", "x/note.mp4"]),
    (("x/*",), ("note*",), ["x/1_F.mp4", "x/2.mp4"]),
])  # fmt: skip
def test_include_and_exclude(
    tree: Tree, tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], found: list[str]
) -> None:
    card = tree("x/1_F.mp4", "x/2.mp4", "y/1_R.mp4", "x/note.txt")
    assert targets(planned(card, out=tmp_path / "out", include=include, exclude=exclude)) == found


def test_named_files_are_taken_whatever_they_are(tree: Tree, tmp_path: Path) -> None:
    card = tree("a.dat", "b.jpg", "sub/c.mp4")
    plan = planned(card / "a.dat", card / "b.jpg", card / "sub" / "c.mp4", out=tmp_path / "out")
    assert targets(plan) == ["a.mp4", "b.jpg", "c.mp4"]


def test_patterns_keep_places_from_the_first_wildcard_on(tree: Tree, tmp_path: Path) -> None:
    card = tree("Front/1.mp4", "Rear/1.mp4", "Rear/2.mp4", "Rear/2.txt")
    assert targets(planned(card / "*" / "1.mp4", out=tmp_path / "out")) == ["Front/1.mp4", "Rear/1.mp4"]
    assert targets(planned(card / "R*", out=tmp_path / "out")) == ["Rear/1.mp4", "Rear/2.mp4"]
    assert targets(planned(card / "**" / "2*", out=tmp_path / "out")) == ["Rear/2.mp4"]


@pytest.mark.parametrize(("pattern", "include", "exclude", "found"), [
    ("**/*.mp4", (), ("sub/Parking",), ["1.mp4", "sub/2.mp4"]),
    ("*/*/*.mp4", (), ("Parking",), []),
    ("**/*.mp4", ("q*", "2*"), (), ["sub/2.mp4"]),
    ("**", (), (), ["1.mp4", "sub/2.mp4", "sub/Parking/3.mp4"]),
    ("s*", (), (), ["sub/2.mp4", "sub/Parking/3.mp4"]),
    ("**/P*/**/*.mp4", (), (), ["sub/Parking/3.mp4"]),
    ("**/*.txt", (), (), ["sub/2.mp4"]),
])  # fmt: skip
def test_include_and_exclude_apply_to_patterns(
    tree: Tree, tmp_path: Path, pattern: str, include: tuple[str, ...], exclude: tuple[str, ...], found: list[str]
) -> None:
    card = tree("1.mp4", "sub/2.mp4", "sub/Parking/3.mp4", "sub/.trash/4.mp4")
    if pattern.endswith(".txt"):
        (card / "sub" / "2.mp4").rename(card / "sub" / "2.txt")
    plan = planned(card / pattern, out=tmp_path / "out", include=include, exclude=exclude)
    assert targets(plan) == found


def test_results_stay_inside_the_folder_of_results(tree: Tree, tmp_path: Path) -> None:
    card = tree("sub/1.mp4")
    with pytest.raises(UsageError, match=r"has \.\. behind a wildcard"):
        planned(f"{card}/*/../../card/sub/1.mp4", out=tmp_path / "out")
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(card / "sub")
    with pytest.raises(UsageError, match=r"the result .*1\.mp4 would replace an input"):
        planned(card, out=out)


def test_patterns_ignore_the_folder_of_results(tree: Tree, tmp_path: Path) -> None:
    """Or a second run would be refused what the first was not."""
    card = tree("1.mp4", "F/2.mp4", "out/1.mp4", "out/F/2.mp4")
    for pattern, names in (("**/*.mp4", ["1.mp4", "F/2.mp4"]), ("*", ["1.mp4", "F/2.mp4"])):
        assert sorted(targets(planned(f"{card}/{pattern}", out=card / "out"))) == names


def test_a_name_with_brackets_is_a_name(tree: Tree, tmp_path: Path) -> None:
    card = tree("[1].mp4")
    assert targets(planned(card / "[1].mp4", out=tmp_path / "out")) == ["[1].mp4"]


def test_a_file_named_twice_is_done_once(tree: Tree, tmp_path: Path) -> None:
    card = tree("1.mp4")
    (tmp_path / "link").symlink_to(card)
    for again in (card / "1.mp4", card / ".." / "card" / "1.mp4", tmp_path / "link"):
        assert targets(planned(card, again, out=tmp_path / "out")) == ["1.mp4"]


@pytest.mark.parametrize(("name", "group"), [
    ("Front/x.mp4", "front"), ("DCIM/REAR/x.mp4", "rear"), ("F/R/x.mp4", "rear"), ("x.mp4", ""),
    ("20260131_120000_F.mp4", "front"), ("20260131_120000_R.MP4", "rear"), ("20260131_120000_NR.mp4", "rear"),
    ("20260131_120000_EF.mp4", "front"), ("2026_0131_120000_001A.MP4", "front"), ("2026_0131_120000_001B.MP4", "rear"),
    ("120000F.mp4", "front"), ("drive-rear.mp4", "rear"), ("Front/1_R.mp4", "rear"), ("leaf.mp4", ""), ("car.mp4", ""),
    ("Lima.mp4", ""), ("Club.mp4", ""),
])  # fmt: skip
def test_cameras_are_recognised_by_file_name_then_by_folder(name: str, group: str) -> None:
    assert camera_of(name) == group


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1))
def test_any_name_has_a_group(name: str) -> None:
    assert camera_of(name) in ("front", "rear", "")


def test_results_and_inputs_lie_apart(tree: Tree, tmp_path: Path) -> None:
    card = tree("sub/1.mp4")
    for out in (card, card / "out", card / "sub" / "out"):
        with pytest.raises(UsageError, match="lies inside"):
            planned(card, out=out)
    with pytest.raises(UsageError, match="lies inside"):
        planned(card / "sub" / "1.mp4", out=card)
    (tmp_path / "link").symlink_to(card)
    with pytest.raises(UsageError, match="lies inside"):
        planned(card, out=tmp_path / "link" / "out")


def test_equal_names_are_refused(tree: Tree, tmp_path: Path) -> None:
    card = tree("Front/1.mp4", "Rear/1.mp4", "2.wmv", "2.mp4")
    with pytest.raises(UsageError, match=r"would both become .*1\.mp4") as caught:
        planned(card / "Front", card / "Rear", out=tmp_path / "out")
    assert "folder above both" in caught.value.cure
    with pytest.raises(UsageError, match=r"2\.mp4"):
        planned(card, out=tmp_path / "out")


def test_a_result_cannot_be_the_folder_of_another(tree: Tree, tmp_path: Path) -> None:
    card = tree("a.wmv", "a.mp4/b.mp4", "c.mp4")
    with pytest.raises(UsageError, match=r"a\.wmv would become .*a\.mp4, which is the folder for .*b\.mp4\."):
        planned(card, out=tmp_path / "out")


def test_files_of_one_name_do_not_stop_the_others_of_a_run_that_goes_on(tree: Tree, tmp_path: Path) -> None:
    card = tree("x.mp4", "y.wmv", "y.mp4", "z.mp4")
    plan = make_plan(Selection((str(tmp_path / "gone"), str(card))), tmp_path / "out", keep_going=True)
    assert targets(plan) == ["x.mp4", "z.mp4"]
    assert ["gone" in plan.problems[0].what, "both become" in plan.problems[1].what] == [True, True]


def test_two_kinds_of_one_file_would_share_a_track(tree: Tree, tmp_path: Path) -> None:
    card = tree("a.mp4", "a.mkv", "b.mp4", "b.jpg")
    assert len(planned(card, out=tmp_path / "out", include=("*",)).items) == 4
    assert planned(card, out=tmp_path / "out", include=("b.*",), sidecars=(".gpx",)).items, "a picture has no track"
    with pytest.raises(UsageError, match=r"would both become .*a\.gpx\.") as caught:
        planned(card, out=tmp_path / "out", sidecars=(".gpx",))
    assert "--exclude" in caught.value.cure, "they are in one folder already"


@pytest.mark.parametrize("what", ["nowhere.mp4", "nothing*.mp4", "x" * 5000])
def test_missing_inputs_are_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError):
        planned(tmp_path / what, out=tmp_path / "out")


def test_links_are_followed_but_not_in_circles(tree: Tree, tmp_path: Path) -> None:
    card = tree("real/1.mp4")
    (card / "real" / "back").symlink_to(card)
    (card / "also").symlink_to(card / "real")
    for where in (card, card / "**" / "*.mp4"):
        plan = planned(where, out=tmp_path / "out")
        assert targets(plan) == ["also/1.mp4", "real/1.mp4"]
        assert len(plan.problems) == 2
        assert all("leads back" in problem.what for problem in plan.problems)
        assert not plan.incomplete


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_reported(tree: Tree, tmp_path: Path) -> None:
    card = tree("open/1.mp4", "shut/2.mp4")
    (card / "shut").chmod(0)
    plan = planned(card, out=tmp_path / "out")
    (card / "shut").chmod(0o700)
    assert targets(plan) == ["open/1.mp4"]
    assert plan.incomplete


def test_an_unreadable_folder_is_reported(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tree("open/1.mp4", "shut/2.mp4")
    scan = os.scandir

    def fail(folder: Path) -> object:
        if Path(folder).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr("vderain.batch.plan.os.scandir", fail)
    for where in (card, card / "**" / "*.mp4", card / "*"):
        plan = planned(where, out=tmp_path / "out")
        assert targets(plan) == ["open/1.mp4"]
        assert plan.incomplete
        assert "shut cannot be read (Permission denied)" in plan.problems[0].what


def test_unknown_containers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no container"):
        Selection((str(tmp_path),), suffix=".gif")
