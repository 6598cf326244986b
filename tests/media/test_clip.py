"""How often the input of ``process`` is opened."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from clips import Clip, make

from vderain.media.encode import EncodeOptions
from vderain.process import Options, Progress, process

OPENS_MAX = 3  # by the probe, by the stream copier and by the decoder


@pytest.fixture
def count_opens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Records every open of a file, by Python (an audit hook) and by FFmpeg (``av.open``)."""
    watched: list[Path] = []
    opened: list[str] = []

    def note(name: object, by: str) -> None:
        if watched and isinstance(name, str | bytes | Path) and Path(str(name)) == watched[0]:
            opened.append(by)

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event == "open":
            note(details[0], "Python")

    open_with_ffmpeg = av.open

    def av_open(file: object, *args: Any, **options: Any) -> Any:
        note(file, "FFmpeg")
        return open_with_ffmpeg(file, *args, **options)  # type: ignore[call-overload]

    @contextmanager
    def count(path: Path) -> Iterator[list[str]]:
        watched.append(path)
        try:
            yield opened
        finally:
            watched.clear()

    sys.addaudithook(hook)  # stays until Python ends, and does nothing then
    monkeypatch.setattr(av, "open", av_open)
    return count


def test_the_input_is_opened_three_times_before_the_first_frame_is_written(
    tmp_path: Path, tiny: Path, count_opens: Callable[[Path], Any]
) -> None:
    source = make(tmp_path / "in.mp4", Clip(frames=6, audio="aac"))
    options = Options(model=str(tiny), precision="fp32", encode=EncodeOptions(preset="ultrafast"))
    opened_at_first: list[str] = []
    with count_opens(source) as opened:

        def on_progress(progress: Progress) -> None:
            if progress.frames == 1:
                opened_at_first.extend(opened)

        process(source, tmp_path / "out.mp4", options, on_progress=on_progress)
    assert "Python" in opened_at_first and "FFmpeg" in opened_at_first  # both are counted
    assert len(opened_at_first) <= OPENS_MAX
