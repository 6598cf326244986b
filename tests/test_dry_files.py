"""Dry files are left untouched: copied, linked or skipped, and never encoded again."""

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import Result
from clips import decoded_pts

from vderain.errors import OutputError
from vderain.media.decode.reader import VideoReader
from vderain.options import Options
from vderain.pipeline import Pipeline, load_models
from vderain.process import process
from vderain.restore.quick_look import EVERY_S, FRAMES, LINES_PX

SAMPLES = Path(__file__).parents[1] / "samples"
DRY, RAINY = SAMPLES / "driving_dry.mp4", SAMPLES / "driving_rain.mp4"


@pytest.mark.parametrize(("source", "dry"), [(DRY, True), (RAINY, False)])
def test_a_look_at_keyframes_tells_dry_from_rainy(source: Path, dry: bool) -> None:
    options = Options(auto=True)
    look = Pipeline(options, load_models(options)).quick_look
    assert look is not None
    with VideoReader(source) as reader, closing(reader.keyframe_groups(FRAMES, EVERY_S, LINES_PX)) as groups:
        assert look.is_dry(groups, reader.rotation_quarters, *reader.part_s) is dry


def test_groups_are_successive_small_frames_that_begin_with_a_keyframe() -> None:
    with VideoReader(DRY) as reader:
        every = [frame.pts for frame in reader.frames()]
    with VideoReader(DRY) as reader:
        groups = list(reader.keyframe_groups(FRAMES, EVERY_S, LINES_PX))
    assert groups
    for group in groups:
        first = every.index(group[0].pts)
        assert [frame.pts for frame in group] == every[first : first + FRAMES]
        assert min(group[0].height_px, group[0].width_px) <= LINES_PX
    starts_s = [float(group[0].pts * group[0].time_base) for group in groups]
    assert all(b - a >= EVERY_S for a, b in pairwise(starts_s))


def test_a_dry_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = process(DRY, target, Options(auto=True))
    assert target.read_bytes() == DRY.read_bytes()
    assert result.untouched == "copy"
    assert result.frames == result.dry == 150
    with pytest.raises(OutputError):
        process(DRY, target, Options(auto=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_dry_file_is_linked_or_skipped(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(DRY.read_bytes())
    linked = tmp_path / "linked.mp4"
    assert process(source, linked, Options(auto=True, dry="link")).untouched == "link"
    assert linked.read_bytes() == DRY.read_bytes()
    assert not linked.is_symlink()
    assert process(source, tmp_path / "skipped.mp4", Options(auto=True, dry="skip")).untouched == "skip"
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "linked.mp4"}


def test_a_part_of_a_dry_file_is_encoded(tmp_path: Path) -> None:
    target = tmp_path / "part.mp4"
    result = process(DRY, target, Options(auto=True, duration_s=0.5))
    assert result.untouched is None
    assert len(decoded_pts(target)) == result.frames == 15


def test_batch_skips_dry_files_and_copies_them_when_asked(vderain: Callable[..., Result], tmp_path: Path) -> None:
    card, out = tmp_path / "card", tmp_path / "out"
    card.mkdir()
    (card / "dry.mp4").write_bytes(DRY.read_bytes())
    first = vderain("batch", card, "-o", out, "--workers", "1")
    assert first.exit_code == 0, first.output
    assert "1 dry and left untouched" in first.stdout
    assert not (out / "dry.mp4").exists()
    again = vderain("batch", card, "-o", out, "--workers", "1")
    assert again.exit_code == 0
    assert not (out / "dry.mp4").exists()
    copied = vderain("batch", card, "-o", out, "--workers", "1", "--dry", "copy")
    assert copied.exit_code == 0, copied.output
    assert (out / "dry.mp4").read_bytes() == DRY.read_bytes()
