"""The ledger: shared by concurrent runs, safe against kills, rebuilt where it is lost."""

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vderain.batch import store
from vderain.batch.ledger import NAME, Ledger, read_only
from vderain.batch.plan import Item
from vderain.batch.record import HIDDEN, FileResult, Record, Thumbnail
from vderain.batch.result_folder import ResultFolder
from vderain.errors import OutputError, VderainError
from vderain.options import Options
from vderain.runtime.files import Fingerprint, fingerprint

SEEN = Fingerprint(10, 20, "ends")
ITEM = Item(Path("/card/a.mp4"), "a.mp4", "a.mp4", "front")
ROOT = Path(__file__).parents[2]


def claim(ledger: Ledger, item: Item = ITEM, seen: Fingerprint = SEEN, settings: str = "s", weights: str = "w") -> str:
    return ledger.claim(Record(item=item, fingerprint=seen, settings=settings, weights=weights))


def written(ledger: Ledger, item: Item = ITEM) -> Record:
    """The record of a claimed file whose draft is there."""
    draft = ledger.outdir / HIDDEN / "draft.mp4"
    draft.write_bytes(b"result")
    facts = draft.stat()
    record = ledger.record(item.target)
    assert record is not None
    return replace(
        record, draft=f"{HIDDEN}/draft.mp4", bytes_out=facts.st_size, mtime_out_ns=facts.st_mtime_ns,
        result=FileResult(frames=5, damage=("a", "b"), thumbnails=(Thumbnail(0.5, 2.0, "x.jpg", "y.jpg"),)),
    )  # fmt: skip


def test_states_of_a_file(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert claim(ledger) == "mine"
        done = ledger.publish(written(ledger))
        assert done.state == "done"
        assert (tmp_path / "a.mp4").read_bytes() == b"result"
        assert claim(ledger) == "done"
    with Ledger(tmp_path) as ledger:
        assert ledger.record("a.mp4") == done
        assert ledger.is_done(done, Record(item=ITEM, fingerprint=SEEN, settings="s", weights="w"))


@pytest.mark.parametrize("change", ["settings", "weights", "input", "output gone", "output changed"])
def test_done_requires_equal_settings_weights_source_and_result(tmp_path: Path, change: str) -> None:
    with Ledger(tmp_path) as ledger:
        claim(ledger)
        ledger.publish(written(ledger))
        if change == "output gone":
            (tmp_path / "a.mp4").unlink()
        elif change == "output changed":
            (tmp_path / "a.mp4").write_bytes(b"edited")
        asked = {"settings": "s", "weights": "w"} | ({change: "other"} if change in ("settings", "weights") else {})
        seen = replace(SEEN, mtime_ns=21) if change == "input" else SEEN
        assert claim(ledger, seen=seen, **asked) == "mine"


def test_two_runs_never_claim_one_file(tmp_path: Path) -> None:
    with Ledger(tmp_path) as first, Ledger(tmp_path) as second:
        assert claim(first) == "mine"
        assert claim(second) == "busy"
        second.recover()
        assert claim(second) == "busy", "the first lives"
        first.release("a.mp4")
        assert claim(second) == "mine"
        second.fail(replace(written(second), finished_at="2999-01-01T00:00:00+00:00"))
        assert claim(first) == "failed", "just now, by another run"


def killed_with(tmp_path: Path, code: str) -> None:
    """Runs code with a ledger and a claimed file in a process that is killed at its end."""
    prelude = (
        "import os, sys; sys.path[:0] = ['tests', 'tests/batch']; from pathlib import Path; from test_ledger import *\n"
        f"ledger = Ledger(Path({str(tmp_path)!r})).__enter__(); claim(ledger)\n"
    )
    done = subprocess.run([sys.executable, "-c", prelude + code + "\nos.kill(os.getpid(), 9)"], cwd=ROOT, timeout=60)
    assert done.returncode == -9


def test_files_of_dead_runs_can_be_claimed(tmp_path: Path) -> None:
    killed_with(tmp_path, "")
    assert read_only(tmp_path)["a.mp4"].state == "running"
    with Ledger(tmp_path) as ledger:
        record = ledger.record("a.mp4")
        assert record is not None
        assert record.state == "waiting"
        assert claim(ledger) == "mine"
        again = ledger.record("a.mp4")
        assert again is not None
        assert again.attempts == 2


@pytest.mark.parametrize("moment", ["before the name is given", "while it has both names", "after it"])
def test_killed_between_written_and_done(tmp_path: Path, moment: str) -> None:
    give = {"before": "", "while": "(ledger.outdir / 'a.mp4').hardlink_to(draft)"}
    rename = "draft = ledger.outdir / record.draft\n" + give.get(
        moment.partition(" ")[0], "draft.replace(ledger.outdir / 'a.mp4')"
    )
    code = "record = replace(written(ledger), state='written', run=ledger.run)\n"
    code += f"with ledger.transaction(): store.put(ledger._db, record)\n{rename}"
    killed_with(tmp_path, code)
    with Ledger(tmp_path) as ledger:
        record = ledger.record("a.mp4")
        assert record is not None
        assert record.state == "done"
        assert (tmp_path / "a.mp4").read_bytes() == b"result"
        assert claim(ledger) == "done"


def test_a_file_that_appears_after_a_kill_is_not_replaced(tmp_path: Path) -> None:
    code = "record = replace(written(ledger), state='written', run=ledger.run)\n"
    killed_with(tmp_path, code + "with ledger.transaction(): store.put(ledger._db, record)\n")
    (tmp_path / "a.mp4").write_bytes(b"of another")
    with Ledger(tmp_path) as ledger:
        record = ledger.record("a.mp4")
        assert record is not None and record.state == "waiting"
        assert (tmp_path / "a.mp4").read_bytes() == b"of another"
        with pytest.raises(OutputError, match="exists already"):
            ResultFolder(ledger).check_target(record.item, Options())


def test_a_file_that_appears_at_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path) as ledger:
        claim(ledger)
        result = written(ledger)
        monkeypatch.setattr("vderain.batch.ledger.os.path.lexists", lambda path: False)  # it appears just behind
        (tmp_path / "a.mp4").write_bytes(b"of another")
        with pytest.raises(OutputError):
            ledger.publish(result)
        assert (tmp_path / "a.mp4").read_bytes() == b"of another"


