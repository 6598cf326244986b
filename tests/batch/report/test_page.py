"""The page of a batch and the moments it shows: whole, escaped, small, and of the frames that matter."""

import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vderain.batch.report import page as report
from vderain.batch.report.page import ReportRow, write_report
from vderain.batch.report.thumbnails import (
    KEPT,
    LONGEST_PX,
    Thumbnail,
    ThumbnailPicker,
    pick_thumbnails,
    removed_levels,
)
from vderain.errors import OutputError
from vderain.media.frame import Colour, Frame

YCBCR = Colour("bt709", full_range=False, chroma_w=2, chroma_h=2)


def row(source: str = "front/a.mp4", **fields: Any) -> ReportRow:
    known = ReportRow(
        source, f"{source}", "front", "done", 1, 1800, 0, 300, 0, 120.0, 60.0, 90_000_000, 80_000_000,
        "2026-01-02T03:04:05+00:00", (), (), ("sound: aac",), "cpu, fp32", "", "", 0, (),
    )  # fmt: skip
    return replace(known, **fields)


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


NASTY = "<script>alert(1)</script> & \"quoted\" 'x' #1 50% ?.mp4"


def test_whatever_a_name_holds_it_stays_text(tmp_path: Path) -> None:
    plain = Page(write_report(tmp_path, [row()], "Title", {"Model": "base"}))
    nasty = replace(
        row(), source=f"d<u>/{NASTY}", target=f"d<u>/{NASTY}", group="<i>", damage=(NASTY,), dropped=(NASTY,),
        kept=(NASTY,), device=NASTY, error=NASTY, cure=NASTY, finished_at=NASTY,
        thumbnails=(Thumbnail(1.0, 2.0, f"{NASTY}-before.jpg", f'" onerror="x" {NASTY}-after.jpg'),),
    )  # fmt: skip
    page = Page(write_report(tmp_path, [nasty], NASTY, {NASTY: NASTY}))
    assert len(page.named("script")) == len(plain.named("script")) == 1
    assert not page.named("u") and not any("onerror" in attributes for _, attributes in page.elements)
    assert sum(NASTY in text for text in page.texts) >= 12  # and is there to be read
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_links_lead_to_the_file_of_any_name(tmp_path: Path) -> None:
    name = 'a #1 50% ? "x" ä.mp4'
    page = Page(write_report(tmp_path, [row(target=f"d/{name}")], "Title", {}))
    links = [attributes["href"] or "" for attributes in page.named("a")]
    assert (tmp_path / "d" / name).as_uri() in [f"{tmp_path.as_uri()}/{link.removeprefix('./')}" for link in links]
    (link,) = [attributes["href"] for attributes in Page(write_report(tmp_path, [row(target="javascript:x")], "", {}))
               .named("a") if attributes["href"] != "#files"]  # fmt: skip
    assert link == "./javascript%3Ax"


def test_a_name_that_is_no_unicode_does_not_stop_the_page(tmp_path: Path) -> None:
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    path = write_report(tmp_path, [row(name, target=name)], "Title", {})
    text = path.read_text("utf-8")
    assert "caf?.mp4" in text and 'href="./caf%E9.mp4"' in text


def test_a_thousand_files_are_less_than_5_mb(tmp_path: Path) -> None:
    folder = "front/2026-01-02 a folder with a long name/and one more"
    thumbnails = tuple(Thumbnail(t, 3.0, f".work/{folder}/{t:08}-before.jpg", f".work/{folder}/{t:08}-after.jpg")
                    for t in (1, 2, 3))  # fmt: skip
    damage = tuple(f"{i} frames from 0:{i:02} could not be decoded" for i in range(5000))
    rows = [row(f"{folder}/2026-01-02_{i:06}_F.mp4", thumbnails=thumbnails) for i in range(999)]
    path = write_report(tmp_path, [*rows, row(damage=damage)], "Title", {})
    assert path.stat().st_size < 5_000_000
    page = Page(path)
    assert len([1 for attributes in page.named("tbody")]) == 1000
    assert "and 4,988 more" in page.texts
    thumbnails = [attributes for attributes in page.named("img") if attributes.get("alt") == ""]
    assert len(thumbnails) > 999 and all(attributes["loading"] == "lazy" for attributes in thumbnails)


