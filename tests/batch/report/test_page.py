"""The report: complete, escaped, bounded in size, and written atomically."""

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vderain.batch.plan import Item
from vderain.batch.record import Failure, FileResult, Record, Thumbnail
from vderain.batch.report import page as report
from vderain.batch.report.page import write_report
from vderain.errors import OutputError
from vderain.runtime.files import Fingerprint

RESULT = FileResult(frames=1800, dry=300, media_s=60.0, kept=("audio: aac",), device="cpu, fp32")
NASTY = "<script>alert(1)</script> & \"quoted\" 'x' #1 50% ?.mp4"


def record(name: str = "front/a.mp4", result: FileResult = RESULT, **fields: Any) -> Record:
    known: dict[str, Any] = {
        "item": Item(Path("/card") / name, name, name, "front"), "fingerprint": Fingerprint(90_000_000, 1, ""),
        "state": "done", "attempts": 1, "result": result, "bytes_out": 80_000_000, "seconds": 120.0,
        "finished_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Record(**(known | fields))


class Page(HTMLParser):
    """Elements with their attributes, and the text, as a browser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    thumbnail = Thumbnail(1.0, 2.0, f"{NASTY}-before.jpg", f'" onerror="x" {NASTY}-after.jpg')
    result = FileResult(damage=(NASTY,), dropped=(NASTY,), kept=(NASTY,), device=NASTY, thumbnails=(thumbnail,))
    done = record(f"d<u>/{NASTY}", result, finished_at=NASTY, item=Item(Path(NASTY), NASTY, f"d<u>/{NASTY}", "<i>"))
    failed = replace(done, state="failed", failure=Failure(error=NASTY, cure=NASTY, exit_code=3))
    page = Page(write_report(tmp_path, [done, failed], NASTY, {NASTY: NASTY}))
    assert not page.all("script") and not page.all("u")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sum(NASTY in text for text in page.texts) >= 12, "it is still readable"


def test_links_work_for_any_file_name(tmp_path: Path) -> None:
    name = 'a #1 50% ? "x" ä.mp4'
    not_unicode = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    path = write_report(tmp_path, [record(f"d/{name}"), record("javascript:x"), record(not_unicode)], "Title", {})
    links = [attributes["href"] or "" for attributes in Page(path).all("a")]
    assert (tmp_path / "d" / name).as_uri() == f"{tmp_path.as_uri()}/{links[0].removeprefix('./')}"
    assert links[1:] == ["./javascript%3Ax", "./caf%E9.mp4"]
    assert r"caf\xe9.mp4" in path.read_text("utf-8")


def test_the_page_loads_nothing_but_pictures(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, [record()], "Title", {}))
    (policy,) = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    urls = [attributes.get(name) or "" for _, attributes in page.elements for name in ("src", "href")]
    assert not any(re.match("(https?:)?//", url) for url in urls)
    assert not any("style" in attributes for _, attributes in page.elements)  # the policy would ignore it


def test_the_summary_adds_up(tmp_path: Path) -> None:
    failure = Failure(error="no video.", cure="Copy it again.", exit_code=3)
    failed = record("d.mp4", FileResult(), state="failed", failure=failure, bytes_out=0, seconds=0.0)
    records = [record("a.mp4"), record("b.mp4", replace(RESULT, repeated=3)), failed]
    text = Page(write_report(tmp_path, records, "Title", {"codec": "h264"})).text
    assert text.index("no video.") < text.index("a.mp4"), "failed files come first"
    for part in (
        "2 of 3 files done, 1 failed.", "Footage2:00, 3,600 frames", "Rain removedfrom 83 % of frames",
        "Working time4:00", "3 frames repeated", "Codech264", "Size180 MB to 160 MB", "no video. Copy it again.",
    ):  # fmt: skip
        assert part in text, part


def test_long_reports_have_pages_of_bounded_size(tmp_path: Path) -> None:
    thumbnails = tuple(Thumbnail(t, 3.0, f"report/{t:08}-before.jpg", f"report/{t:08}-after.jpg") for t in (1, 2, 3))
    damage = tuple(f"{i} frames from 0:{i:02} could not be decoded" for i in range(5000))
    result = replace(RESULT, thumbnails=thumbnails, damage=damage)
    records = [record(f"front/a folder with a long name/{i:06}_F.mp4", result) for i in range(1250)]
    write_report(tmp_path, records, "Title", {})
    pages = [tmp_path / name for name in ("report.html", "report-2.html", "report-3.html")]
    assert [len(Page(page).all("tbody")) for page in pages] == [500, 500, 250]
    assert all(page.stat().st_size < 5_000_000 for page in pages)
    first = Page(pages[0])
    assert {"./report-2.html", "./report-3.html"} <= {link["href"] for link in first.all("a")}
    assert all(image["loading"] == "lazy" for image in first.all("img"))
    assert "and 4,988 more" in first.text
    write_report(tmp_path, records[:10], "Title", {})
    assert [path.name for path in tmp_path.glob("*.html")] == ["report.html"]


def test_a_page_links_the_first_the_next_and_the_last_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(report, "FILES_PER_PAGE", 1)
    write_report(tmp_path, [record(f"{number}.mp4") for number in range(30)], "Title", {})
    links = [link["href"] or "" for link in Page(tmp_path / "report-20.html").all("a") if "report" in str(link["href"])]
    numbers = [1, *range(15, 20), *range(21, 26), 30]
    assert links[: len(numbers)] == [f"./{report.page_name(number)}" for number in numbers]


@pytest.mark.long
def test_a_report_of_100_000_files_is_linear_in_time_and_size(tmp_path: Path) -> None:
    spent_s, sizes = [], []
    for count in (10_000, 100_000):
        records = [record(f"front/{number:06}_F.mp4") for number in range(count)]
        begun_s = time.process_time()
        write_report(tmp_path, records, "Title", {})
        spent_s.append(time.process_time() - begun_s)
        sizes.append([page.stat().st_size for page in tmp_path.glob("*.html")])
    assert len(sizes[1]) == 100_000 // report.FILES_PER_PAGE
    assert max(sizes[1]) < 2_000_000
    assert sum(sizes[1]) < 11 * sum(sizes[0])
    assert spent_s[1] < 20 * spent_s[0]


def test_an_empty_report(tmp_path: Path) -> None:
    assert "0 of 0 files done." in Page(write_report(tmp_path, [], "Title", {})).text


def test_a_full_disk_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path, [record()], "First", {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(tmp_path, [record()] * 50, "Second", {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "nowhere", [record()], "Title", {})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("clock", 0, "0:00"), ("clock", 4.04, "4.0 s"), ("clock", 59.6, "1:00"), ("clock", 3661, "1:01:01"),
     ("clock", 3_600_000, "1,000:00:00"), ("size", 0, "0 B"), ("size", 999_600, "1.0 MB"),
     ("size", 98_000_000, "98 MB"), ("when", "", ""), ("when", "soon", "soon"), ("rain", 0.01, "none"),
     ("rain", 1.1, "moderate")],
)  # fmt: skip
def test_numbers_are_formatted_for_people(name: str, value: Any, text: str) -> None:
    assert report.FILTERS[name](value) == text


def test_a_share_is_0_or_100_only_when_exact() -> None:
    shares = [report.FILTERS["share"](part, 1000) for part in (0, 1, 500, 999, 1000)]
    assert shares == ["0 %", "1 %", "50 %", "99 %", "100 %"]
    assert report.FILTERS["share"](0, 0) == "0 %"
