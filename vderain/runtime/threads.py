"""Work done by several threads, in order: iterators enter and leave, nothing else of the program knows of threads.

On a CPU whole frames are worked on side by side, each by one thread. Splitting one frame over all cores instead loses
its time at the barriers between layers as soon as anything else runs, and decoding and encoding always run.
"""

import ctypes
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock
from typing import Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")


M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE_BYTES = 4 * 2**20


def configure_malloc() -> None:
    """Keep freed pictures from staying resident.

    Pictures of many sizes are made by one thread and freed by another, so that heaps fill with holes. Two settings of
    glibc prevent it: one heap instead of one for each thread, and large blocks outside it, gone as soon as they are
    freed. Mapping those anew costs little in huge pages, which torch asks for where it is told to. Where there is no
    glibc nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """Hand the holes in the heap back to the system: between large pictures of many sizes they add up.

    Costs some milliseconds. Where there is no glibc nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class StageClock:
    """Processor time by stage, whichever threads worked for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = Lock()

    def timed(self, stage: str, function: Callable[[T], U]) -> Callable[[T], U]:
        """The same function, its time counted to a stage."""

        def counted(item: T) -> U:
            started_s = time.thread_time()
            try:
                return function(item)
            finally:
                with self._lock:
                    self.seconds[stage] = self.seconds.get(stage, 0.0) + time.thread_time() - started_s

        return counted


class Timed(Protocol):
    """`StageClock.timed`, or `untimed`."""

    def __call__(self, stage: str, function: Callable[[T], U], /) -> Callable[[T], U]: ...


def untimed(stage: str, function: Callable[[T], U]) -> Callable[[T], U]:
    """The function itself, for those who do not want to know."""
    return function


def ordered_map(function: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """``map`` by `workers` threads: results in the order of `items`, at most ``workers + 1`` of them waiting.

    What `function` or `items` raises is raised here, where its result would have come.
    """
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def until_stopped(stop: Event, items: Iterable[T]) -> Iterator[T]:
    """The same items until `stop` is set: then `CancelledError`, so that nobody works on for a result nobody wants."""
    for item in items:
        if stop.is_set():
            raise CancelledError
        yield item


def prefetch(items: Iterable[T], count: int, stop: Event | None = None) -> Generator[T, None, None]:
    """The same items, taken by a thread of their own up to `count` ahead of whoever asks; sets `stop` at the end."""
    source = iter(items)
    end = object()
    waiting: deque[Future[T | object]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for _ in range(max(1, count)):
                waiting.append(pool.submit(next, source, end))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, source, end))
                yield item  # type: ignore[misc]
        finally:
            if stop is not None:
                stop.set()  # before waiting for the thread, which may be waiting for many others
            for future in waiting:
                future.cancel()


def sliding_window(items: Iterable[T], radius: int) -> Iterator[tuple[T | None, ...]]:
    """Each item with the `radius` before and after it, None past the ends: tuples of ``2 * radius + 1``."""
    window: deque[T | None] = deque([None] * (2 * radius + 1), maxlen=2 * radius + 1)
    seen = 0
    for item in items:
        window.append(item)
        seen += 1
        if seen > radius:
            yield tuple(window)
    for ahead in range(radius):
        window.append(None)
        if seen + ahead >= radius:
            yield tuple(window)
