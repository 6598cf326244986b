"""The command line: every flag does what it says, results go to stdout, everything else to stderr."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import Result
from clips import decoded_pts, identical, names_in, packets, planes_of_file, with_side_stream

from vderain import __version__
from vderain.cli import console as screen
from vderain.model.checkpoint import DEFAULT_MODEL
from vderain.process import Options

Make = Callable[..., Path]
Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
MILLISECONDS = {"time_base": Fraction(1, 1000)}


@pytest.fixture
def processed(vderain: Run, tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs ``vderain process`` with the tiny generator in fp32; it must succeed. Returns the output's path."""

    def run(source: Path, *flags: object, name: str = "out.mkv") -> Path:
        target = tmp_path / name
        result = vderain("process", source, "-o", target, "--model", tiny, "--precision", "fp32", *flags)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        return target

    return run


@pytest.fixture
def raw(clip: Make) -> Path:
    """A lossless clip of eight frames, 20 a second."""
    return clip("raw.mkv", codec="ffv1", frames=8, rate=Fraction(20), **MILLISECONDS)


def written(path: Path) -> str:
    """Whatever text an encoder left in its stream: x264 writes down all its settings."""
    return b"".join(data for *_, data in packets(path, "video")).decode("latin-1")


def codec_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return str(container.streams.video[0].codec_context.name)


def test_the_output_is_named_after_the_input(vderain: Run, clip: Make, tiny: Path) -> None:
    source = clip("storm.mp4", frames=5, audio="aac")
    result = vderain("process", source, "--model", tiny)
    target = source.with_name("storm.derained.mp4")
    assert result.exit_code == 0
    assert decoded_pts(target) == decoded_pts(source)
    assert codec_of(target) == "h264"
    assert names_in(source.parent) == {"storm.mp4", "storm.derained.mp4"}


def test_the_closing_line_says_what_where_and_how_fast(vderain: Run, clip: Make, tiny: Path) -> None:
    source = clip("storm.mp4", frames=5)
    result = vderain("process", source, "--model", tiny, "--precision", "fp32", "--device", "cpu")
    target = re.escape(str(source.with_name("storm.derained.mp4")))
    line = rf"{target}: 5 frames in \d+:\d\d \(\d+\.\d frames/s, tiny on cpu, fp32\)\n"
    assert re.fullmatch(line, result.stdout), result.stdout
    assert "vderain:" not in result.stderr  # on a busy machine there is a line of progress


@pytest.mark.parametrize("mode", ["off", "strong"])
def test_a_clip_without_rain_is_named_even_with_quiet(vderain: Run, tmp_path: Path, mode: str) -> None:
    source = ROOT / "samples" / "driving_dry.mp4"
    flags = ("-o", tmp_path / "out.mp4", "--duration", 0.05, "--model", "fast", "--temporal", mode, "--overwrite")
    assert ": 2 frames, no rain was found, nothing was changed in " in vderain("process", source, *flags).stdout
    result = vderain("process", source, *flags, "-q")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        f"vderain: {source}: no rain was found, nothing was changed. Add --no-guard to process it anyway.\n"
    )


def test_one_frame_is_one_frame(vderain: Run, clip: Make, tiny: Path) -> None:
    assert ": 1 frame in " in vderain("process", clip(frames=1), "--model", tiny).stdout


@pytest.mark.parametrize("flag", ["-o", "--output"])
def test_output_is_written_where_asked(vderain: Run, clip: Make, tiny: Path, flag: str) -> None:
    source = clip("in.mp4", frames=3)
    (source.parent / "there").mkdir()
    target = source.parent / "there" / "clear.mov"
    assert vderain("process", source, flag, target, "--model", tiny).exit_code == 0
    assert len(planes_of_file(target)) == 3


def test_the_default_model_is_the_released_one(vderain: Run, clip: Make) -> None:
    result = vderain("process", clip(frames=2))
    assert f" {DEFAULT_MODEL} on " in result.stdout
    assert Options().model == DEFAULT_MODEL


def test_strength(raw: Path, processed: Callable[..., Path]) -> None:
    nothing = planes_of_file(processed(raw, "--strength", 0, "--codec", "ffv1"))
    half = planes_of_file(processed(raw, "--strength", 0.5, "--codec", "ffv1", name="half.mkv"))
    whole = planes_of_file(processed(raw, "--codec", "ffv1", name="whole.mkv"))
    before = planes_of_file(raw)
    assert identical(nothing, before)
    some, more = (np.mean(np.abs(p[0][0].astype(float) - before[0][0])) for p in (half, whole))
    assert some == pytest.approx(more / 2, rel=0.1)


