"""One run, with the real worker in this process: what is counted, what is kept, what a full disk does."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import Clip, decoded_pts, make

from vderain.batch.events import Ended, Planned, Started, Summary
from vderain.batch.ledger import Ledger, read_only
from vderain.batch.plan import Item, Selection, make_plan
from vderain.batch.record import HIDDEN, Record
from vderain.batch.result_folder import work_folder
from vderain.batch.run import RetryPolicy, Run
from vderain.batch.workers.task import Outcome, Progressed, Task, TaskEvent
from vderain.batch.workers.worker import Worker
from vderain.errors import OutputError, VderainError
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.frame import Progress
from vderain.options import Options
from vderain.runtime.files import fingerprint
from vderain.runtime.threads import StopFlag

PLAIN = Options(strength=0, device="cpu")
OTHER = Options(strength=0, device="cpu", encode=EncodeOptions(crf=30))


class Here:
    """A worker without a process of its own; ``meanwhile`` is called after each frame that it reports."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._worker, self._meanwhile = Worker("cpu"), meanwhile
        self._task: Task | None = None

    @property
    def idle(self) -> int:
        return int(self._task is None)

    def start(self, task: Task) -> None:
        self._task = task

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        if self._task is not None:
            task, self._task = self._task, None
            yield self._worker(task, lambda target, progress: self._meanwhile() if progress.frames else None)

    def close(self) -> None:
        self._task = None


class Card:
    """A folder of clips, one of results, and all that was told of the last run."""

    def __init__(self, root: Path, names: tuple[str, ...] = ("a.mp4", "b.mp4")) -> None:
        self.folder, self.out = root / "card", root / "out"
        self.folder.mkdir()
        self.out.mkdir()
        for name in names:
            make(self.folder / name, Clip(frames=5))
        self.events: list[Any] = []

    def run(
        self, options: Options = PLAIN, meanwhile: Callable[[], None] = lambda: None, stopped: bool = False,
        between: Callable[[Run], None] = lambda run: None, here: type[Here] = Here,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
    ) -> Summary:  # fmt: skip
        """Plans, looks, works, ends."""
        self.events, stop = [], StopFlag()
        if stopped:
            stop.set()
        with Ledger(self.out) as ledger:
            run = Run(ledger=ledger, options=options, policy=policy, emit=self.events.append, stop=stop)
            try:
                run.add(make_plan(Selection((str(self.folder),)), self.out).items)
                between(run)
                run.work(here(meanwhile))
            finally:
                summary = run.close()
        return summary

    def all_events(self, kind: type) -> list[Any]:
        return [each for each in self.events if isinstance(each, kind)]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return len(summary.done), len(summary.failed), summary.skipped, summary.waiting


def test_a_stopped_run_with_new_settings_keeps_old_results(card: Card) -> None:
    assert counts(card.run()) == (2, 0, 0, 0)
    assert counts(card.run(OTHER, stopped=True)) == (0, 0, 0, 2)
    assert counts(card.run()) == (0, 0, 2, 0)


