"""Ordered multithreading: order, errors, bounded read-ahead, and no threads left running."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vderain.runtime.threads import measure_stages, ordered_map, prefetch, sliding_window, stage, until_stopped


class Source:
    """Counts what was taken from it."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def settled(read: object, expected: int, seconds: float = 5.0) -> bool:
    """Whether a callable comes to an expected value, and stays."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and read() != expected:  # type: ignore[operator]
        time.sleep(0.005)
    time.sleep(0.05)
    return read() == expected  # type: ignore[operator]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_are_in_order_however_long_each_takes(workers: int) -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.002 * (5 - number % 5))
        return number * number

    assert list(ordered_map(slow_at_first, range(23), workers)) == [n * n for n in range(23)]


def test_functions_run_concurrently() -> None:
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(ordered_map(lambda _: meeting.wait(), range(6), 3))) == 6


def test_an_error_of_the_function_is_raised_in_the_place_of_its_result() -> None:
    mapped = ordered_map(lambda n: 10 // (3 - n), range(9), 2)
    assert [next(mapped) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(mapped)


def failing_source() -> Iterator[int]:
    yield 1
    yield 2
    raise OSError("gone")


def test_ordered_map_raises_an_error_of_its_source() -> None:
    with pytest.raises(OSError, match="gone"):
        list(ordered_map(str, failing_source(), 2))


def test_prefetch_raises_an_error_of_its_source_after_earlier_items() -> None:
    ahead = prefetch(failing_source(), 4)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(ahead)


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map_reads_at_most_one_item_more_than_its_workers(workers: int) -> None:
    source = Source(100)
    mapped = ordered_map(str, source, workers)
    for given_out in range(1, 20):
        next(mapped)
        time.sleep(0.002)
        assert source.taken <= given_out + workers


@pytest.mark.parametrize("count", [1, 4])
def test_prefetch_reads_exactly_its_count_ahead(count: int) -> None:
    source = Source(100)
    ahead = prefetch(source, count)
    next(ahead)
    assert settled(lambda: source.taken, 1 + count)
    next(ahead)
    assert settled(lambda: source.taken, 2 + count)
    ahead.close()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_prefetch_returns_the_same_items(count: int) -> None:
    assert list(prefetch(range(50), count)) == list(range(50))
    assert list(prefetch([], count)) == []


def test_closing_early_stops_the_threads_and_the_work() -> None:
    before = threading.active_count()
    source = Source(10_000)
    chain = prefetch(ordered_map(str, prefetch(source, 3), 2), 3)
    assert next(chain) == "0"
    chain.close()
    assert settled(threading.active_count, before)
    taken = source.taken
    time.sleep(0.05)
    assert source.taken == taken < 30


def test_closing_early_does_not_wait_for_the_next_result() -> None:
    stop, begun = threading.Event(), Source(1000)

    def slow(item: object) -> object:
        time.sleep(0.02)
        return item

    around = sliding_window(
        ordered_map(slow, until_stopped(stop, prefetch(begun, 2)), 2), 40
    )  # 40 results before its first
    chain = prefetch(ordered_map(slow, around, 2), 4, stop)
    main = threading.get_ident()
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(chain)
    assert begun.taken < 40


@given(st.integers(0, 12), st.integers(0, 3))
def test_every_item_is_once_in_the_middle_of_a_sliding_window(count: int, radius: int) -> None:
    around = list(sliding_window(range(count), radius))
    whole = [*[None] * radius, *range(count), *[None] * radius]
    assert around == [tuple(whole[i : i + 2 * radius + 1]) for i in range(count)]


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