@pytest.mark.parametrize("how", ["garbage", "middle", "value", "newer", "foreign"])
def test_an_unusable_ledger_is_set_aside_and_rebuilt(tmp_path: Path, how: str) -> None:
    with Ledger(tmp_path) as ledger:
        for name in ("a.mp4", "b.mp4"):
            item = Item(Path("/card") / name, name, name, "")
            claim(ledger, item)
            ledger.publish(written(ledger, item))
        before = ledger.record("a.mp4")
    (tmp_path / "b.mp4").unlink()
    path = tmp_path / NAME
    if how == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif how == "middle":
        data = bytearray(path.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        path.write_bytes(data)
    else:
        with sqlite3.connect(path) as db:
            db.execute({
                "value": "UPDATE files SET record = 'x'",
                "newer": f"PRAGMA user_version = {store.VERSION + 1}", "foreign": "PRAGMA application_id = 5",
            }[how])  # fmt: skip
        db.close()
    with Ledger(tmp_path) as ledger:
        assert len(ledger.warnings) == 1
        assert "kept as" in ledger.warnings[0]
        assert "1 results" in ledger.warnings[0]
        assert ledger.record("a.mp4") == before
        assert ledger.record("b.mp4") is None
        assert claim(ledger) == "done"
    aside = [path for path in tmp_path.iterdir() if path.name.startswith(f"{NAME}.")]
    assert len(aside) == 1
    with Ledger(tmp_path) as ledger:
        assert not ledger.warnings, "it is said once"


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_lost_ledger_is_rebuilt(tmp_path: Path, how: str) -> None:
    with Ledger(tmp_path) as ledger:
        assert not ledger.warnings, "it is new"
        claim(ledger)
        ledger.publish(written(ledger))
    for path in tmp_path.glob(f"{NAME}*"):
        path.unlink()
    if how == "empty":
        (tmp_path / NAME).touch()
    with Ledger(tmp_path) as ledger:
        assert "made from the 1 results" in ledger.warnings[0]
        assert claim(ledger) == "done"


def test_incomplete_lines_of_the_journal_are_skipped(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for name in ("a.mp4", "c.mp4"):
            item = Item(Path("/card") / name, name, name, "")
            claim(ledger, item)
            ledger.publish(written(ledger, item))
            with (tmp_path / HIDDEN / "journal.jsonl").open("a") as journal:
                journal.write('{"item": {"target": "b.mp4", "sta')
    (tmp_path / NAME).write_bytes(b"\0" * 9999)
    with Ledger(tmp_path) as ledger:
        assert list(ledger.records()) == ["a.mp4", "c.mp4"], "and takes no sound line with it"


def test_a_folder_named_like_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file:x").mkdir()
    with Ledger(Path("file:x")) as ledger:
        assert claim(ledger) == "mine"


def test_a_failed_open_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(VderainError, match="cannot be used"), Ledger(tmp_path):
        pass
    assert not list((tmp_path / HIDDEN / "runs").iterdir())


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"regen-\xfc.mp4")
    item = Item(Path("/card") / name, name, name, "")
    with Ledger(tmp_path) as ledger:
        ledger.register([Record(item=item, fingerprint=SEEN, settings="s", weights="w")])
        assert claim(ledger, item) == "mine"
        ledger.publish(written(ledger, item))
        assert claim(ledger, item) == "done"
    assert os.fsencode(tmp_path / name) in [os.fsencode(path) for path in tmp_path.iterdir()]
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).write_bytes(b"gone")
    with Ledger(tmp_path) as ledger:
        assert list(ledger.records()) == [name]


