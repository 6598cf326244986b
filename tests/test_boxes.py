"""GPS that cameras hide from FFmpeg is named when it is lost."""

import struct
from collections.abc import Callable
from pathlib import Path

from vderain.process import Options, process
from vderain.video.boxes import hidden_boxes
from vderain.video.describe import describe


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_gps_records_in_free_boxes_are_seen(clip: Callable[..., Path]) -> None:
    path = clip(frames=3)
    assert hidden_boxes(path) == []
    with path.open("ab") as file:
        file.write(box(b"free", b"freeGPS \0\0\0\0" + bytes(64)))
    assert len(hidden_boxes(path)) == 1
    assert len(describe(path).hidden) == 1


def test_a_gps_index_inside_moov_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", bytes(20)) + box(b"gps ", bytes(16))))
    assert len(hidden_boxes(path)) == 1


def test_sizes_that_make_no_sense_end_the_search(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"\0\0\0", box(b"free") + b"\0\0\0\4free", b"\0\0\0\0free", b"\xff" * 40]):
        path = tmp_path / str(number)
        path.write_bytes(content)
        assert hidden_boxes(path) == []


def test_what_is_lost_is_named_in_the_result(clip: Callable[..., Path], tmp_path: Path) -> None:
    path = clip(frames=3)
    with path.open("ab") as file:
        file.write(box(b"free", b"freeGPS \0\0\0\0" + bytes(64)))
    result = process(path, tmp_path / "out.mp4", Options(strength=0))
    assert any("GPS" in name for name in result.dropped)