def test_a_stopped_run_reads_no_fingerprints(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vderain.batch.run.fingerprint", lambda path: pytest.fail("it was"))
    assert counts(card.run(stopped=True)) == (0, 0, 0, 2)


def test_an_unreadable_source_keeps_its_result(card: Card) -> None:
    card.run()
    source = card.folder / "a.mp4"
    aside = source.rename(card.folder / "aside")
    source.symlink_to(source)
    assert counts(card.run()) == (0, 1, 1, 0)
    (ended,) = card.all_events(Ended)
    assert "cannot be read" in ended.record.failure.error
    assert read_only(card.out)["a.mp4"].state == "done"
    aside.replace(source)
    assert counts(card.run()) == (0, 0, 2, 0)


def test_unreadable_files_count_as_planned(card: Card) -> None:
    """Or a table would say "3 of 2 files"."""
    (card.folder / "c.mp4").symlink_to(card.folder / "c.mp4")
    assert counts(card.run()) == (2, 1, 0, 0)
    (planned,) = card.all_events(Planned)
    assert (len(planned.items), planned.done) == (3, 0)
    assert len(card.all_events(Ended)) == 3


def run_over_damage(card: Card, **policy: bool) -> tuple[int, int, int, int]:
    """Runs over a sound file and an empty one, and counts."""
    return counts(card.run(policy=RetryPolicy(**policy)))


def test_a_damaged_file_fails_again_without_another_attempt(card: Card) -> None:
    (card.folder / "b.mp4").write_bytes(b"")
    assert run_over_damage(card) == (1, 1, 0, 0)
    summary = card.run()
    assert (counts(summary), summary.known) == ((0, 1, 1, 0), 1), "it counts as failed, for the exit code"
    assert not card.all_events(Started)
    (ended,) = card.all_events(Ended)
    assert "is empty" in ended.record.failure.error
    run_over_damage(card, retry_failed=True)
    assert [started.item.target for started in card.all_events(Started)] == ["b.mp4"]
    card.run(OTHER)
    assert [started.item.target for started in card.all_events(Started)] == ["a.mp4", "b.mp4"], "other settings"


def test_a_damaged_file_is_processed_when_it_was_repaired(card: Card) -> None:
    (card.folder / "b.mp4").write_bytes(b"")
    card.run()
    make(card.folder / "b.mp4", Clip(frames=5))
    assert counts(card.run()) == (1, 0, 1, 0)


def test_a_newer_version_tries_damaged_files_again(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    (card.folder / "b.mp4").write_bytes(b"")
    card.run()
    monkeypatch.setattr("vderain.batch.record.__version__", "99")
    card.run()
    assert [started.item.target for started in card.all_events(Started)] == ["b.mp4"]


def test_fail_fast_goes_on_after_a_file_that_is_known_to_be_damaged(card: Card) -> None:
    (card.folder / "a.mp4").write_bytes(b"")
    assert run_over_damage(card, fail_fast=True) == (0, 1, 0, 1)
    assert run_over_damage(card, fail_fast=True) == (1, 1, 0, 0)


def test_a_file_that_changes_while_waiting_is_done_once(card: Card) -> None:
    def change(run: Run) -> None:
        make(card.folder / "b.mp4", Clip(frames=7))
        run.add(make_plan(Selection((str(card.folder / "b.mp4"),)), card.out).items)  # as a watcher does

    assert counts(card.run(between=change)) == (2, 0, 0, 0)
    assert [began.item.target for began in card.all_events(Started)] == ["a.mp4", "b.mp4"]
    assert sum(len(planned.items) for planned in card.all_events(Planned)) == 2
    assert counts(card.run()) == (0, 0, 2, 0)


def test_the_fingerprint_is_taken_when_processing_begins(card: Card) -> None:
    """A copy that was not complete when the list was made is not done twice."""
    assert counts(card.run(between=lambda run: make(card.folder / "b.mp4", Clip(frames=7)) and None)) == (2, 0, 0, 0)
    assert len(decoded_pts(card.out / "b.mp4")) == 7
    assert read_only(card.out)["b.mp4"].fingerprint == fingerprint(card.folder / "b.mp4")
    assert counts(card.run()) == (0, 0, 2, 0)


def test_a_file_that_appears_under_the_target_is_not_replaced(card: Card) -> None:
    mine = card.out / "a.mp4"
    assert counts(card.run(meanwhile=lambda: mine.write_text("my own") and None)) == (1, 1, 0, 0)
    assert mine.read_text() == "my own"
    assert not list((card.out / HIDDEN / "work").iterdir()), "no draft is left"


def test_thumbnails_of_an_older_result_are_removed(card: Card) -> None:
    card.run()
    (shown,) = [card.out / thumbnail.after for thumbnail in read_only(card.out)["a.mp4"].result.thumbnails]
    stale = shown.with_name("00000099-after.jpg")
    stale.touch()
    card.run(OTHER)
    assert shown.exists()
    assert not stale.exists()


class SlowToStart(Here):
    """It takes a second before it is ready."""

    def poll(self, timeout_s: float) -> Iterable[TaskEvent]:
        if self._task is not None:
            time.sleep(1)
            yield Progressed(self._task.target, Progress(0, 0.0, None))
        yield from super().poll(timeout_s)


def test_the_start_of_a_worker_is_not_counted_to_a_file(card: Card) -> None:
    began_s = time.monotonic()
    summary = card.run(here=SlowToStart)
    seconds = [record.seconds for record in summary.done]
    assert all(seconds)
    assert sum(seconds) < time.monotonic() - began_s - 2


def test_a_long_name_leaves_room_for_what_is_written_on_the_way(tmp_path: Path) -> None:
    name = f"{'ä' * 124}.mp4"
    card = Card(tmp_path, (name,))
    assert counts(card.run()) == (1, 0, 0, 0)
    assert len(decoded_pts(card.out / name)) == 5


def test_removed_sources_leave_the_report_and_the_work_folder(card: Card, tmp_path: Path) -> None:
    """Its failure is off the page, and its pieces are off the disk; those of other inputs stay."""
    gone, elsewhere = card.folder / "gone.mp4", tmp_path / "elsewhere.mp4"
    gone.symlink_to(gone)
    elsewhere.touch()
    assert counts(card.run()) == (2, 1, 0, 0)
    work = card.out / HIDDEN / "work"
    with Ledger(card.out) as ledger:
        ledger.register([Record(item=Item(elsewhere, "elsewhere.mp4", "elsewhere.mp4", ""))])
    for target in ("gone.mp4", "elsewhere.mp4"):
        folder = card.out / work_folder(target)
        folder.mkdir(parents=True)
        (folder / "segments.sqlite").touch()
    gone.unlink()
    pages: list[str] = []
    assert counts(card.run(between=lambda run: pages.append(run.write_report("", {}).read_text()))) == (0, 0, 2, 0)
    assert "elsewhere.mp4" in pages[0]
    assert "gone.mp4" not in pages[0]
    assert [path.name for path in work.iterdir()] == [Path(work_folder("elsewhere.mp4")).name]


# Thumbnails of an interrupted file


class Killed(BaseException):
    """What a kill is to a worker."""


def worked(source: Path, out: Path, model: Path, killed_at: int | None = None) -> Outcome:
    """Does a file in pieces of ten frames."""
    options = Options(str(model), temporal="off", device="cpu", guard=False)
    task = Task(
        target="a.mp4", source=source, outdir=out, work_folder=f"{HIDDEN}/work/a", thumbnail_folder="report/a",
        options=options, segment_frames=10,
    )  # fmt: skip

    def tell(target: str, progress: Any) -> None:
        if progress.frames == killed_at:
            raise Killed

    return Worker("cpu")(task, tell)


def test_thumbnails_survive_a_crash(tmp_path: Path, tiny1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vderain.batch.workers.worker.REPORT_EVERY_S", -1.0)
    source = make(tmp_path / "a.mp4", Clip(frames=45, rate=Clip().rate / 10))
    calm, out = tmp_path / "calm", tmp_path / "out"
    straight = worked(source, calm, tiny1)
    assert straight.failure is None
    assert len(straight.result.thumbnails) == 3
    for killed_at in (13, 20, 34):
        with pytest.raises(Killed):
            worked(source, out, tiny1, killed_at)
    assert worked(source, out, tiny1).result.thumbnails == straight.result.thumbnails
    for name in (name for thumbnail in straight.result.thumbnails for name in (thumbnail.before, thumbnail.after)):
        assert (out / name).read_bytes() == (calm / name).read_bytes()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("nothing can be mounted here")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave_bytes: int) -> None:
    """Fills a disk, but for so much."""
    with (disk / "filler").open("ab", buffering=0) as file:
        while (free_bytes := shutil.disk_usage(disk).free) > leave_bytes:
            file.write(bytes(min(4096, free_bytes - leave_bytes)))


def test_too_little_space_is_found_before_any_work(card: Card, small_disk: Path) -> None:
    card.out = small_disk
    (card.folder / "c.mp4").write_bytes(bytes(1_000_000))
    with pytest.raises(VderainError, match="free, and about"):
        card.run(between=Run.check_space)
    assert not card.all_events(Started)


@pytest.mark.parametrize("leave_bytes", [0, 100_000])
def test_a_full_disk_loses_nothing(card: Card, small_disk: Path, leave_bytes: int) -> None:
    """Where not even the ledger can be written the run ends, and says so; else the file fails, and the run goes on."""
    card.out = small_disk
    (card.folder / "b.mp4").unlink()
    card.run()
    make(card.folder / "b.mp4", Clip(frames=60, size=(192, 144)))
    before = (small_disk / "a.mp4").read_bytes()
    try:
        summary = card.run(meanwhile=lambda: fill(small_disk, leave_bytes))
        assert counts(summary) == (0, 1, 1, 0)
        assert "disk is full" in summary.failed[0].failure.error
        assert leave_bytes
    except OutputError as error:
        assert "disk is full" in error.what
    names = {path.name for path in small_disk.iterdir() if not path.name.startswith("vderain.sqlite")}
    assert names == {"a.mp4", "filler", HIDDEN, "report"}
    assert (small_disk / "a.mp4").read_bytes() == before
    (small_disk / "filler").unlink()
    assert counts(card.run()) == (1, 0, 1, 0)
    assert len(decoded_pts(small_disk / "b.mp4")) == 60
