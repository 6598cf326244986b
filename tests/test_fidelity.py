"""The fidelity matrix: what comes out is the input in every container that can hold it, and what is lost is named."""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import pytest
from fidelity.compare import Expected, differences
from fidelity.rows import ROWS, SUFFIXES, Row
from fidelity.snapshot import Snapshot, snapshot

from vderain.process import Options, Result, process
from vderain.video.encoders import EncodeOptions

MATROSKA_TICK = Fraction(1, 1000)
CASES = [pytest.param(row, suffix, id=f"{row.name}-{suffix[1:]}") for row in ROWS for suffix in SUFFIXES]


def lossless(suffix: str, before: Snapshot) -> EncodeOptions:
    """FFV1, or where the container does not hold it H.264 or HEVC without loss."""
    if suffix != ".mov":
        return EncodeOptions(codec="ffv1")
    if "12le" in before.pixel_format or before.pixel_format in ("gray10le", "gbrp", "gbrp10le"):
        return EncodeOptions(
            codec="libx265", preset="ultrafast", encoder_opts=(("x265-params", "lossless=1:log-level=none"),)
        )
    return EncodeOptions(codec="libx264", preset="ultrafast", encoder_opts=(("qp", "0"),))


def expected(row: Row, before: Snapshot, suffix: str, after: Snapshot, pixels: bool) -> Expected:
    tick = MATROSKA_TICK if suffix == ".mkv" else Fraction(1, 10_000_000)
    wanted = row.sees(before) if row.sees else before
    return Expected(wanted, tick, pixels and row.pixels)


@lru_cache(maxsize=2)
def source_of(row_name: str, folder: Path) -> tuple[Path, Snapshot]:
    row = next(r for r in ROWS if r.name == row_name)
    path = row.make(folder)
    return path, snapshot(path, row.main)


def check(row: Row, suffix: str, before: Snapshot, result: Result, pixels: bool) -> dict[str, str]:
    """Asserts that what differs is what the row names and the report says; returns it by column."""
    after = snapshot(result.target)
    found = differences(expected(row, before, suffix, after, pixels), after)
    named = row.named.get(suffix, {})
    said = "; ".join((*result.dropped, *getattr(result, "changed", ())))
    assert set(found) == set(named), (found, said)
    for column, words in named.items():
        assert words in said, (column, found, said)
    return named


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_without_strength_all_is_as_it_was(row: Row, suffix: str, tmp_path: Path) -> None:
    source = row.make(tmp_path)
    before = snapshot(source, row.main)
    options = Options(strength=0, encode=lossless(suffix, before), **row.options)
    check(row, suffix, before, process(source, tmp_path / f"out{suffix}", options), pixels=True)
