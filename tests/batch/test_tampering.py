"""Damaged and forged ledgers and journals: no traceback, nothing written outside OUTDIR, results recognised again."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from vderain.batch.ledger import NAME, Ledger, read_only
from vderain.batch.plan import Item
from vderain.batch.record import HIDDEN, THUMBNAILS, WORK, FileResult, Record, Thumbnail
from vderain.batch.report.page import write_report
from vderain.batch.result_folder import ResultFolder
from vderain.errors import OutputError
from vderain.options import Options
from vderain.runtime.files import Fingerprint

JOURNAL = f"{HIDDEN}/journal.jsonl"
NAMES = ("a.mp4", "b.mp4", "sub/c.mp4")
RUN = "0123456789ab"
SEEN = Fingerprint(10, 20, "ends")


def item_of(name: str) -> Item:
    return Item(Path("/card") / name, name, name, "")


def claim(ledger: Ledger, name: str, settings: str = "s") -> str:
    return ledger.claim(Record(item=item_of(name), fingerprint=SEEN, settings=settings))


def publish(ledger: Ledger, name: str) -> None:
    """Claims a file and publishes a result."""
    assert claim(ledger, name) == "mine"
    draft = ledger.outdir / HIDDEN / "draft.mp4"
    draft.write_bytes(b"result")
    record, facts = ledger.record(name), draft.stat()
    assert record is not None
    shown = Thumbnail(0.5, 2.0, "report/x/1.jpg", "report/x/2.jpg")
    result = FileResult(frames=5, damage=("a", "b"), thumbnails=(shown,))
    known = {"bytes_out": facts.st_size, "mtime_out_ns": facts.st_mtime_ns}
    ledger.publish(replace(record, draft=f"{HIDDEN}/draft.mp4", result=result, **known))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three results, beside a file that does not belong to it."""
    root = tmp_path_factory.mktemp("sound")
    (root / "victim.txt").write_text("mine")
    (root / "out").mkdir()
    with Ledger(root / "out") as ledger:
        for name in NAMES:
            publish(ledger, name)
    return root


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def use(out: Path) -> list[str]:
    """Does with a ledger what a run does, and returns what it said."""
    read_only(out)
    with Ledger(out) as ledger:
        for name in NAMES:
            if claim(ledger, name) == "mine":
                ledger.release(name)
        folder = ResultFolder(ledger)
        for record in ledger.records().values():
            folder.check_target(record.item, Options(overwrite=True))
            folder.remove_old_thumbnails(record)
        folder.remove_abandoned_work()
        write_report(out, list(ledger.records().values()), "", {})
        return ledger.warnings


def files_outside(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}


def flip_bytes(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 4, 60))):
        data[random.randrange(len(data))] = random.randrange(256)
    return data