@pytest.mark.parametrize("mode", ["off", "light", "strong", "only"])
def test_temporal(vderain: Run, raw: Path, tiny: Path, mode: str) -> None:
    result = vderain("process", raw, "--model", tiny, "--temporal", mode)
    assert result.exit_code == 0
    assert ("no network" in result.stdout) == (mode == "only")


def test_strong_is_the_default_mode(raw: Path, processed: Callable[..., Path]) -> None:
    silent = processed(raw, "--codec", "ffv1")
    strong = processed(raw, "--codec", "ffv1", "--temporal", "strong", name="strong.mkv")
    off = processed(raw, "--codec", "ffv1", "--temporal", "off", name="off.mkv")
    assert identical(planes_of_file(silent), planes_of_file(strong))
    assert not identical(planes_of_file(silent), planes_of_file(off))


@pytest.mark.parametrize(("precision", "said"), [("fp32", "cpu, fp32"), ("bf16", "cpu, bf16")])
def test_device_and_precision(vderain: Run, clip: Make, tiny: Path, precision: str, said: str) -> None:
    result = vderain("process", clip(frames=2), "--model", tiny, "--device", "cpu", "--precision", precision)
    assert f"tiny on {said})" in result.stdout


def test_batch_size_changes_nothing_but_speed(raw: Path, processed: Callable[..., Path]) -> None:
    outputs = [planes_of_file(processed(raw, "--batch-size", n, "--codec", "ffv1", name=f"{n}.mkv")) for n in (1, 2, 3)]
    assert identical(outputs[0], outputs[1])
    assert identical(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("codec", "found"), [("h264", "h264"), ("hevc", "hevc"), ("vp9", "vp9"), ("ffv1", "ffv1"), ("mpeg4", "mpeg4")]
)
def test_codec(clip: Make, processed: Callable[..., Path], codec: str, found: str) -> None:
    source = clip("in.mkv", frames=2, size=(96, 64), **MILLISECONDS)
    assert found in codec_of(processed(source, "--codec", codec))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_few_frames_of_hevc(clip: Make, processed: Callable[..., Path], frames: int) -> None:
    source = clip("in.mkv", frames=frames, size=(96, 64), **MILLISECONDS)
    for attempt in range(3):  # what memory x265 met was a matter of luck
        processed(source, "--codec", "hevc", "--strength", 0, name=f"out{attempt}.mkv")


def test_crf_and_preset_reach_the_encoder(clip: Make, processed: Callable[..., Path]) -> None:
    source = clip("in.mp4", frames=4)
    coarse = processed(source, "--crf", 41, "--preset", "ultrafast", name="coarse.mp4")
    fine = processed(source, "--crf", 9.5, "--preset", "slow", name="fine.mp4")
    assert "crf=41.0" in written(coarse)
    assert "subme=0" in written(coarse)
    assert "crf=9.5" in written(fine)
    assert "subme=8" in written(fine)
    assert coarse.stat().st_size < fine.stat().st_size


def test_encoder_options_reach_the_encoder_and_repeat(clip: Make, processed: Callable[..., Path]) -> None:
    options = ("--encoder-opt", "x264-params=keyint=7:ref=2", "--encoder-opt", "tune=zerolatency")
    settings = written(processed(clip("in.mp4", frames=4), *options, name="out.mp4"))
    assert "keyint=7 " in settings
    assert "ref=2 " in settings
    assert "bframes=0 " in settings


def test_start_and_duration(raw: Path, processed: Callable[..., Path]) -> None:
    part = processed(raw, "--start", 0.1, "--duration", 0.15, "--strength", 0, "--codec", "ffv1")
    assert identical(planes_of_file(part), planes_of_file(raw)[2:5])
    assert decoded_pts(part)[0] == 0


def pictures(folder: Path, count: int) -> list[np.ndarray]:
    folder.mkdir()
    rng = np.random.default_rng(4)
    all_rgb = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(count)]
    for number, rgb in enumerate(all_rgb):
        cv2.imwrite(str(folder / f"{number:03}.png"), rgb[..., ::-1])
    return all_rgb


