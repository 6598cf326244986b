"""Dry files are copied, linked or skipped; rainy and doubtful ones are not."""

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import pytest

from vderain.batch.estimate import estimate
from vderain.batch.plan import Item
from vderain.errors import DamageError, OutputError
from vderain.media.decode.reader import VideoReader
from vderain.media.encode import EncodeOptions
from vderain.process import Options, process

SAMPLES = Path(__file__).parents[1] / "samples"
DRY, RAINY = SAMPLES / "driving_dry.mp4", SAMPLES / "driving_rain.mp4"
AUTO = Options(model="fast", device="cpu", auto=True)


def test_a_dry_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = process(DRY, target, AUTO)
    assert result.untouched == "copy"
    assert target.read_bytes() == DRY.read_bytes()
    assert target.stat().st_mtime_ns == DRY.stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        process(DRY, target, AUTO)


def test_a_dry_file_is_linked_or_skipped(tmp_path: Path) -> None:
    source = tmp_path / "dry.mp4"
    source.write_bytes(DRY.read_bytes())
    source.chmod(0o444)
    linked, skipped = tmp_path / "linked.mp4", tmp_path / "skipped.mp4"
    assert process(source, linked, replace(AUTO, dry="link")).untouched == "link"
    assert linked.read_bytes() == source.read_bytes()
    assert process(source, skipped, replace(AUTO, dry="skip")).untouched == "skip"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dry.mp4", "linked.mp4"]


def test_a_dry_file_of_which_something_else_is_wanted_is_encoded(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = process(DRY, target, replace(AUTO, duration_s=0.5, encode=EncodeOptions(preset="ultrafast")))
    assert result.untouched is None
    assert result.dry == result.frames == 15


def test_a_rainy_file_is_not_taken_for_dry(tmp_path: Path) -> None:
    result = process(RAINY, tmp_path / "out.mp4", replace(AUTO, dry="skip", duration_s=0.5))
    assert result.untouched is None
    assert result.dry == 0


def test_a_file_that_is_perhaps_dry_is_copied_and_not_skipped(tmp_path: Path) -> None:
    """At night, rain shows around lamps only."""
    source, target = tmp_path / "night.mp4", tmp_path / "out.mp4"
    with av.open(DRY) as day, av.open(source, "w") as output:
        stream = output.add_stream("h264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number, frame in enumerate(islice(day.decode(video=0), 30)):
            dark = av.VideoFrame.from_ndarray(frame.reformat(320, 180, "rgb24").to_ndarray() // 4, "rgb24")
            dark.pts, dark.time_base = number, Fraction(1, 30)
            output.mux(stream.encode(dark.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    assert process(source, target, replace(AUTO, dry="skip")).untouched == "copy"
    assert target.read_bytes() == source.read_bytes()


def test_keyframe_groups_are_small_successive_frames(tmp_path: Path) -> None:
    source = tmp_path / "groups.mp4"
    with av.open(source, "w") as output:
        stream = output.add_stream("h264", rate=10, options={"g": "10", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(40):
            frame = av.VideoFrame(320, 180, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoReader(source) as reader:
        groups = list(reader.keyframe_groups(3, Fraction(19, 10), 90))
    times = [[frame.pts * frame.time_base for frame in group] for group in groups]
    tenth = Fraction(1, 10)
    assert times == [[0, tenth, 2 * tenth], [2, 2 + tenth, 2 + 2 * tenth]]
    assert {(frame.width_px, frame.height_px) for group in groups for frame in group} == {(160, 90)}


def cut_short(path: Path, lost_bytes: int) -> Path:
    """A short dry file that lists frames behind its end."""
    with av.open(DRY) as source, av.open(path, "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in islice(source.demux(video=0), 40):
            packet.stream = stream
            output.mux(packet)
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    return path


@pytest.mark.timeout(180)
def test_damage_of_a_dry_file_is_reported(tmp_path: Path) -> None:
    source = cut_short(tmp_path / "cut.mp4", 2000)
    result = process(source, tmp_path / "out.mp4", replace(AUTO, dry="skip"))
    assert result.untouched == "copy"
    assert result.missing > 0
    assert any("the file ends early" in text for text in result.damage)
    with pytest.raises(DamageError):
        process(source, tmp_path / "strict.mp4", replace(AUTO, dry="skip", strict=True))


@pytest.mark.timeout(180)
def test_an_estimate_knows_which_files_are_dry(
    tmp_path: Path, tiny1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A file that was not opened counts with the share of rainy ones."""
    monkeypatch.setattr("vderain.batch.estimate.OPENED", 2)
    monkeypatch.setattr("vderain.batch.estimate.TRIAL_FRAMES", 6)
    items = [Item(path, f"{number}.mp4", f"{number}.mp4", "") for number, path in enumerate((DRY, RAINY, RAINY))]
    dry, other, rainy = estimate(items, replace(AUTO, model=str(tiny1), drops=False, dry="skip"))
    assert (dry.dry, other.dry, rainy.dry) == (True, None, False)
    assert (dry.bytes_out, dry.opened, other.opened) == (0, True, False)
    assert other.bytes_out and rainy.bytes_out
    assert dry.seconds and other.seconds and rainy.seconds
    assert dry.seconds < rainy.seconds
