"""Damaged files of many kinds: only documented errors, within limits of time and memory (`fuzz.py` makes them)."""

from pathlib import Path

import pytest
from fuzz import make_corpus, run

ROOT = Path(__file__).parents[1]
SEED = 20261126
QUICK = 100
SHARE = 2500


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny1: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, tiny1, ROOT / "configs" / "smoke.toml")
    return folder


def faults(corpus: Path, folder: Path, begin: int, end: int) -> list[str]:
    outcomes = list(run(corpus, folder, SEED, begin, end))
    assert [outcome.number for outcome in outcomes] == list(range(begin, end))
    peak = max(outcome.peak_bytes for outcome in outcomes)
    print(f"slowest {max(outcome.seconds for outcome in outcomes):.1f} s, at most {peak / 1e9:.2f} GB")
    return [f"{outcome.number}: {outcome.wrong}" for outcome in outcomes if outcome.wrong]


def test_a_hundred_mutants(corpus: Path, tmp_path: Path) -> None:
    assert faults(corpus, tmp_path, 0, QUICK) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(4))
def test_ten_thousand_mutants(corpus: Path, tmp_path: Path, share: int) -> None:
    assert faults(corpus, tmp_path, share * SHARE, (share + 1) * SHARE) == []
