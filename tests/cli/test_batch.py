"""The command `batch`: results, failures, reruns, interruptions, dry runs and watching."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import Result
from clips import Clip, decoded_pts, make, sound_only, truncated
from dashcam import Dashcam, dashcam
from dashcam import record as gps_record

from vderain.batch.ledger import NAME, Ledger, read_only
from vderain.batch.record import HIDDEN, Record

Make = Callable[..., Path]
Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
QUICK = ("--strength", "0", "--workers", "1")  # no network: what is tested here is what is around it


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Two cameras, two files each."""
    folder = tmp_path / "card"
    first = None
    for camera in ("Front", "Rear"):
        (folder / camera).mkdir(parents=True)
        for number in range(2):
            path = folder / camera / f"2026_0{number}{camera[0]}.MP4"
            first = first or make(path.with_suffix(".mp4"), Clip(frames=5)).rename(path)
            if path != first:
                shutil.copy(first, path)
    return folder


def files_in(folder: Path) -> set[str]:
    """Results below a folder, without what belongs to the batch itself."""
    own = (HIDDEN, "report", "report.html", NAME)
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if not path.parts[0].startswith(own)}


def records(outdir: Path) -> dict[str, Record]:
    with Ledger(outdir) as ledger:
        assert not ledger.warnings
        return ledger.records()


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_results_keep_the_folders_and_are_not_processed_again(vderain: Run, card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = vderain("batch", card, "-o", out, *QUICK)
    assert first.exit_code == 0, first.output
    wanted = {f"{camera}/2026_0{number}{camera[0]}.MP4" for camera in ("Front", "Rear") for number in range(2)}
    assert files_in(out) == wanted
    assert all(len(decoded_pts(out / name)) == 5 for name in wanted)
    assert "4 done, 0 failed in " in first.stdout
    assert "front" in first.stdout
    assert (out / "report.html").exists()
    assert not (out / HIDDEN / "work").exists() or not any((out / HIDDEN / "work").iterdir())
    for record in records(out).values():
        assert (record.state, record.attempts, record.result.frames) == ("done", 1, 5)
        assert record.item.group in ("front", "rear")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.MP4")}
    (out / "report.html").write_text("of a run that was killed before it could write the page")
    second = vderain("batch", card, "-o", out, *QUICK)
    assert second.exit_code == 0
    assert "2026_01R.MP4" in (out / "report.html").read_text()
    assert "0 done, 0 failed, 4 done before" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.MP4")} == before


def test_changed_sources_lost_results_and_new_settings_are_processed_again(
    vderain: Run, card: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert vderain("batch", card, "-o", out, *QUICK).exit_code == 0
    make(card / "Front" / "new.mp4", Clip(frames=7)).replace(card / "Front" / "2026_00F.MP4")
    (out / "Rear" / "2026_01R.MP4").unlink()
    again = vderain("batch", card, "-o", out, *QUICK)
    assert "2 done, 0 failed, 2 done before" in again.stdout
    assert len(decoded_pts(out / "Front" / "2026_00F.MP4")) == 7
    assert vderain("batch", card, "-o", out, *QUICK, "--crf", 30).stdout.count("4 done, 0 failed in") == 1
    assert {record.attempts for record in records(out).values()} == {1}


def test_files_of_others_are_replaced_only_with_overwrite(vderain: Run, card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "Front").mkdir(parents=True)
    mine = out / "Front" / "2026_00F.MP4"
    mine.write_text("my own")
    result = vderain("batch", card, "-o", out, *QUICK)
    assert result.exit_code == 1
    assert "exists already, and is not a result that the ledger knows. Add --overwrite" in result.stderr
    assert mine.read_text() == "my own"
    assert "3 done, 1 failed" in result.stdout
    assert vderain("batch", card, "-o", out, *QUICK, "--overwrite").exit_code == 0
    assert len(decoded_pts(mine)) == 5


def test_a_gps_track_is_written_beside_its_video(vderain: Run, card: Path, tmp_path: Path) -> None:
    out, flags = tmp_path / "out", (*QUICK, "--gpx", "--exclude", "Rear")
    sound = card / "Front" / "2026_00F.MP4"
    dashcam(sound, sound, Dashcam(tuple(gps_record(second) for second in range(3))))
    first = vderain("batch", card, "-o", out, *flags)
    assert first.exit_code == 0, first.output
    assert files_in(out) == {"Front/2026_00F.MP4", "Front/2026_00F.gpx", "Front/2026_01F.MP4"}
    track = out / "Front" / "2026_00F.gpx"
    assert "<trkpt" in track.read_text()
    assert "GPS track as 2026_00F.gpx" in records(out)["Front/2026_00F.MP4"].result.kept
    assert vderain("batch", card, "-o", out, *flags, "--crf", 30).exit_code == 0, "it is ours, and is replaced"
    track.write_text("my own")
    again = vderain("batch", card, "-o", out, *flags)
    assert again.exit_code == 1
    assert "2026_00F.gpx exists already, and was not written by vderain. Add --overwrite" in again.stderr
    assert track.read_text() == "my own"


def test_ten_kinds_of_broken_files_fail_with_a_message_each(vderain: Run, card: Path, tmp_path: Path) -> None:
    """Each says what is wrong with it, and none of them stops the others."""
    bad = card / "Bad"
    bad.mkdir()
    sound = card / "Front" / "2026_00F.MP4"
    broken = {
        "empty.mp4": "is empty. Copy it again",
        "text.mp4": "is not a video file that can be read",
        "noise.mkv": "is not a video file that can be read",
        "head.mp4": "has no usable index (moov)",
        "tail.mp4": "is not a video file that can be read",
        "sound.mp4": "has no video in it",
        "pipe.mp4": "is a pipe or a device",
        "gone.mp4": "cannot be read (Too many levels of symbolic links",
        "zeros.avi": "is not a video file that can be read",
        "undecodable.mkv": "no frame of",
    }
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("no video\n" * 100)
    (bad / "noise.mkv").write_bytes(Random(7).randbytes(20000))  # other noise may pass for a codec
    truncated(sound, bad / "head.mp4", 0.3).write_bytes(sound.read_bytes()[:40] + b"\0" * 4000)
    (bad / "tail.mp4").write_bytes(sound.read_bytes()[-1500:])
    sound_only(bad / "sound.mp4")
    (bad / "gone.mp4").symlink_to(bad / "gone.mp4")
    os.mkfifo(bad / "pipe.mp4")
    (bad / "zeros.avi").write_bytes(b"\0" * 5000)
    undecodable(bad / "undecodable.mkv", tmp_path)
    result = vderain("batch", card, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 1
    assert "4 done, 10 failed" in result.stdout, result.stderr
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("vderain: Bad/")]
    assert len(lines) == 10
    for name, message in broken.items():
        line = next(line for line in lines if line.startswith(f"vderain: Bad/{name}: "))
        assert message in line, line
    assert not files_in(tmp_path / "out") & {f"Bad/{name}" for name in broken}
    assert all(record.attempts <= 1 for record in records(tmp_path / "out").values()), "what is broken stays broken"


def undecodable(path: Path, folder: Path) -> None:
    from clips import damaged

    damaged(make(folder / "sound.mkv", Clip(frames=4, time_base=Fraction(1, 1000))), path, range(4))


def test_json_events(vderain: Run, card: Path, tmp_path: Path) -> None:
    (card / "Front" / "empty.mp4").touch()
    result = vderain("batch", card, "-o", tmp_path / "out", *QUICK, "--json")
    told = events(result)
    assert result.exit_code == 1
    assert told[0] == {"event": "planned", "files": 5, "done": 0, "bytes": told[0]["bytes"]}
    assert [event["event"] for event in told].count("began") == 5
    ended = {event["target"]: event for event in told if event["event"] == "ended"}
    assert len(ended) == 5
    assert ended["Front/empty.mp4"]["exit_code"] == 3
    assert ended["Front/2026_00F.MP4"]["group"] == "front"
    assert told[-1]["event"] == "summary"
    assert (told[-1]["done"], told[-1]["failed"], told[-1]["interrupted"]) == (4, 1, False)


def test_quiet_prints_failures_only(vderain: Run, card: Path, tmp_path: Path) -> None:
    (card / "Front" / "empty.mp4").touch()
    result = vderain("batch", card, "-o", tmp_path / "out", *QUICK, "-q")
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "is empty" in result.stderr


def test_fail_fast_stops_at_the_first_failure(vderain: Run, card: Path, tmp_path: Path) -> None:
    (card / "A.mp4").touch()
    result = vderain("batch", card, "-o", tmp_path / "out", *QUICK, "--fail-fast")
    assert result.exit_code == 1
    assert "0 done, 1 failed, 4 still to do" in result.stdout
    assert files_in(tmp_path / "out") == set()


def test_a_worker_that_is_killed_costs_one_attempt(card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(card / "long.mp4", Clip(frames=250, size=(160, 120)))
    with started(card, out, "--include", "long*", "--json") as running:
        wait_for(running, "progress")
        (worker,) = children_of(running.pid)
        os.kill(worker, signal.SIGKILL)
        told = rest_of(running)
    assert running.returncode == 0
    assert [event["event"] for event in told if event["event"] in ("retried", "ended")] == ["retried", "ended"]
    assert records(out)["long.mp4"].attempts == 2
    assert len(decoded_pts(out / "long.mp4")) == 250


def test_a_file_that_kills_its_workers_fails_and_the_others_continue(card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(card / "long.mp4", Clip(frames=250, size=(160, 120)))
    with started(card, out, "--retries", "1", "--json") as running:
        for _ in range(2):
            while (event := next_event(running))["event"] != "progress" or event["target"] != "long.mp4":
                pass
            (worker,) = children_of(running.pid)
            os.kill(worker, signal.SIGSEGV)
        told = rest_of(running)
    assert running.returncode == 1
    assert told[-1]["failed"] == 1
    assert told[-1]["done"] == 4
    failed = records(out)["long.mp4"]
    assert failed.failure is not None
    assert "its worker died" in failed.failure.error
    assert "codec crashed" in failed.failure.cure
    assert failed.attempts == 2


def test_a_file_that_exceeds_the_timeout_fails(card: Path, tmp_path: Path) -> None:
    make(card / "long.mp4", Clip(frames=200, size=(640, 480)))
    flags = ("--include", "long*", "--timeout", "6", "--retries", "0", "--json")
    with started(card, tmp_path / "out", *flags, network=True) as running:
        told = rest_of(running)
    assert running.returncode == 1
    ended = next(event for event in told if event["event"] == "ended")
    assert ended["error"] == "it took longer than 6 s."


def test_ctrl_c_exits_within_two_seconds_and_the_next_run_resumes(card: Path, tmp_path: Path, vderain: Run) -> None:
    out = tmp_path / "out"
    make(card / "long.mp4", Clip(frames=1200, size=(160, 120)))
    with started(card, out, "--include", "long*", "--segment", "50", "--json") as running:
        wait_for(running, "progress")
        time.sleep(1)
        running.send_signal(signal.SIGINT)
        asked_s = time.monotonic()
        told = rest_of(running)
        took_s = time.monotonic() - asked_s
    assert running.returncode == 130
    assert took_s < 2
    assert told[-1]["interrupted"] is True
    assert told[-1]["waiting"] == 1
    assert files_in(out) == set()
    kept = {path.name for path in (out / HIDDEN / "work").rglob("*") if path.is_file()}
    assert kept <= {"segments.sqlite", "segments.sqlite-journal", "thumbnails.npz"}, "no draft is left"
    assert records(out)["long.mp4"].state == "waiting"
    assert vderain("batch", card, "-o", out, *QUICK, "--include", "long*", "--segment", 50).exit_code == 0
    assert len(decoded_pts(out / "long.mp4")) == 1200


def test_a_second_ctrl_c_exits_immediately(card: Path, tmp_path: Path) -> None:
    make(card / "long.mp4", Clip(frames=1200, size=(160, 120)))
    with started(card, tmp_path / "out", "--json") as running:
        wait_for(running, "progress")
        workers = children_of(running.pid)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGTERM)
        assert running.wait(2) == 130
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


@pytest.mark.long
def test_a_run_that_was_killed_resumes_without_repeating_results(card: Path, tmp_path: Path) -> None:
    """A few instants of many; `docs/batch_benchmarks.py kills` takes fifty."""
    out, calm = tmp_path / "out", tmp_path / "calm"
    for number in range(3):
        make(card / f"long{number}.mp4", Clip(frames=60 + 40 * number, size=(96, 64), audio="aac"))
    flags = ("--include", "long*", "--segment", "20", "--encoder-opt", "x264-params=mbtree=0", "--json")
    with started(card, calm, *flags) as running:
        assert rest_of(running)[-1]["done"] == 3
    done: dict[str, int] = {}
    for kind, count in (("planned", 1), ("began", 1), ("progress", 2), ("ended", 1), ("ended", 1)):
        with started(card, out, *flags) as running:
            for _ in range(count):
                if not waited_for(running, kind):
                    break
            running.kill()
            running.wait()
        assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items()), "done twice"
        done |= {name: (out / name).stat().st_mtime_ns for name, r in read_only(out).items() if r.state == "done"}
    with started(card, out, *flags) as running:
        assert rest_of(running)[-1]["failed"] == 0
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items()), "done twice"
    assert files_in(out) == files_in(calm)
    for name in files_in(calm):
        assert (out / name).read_bytes() == (calm / name).read_bytes()


def test_two_concurrent_runs_process_each_file_once(card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(20):
        shutil.copy(card / "Front" / "2026_00F.MP4", card / f"{number}.mp4")
    with started(card, out, "--json") as one, started(card, out, "--json") as other:
        told = rest_of(one), rest_of(other)
    assert (one.returncode, other.returncode) == (0, 0)
    began = [event["target"] for events in told for event in events if event["event"] == "began"]
    assert sorted(began) == sorted(files_in(out))
    assert len(began) == 24
    assert {record.attempts for record in records(out).values()} == {1}


def test_a_dry_run_measures_and_writes_nothing(vderain: Run, card: Path, tmp_path: Path, tiny: Path) -> None:
    (card / "empty.mp4").touch()
    out = tmp_path / "out"
    result = vderain("batch", card, "-o", out, "--dry-run", "--json", "--model", tiny)
    assert result.exit_code == 0, result.stderr
    told = events(result)
    assert [event["event"] for event in told] == ["would"] * 5 + ["estimate"]
    assert not out.exists()
    sound = [event for event in told if event["event"] == "would" and not event["error"]]
    assert len(sound) == 4
    assert all(event["frames"] == 5 and event["seconds"] >= 0 and event["bytes"] > 500 for event in sound)
    assert told[-1]["would_fail"] == 1
    assert told[-1]["bytes"] == sum(event["bytes"] for event in sound)
    text = vderain("batch", card, "-o", out, "--dry-run", *QUICK).stdout
    assert "4 files to do, 1 would fail: 20 frames, about 0:0" in text
    assert f"free in {out}." in text
    assert "empty.mp4: would fail: " in text
    assert "\nFront/2026_00F.MP4: 5 frames, about 0:0" in text, "source and result have one name"


def test_a_dry_run_names_results_that_are_called_otherwise(vderain: Run, card: Path, tmp_path: Path) -> None:
    text = vderain("batch", card, "-o", tmp_path / "out", "--dry-run", "--container", "mkv", *QUICK).stdout
    assert "Front/2026_00F.MP4 -> Front/2026_00F.mkv: 5 frames" in text


def test_a_dry_run_opens_a_sample_of_a_long_list(
    vderain: Run, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vderain.batch.estimate.OPENED", 2)
    command = ("batch", card, "-o", tmp_path / "out", "--dry-run", *QUICK)
    told = events(vderain(*command, "--json"))
    assert [event["guessed"] for event in told] == [False, True, True, False, 2]
    assert [event["frames"] for event in told] == [5, 5, 5, 5, 20]
    lines = vderain(*command).stdout.splitlines()
    assert "2 files were opened, the others judged by their size." in lines[-1]
    assert [" -> " in line for line in lines] == [False] * 5, "results are named only where they have other names"
    assert " -> " in vderain(*command, "--container", "mkv").stdout.splitlines()[0]


def test_damaged_files_are_listed_again_with_the_same_exit_code(vderain: Run, card: Path, tmp_path: Path) -> None:
    (card / "empty.mp4").touch()
    command = ("batch", card, "-o", tmp_path / "out", *QUICK)
    first, second = vderain(*command), vderain(*command)
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert second.stderr == first.stderr.splitlines(keepends=True)[0]
    assert "empty.mp4" in second.stderr
    assert "0 done, 1 failed (1 known to be damaged), 4 done before" in second.stdout
    assert "tried again with --retry-failed" in second.stdout
    assert "known" not in vderain(*command, "--retry-failed").stdout
    assert vderain(*command, "--exclude", "empty.mp4").exit_code == 0


def test_a_dry_run_omits_finished_files(vderain: Run, card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vderain("batch", card / "Front", "-o", out, *QUICK)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    told = events(vderain("batch", card / "Front", "-o", out, *QUICK, "--dry-run", "--json"))
    assert (told[-1]["files"], told[-1]["done"]) == (0, 2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_watch_processes_new_files_when_they_are_complete(card: Path, tmp_path: Path) -> None:
    out, sound = tmp_path / "out", (card / "Front" / "2026_00F.MP4").read_bytes()
    inbox = tmp_path / "in"
    inbox.mkdir()
    with started(inbox, out, "--watch", "--settle", "1", "--json") as running:
        wait_until(lambda: (out / NAME).exists())
        with (inbox / "growing.mp4").open("wb") as growing:
            for part in range(6):
                growing.write(sound[part * len(sound) // 6 : (part + 1) * len(sound) // 6])
                growing.flush()
                time.sleep(0.4)
        assert wait_for(running, "ended")["state"] == "done", "and not before it was whole"
        (inbox / "later").mkdir()
        shutil.copy(card / "Rear" / "2026_00R.MP4", inbox / "later" / "second.mp4")
        assert wait_for(running, "ended")["target"] == "later/second.mp4"
        wait_until(lambda: "later/second.mp4" in (out / "report.html").read_text())
        running.send_signal(signal.SIGINT)
        told = rest_of(running)
    assert running.returncode == 130
    assert (told[-1]["done"], told[-1]["failed"]) == (2, 0)


def test_too_little_disk_space_is_reported_before_any_work(
    vderain: Run, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("vderain.batch.run.shutil.disk_usage", lambda path: usage._replace(free=1000))
    result = vderain("batch", card, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 1
    assert "GB free, and about" in result.stderr
    assert files_in(tmp_path / "out") == set()


@pytest.mark.parametrize(("flags", "said"), [
    (("--workers", 0), "'--workers'"),
    (("--retries", -1), "'--retries'"),
    (("--timeout", 0), "'--timeout'"),
    (("--segment", 0), "'--segment'"),
    (("--settle", 0), "'--settle'"),
    (("--strength", 3), "'--strength'"),
    (("--model", "nix"), "there is no model 'nix'"),
    (("--container", "gif"), "there is no container 'gif'"),
    (("--on", "slurm"), "--on must be 'ray'"),
    (("--include", "*.nix"), "there is no video in the inputs"),
])  # fmt: skip
def test_invalid_flags_are_usage_errors(
    vderain: Run, card: Path, tmp_path: Path, flags: tuple[object, ...], said: str
) -> None:
    result = vderain("batch", card, "-o", tmp_path / "out", *flags)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_device_is_reported_once(vderain: Run, card: Path, tmp_path: Path) -> None:
    result = vderain("batch", card, "-o", tmp_path / "out", "--device", "cuda:99")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert {record.state for record in records(tmp_path / "out").values()} == {"waiting"}


@pytest.mark.parametrize("out", ["card/out", "file/out", "a" * 300])
def test_an_impossible_output_folder_is_one_error_line(vderain: Run, card: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    result = vderain("batch", card, "-o", tmp_path / out, *QUICK)
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("vderain: ")


def test_a_damaged_ledger_is_reported_and_results_are_kept(vderain: Run, card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vderain("batch", card, "-o", out, *QUICK)
    (out / NAME).write_bytes(b"gone" * 5000)
    result = vderain("batch", card, "-o", out, *QUICK)
    assert result.exit_code == 0
    assert "damaged: it was kept as vderain.sqlite.damaged-" in result.stderr
    assert "4 done before" in result.stdout


def test_a_full_disk_is_one_error_line(vderain: Run, card: Path, tmp_path: Path) -> None:
    """Nothing can be written to /dev/full; SQLite says so in its own way."""
    out = tmp_path / "out"
    vderain("batch", card, "-o", out, *QUICK)
    (out / NAME).unlink()
    (out / NAME).symlink_to("/dev/full")
    result = vderain("batch", card, "-o", out, *QUICK)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output


# Runs in a process of their own


class started:
    """``vderain batch`` with JSON events, killed at the end."""

    def __init__(self, card: Path, out: Path, *flags: str, network: bool = False) -> None:
        quick = () if network else QUICK
        command = [sys.executable, ROOT / "cli.py", "batch", card, "-o", out, *quick, *flags]
        self.running = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "subprocess.Popen[str]":
        return self.running

    def __exit__(self, *_: object) -> None:
        if self.running.poll() is None:
            self.running.kill()
        self.running.communicate()


def next_event(running: "subprocess.Popen[str]") -> dict[str, Any]:
    assert running.stdout is not None
    line = running.stdout.readline()
    assert line, running.stderr.read() if running.stderr else ""
    event: dict[str, Any] = json.loads(line)
    return event


def wait_for(running: "subprocess.Popen[str]", kind: str) -> dict[str, Any]:
    while (event := next_event(running))["event"] != kind:
        pass
    return event


def waited_for(running: "subprocess.Popen[str]", kind: str) -> bool:
    """Whether such an event came before the end."""
    assert running.stdout is not None
    return any(json.loads(line)["event"] == kind for line in iter(running.stdout.readline, ""))


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def rest_of(running: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    output, errors = running.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return [json.loads(line) for line in output.splitlines()]


def children_of(pid: int) -> list[int]:
    """The workers: of its children those that are no helper of multiprocessing."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"spawn_main" in command:
            found.append(int(status.parent.name))
    return found
