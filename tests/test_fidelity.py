"""The fidelity matrix: each container keeps what it can hold, and the report names what it cannot.

Rows of ``fidelity.rows.CORE`` run on every change, the others with ``-m long``.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fidelity import second
from fidelity.compare import Expected, differences
from fidelity.rows import CORE, NAMED, NAMED_WITHOUT_LOSS, ROWS, SUFFIXES, Row
from fidelity.snapshot import Snapshot, snapshot

from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, Result, process

MATROSKA_TICK = Fraction(1, 1000)
QUICK = EncodeOptions(codec="h264", preset="ultrafast")
OF_THE_ENCODER = ("pixels", "depth")  # H.264 has its own pixel formats
BEYOND_FFPROBE: set[str] = set()
CASES = [
    pytest.param(row, suffix, id=f"{row.name}-{suffix[1:]}", marks=() if row.name in CORE else pytest.mark.long)
    for row in ROWS
    for suffix in SUFFIXES
]


@dataclass(frozen=True)
class Source:
    """The clip of a row and what it holds."""

    path: Path
    snapshot: Snapshot


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Source]:
    """Makes the clip of a row and reads it, once a session."""
    made: dict[str, Source] = {}

    def source_of(row: Row) -> Source:
        if row.name not in made:
            path = row.make(tmp_path_factory.mktemp("row"))
            made[row.name] = Source(path, snapshot(path, row.main))
        return made[row.name]

    return source_of


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
def test_at_strength_0_everything_is_kept(
    row: Row, suffix: str, source_of: Callable[[Row], Source], tmp_path: Path
) -> None:
    source = source_of(row)
    options = Options(strength=0, encode=lossless(suffix, source.snapshot), **row.options)
    check(row, suffix, source.snapshot, process(source.path, tmp_path / f"out{suffix}", options), pixels=True)


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_with_a_tiny_network_all_but_the_pixels_is_kept(
    row: Row, suffix: str, source_of: Callable[[Row], Source], tmp_path: Path, tiny1: Path
) -> None:
    check_all_but_pixels(
        row, suffix, source_of(row), tmp_path, model=str(tiny1), temporal="off", precision="fp32", drops=False
    )


@pytest.mark.long
@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_with_the_released_network_all_but_the_pixels_is_kept(
    row: Row, suffix: str, source_of: Callable[[Row], Source], tmp_path: Path
) -> None:
    check_all_but_pixels(row, suffix, source_of(row), tmp_path)


def check_all_but_pixels(row: Row, suffix: str, source: Source, folder: Path, **chosen: Any) -> None:
    options = Options(guard=False, encode=QUICK, **chosen, **row.options)
    result = process(source.path, folder / f"out{suffix}", options)
    check(row, suffix, source.snapshot, result, pixels=False)
    if shutil.which("ffprobe") and row.sees is None and row.name not in BEYOND_FFPROBE:
        assert second.differences(source.path, result.target, row.main or 0) == []


def test_names_of_rows_are_unique_and_known() -> None:
    names = {row.name for row in ROWS}
    assert len(ROWS) == len(names) >= 60
    assert {*NAMED, *NAMED_WITHOUT_LOSS, *CORE} <= names