def cut(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def lose_a_block(data: bytearray, random: Random) -> bytearray:
    start = random.randrange(len(data))
    return data[:start] + bytes(random.choice((0, 512))) + data[start + 512 :]


def repeat_a_block(data: bytearray, random: Random) -> bytearray:
    start, other = random.randrange(len(data)), random.randrange(len(data))
    return data[:start] + data[other : other + 700] + data[start:]


def damage_bytes(path: Path, random: Random) -> None:
    change = random.choice((flip_bytes, flip_bytes, cut, lose_a_block, repeat_a_block))
    path.write_bytes(change(bytearray(path.read_bytes() or b"x"), random))


def values_of(random: Random) -> Any:
    """A value that no field should have."""
    return random.choice((
        None, True, -1, 10**30, float("inf"), float("nan"), "", "x", "../victim.txt", "/etc/passwd", "a\0b", "\ud800",
        "9999-99-99", "0001-01-01T00:00:00+23:59", [], [[]], {}, {"x": 1}, "running", "written", "../" * 9,
    ))  # fmt: skip


def forge(text: str, random: Random) -> str:
    """A record with one value replaced, or JSON that is nested too deeply."""
    if random.random() < 0.05:
        return "[" * 100_000
    record = json.loads(text)
    part = random.choice((record, record, record["item"], record["fingerprint"], record["result"]))
    part[random.choice(list(part))] = values_of(random)
    return json.dumps(record)


def damage_journal(path: Path, random: Random) -> None:
    path.write_text("\n".join(forge(line, random) for line in path.read_text().splitlines()) + "\n")


def damage_database(path: Path, random: Random) -> None:
    """Changes the tables with SQL, as someone with a grudge might."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        table, column = random.choice((("files", "target"), ("files", "run"), ("files", "record"), ("runs", "host")))
        kind = random.randrange(5)
        if kind == 0:
            db.execute(random.choice((f"DROP TABLE {table}", f"ALTER TABLE {table} RENAME COLUMN {column} TO x")))
        elif kind == 1:
            value = random.choice((None, 5, 1e999, b"\xff\xfe", "x", "../../victim", "CAST(x'ff' AS TEXT)"))
            db.execute(f"UPDATE OR IGNORE files SET {random.choice(('target', 'run', 'record'))} = ?", (value or "",))
            db.execute("UPDATE files SET record = CAST(x'fffe80' AS TEXT) WHERE id = 2")
        elif kind == 2:
            row = (
                random.choice((RUN, "../../victim", "x")),
                "here",
                random.choice((1, "x")),
                random.choice((0, "x", 1e999)),
            )
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", row)
        else:
            for number, text in db.execute("SELECT id, record FROM files").fetchall():
                db.execute("UPDATE files SET record = ? WHERE id = ?", (forge(text, random), number))


def damage(out: Path, random: Random) -> None:
    kind: Callable[[Path, Random], None]
    for name in random.choice(((NAME,), (NAME,), (JOURNAL,), (NAME, JOURNAL))):
        structured = damage_database if name == NAME else damage_journal
        kind = random.choice((structured, damage_bytes))
        kind(out / name, random)
    if random.random() < 0.2:
        (out / NAME).unlink(missing_ok=True)


def damage_and_use(sound: Path, folder: Path, seeds: range) -> None:
    for seed in seeds:
        root = folder / str(seed)
        shutil.copytree(sound, root)
        damage(root / "out", Random(seed))
        results = {name: (root / "out" / name).read_bytes() for name in NAMES}
        try:
            use(root / "out")
            with Ledger(root / "out") as ledger:
                assert not ledger.warnings, f"seed {seed}: it is said once"
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        assert files_outside(root / "out") == {"victim.txt": b"mine"}, f"seed {seed}"
        assert {name: (root / "out" / name).read_bytes() for name in NAMES} == results, f"seed {seed}"
        shutil.rmtree(root)


def test_sixty_damages_of_ledger_and_journal(sound: Path, tmp_path: Path) -> None:
    damage_and_use(sound, tmp_path, range(60))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_damages_of_ledger_and_journal(sound: Path, tmp_path: Path) -> None:
    damage_and_use(sound, tmp_path, range(60, 1060))


@pytest.mark.parametrize("change", [
    "DROP TABLE runs", "DROP TABLE files", "ALTER TABLE files RENAME COLUMN run TO x",
    "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM files; END",
    "UPDATE files SET record = CAST(x'ff' AS TEXT)", "UPDATE files SET record = replace(record, '0.5', '1e999')",
    "UPDATE files SET record = replace(record, '0.5', 'NaN')", f"UPDATE files SET record = '{'[' * 100_000}'",
    "UPDATE files SET run = '../x', record = replace(record, '\"done\"', '\"running\"')",
    "INSERT INTO runs VALUES ('../../victim', 'x', 1, 0)", f"INSERT INTO runs VALUES ('{RUN}', 'x', 1, 'soon')",
])  # fmt: skip
def test_a_ledger_with_wrong_contents_is_set_aside_and_rebuilt(out: Path, change: str) -> None:
    with closing(sqlite3.connect(out / NAME)) as db, db:
        db.execute(change)
    (said,) = use(out)
    assert "damaged: it was kept as" in said and "3 results" in said
    with Ledger(out) as ledger:
        assert [record.state for record in ledger.records().values()] == ["done"] * 3


DRAFT = f"{HIDDEN}/work/x/draft.mp4"


@pytest.mark.parametrize(("field", "value"), [
    ("target", "../victim.txt"), ("target", "sub/../../victim.txt"), ("target", "/victim.txt"), ("target", ""),
    ("target", "."), ("draft", "../victim.txt"), ("draft", "b.mp4"), ("draft", f"{HIDDEN}/../../victim.txt"),
    ("run", "../../../victim"), ("before", "../../victim.txt"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["ledger", "journal"])
def test_a_record_that_leads_out_of_the_folder_is_refused(out: Path, field: str, value: str, place: str) -> None:
    """Written by hand, as `Record` itself would be trusted."""
    values = {"target": "a.mp4", "draft": DRAFT, "run": RUN, "before": "report/x/1.jpg"} | {field: value}
    (out / DRAFT).parent.mkdir(parents=True)
    (out / DRAFT).write_bytes(b"forged")
    record = Record(
        item=replace(item_of("a.mp4"), target=values["target"]), fingerprint=SEEN, state="written", run=values["run"],
        draft=values["draft"], result=FileResult(thumbnails=(Thumbnail(1, 1, values["before"], "report/x/2.jpg"),)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(record.to_json())
    if place == "ledger":
        with closing(sqlite3.connect(out / NAME)) as db, db:
            row = (os.fsencode(record.target), record.run, record.to_json())
            db.execute("INSERT OR REPLACE INTO files (target, run, record) VALUES (?, ?, ?)", row)
    else:
        (out / NAME).unlink()
        with (out / JOURNAL).open("a") as journal:
            journal.write(record.to_json() + "\n")
    assert len(use(out)) == 1
    assert files_outside(out) == {"victim.txt": b"mine"}
    assert (out / "b.mp4").read_bytes() == b"result"


def test_a_forged_result_is_not_published_through_a_link(out: Path) -> None:
    """A link that the user made stays usable for results that the user asks for, but not for what a ledger says."""
    (out / "link").symlink_to(out.parent)
    (out / DRAFT).parent.mkdir(parents=True)
    (out / DRAFT).write_bytes(b"forged")
    item = item_of("link/victim.txt")
    with Ledger(out) as ledger, ledger.transaction():
        from vderain.batch import store

        store.put(ledger._db, Record(item=item, state="written", run=RUN, draft=DRAFT))
    use(out)
    assert files_outside(out) == {"victim.txt": b"mine"}


@pytest.mark.parametrize("name", [HIDDEN, f"{HIDDEN}/runs", WORK, THUMBNAILS])
def test_a_link_in_place_of_a_folder_of_ours_is_refused(out: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "work" / "mine").mkdir(parents=True)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link"):
        use(out)
    assert [path.name for path in elsewhere.rglob("*")] == ["work", "mine"]


def test_a_journal_that_is_a_link_is_not_written_to(out: Path) -> None:
    (out / JOURNAL).unlink()
    (out / JOURNAL).symlink_to(out.parent / "victim.txt")
    with Ledger(out) as ledger:
        (out / "a.mp4").unlink()
        with pytest.raises(OutputError):
            publish(ledger, "a.mp4")
    assert files_outside(out) == {"victim.txt": b"mine"}