def test_the_page_may_ask_for_nothing_but_pictures(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, [row()], "Title", {}))
    (policy,) = [m["content"] or "" for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    assert not any(re.match("(https?:)?//", attributes.get(name) or "")
                   for _, attributes in page.elements for name in ("src", "href"))  # fmt: skip
    assert not any("style" in attributes for _, attributes in page.elements)  # which the policy would ignore


def test_the_summary_adds_up(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"frames": 0, "dry": 0, "media_s": 0.0, "seconds": 0.0, "bytes_out": 0}
    rows = [row("a.mp4"), row("b.mp4", repeated=3), row("c.mp4", state="skipped", **nothing),
            row("d.mp4", state="failed", error="no pictures.", cure="Copy it again.", **nothing)]  # fmt: skip
    text = re.sub(r"\s+", " ", "".join(Page(write_report(tmp_path, rows, "Title", {"Codec": "h264"})).texts))
    assert "2 of 4 files done, 1 failed, 1 skipped." in text
    for said in ("Footage2 min3,600 frames", "Rain removed83 % of frames", "Working time4 min", "3 frames repeated",
                 "Codech264", "Size160 MBfrom 180 MB", "no pictures. Copy it again."):  # fmt: skip
        assert said in text, said


def test_no_file_at_all_is_a_page_too(tmp_path: Path) -> None:
    assert "No files." in "".join(Page(write_report(tmp_path, [], "Title", {})).texts)


def test_the_page_takes_its_name_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path, [row()], "First", {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        assert path.read_bytes() == before  # while the new one is on its way
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(tmp_path, [row()] * 50, "Second", {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    old, young = tmp_path / ".report.html.1.partial", tmp_path / ".report.html.2.partial"
    old.write_text("x")
    young.write_text("of a writer at work")
    report.os.utime(old, (1, 1))
    write_report(tmp_path, [row()], "Title", {})
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", young.name}


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "nowhere", [row()], "Title", {})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("clock", 0, "0:00"), ("clock", 4.04, "4.0 s"), ("clock", 59.6, "1:00"), ("clock", 3661, "1:01:01"),
     ("lasting", 59, "59 s"), ("lasting", 125, "2 min 05 s"), ("lasting", 7140, "1 h 59 min"),
     ("lasting", 3_600_000, "1,000 h 00 min"), ("size", 0, "0 B"), ("size", 999_600, "1.0 MB"),
     ("size", 98_000_000, "98 MB"), ("when", "", ""), ("when", "soon", "soon"), ("levels", 0.01, "0")],
)  # fmt: skip
def test_numbers_are_written_for_people(name: str, value: Any, text: str) -> None:
    assert report.FILTERS[name](value) == text


def test_a_share_is_all_or_none_only_where_it_is() -> None:
    shares = [report.FILTERS["share"](part, 1000) for part in (0, 1, 500, 999, 1000)]
    assert shares == ["0 %", "1 %", "50 %", "99 %", "100 %"]
    assert report.FILTERS["share"](0, 0) == "0 %"


def frames(number: int, rain: float, size: tuple[int, int] = (96, 64), repeated: bool = False) -> tuple[Frame, Frame]:
    """A frame with rain of so many code values everywhere, and without."""
    width, height = size
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    after = np.full((height, width), 60, np.uint8)
    before = (after + np.uint8(rain)).astype(np.uint8)
    made = (Frame((luma, chroma, chroma), YCBCR, number, 1, Fraction(1, 30), repeated) for luma in (before, after))
    return tuple(made)  # type: ignore[return-value]


def test_the_rainiest_moments_are_kept_and_lie_apart(tmp_path: Path) -> None:
    keeper = ThumbnailPicker()
    showers = {100: 40, 103: 39, 106: 38, 500: 30, 880: 20}  # frame: code values; three of them are one shower
    for number in range(900):
        keeper.see(*frames(number + 7000, showers.get(number, number % 5)))  # a clip that begins late
    thumbnails = keeper.save(tmp_path / "moments", tmp_path)
    assert [round(moment.time_s * 30) for moment in thumbnails] == [100, 500, 880]
    assert [round(moment.removed * 219 / 255) for moment in thumbnails] == [40, 30, 20]
    for moment in thumbnails:
        for name, value in ((moment.before, 60 + moment.removed * 219 / 255), (moment.after, 60)):
            luma = (value - 16) * 255 / 219  # full range, as JPEG is
            assert abs(cv2.imread(str(tmp_path / name)).mean() - luma) < 2
    assert len(list((tmp_path / "moments").iterdir())) == 2 * KEPT


def test_hours_are_no_more_to_hold_than_seconds() -> None:
    keeper = ThumbnailPicker()
    for number in range(20_000):
        keeper.see(*frames(number, 1 + number % 37, (16, 12)))
    assert len(keeper._best) <= 12


def test_rain_that_grows_slowly_does_not_make_every_frame_small(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("vderain.batch.report.thumbnails._small", lambda frame: made.append(1) or frame)
    keeper = ThumbnailPicker()
    for number in range(15):
        before, after = frames(number, 0)
        lighter = before.planes[0].copy()
        lighter[: 20 + number] += 20
        keeper.see(before.with_planes((lighter, *before.planes[1:])), after)
    assert len(made) < 2 * 15 * 0.8


def test_pictures_are_small_and_upright(tmp_path: Path) -> None:
    keeper = ThumbnailPicker(turns=1)
    keeper.see(*frames(0, 9, (1922, 1080)))
    assert all(plane.nbytes < 700_000 for held in keeper._best.values() for plane in held.before.planes)
    (moment,) = keeper.save(tmp_path, tmp_path)
    assert cv2.imread(str(tmp_path / moment.after)).shape == (LONGEST_PX, 360, 3)


@pytest.mark.parametrize(
    "colour",
    [Colour("rgb", True), Colour("bt2020", False, 10, 2, 2), Colour("bt601", True, 8, 2, 1), Colour("rgb", True, 16)],
)
@pytest.mark.parametrize("grey", [False, True])
def test_any_kind_of_frame_can_be_a_moment(colour: Colour, grey: bool, tmp_path: Path) -> None:
    kind = np.uint8 if colour.depth_bits == 8 else np.uint16
    level = 1 << (colour.depth_bits - 2)
    luma, chroma = np.full((731, 1281), level, kind), np.full((731, 1281), 2 * level, kind)
    small = chroma[: -(-731 // colour.chroma_h), : -(-1281 // colour.chroma_w)]
    planes = (luma,) if grey else (luma, luma, luma) if colour.matrix == "rgb" else (luma, small, small)
    after = Frame(planes, colour, 0, 1, Fraction(1, 25))
    before = after.with_planes(tuple(p + kind(level // 8) if p is luma else p for p in planes))
    span = (2**colour.depth_bits - 1) if colour.full_range else 219 * 2 ** (colour.depth_bits - 8)
    assert removed_levels(before, after) == pytest.approx(level // 8 * 255 / span, rel=0.01)
    keeper = ThumbnailPicker()
    keeper.see(before, after)
    (moment,) = keeper.save(tmp_path, tmp_path)
    assert cv2.imread(str(tmp_path / moment.before)).mean() > cv2.imread(str(tmp_path / moment.after)).mean() + 3


def test_dry_footage_has_one_picture_and_damaged_frames_have_none(tmp_path: Path) -> None:
    keeper = ThumbnailPicker()
    assert keeper.save(tmp_path, tmp_path) == ()
    keeper.see(*frames(0, 50, repeated=True))
    for number in range(1, 90):
        keeper.see(*frames(number, 0))
    (moment,) = keeper.save(tmp_path, tmp_path)
    assert moment.removed == 0


def test_moments_of_the_parts_of_a_file_make_those_of_the_whole() -> None:
    parts = [Thumbnail(t, removed, "", "") for t, removed in ((1, 2.0), (50, 9.0), (52, 8.9), (99, 0.01), (98, 1.0))]
    assert [moment.time_s for moment in pick_thumbnails(parts)] == [1, 50, 98]


def test_a_disk_that_refuses_a_picture_is_said(tmp_path: Path) -> None:
    keeper = ThumbnailPicker()
    keeper.see(*frames(0, 9))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        keeper.save(tmp_path / "file" / "moments", tmp_path)


def test_frames_of_two_sizes_are_no_pair() -> None:
    with pytest.raises(ValueError, match="before is"):
        ThumbnailPicker().see(frames(0, 1)[0], frames(0, 1, (32, 32))[1])
