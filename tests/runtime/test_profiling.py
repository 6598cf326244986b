"""Stage times are collected across threads, and only inside `measure_stages`."""

import time

import pytest

from vderain.runtime.profiling import measure_stages, stage
from vderain.runtime.threads import ordered_map, prefetch


@stage("work")
def work(number: int) -> int:
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass
    return 1 // number


def test_stages_are_measured_in_worker_threads() -> None:
    with measure_stages() as seconds:
        assert list(prefetch(ordered_map(work, [1, 1, 1], 2), 2)) == [1, 1, 1]
    assert 0.03 <= seconds["work"] < 0.3


def test_a_stage_that_fails_is_measured_too() -> None:
    with measure_stages() as seconds, pytest.raises(ZeroDivisionError):
        work(0)
    assert seconds["work"] >= 0.01


def test_nothing_is_measured_outside_the_block() -> None:
    with measure_stages() as seconds:
        pass
    assert work(1) == 1
    assert seconds == {}


def test_jobs_in_different_threads_are_measured_apart() -> None:
    def job(items: int) -> float:
        with measure_stages() as seconds:
            list(ordered_map(work, [1] * items, 2))
        return seconds["work"]

    short_s, long_s = ordered_map(job, [1, 6], 2)
    assert short_s < long_s
