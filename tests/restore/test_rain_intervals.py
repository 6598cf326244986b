"""Rainy intervals are found by `--auto`, and dry intervals stay as they are."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from vderain.restore.rain_intervals import (
    BEGINS,
    ENDS,
    NEIGHBOUR_SAMPLES,
    Sample,
    _RawSample,
    _score,
    by_interval,
    is_rainy,
    rain_intervals,
)
from vderain.runtime.threads import sliding_window

SAMPLES = Path(__file__).parents[2] / "samples"


def samples(*scores: float) -> list[Sample]:
    return [Sample(30 * second + 2, second + 2 / 30, rain_score) for second, rain_score in enumerate(scores)]


def weather(*scores: float) -> str:
    """One letter a second: the interval of frame 30 n + 15."""
    found = rain_intervals(samples(*scores))
    return "".join("r" if is_rainy(found, 30 * n + 15) else "d" for n in range(len(scores)))


def test_a_rainy_interval_begins_one_sample_early() -> None:
    assert weather(0, 0, 0, 1, 1, 1) == "ddrrrr"


def test_one_dry_sample_does_not_end_a_rainy_interval_and_several_do() -> None:
    assert weather(1, 1, 0, 1, 1) == "rrrrr"
    assert weather(1, 1, 0, 0, 0, 0, 0) == "rrrrddd"


def test_between_the_thresholds_an_interval_continues() -> None:
    middle = (BEGINS + ENDS) / 2
    assert weather(0, middle, middle, middle, middle) == "ddddd"
    assert weather(1, middle, middle, middle, middle) == "rrrrr"


def seen(rain_score: float, median_levels: float) -> _RawSample:
    return _RawSample(0, 0.0, rain_score, np.full((6, 8), median_levels, np.float32))


def scored(*found: _RawSample) -> list[float]:
    return [_score(around).rain_score for around in sliding_window(found, NEIGHBOUR_SAMPLES)]


def test_thin_rain_is_detected_over_some_seconds() -> None:
    """One sample of thin rain is not enough; a passing object shows in one sample only."""
    assert min(scored(*[seen(0, levels) for levels in (0.03, 0.11, 0.09, 0.06, 0.1)])) > BEGINS
    assert max(scored(*[seen(0, levels) for levels in (0, 0, 0.11, 0, 0)])) == 0


def test_a_shower_does_not_count_as_thin_rain_before_and_after_it() -> None:
    assert scored(seen(0, 0), seen(0, 0), seen(1, 2), seen(1, 2), seen(0, 0)) == [0, 0, 1, 1, 0]


def test_no_samples_mean_no_intervals() -> None:
    assert rain_intervals([]) == []
    assert not is_rainy([], 0)


@given(st.lists(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]), min_size=1, max_size=40), st.integers(0, 50))
def test_every_frame_is_in_one_interval_and_intervals_alternate(scores: list[float], first: int) -> None:
    found = rain_intervals(samples(*scores))
    assert found[0].first == 0
    assert all(a.first < b.first and a.rainy != b.rainy for a, b in pairwise(found))
    numbers = list(range(first, 30 * len(scores)))
    grouped = by_interval(numbers, found, first)  # type: ignore[arg-type]
    taken = [(rainy, begins, list(frames)) for rainy, begins, frames in grouped]
    assert [frame for _, _, frames in taken for frame in frames] == numbers
    assert all(begins == frames[0] for _, begins, frames in taken)
    assert all(is_rainy(found, int(frame)) == rainy for rainy, _, frames in taken for frame in frames)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def changeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: four seconds of the dry sample, then two of the rainy one, at 12 pictures a second."""
    folder = tmp_path_factory.mktemp("changeable") / "weather"
    folder.mkdir()
    number = 0
    for name, seconds in (("driving_dry.mp4", 4), ("driving_rain.mp4", 2)):
        video = cv2.VideoCapture(str(SAMPLES / name))
        for _ in range(12 * seconds):
            there, picture = video.read()
            assert there
            cv2.imwrite(str(folder / f"{number:04}.png"), picture[80:260, 160:480])
            number += 1
    return folder


def test_dry_intervals_stay_bit_identical_and_rainy_ones_do_not(
    changeable: Path, tmp_path: Path, vderain: Callable[..., Result]
) -> None:
    target = tmp_path / "out"
    done = vderain("process", changeable, "-o", target, "--auto", "--rate", "12", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert [interval["rainy"] for interval in result["rain_intervals"]] == [False, True]
    begins = result["rain_intervals"][1]["first"]
    assert 48 - 15 <= begins <= 48  # at most one sample before the rain
    assert result["rain_intervals"][0]["rain_score"] < ENDS < BEGINS < result["rain_intervals"][1]["rain_score"]
    changed = [
        not np.array_equal(cv2.imread(str(target / f"{n:04}.png")), cv2.imread(str(changeable / f"{n:04}.png")))
        for n in range(72)
    ]
    assert not any(changed[:begins])
    assert all(changed[50:])
    assert result["dry"] >= begins