@pytest.mark.parametrize("long_ago", ["heartbeat = 0", "heartbeat = heartbeat + 100000"])
def test_a_live_run_on_another_host_is_refused(tmp_path: Path, long_ago: str) -> None:
    """A heartbeat from the future does not count: a clock was wrong."""
    with Ledger(tmp_path) as ledger, ledger.transaction():
        ledger._db.execute("INSERT INTO runs VALUES ('0123456789ab', 'elsewhere', 1, strftime('%s', 'now'))")
    with pytest.raises(VderainError, match="a run on elsewhere is at work"), Ledger(tmp_path):
        pass
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(f"UPDATE runs SET {long_ago}")
    db.close()
    with Ledger(tmp_path) as ledger:
        assert claim(ledger) == "mine"


@pytest.mark.parametrize("what", ["a file in the way", "a folder in the way"])
def test_a_folder_that_is_not_writable(tmp_path: Path, what: str) -> None:
    if what == "a file in the way":
        (tmp_path / HIDDEN).write_text("")
    else:
        (tmp_path / NAME).mkdir()
    with pytest.raises(VderainError, match="cannot be"), Ledger(tmp_path):
        pass


def test_the_journal_is_json(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        claim(ledger)
        ledger.publish(written(ledger))
    (line,) = (tmp_path / HIDDEN / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["item"]["target"] == "a.mp4"


def test_fields_of_newer_versions_are_ignored() -> None:
    record = Record(item=ITEM, result=FileResult(frames=5))
    values = json.loads(record.to_json())
    for part in (values, values["item"], values["result"], values["fingerprint"]):
        part["new"] = 1
    assert Record.from_json(json.dumps(values)) == record


def test_a_fingerprint_covers_both_ends_time_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = bytearray(os.urandom(300_000))
    path.write_bytes(data)
    os.utime(path, ns=(1, 10**18))
    first = fingerprint(path)
    for place in (0, len(data) - 1):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(1, 10**18))
        assert fingerprint(path) != first
    path.write_bytes(data)
    os.utime(path, ns=(1, 10**18))
    assert fingerprint(path) == first
    os.utime(path, ns=(1, 10**18 + 5 * 10**9))
    assert fingerprint(path) != first