def test_a_folder_of_pictures_and_its_rate(vderain: Run, tmp_path: Path, tiny: Path) -> None:
    all_rgb = pictures(tmp_path / "shots", 6)
    flags = ("--model", tiny, "--strength", 0)
    assert vderain("process", tmp_path / "shots", *flags).exit_code == 0
    assert names_in(tmp_path / "shots.derained") == {f"{n:03}.png" for n in range(6)}
    for number, rgb in enumerate(all_rgb):
        after = cv2.imread(str(tmp_path / "shots.derained" / f"{number:03}.png"))[..., ::-1]
        assert np.array_equal(after, rgb), "red stays red"
    part = ("-o", tmp_path / "part", "--rate", "2000/1001", "--duration", 1.1)
    result = vderain("process", tmp_path / "shots", *flags, *part)
    assert result.exit_code == 0
    assert names_in(tmp_path / "part") == {"000.png", "001.png", "002.png"}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_single_picture(vderain: Run, tmp_path: Path, tiny: Path, suffix: str) -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8), (9, 9), 3)
    source = tmp_path / f"shot{suffix}"
    cv2.imwrite(str(source), pixels)
    result = vderain("process", source, "--model", tiny)
    assert result.exit_code == 0, result.stderr
    assert ": 1 frame in " in result.stdout
    before, after = cv2.imread(str(source)), cv2.imread(str(tmp_path / f"shot.derained{suffix}"))
    assert after.shape == before.shape
    assert 1 < np.abs(after.astype(float) - before).mean() < 80


