"""Fixtures that every test may use."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clips import Clip, make


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Errors are raised, not logged: a test during which one is logged fails."""
    yield
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, errors


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Makes a clip: ``clip("name.mp4", frames=8, ...)``; the keywords are those of ``Clip``."""

    def build(name: str = "clip.mp4", **properties: object) -> Path:
        return make(tmp_path / name, Clip(**properties))  # type: ignore[arg-type]

    return build
