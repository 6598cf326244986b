"""Whatever is wrong with what a user gives: one line that says so, an exit code, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import Clip, damaged, decoded_pts, make, names_in, truncated
from safetensors.torch import save_file

from vderain.model.checkpoint import FORMAT

Make = Callable[..., Path]
Run = Callable[..., Result]
ROOT = Path(__file__).parents[1]
USAGE, INPUT, OUTPUT, DEVICE, CHECKPOINT, DAMAGE, INTERRUPTED = 2, 3, 4, 5, 6, 7, 130
FIRST = {"movflags": "+faststart"}


def files_below(folder: Path) -> dict[str, int]:
    """Every file and folder, hidden ones too, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


@pytest.fixture
def refused(vderain: Run, tiny: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs ``vderain process``, which must fail in the way asked for, and returns the one line it says."""

    def run(code: int, *arguments: object, model: bool = True) -> str:
        before = files_below(tmp_path)
        result = vderain("process", *arguments, *(("--model", tiny) if model else ()))
        lines = result.stderr.splitlines()
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert len(lines) == 1, lines
        assert re.match(r"vderain: .+[.?]$", lines[0]), "what happened, and a cure"
        assert "Traceback" not in lines[0]
        assert "vderain itself" not in lines[0]
        assert files_below(tmp_path) == before
        return lines[0]

    return run


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def audio_as_film(path: Path) -> None:
    audio_only(path.with_suffix(".m4a"))
    path.with_suffix(".m4a").rename(path)


def without_moov(path: Path) -> None:
    truncated(make(path.with_name("whole.mp4"), Clip(frames=20)), path, 0.5)
    path.with_name("whole.mp4").unlink()


def without_size(path: Path) -> None:
    """An uncompressed AVI that says of its pictures that they are 0x0."""
    whole = path.with_name("whole.avi")
    with av.open(str(whole), "w") as output:
        stream = output.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
    size = (64).to_bytes(4, "little") + (48).to_bytes(4, "little")
    data = whole.read_bytes()
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, bytes(8)))
    whole.unlink()


def cover_only(path: Path) -> None:
    """An MP4 of noise in a box that claims to be a film: a header, then nothing of use."""
    path.write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\1\0moov" + bytes(range(248)))


INPUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "audio alone": ("in.m4a", audio_only),
    "audio named as video": ("in.mp4", audio_as_film),
    "empty": ("in.mp4", lambda path: path.write_bytes(b"")),
    "text": ("in.mp4", lambda path: path.write_text("It rains cats and dogs.\n" * 50)),
    "text without end of line": ("in.mkv", lambda path: path.write_text("rain")),
    "text named as text": ("in.txt", lambda path: path.write_text("It rains cats and dogs.\n" * 50)),
    "art of a terminal": ("in.ans", lambda path: path.write_bytes(b"\x1b[31mrain\x1b[0m\r\n" * 50)),
    "zeros": ("in.mov", lambda path: path.write_bytes(bytes(5000))),
    "no index": ("in.mp4", without_moov),
    "a broken index": ("in.mp4", cover_only),
    "pictures without a size": ("in.avi", without_size),
    "an empty picture": ("in.png", lambda path: path.write_bytes(b"")),
    "a broken picture": ("in.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0nothing")),
    "an empty folder": ("in", Path.mkdir),
    "a folder without pictures": ("in", lambda path: path.mkdir() or (path / "notes.txt").write_text("rain")),
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_no_video_is_said_to_be_none(refused: Callable[..., str], tmp_path: Path, kind: str) -> None:
    name, build = INPUTS[kind]
    build(tmp_path / name)
    target = tmp_path / ("out" if (tmp_path / name).is_dir() else f"out{(tmp_path / name).suffix}")
    assert str(tmp_path / name) in refused(INPUT, tmp_path / name, "-o", target)


@pytest.mark.parametrize("name", ["missing.mp4", "no/such/folder/in.mp4", "missing folder"])
def test_a_missing_file(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    assert f"there is no file {tmp_path / name}" in refused(INPUT, tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_rather_than_waited_for(refused: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.mp4")
    assert "pipe" in refused(INPUT, tmp_path / "in.mp4", "-o", tmp_path / "out.mp4")


def test_a_name_too_long_for_the_system(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    assert "cannot be read" in refused(INPUT, tmp_path / ("a" * 300))
    assert "cannot be written" in refused(OUTPUT, clip(frames=2), "-o", tmp_path / ("a" * 300 + ".mp4"))
    assert "another name" in refused(OUTPUT, clip("a" * 250 + ".mp4", frames=2))


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_name_as_long_as_the_system_takes(vderain: Run, clip: Make, tmp_path: Path, flags: tuple[str]) -> None:
    source = clip("a" * 242 + ".mp4", frames=2)
    result = vderain("process", source, "--strength", 0, *flags)
    assert result.exit_code == 0, result.stderr
    assert names_in(tmp_path) == {source.name, "a" * 242 + ".derained.mp4"}


def test_names_in_messages_keep_their_capitals(
    refused: Callable[..., str], clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = clip(frames=2)
    Path("Out.mp4").touch()
    assert "vderain: Out.mp4 exists" in refused(OUTPUT, source, "-o", "Out.mp4")


def test_half_a_file_gives_the_half_that_is_there(vderain: Run, clip: Make, tiny: Path) -> None:
    source = cut_in_half(clip)
    result = vderain("process", source, "--model", tiny)
    target = source.with_name("half.derained.mp4")
    readable = len(decoded_pts(target))
    assert result.exit_code == 0
    assert 10 < readable < 60
    assert decoded_pts(target) == decoded_pts(source.with_name("whole.mp4"))[:readable]
    lost = re.search(r"(\d+) frames? missing", result.stdout)
    assert lost
    assert readable + int(lost[1]) == 60
    assert names_in(source.parent) == {"whole.mp4", "half.mp4", "half.derained.mp4"}


def cut_in_half(clip: Make) -> Path:
    whole = clip("whole.mp4", frames=60, muxer_options=FIRST)
    return truncated(whole, whole.with_name("half.mp4"), 0.5)


def test_half_a_file_says_so_in_json(vderain: Run, clip: Make, tiny: Path) -> None:
    done = json.loads(vderain("process", cut_in_half(clip), "--model", tiny, "--json").stdout.splitlines()[-1])
    assert done["missing"] > 10
    assert done["frames"] + done["missing"] == 60


def test_half_a_file_is_refused_where_asked_to_be_strict(refused: Callable[..., str], clip: Make) -> None:
    line = refused(DAMAGE, cut_in_half(clip), "--strict")
    assert "--strict" in line


def test_lost_frames_are_concealed_and_counted_or_refused(
    vderain: Run, refused: Callable[..., str], clip: Make, tiny: Path
) -> None:
    whole = clip("whole.mp4", frames=20)
    source = damaged(whole, whole.with_name("in.mp4"), [8])
    refused(DAMAGE, source, "--strict")
    result = vderain("process", source, "--model", tiny)
    assert result.exit_code == 0
    assert re.search(r", \d+ damaged frames? concealed in ", result.stdout)
    assert decoded_pts(source.with_name("in.derained.mp4")) == decoded_pts(whole)


def test_the_output_is_the_input(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    source = clip("in.mp4", frames=2)
    (tmp_path / "link.mp4").symlink_to(source)
    for target in (source, tmp_path / "." / "in.mp4", tmp_path / "link.mp4"):
        assert "is the input itself" in refused(USAGE, source, "-o", target, "--overwrite")


def test_the_folder_of_the_output_is_not_there(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    assert "does not exist" in refused(OUTPUT, clip(frames=2), "-o", tmp_path / "no" / "such" / "out.mp4")


def test_a_file_stands_where_the_folder_should_be(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(OUTPUT, clip(frames=2), "-o", tmp_path / "file" / "out.mp4")


def test_the_output_is_a_folder(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    refused(OUTPUT, clip(frames=2), "-o", tmp_path / "out.mp4")
    refused(OUTPUT, clip(frames=2), "-o", tmp_path / "out.mp4", "--overwrite")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_the_folder_of_the_output_may_not_be_written(
    refused: Callable[..., str], clip: Make, tmp_path: Path
) -> None:  # fmt: skip
    source = clip(frames=2)
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(OUTPUT, source, "-o", tmp_path / "locked" / "out.mp4")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that refuses even root")
def test_the_folder_of_the_output_refuses_even_root(refused: Callable[..., str], clip: Make) -> None:
    refused(OUTPUT, clip(frames=2), "-o", "/proc/out.mp4")


def test_a_picture_or_folder_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "full").mkdir()
    for path in (tmp_path / "in" / "1.png", tmp_path / "full" / "1.png"):
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    refused(OUTPUT, tmp_path / "in", "-o", tmp_path / "no" / "out")
    refused(OUTPUT, tmp_path / "in", "-o", tmp_path / "full")
    refused(OUTPUT, tmp_path / "in", "-o", tmp_path / "full", "--overwrite")
    refused(OUTPUT, tmp_path / "in" / "1.png", "-o", tmp_path / "no" / "1.png")
    refused(OUTPUT, tmp_path / "in" / "1.png", "-o", tmp_path / "1.mp4")


def test_the_output_exists(refused: Callable[..., str], clip: Make, tmp_path: Path) -> None:
    source = clip(frames=2)
    (tmp_path / "out.mp4").write_bytes(b"precious")
    assert "--overwrite" in refused(OUTPUT, source, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize("start", ["60", "1e17", "1e300"])
def test_a_part_that_holds_nothing(refused: Callable[..., str], clip: Make, start: str) -> None:
    assert "no frame in the part" in refused(USAGE, clip(frames=5), "--start", start)


@pytest.mark.parametrize("command", ["process .", "process a -o .", "process a --output=", "batch . -o a", "info ."])
def test_an_empty_argument_is_not_the_folder_one_is_in(
    vderain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cv2.imwrite("a.png", np.zeros((8, 8, 3), np.uint8))
    result = vderain(*(argument.strip(".") for argument in command.split()))
    assert (result.exit_code, result.stderr) == (
        USAGE, "vderain: an argument is empty. Give a value, or leave it out.\n",
    )  # fmt: skip
    assert names_in(tmp_path) == {"here"}


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_the_output_is_a_folder_without_a_name(
    refused: Callable[..., str], clip: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    source = clip(frames=2)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for flags in ([], ["--overwrite"], ["--resume"]):
        assert f"{target} is a directory" in refused(OUTPUT, source, "-o", target, *flags)


def test_nothing_can_be_beside_the_root(refused: Callable[..., str]) -> None:
    assert "-o" in refused(USAGE, "/")
    assert "-o" in refused(USAGE, "/", "--resume")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--strength 7", "'--strength'"),
        ("--strength -1", "'--strength'"),
        ("--strength nan", "'--strength'"),
        ("--batch-size 0", "'--batch-size'"),
        ("--temporal foo", "'foo'"),
        ("--compare foo", "'foo'"),
        ("--rate fast", "'fast'"),
        ("--rate 30/0", "'30/0'"),
        ("--rate nan", "'nan'"),
        ("--rate 0", "rate"),
        ("--rate -25", "rate"),
        ("--start -3", "'--start'"),
        ("--start nan", "'--start'"),
        ("--duration 0", "duration 0"),
        ("--duration inf", "duration inf"),
        ("--codec h266", "'h266'"),
        ("--codec aac", "'aac'"),
        ("--codec ffv1 --crf 20", "lossless"),
        ("--codec copy", "always re-encoded"),
        ("--codec hvec", "mean hevc"),
        ("--codec pgmyuw", "one of h264"),
        ("--preset instant", "no preset 'instant'"),
        ("--codec hevc --preset instant", "no preset 'instant'"),
        ("--encoder-opt preset=instant", "no preset 'instant'"),
        ("--codec av1 --preset instant", "settings"),
        ("--crf 99", "'--crf'"),
        ("--crf -1", "'--crf'"),
        ("--crf nan", "'--crf'"),
        ("--encoder-opt tune", "'tune'"),
        ("--encoder-opt =film", "name=value"),
        ("--encoder-opt tume=film", "'tume'"),
        ("--codec ffv1", "mp4"),
        ("-o out.xyz", "out.xyz"),
        ("-o out", "out"),
    ],
)
def test_a_flag_that_cannot_be_honoured(refused: Callable[..., str], clip: Make, flags: str, says: str) -> None:
    source = clip("in.mp4", frames=2)
    if flags == "--codec ffv1":
        flags += f" -o {source.with_name('out.avi.webm')}"
        says = "webm"
    assert says in refused(USAGE, source, *flags.split())


@pytest.mark.parametrize("flags", [["--sharpen"], ["--strength"], ["--strength", "much"], ["--batch-size", "1.5"]])
def test_a_flag_that_is_not_one(vderain: Run, clip: Make, tmp_path: Path, flags: list[str]) -> None:
    result = vderain("process", clip(frames=2), *flags)
    assert result.exit_code == USAGE
    assert flags[0] in result.stderr
    assert "Traceback" not in result.output
    assert names_in(tmp_path) == {"clip.mp4"}


@pytest.mark.parametrize("arguments", [[], ["process"], ["rain"], ["process", "a.mp4", "b.mp4"]])
def test_a_command_that_is_not_one(vderain: Run, arguments: list[str]) -> None:
    assert vderain(*arguments).exit_code == USAGE


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there(refused: Callable[..., str], clip: Make, device: str) -> None:
    assert device in refused(DEVICE, clip(frames=2), "--device", device)


@pytest.mark.parametrize("flags", ["--device tpu", "--device cpu:fast"])
def test_a_device_that_is_none(refused: Callable[..., str], clip: Make, flags: str) -> None:
    assert flags.split()[1] in refused(DEVICE, clip(frames=2), *flags.split())


@pytest.mark.parametrize("without", ["--strength 0", "--temporal only"])
def test_flags_are_checked_where_no_network_runs(refused: Callable[..., str], clip: Make, without: str) -> None:
    source = clip(frames=2)
    assert "'foo'" in refused(DEVICE, source, "--device", "foo", *without.split())
    assert "'fp8'" in refused(USAGE, source, "--precision", "fp8", *without.split())
    assert "'nope'" in refused(CHECKPOINT, source, "--model", "nope", *without.split(), model=False)


def test_an_unknown_model(refused: Callable[..., str], clip: Make) -> None:
    assert "base" in refused(CHECKPOINT, clip(frames=2), "--model", "bas", model=False)


@pytest.mark.parametrize("kind", ["text", "pickle", "cut", "nan", "absurd"])
def test_a_file_of_weights_that_is_none(
    refused: Callable[..., str], clip: Make, tiny: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "mine.safetensors"
    header = {"format": FORMAT, "architecture": json.dumps({"window": 5, "widths": [10**9], "stem": 2})}
    if kind == "text":
        path.write_text("weights")
    elif kind == "pickle":
        torch.save({"weights": torch.zeros(3)}, path)
    elif kind == "cut":
        path.write_bytes(tiny.read_bytes()[:-100])
    elif kind == "nan":
        path.write_bytes(tiny.read_bytes()[:-64] + b"\xff" * 64)
    else:
        save_file({"stem.weight": torch.zeros(3)}, path, header)
    assert str(path) in refused(CHECKPOINT, clip(frames=2), "--model", path, model=False)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough work for many seconds."""
    return make(tmp_path_factory.mktemp("long") / "long.mp4", Clip(frames=300, size=(320, 240), audio="aac"))


@pytest.fixture
def working(long_clip: Path, tiny: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has told of its first progress."""
    target = tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "cli.py", "process", long_clip, "-o", target, "--model", tiny, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["event"] == "progress"
        (partial,) = names_in(tmp_path)
        assert re.fullmatch(r"\.out\.mp4\.[0-9a-f]{8}\.partial\.mp4", partial)
        yield running
        running.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT,) * 3, (signal.SIGTERM, signal.SIGINT)],
    ids=lambda signals: " ".join(number.name for number in signals),
)  # fmt: skip
def test_an_interrupted_run_leaves_nothing(
    working: subprocess.Popen[str], tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    asked_s = time.monotonic()
    for number in signals:
        working.send_signal(number)
        time.sleep(0.03)
    _, errors = working.communicate(timeout=20)
    assert working.returncode == INTERRUPTED
    assert time.monotonic() - asked_s < 5
    assert errors.splitlines() == [
        "vderain: interrupted: no output was written. Run the same command again to start over."
    ]
    assert names_in(tmp_path) == set()


def test_a_reader_that_goes_away_is_no_traceback(clip: Make, tiny: Path) -> None:
    source = clip(frames=2)
    with subprocess.Popen(
        [sys.executable, ROOT / "cli.py", "process", source, "--model", tiny],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()
    assert "Traceback" not in errors
    assert len(decoded_pts(source.with_name("clip.derained.mp4"))) == 2


def test_a_picture_with_a_wrong_suffix_is_read_by_what_it_is(vderain: Run, tmp_path: Path, tiny: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9, 3), 100, np.uint8))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert vderain("process", tmp_path / "a.jpg", "--model", tiny).exit_code == 0