def test_a_folder_of_strangers_comes_out_as_each_by_itself(vderain: Run, tmp_path: Path, tiny: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    rng = np.random.default_rng(5)
    for number, size in enumerate([(40, 60), (40, 60), (60, 40)]):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        cv2.imwrite(str(shots / f"{number}.png"), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
    flags = ("--model", tiny, "--no-guard")
    assert vderain("process", shots, "-o", tmp_path / "all", *flags).exit_code == 0
    for path in sorted(shots.iterdir()):
        assert vderain("process", path, "-o", tmp_path / path.name, *flags).exit_code == 0
        alone, among = (cv2.imread(str(folder / path.name)) for folder in (tmp_path, tmp_path / "all"))
        assert np.array_equal(alone, among)
        assert not np.array_equal(alone, cv2.imread(str(path)))


@pytest.mark.parametrize("how", ["side", "split"])
def test_compare(raw: Path, processed: Callable[..., Path], how: str) -> None:
    joined = planes_of_file(processed(raw, "--compare", how, "--codec", "ffv1"))[0][0]
    before = planes_of_file(raw)[0][0]
    assert joined.shape == (48, 128 if how == "side" else 64)
    assert np.array_equal(joined[:, :31], before[:, :31])
    assert not np.array_equal(joined[:, -31:], before[:, -31:])


def test_overwrite_replaces(vderain: Run, clip: Make, tiny: Path) -> None:
    source = clip("in.mp4", frames=2)
    target = source.with_name("out.mp4")
    target.write_bytes(b"older")
    assert vderain("process", source, "-o", target, "--model", tiny).exit_code == 4
    assert target.read_bytes() == b"older"
    assert vderain("process", source, "-o", target, "--model", tiny, "--overwrite").exit_code == 0
    assert len(planes_of_file(target)) == 2


def test_json_is_one_event_a_line_progress_then_done(
    vderain: Run, clip: Make, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "EVENT_EVERY_S", 0.0)
    source = clip("in.mp4", frames=5, audio="aac")
    result = vderain("process", source, "--model", tiny, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress"] * 5 + ["done"]
    assert [event["frames"] for event in events] == [1, 2, 3, 4, 5, 5]
    assert [event["share"] for event in events[:5]] == sorted(event["share"] for event in events[:5])
    assert events[4]["share"] == pytest.approx(1, abs=0.1)
    assert all(event["fps"] > 0 and event["left_s"] >= 0 for event in events[:5])
    done = events[-1]
    assert (done["source"], done["target"]) == (str(source), str(source.with_name("in.derained.mp4")))
    assert done["repeated"] == done["missing"] == 0
    assert done["model"] == "tiny"
    assert len(done["kept"]) == 1
    assert result.stderr == ""


def test_quiet_is_silent(vderain: Run, clip: Make, tiny: Path) -> None:
    for flag in ("-q", "--quiet"):
        result = vderain("process", clip(frames=2), "--model", tiny, "--overwrite", flag)
        assert (result.exit_code, result.output) == (0, "")


def test_quiet_still_says_what_went_wrong(vderain: Run, tmp_path: Path) -> None:
    result = vderain("process", tmp_path / "missing.mp4", "-q")
    assert result.exit_code == 3
    assert result.stderr.startswith("vderain: ")


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_says_what_is_decided(vderain: Run, clip: Make, tiny: Path, flag: str) -> None:
    source = clip("in.mkv", frames=2, size=(37, 53), codec="ffv1", **MILLISECONDS)
    silent = vderain("process", source, "--model", tiny, "--codec", "h264")
    result = vderain("process", source, "--model", tiny, "--codec", "h264", "--overwrite", flag)
    assert "yuv444p" in silent.stderr, "the encoder takes no subsampled chroma at odd sizes"
    assert len(silent.stderr.splitlines()) < len(result.stderr.splitlines())
    assert all(line.startswith("vderain: ") for line in result.stderr.splitlines())


def test_verbose_shows_where_an_error_came_from(vderain: Run, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_text("no video")
    assert "Traceback" in vderain("process", tmp_path / "in.mp4", "-v").stderr
    assert "Traceback" not in vderain("process", tmp_path / "in.mp4").stderr


def test_what_the_container_cannot_hold_is_said(vderain: Run, tmp_path: Path, tiny: Path) -> None:
    source, target = with_side_stream(tmp_path / "in.mp4", "mov_text"), tmp_path / "out.mkv"
    result = vderain("process", source, "-o", target, "--model", tiny)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "vderain: 'out.mkv' cannot hold: subtitle #1 (mov_text).\n"
    events = vderain("process", source, "-o", tmp_path / "2.mkv", "--model", tiny, "--json").stdout.splitlines()
    done = json.loads(events[-1])
    assert len(done["dropped"]) == 1


def test_plain_lines_of_progress_where_there_is_no_terminal(
    vderain: Run, clip: Make, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "PLAIN_EVERY_S", 0.0)
    result = vderain("process", clip("in.mp4", frames=4), "--model", tiny)
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert all(re.fullmatch(r"in\.mp4: \d+%, \d+\.\d frames/s, \d+:\d\d left", line) for line in lines), lines
    assert "\x1b" not in result.output


def on_a_terminal(*arguments: object) -> tuple[int, str]:
    """Runs the command with all its streams on a pseudo terminal; returns exit code and everything shown."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [sys.executable, ROOT / "cli.py", *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
    ) as running:  # fmt: skip
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(leader)
        return running.wait(60), shown.decode()


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(clip: Make, tiny: Path) -> None:
    source = clip("storm.mp4", frames=60)
    code, shown = on_a_terminal("process", source, "--model", tiny)
    assert code == 0
    assert "━" in shown
    assert "%" in shown
    assert re.search(r"\d+\.\d frames/s", shown)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").strip().splitlines()[-1]
    assert last.startswith(str(source.with_name("storm.derained.mp4")))
    assert "60 frames in " in last


@pytest.mark.parametrize("name", ["rain :car: [red]wet.mp4", "Übergänge 雨.mp4", "-dash.mp4"])
def test_names_are_printed_as_they_are(vderain: Run, clip: Make, tiny: Path, name: str) -> None:
    source = clip(name, frames=2)
    result = vderain("process", "--model", tiny, "--", source)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{source.with_suffix('')}.derained.mp4: ")
    missing = vderain("process", source.with_name(f"no {name}"))
    assert f"no {name}" in missing.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_a_name(clip: Make, tiny: Path) -> None:
    plain = clip("plain.mp4", frames=2)
    source = plain.rename(os.fsdecode(os.fsencode(plain.parent) + b"/regen-\xfc.mp4"))
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "process", source, "--model", tiny], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert rb"regen-\xfc.derained.mp4: 2 frames" in done.stdout
    assert os.fsencode(source.with_name(os.fsdecode(b"regen-\xfc.derained.mp4"))) in map(
        os.fsencode, source.parent.iterdir()
    )


def test_info_of_the_installation(vderain: Run) -> None:
    result = vderain("info")
    assert result.exit_code == 0
    facts = json.loads(vderain("info", "--json").stdout)
    assert facts["vderain"] == __version__
    assert "cpu" in facts["devices"]
    assert DEFAULT_MODEL in facts["models"]
    assert "drops" not in facts["models"], "it is not a model to choose with --model"
    assert "h264" in facts["encoders"]
    for value in (__version__, facts["torch"], facts["ffmpeg"], facts["chosen"]):
        assert str(value) in result.stdout


def test_info_of_a_file(vderain: Run, clip: Make) -> None:
    source = clip("in.mp4", frames=15, audio="aac", chapters=True)
    lines = vderain("info", source).stdout.splitlines()
    assert lines[0].startswith(f"{source}: mov,mp4")
    assert "0.5" in lines[0]
    assert "video: h264, 64x48" in lines[1]
    assert lines[1].endswith("derained")
    assert "audio: aac" in lines[2]
    assert lines[2].endswith("copied")
    assert lines[-1].strip() == "2 chapters: copied"
    facts: dict[str, Any] = json.loads(vderain("info", source, "--json").stdout)
    assert facts["path"] == str(source)
    assert facts["chapters"] == 2
    assert [(s["kind"], s["kept"], s["processed"]) for s in facts["streams"][:2]] == [
        ("video", True, True), ("audio", True, False),
    ]  # fmt: skip


def test_a_file_that_announces_many_streams_gets_short_lines(vderain: Run, clip: Make, tmp_path: Path) -> None:
    many = tmp_path / "many.mkv"
    with av.open(str(clip())) as source, av.open(str(many), "w") as output:
        streams = [output.add_stream_from_template(source.streams.video[0], opaque=True) for _ in range(80)]
        for stream in streams[1:]:
            stream.metadata["language"] = "x" * 500
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = streams[0]
                output.mux(packet)
    told = vderain("info", many).stdout.splitlines()
    assert len(told) < 60 and "  and 30 more streams, of which 30 are copied (--json lists all)" in told
    made = vderain("process", many, "-o", tmp_path / "out.mp4", "--strength", 0)
    assert made.exit_code == 0, made.stderr
    assert re.search(r"and 6\d more\.", made.stderr)
    assert max(map(len, made.stderr.splitlines() + told)) < 1500


def test_info_judges_by_the_output_that_would_be_written(vderain: Run, clip: Make) -> None:
    for name, muxer in (("in.mkv", "matroska"), ("in.ts", "mp4")):
        facts = json.loads(vderain("info", clip(name, frames=5), "--json").stdout)
        assert facts["output_format"] == muxer


@pytest.mark.parametrize("kind", ["missing", "text"])
def test_info_of_no_video(vderain: Run, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in.mp4"
    if kind == "text":
        source.write_text("no video")
    result = vderain("info", source)
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_version(vderain: Run) -> None:
    result = vderain("--version")
    assert (result.exit_code, result.stdout) == (0, f"vderain {__version__}\n")


@pytest.mark.parametrize("name", ["rainy.mp4", "two words.mov", "frames/"])
def test_a_file_in_place_of_a_command_gets_a_suggestion(
    vderain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    result = vderain(name)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"vderain: there is no command {name!r}. Did you mean `vderain process {shlex.quote(name)}`?"
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["process"], "missing argument 'INPUT'. See `root process --help`."),
        (["proces", "in"], "no such command 'proces'. Did you mean 'process'?"),
        (
            ["process", "in.mp4", "--strenth", "1"],
            "no such option: --strenth (Possible options: --start, --strength, --strict). See `root process --help`.",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(vderain: Run, arguments: list[str], says: str) -> None:
    result = vderain(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"vderain: {says}\n")


def test_the_first_help_panel_has_a_dozen_flags(vderain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first_panel = vderain("process", "--help").stdout.split("╭─ Options ")[1].split("╰")[0]
    flags = set(re.findall(r" --([a-z-]+) ", first_panel)) - {"help", "no-drops"}
    assert len(flags) == 12


def test_defaults_in_the_help_are_those_of_the_options(vderain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = vderain("process", "--help").stdout.splitlines()
    defaults = Options()
    for name in ("model", "strength", "temporal", "precision", "engine", "rate", "device"):
        line = next(line for line in lines if f"--{name} " in line)
        assert f"[default: {getattr(defaults, name)}]" in line.replace("(", "").replace(")", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    environment = {**os.environ, "_VDERAIN_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-c", "from vderain.cli.main import app; app(prog_name='vderain')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "_VDERAIN_COMPLETE" in done.stdout


def test_each_command_and_flag_is_explained(vderain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    general = vderain("--help").stdout
    for word in ("process", "info", "train", "--install-completion"):
        assert word in general
    text = vderain("process", "--help").stdout
    flags = (
        "--output --model --strength --temporal --device --precision --engine --batch-size --codec --crf --preset "
        "--encoder-opt --start --duration --rate --compare --overwrite --strict --json --quiet --verbose"
    )
    for flag in flags.split():
        assert flag in text
