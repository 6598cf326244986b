"""Thumbnails: the rainiest frames are chosen, scaled down, and written upright."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from vderain.batch.record import Thumbnail
from vderain.batch.report.thumbnails import LONGEST_PX, THUMBNAILS, ThumbnailPicker, pick_thumbnails, removed_levels
from vderain.errors import OutputError
from vderain.media.frame import Colour, Frame

YCBCR = Colour("bt709", full_range=False, chroma_w=2, chroma_h=2)


def frames(number: int, rain: float, size: tuple[int, int] = (96, 64), repeated: bool = False) -> tuple[Frame, Frame]:
    """A frame with rain of so many code values everywhere, and without."""
    width, height = size
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    after = np.full((height, width), 60, np.uint8)
    before = (after + np.uint8(rain)).astype(np.uint8)
    made = (Frame((luma, chroma, chroma), YCBCR, number, 1, Fraction(1, 30), repeated) for luma in (before, after))
    return tuple(made)  # type: ignore[return-value]


def test_the_rainiest_frames_are_chosen_apart_in_time(tmp_path: Path) -> None:
    picker = ThumbnailPicker()
    showers = {100: 40, 103: 39, 106: 38, 500: 30, 880: 20}  # frame: code values; three of them are one shower
    for number in range(900):
        picker.on_frame(*frames(number + 7000, showers.get(number, number % 5)))  # a clip that begins late
    thumbnails = picker.write(tmp_path / "report", tmp_path)
    assert [round(thumbnail.time_s * 30) for thumbnail in thumbnails] == [100, 500, 880]
    assert [round(thumbnail.removed * 219 / 255) for thumbnail in thumbnails] == [40, 30, 20]
    for thumbnail in thumbnails:
        for name, value in ((thumbnail.before, 60 + thumbnail.removed * 219 / 255), (thumbnail.after, 60)):
            luma = (value - 16) * 255 / 219  # full range, as JPEG is
            assert abs(cv2.imread(str(tmp_path / name)).mean() - luma) < 2
    assert len(list((tmp_path / "report").iterdir())) == 2 * THUMBNAILS


def test_memory_does_not_grow_with_length() -> None:
    picker = ThumbnailPicker()
    for number in range(20_000):
        picker.on_frame(*frames(number, 1 + number % 37, (16, 12)))
    assert len(picker._best) <= 12


def test_slowly_growing_rain_does_not_scale_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("vderain.batch.report.thumbnails._scaled", lambda frame: made.append(1) or frame)
    picker = ThumbnailPicker()
    for number in range(15):
        before, after = frames(number, 0)
        lighter = before.planes[0].copy()
        lighter[: 20 + number] += 20
        picker.on_frame(before.with_planes((lighter, *before.planes[1:])), after)
    assert len(made) < 2 * 15 * 0.8


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    picker = ThumbnailPicker(rotation_quarters=1)
    picker.on_frame(*frames(0, 9, (1922, 1080)))
    assert all(plane.nbytes < 700_000 for each in picker._best.values() for plane in each.before.planes)
    (thumbnail,) = picker.write(tmp_path, tmp_path)
    assert cv2.imread(str(tmp_path / thumbnail.after)).shape == (LONGEST_PX, 360, 3)


@pytest.mark.parametrize(
    "colour",
    [Colour("rgb", True), Colour("bt2020", False, 10, 2, 2), Colour("bt601", True, 8, 2, 1), Colour("rgb", True, 16)],
)
@pytest.mark.parametrize("grey", [False, True])
def test_every_pixel_format_makes_a_thumbnail(colour: Colour, grey: bool, tmp_path: Path) -> None:
    kind = np.uint8 if colour.depth_bits == 8 else np.uint16
    level = 1 << (colour.depth_bits - 2)
    luma, chroma = np.full((731, 1281), level, kind), np.full((731, 1281), 2 * level, kind)
    small = chroma[: -(-731 // colour.chroma_h), : -(-1281 // colour.chroma_w)]
    planes = (luma,) if grey else (luma, luma, luma) if colour.matrix == "rgb" else (luma, small, small)
    after = Frame(planes, colour, 0, 1, Fraction(1, 25))
    before = after.with_planes(tuple(p + kind(level // 8) if p is luma else p for p in planes))
    span = (2**colour.depth_bits - 1) if colour.full_range else 219 * 2 ** (colour.depth_bits - 8)
    assert removed_levels(before, after) == pytest.approx(level // 8 * 255 / span, rel=0.01)
    picker = ThumbnailPicker()
    picker.on_frame(before, after)
    (thumbnail,) = picker.write(tmp_path, tmp_path)
    assert cv2.imread(str(tmp_path / thumbnail.before)).mean() > cv2.imread(str(tmp_path / thumbnail.after)).mean() + 3


def test_dry_videos_have_one_thumbnail_and_repeated_frames_none(tmp_path: Path) -> None:
    picker = ThumbnailPicker()
    assert picker.write(tmp_path, tmp_path) == ()
    picker.on_frame(*frames(0, 50, repeated=True))
    for number in range(1, 90):
        picker.on_frame(*frames(number, 0))
    (thumbnail,) = picker.write(tmp_path, tmp_path)
    assert thumbnail.removed == 0


def test_thumbnails_of_parts_combine() -> None:
    parts = [Thumbnail(t, removed, "", "") for t, removed in ((1, 2.0), (50, 9.0), (52, 8.9), (99, 0.01), (98, 1.0))]
    assert [thumbnail.time_s for thumbnail in pick_thumbnails(parts)] == [1, 50, 98]


def test_write_errors_are_reported(tmp_path: Path) -> None:
    picker = ThumbnailPicker()
    picker.on_frame(*frames(0, 9))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        picker.write(tmp_path / "file" / "report", tmp_path)


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="before is"):
        ThumbnailPicker().on_frame(frames(0, 1)[0], frames(0, 1, (32, 32))[1])
