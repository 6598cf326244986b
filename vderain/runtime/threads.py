"""Ordered multithreading for iterators (parallel map, read-ahead, sliding windows), and the time that its stages take.

On a CPU whole frames are processed side by side, one thread each. Splitting one frame over all cores instead loses
time at the barriers between layers whenever anything else runs, and decoding and encoding always run.

A stage is a function marked with `@stage("name")`. Its processor time is counted while `measure_stages` is active in
the current context, which `ordered_map` and `prefetch` copy into their threads; elsewhere it costs next to nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import wraps
from threading import Event, Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")

_seconds: ContextVar[dict[str, float] | None] = ContextVar("stage_seconds", default=None)
_lock = Lock()


class StopFlag:
    """Set once, by a signal handler if need be. A handler that sets a `threading.Event` may wait for a lock forever.

    The lock would be held by what the signal interrupted: the main thread in ``wait``, or another handler in ``set``.
    """

    _set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def ordered_map(function: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """``map`` with a pool of threads: results in the order of `items`, at most ``workers + 1`` in flight.

    An exception of `function` or `items` is raised where its result would have come.

    Args:
        function: called once for each item, in a worker thread.
        items: consumed in the caller's thread, as results are taken.
        workers: number of threads.
    """
    in_flight: deque[Future[U]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                in_flight.append(pool.submit(copy_context().run, function, item))
                if len(in_flight) > workers:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        finally:
            for future in in_flight:
                future.cancel()


def until_stopped(stop: Event, items: Iterable[T]) -> Iterator[T]:
    """The same items until `stop` is set.

    Args:
        stop: set by whoever consumes the results, see `prefetch`.
        items: any items.

    Raises:
        CancelledError: `stop` is set; the exception ends every stage downstream.
    """
    for item in items:
        if stop.is_set():
            raise CancelledError
        yield item


def prefetch(items: Iterable[T], count: int, stop: Event | None = None) -> Generator[T, None, None]:
    """The same items, read ahead by a thread of their own.

    Args:
        items: consumed in that thread.
        count: items to read ahead; at least 1.
        stop: set when the generator ends or is closed, so that a source under `until_stopped` ends as well.
    """
    source, context = iter(items), copy_context()
    end = object()

    def read() -> T | object:
        return context.run(lambda: next(source, end))

    waiting: deque[Future[T | object]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for _ in range(max(1, count)):
                waiting.append(pool.submit(read))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(read))
                yield item  # type: ignore[misc]
        finally:
            if stop is not None:
                stop.set()  # before waiting for the thread, which may be waiting for many others
            for future in waiting:
                future.cancel()


def sliding_window(items: Iterable[T], radius: int) -> Iterator[tuple[T | None, ...]]:
    """Each item with its neighbours.

    Args:
        items: any items.
        radius: neighbours on each side.

    Returns:
        Tuples of ``2 * radius + 1`` items with one item in the middle; None past the ends.
    """
    window: deque[T | None] = deque([None] * (2 * radius + 1), maxlen=2 * radius + 1)
    count = 0
    for item in items:
        window.append(item)
        count += 1
        if count > radius:
            yield tuple(window)
    for missing in range(radius):
        window.append(None)
        if count + missing >= radius:
            yield tuple(window)


@contextmanager
def measure_stages() -> Iterator[dict[str, float]]:
    """Collect the processor time of every stage that runs inside the ``with`` block.

    Yields:
        Seconds by stage name, filled in while the block runs.
    """
    seconds: dict[str, float] = {}
    token = _seconds.set(seconds)
    try:
        yield seconds
    finally:
        _seconds.reset(token)


def stage(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Count a function's processor time, in its own thread, towards the stage `name`.

    Stages must not call each other: the inner one would be counted twice.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            seconds = _seconds.get()
            if seconds is None:
                return function(*args, **kwargs)
            started_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed_s = time.thread_time() - started_s
                with _lock:
                    seconds[name] = seconds.get(name, 0.0) + elapsed_s

        return measured

    return decorate
