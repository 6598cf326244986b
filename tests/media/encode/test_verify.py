"""What the second look at a finished file finds to be missing, and what it finds to be there in other words."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from clips import Clip, make, packets, truncated

from vderain.media.decode.reader import VideoReader
from vderain.media.describe import describe
from vderain.media.encode.verify import lost_chapters, lost_tags
from vderain.media.encode.writer import VideoWriter

Make = Callable[..., Path]
MILLISECONDS = Fraction(1, 1000)


def copied(source: Path, target: Path) -> VideoWriter:
    with VideoReader(source) as reader, VideoWriter(target, reader) as writer:
        for frame in reader.frames():
            writer.write(frame)
    return writer


@pytest.mark.parametrize(
    ("before", "after", "is_one"),
    [
        ("+48.1+011.5/", "+48.1000+011.5000/", True),
        ("+48.12344-011.5+500.25/", "+48.1234-011.5000+500.250/", True),
        ("+48.1+011.5+0/", "+48.1000+011.5000/", True),
        ("+48.1+011.5/", "+48.1010+011.5000/", False),
        ("+48.1+011.5+500/", "+48.1000+011.5000/", False),
        ("Munich", "Munic", False),
    ],
)
def test_a_place_is_the_same_in_other_digits(before: str, after: str, is_one: bool) -> None:
    assert lost_tags({"LOCATION": before}, {"location": after}) == ([] if is_one else ["LOCATION"])


def chapter(**metadata: str) -> dict[str, Any]:
    return {"id": 1, "start": 0, "end": 200, "time_base": MILLISECONDS, "metadata": metadata}


def test_tags_of_chapters_that_are_lost_are_named() -> None:
    wanted = [chapter(title="Rain", language="deu", artist="A"), chapter(title="Sun", language="deu")]
    assert lost_chapters(wanted, wanted) == []
    assert lost_chapters(wanted, [chapter(TITLE="Rain", ARTIST="A", LANGUAGE="ger"), wanted[1]]) == []
    bare = [chapter(title="Rain"), chapter(title="Sun")]
    assert lost_chapters(wanted, bare) == ["tags of chapters (artist, language)"]
    assert lost_chapters(bare, wanted) == []


def test_a_stream_whose_packets_are_cut_off_is_not_blamed_on_the_container(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fragmented = {"movflags": "frag_keyframe+empty_moov"}  # one fragment: sound lies behind all pictures
    whole = make(tmp_path / "whole.mp4", Clip(frames=30, gop=60, audio="aac", muxer_options=fragmented))
    source = truncated(whole, tmp_path / "in.mp4", 0.6)
    assert packets(source, "audio") == []
    assert copied(source, tmp_path / "out.mp4").dropped == []
    assert "'in.mp4' has empty streams: audio #1 (aac, eng)." in caplog.messages


def with_checksum(section: bytes) -> bytes:
    """A table of a transport stream with its CRC-32 (ISO 13818-1, annex A), padded to a packet's end."""
    crc = 0xFFFFFFFF
    for byte in section:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return (section + crc.to_bytes(4)).ljust(183, b"\xff")


def two_programs(path: Path) -> Path:
    """A transport stream that has its one program twice."""
    data = make(path.with_name("plain.ts"), Clip(frames=5)).read_bytes()
    made = b""
    for packet in (data[at : at + 188] for at in range(0, len(data), 188)):
        number, table = int.from_bytes(packet[1:3]) & 0x1FFF, packet[5:-1]
        if number == 0:  # the table of programs
            made += packet[:5] + with_checksum(b"\x00\xb0\x11" + table[3:12] + b"\x00\x02\xf0\x01")
            continue
        made += packet
        if number == 0x1000:  # the table of the first one's streams
            size = 3 + int.from_bytes(table[1:3]) % 0x1000 - 4
            made += b"\x47\x50\x01" + packet[3:5] + with_checksum(table[:3] + b"\x00\x02" + table[5:size])
    path.write_bytes(made)
    return path


def test_programs_that_become_one_are_named(tmp_path: Path) -> None:
    source = two_programs(tmp_path / "in.ts")
    words = "2 programs (their streams are in one)"
    assert copied(source, tmp_path / "out.mp4").dropped == [words]
    assert copied(tmp_path / "plain.ts", tmp_path / "one.mp4").dropped == []
    assert [(part.name, part.kept) for part in describe(source).hidden] == [(words, False)]


def stereoscopic(path: Path) -> Path:
    """A Matroska of pictures for both eyes, side by side."""
    plain = make(path.with_name("plain.mkv"), Clip(frames=3, time_base=MILLISECONDS))
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        stream.metadata["stereo_mode"] = "left_right"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


def test_a_stereoscopic_layout_is_lost_only_where_it_is(tmp_path: Path) -> None:
    layout = "stereoscopic layout in the frames"
    source = stereoscopic(tmp_path / "in.mkv")
    assert copied(source, tmp_path / "out.mkv").dropped == []
    assert layout in copied(source, tmp_path / "out.mp4").dropped
    for suffix, is_kept in ((".mkv", True), (".mp4", False)):
        assert [part.kept for part in describe(source, suffix).hidden if part.name == layout] == [is_kept]
