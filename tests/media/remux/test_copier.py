"""The copy of other streams: each packet is there, at its instant, whatever the demuxer says or does not say of it."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from clips import Clip, decoded_pts, make, packets
from fidelity.sources import assemble, film, mov_text, sound

from vderain.media.describe import describe
from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, Result, process

QUICK = EncodeOptions(codec="h264", preset="ultrafast")


def untouched(source: Path, target: Path, **choices: Any) -> Result:
    return process(source, target, Options(strength=0, encode=QUICK, **choices))


def data_of(path: Path, index: int) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams[index]) if packet.size]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_second_video_out_of_order_in_matroska(tmp_path: Path, suffix: str) -> None:
    """Matroska says when pictures are shown, and not when they are decoded."""
    clip = Clip(frames=50, b_frames=3, gop=10, rate=Fraction(25))
    source = assemble(tmp_path / "in.mkv", clip, [film(clip)])
    result = untouched(source, tmp_path / f"out{suffix}")
    assert result.dropped == ()
    assert data_of(source, 1) == data_of(result.target, 1)


def test_sound_hidden_by_an_edit_list_is_not_heard(tmp_path: Path) -> None:
    """Where no edit list can hide it; the lead-in, which a decoder needs, stays."""
    source = assemble(tmp_path / "in.mp4", Clip(), [sound("aac", start_s=Fraction(-3, 10), seconds=0.8)])
    whole = packets(source, "audio")
    assert packets(untouched(source, tmp_path / "out.mp4").target, "audio") == whole and whole[0][0] < -0.3
    times = [packet[0] for packet in packets(untouched(source, tmp_path / "out.mkv").target, "audio")]
    assert -0.05 < times[0] < 0 and len(times) < len(whole)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_subtitle_on_the_screen_when_a_part_begins(tmp_path: Path, suffix: str) -> None:
    source = assemble(tmp_path / "in.mp4", Clip(frames=30), [mov_text()])  # four, of .1 s each
    written = packets(untouched(source, tmp_path / f"out{suffix}", start_s=0.15).target, "subtitle")
    spans = [(float(p[0]), float(p[2])) for p in written if p[3] != b"\0\0"]
    begin_s = next(float(t) for t in decoded_pts(source) if t >= 0.15)
    assert spans[0] == pytest.approx((0, 0.2 - begin_s), abs=0.002) and len(spans) == 3
    assert spans[1] == pytest.approx((0.2 - begin_s, 0.1), abs=0.002)


def test_sound_lasts_into_the_next_recording(tmp_path: Path) -> None:
    """Files that were joined byte by byte: the sound of the first is a little longer than its pictures."""
    clip = Clip(pts=[90000 + 3600 * n for n in range(25)], rate=Fraction(25))
    one = assemble(tmp_path / "one.ts", clip, [sound("aac", start_s=Fraction(99, 100), seconds=1.05)])
    source = tmp_path / "in.ts"
    source.write_bytes(one.read_bytes() * 2)
    result = untouched(source, tmp_path / "out.mp4")
    assert result.dropped == () and len(packets(result.target, "audio")) == len(packets(source, "audio"))


def with_sampling_rate_zero(path: Path) -> Path:
    """A Matroska file of which the audio track claims 0 samples a second."""
    rate = b"\xb5\x88" + struct.pack(">d", 48000)  # SamplingFrequency
    content = path.read_bytes()
    assert content.count(rate) == 1
    path.write_bytes(content.replace(rate, b"\xb5\x88" + bytes(8)))
    return path


def test_audio_with_a_sampling_rate_of_zero_is_left_out(tmp_path: Path) -> None:
    source = with_sampling_rate_zero(make(tmp_path / "in.mkv", Clip(audio="tta")))
    assert describe(source).streams[1].becomes is None
    assert untouched(source, tmp_path / "out.mp4").target.is_file()


def with_a_late_packet(source: Path, target: Path, late_s: int) -> Path:
    """A copy of a file whose last packet of audio has a timestamp that is far too late."""
    with av.open(str(source)) as input_, av.open(str(target), "w") as output:
        streams = {each.index: output.add_stream_from_template(each, opaque=True) for each in input_.streams}
        packets = [packet for packet in input_.demux() if packet.size]
        last = [packet for packet in packets if packet.stream.type == "audio"][-1]
        last.pts = last.dts = last.pts + int(late_s / last.time_base)
        for packet in packets:
            packet.stream = streams[packet.stream_index]
            output.mux_one(packet)
    return target


def test_days_of_silence_are_not_encoded(tmp_path: Path) -> None:
    source = with_a_late_packet(
        make(tmp_path / "a.mkv", Clip(frames=60, audio="wavpack")), tmp_path / "in.mkv", 100_000
    )
    result = untouched(source, tmp_path / "out.mp4")
    assert result.dropped == ("1 packet of audio #1 (wavpack)",)
    with av.open(str(result.target)) as container:
        assert container.duration < 10 * av.time_base
