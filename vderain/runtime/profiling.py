"""Measures the processor time of each stage of a job, across threads.

A stage is a function marked with `@stage("name")`. It costs nothing to speak of unless `measure_stages` is active in
the current context, which `ordered_map` and `prefetch` carry into their threads.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_seconds: ContextVar[dict[str, float] | None] = ContextVar("stage_seconds", default=None)
_lock = Lock()


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
