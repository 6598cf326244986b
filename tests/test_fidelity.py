"""The fidelity matrix: what comes out is the input in every container that can hold it, and what is lost is named."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fidelity import second
from fidelity.compare import Expected, differences
from fidelity.matrix import document
from fidelity.rows import NAMED, NAMED_WITHOUT_LOSS, ROWS, SUFFIXES, Row
from fidelity.snapshot import Snapshot, snapshot

from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, Result, process

PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
MATROSKA_TICK = Fraction(1, 1000)
QUICK = EncodeOptions(codec="h264", preset="ultrafast")
OF_THE_ENCODER = ("pixels", "depth")  # H.264 has its own pixel formats
BEYOND_FFPROBE: set[str] = set()
CASES = [pytest.param(row, suffix, id=f"{row.name}-{suffix[1:]}") for row in ROWS for suffix in SUFFIXES]


def lossless(suffix: str, before: Snapshot) -> EncodeOptions:
    """FFV1, or where the container does not hold it H.264 or HEVC without loss."""
    if suffix != ".mov":
        return EncodeOptions(codec="ffv1")
    if before.size[0] % 2 and before.pixel_format != "yuv444p":
        return EncodeOptions(codec="h264", preset="ultrafast", encoder_opts=(("qp", "0"),))  # not without a change
    hevc = "12le" in before.pixel_format or before.pixel_format in ("gray10le", "gbrp", "gbrp10le")
    return EncodeOptions(codec="hevc" if hevc else "h264", preset="ultrafast", lossless=True)


def expected(row: Row, before: Snapshot, suffix: str, pixels: bool) -> Expected:
    tick = MATROSKA_TICK if suffix == ".mkv" else Fraction(1, 10_000_000)
    wanted = row.sees(before) if row.sees else before
    return Expected(wanted, tick, pixels and row.pixels)


def names(row: Row, suffix: str, pixels: bool) -> dict[str, str]:
    """What cannot be kept, by column."""
    named = NAMED.get(row.name, {}).get(suffix, {})
    if pixels:
        return named | NAMED_WITHOUT_LOSS.get(row.name, {}).get(suffix, {})
    return {column: words for column, words in named.items() if column not in OF_THE_ENCODER}


def check(row: Row, suffix: str, before: Snapshot, result: Result, pixels: bool) -> None:
    """What differs is what the row names, and the report says so; where nothing does, it does not say so."""
    after = snapshot(result.target)
    found = differences(expected(row, before, suffix, pixels), after)
    named = names(row, suffix, pixels)
    if not pixels:
        found = {column: said for column, said in found.items() if column not in OF_THE_ENCODER}
    said = "; ".join((*result.dropped, *result.changed))
    assert set(found) == set(named), (found, said)
    assert all(words in said for words in named.values()), (found, said)
    assert named or not result.dropped, result.dropped


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_without_strength_all_is_as_it_was(row: Row, suffix: str, tmp_path: Path) -> None:
    source = row.make(tmp_path)
    before = snapshot(source, row.main)
    options = Options(strength=0, encode=lossless(suffix, before), **row.options)
    check(row, suffix, before, process(source, tmp_path / f"out{suffix}", options), pixels=True)


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_with_a_network_all_but_the_pixels_is_as_it_was(row: Row, suffix: str, tmp_path: Path, tiny1: Path) -> None:
    all_but_the_pixels_stay(row, suffix, tmp_path, model=str(tiny1), temporal="off", precision="fp32", drops=False)


@pytest.mark.long
@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_with_the_released_network_too(row: Row, suffix: str, tmp_path: Path) -> None:
    all_but_the_pixels_stay(row, suffix, tmp_path)


def all_but_the_pixels_stay(row: Row, suffix: str, folder: Path, **chosen: Any) -> None:
    source = row.make(folder)
    before = snapshot(source, row.main)
    options = Options(guard=False, encode=QUICK, **chosen, **row.options)
    result = process(source, folder / f"out{suffix}", options)
    check(row, suffix, before, result, pixels=False)
    if shutil.which("ffprobe") and row.sees is None and row.name not in BEYOND_FFPROBE:
        assert second.differences(source, result.target, row.main or 0) == []


def test_the_document_is_the_matrix(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-matrix"):
        PAGE.write_text(document(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == document(), "run pytest tests/test_fidelity.py --write-matrix"
    assert len(ROWS) == len({row.name for row in ROWS}) >= 60
    assert {*NAMED, *NAMED_WITHOUT_LOSS} <= {row.name for row in ROWS}
