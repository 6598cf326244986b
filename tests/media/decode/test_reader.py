"""The reader: every frame keeps its time, damage is concealed and counted, bad files are refused in one sentence."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from clips import VFR_PTS, Clip, damaged, decoded_pts, make, picture, remux, samples, truncated

from vderain.errors import DamageError, InputError, UsageError
from vderain.media.decode.reader import Damage, VideoReader
from vderain.media.decode.side_data import _COLLECT_AFTER
from vderain.media.decode.timestamps import shows_frame
from vderain.media.frame import Frame

Make = Callable[..., Path]
ROTATED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)  # -90 degrees

CLOCKS = {
    "vfr": Clip(pts=VFR_PTS),
    "b-frames": Clip(frames=20, b_frames=3),
    "late start": Clip(pts=[12345 + 3003 * i for i in range(12)]),
    "24000/1001": Clip(frames=24, time_base=Fraction(1, 24000), rate=Fraction(24000, 1001), b_frames=2),
    "10 fps": Clip(rate=Fraction(10), time_base=Fraction(1, 10240), b_frames=2),
}


def read(path: Path, **options: object) -> tuple[list[Frame], Damage]:
    with VideoReader(path, **options) as reader:  # type: ignore[arg-type]
        return list(reader.frames()), reader.damage


def times(frames: list[Frame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".ts"])
def test_every_frame_has_its_own_pts(tmp_path: Path, name: str, suffix: str) -> None:
    clip = CLOCKS[name]
    path = make(tmp_path / f"clip{suffix}", clip)
    frames, damage = read(path)
    tick = 0 if suffix != ".ts" else Fraction(1, 180000)  # TS has one clock for all, of 1/90000 s
    assert len(frames) == len(clip.times())
    assert all(abs(t - pts * clip.time_base) <= tick for t, pts in zip(times(frames), clip.times(), strict=True))
    assert times(frames) == decoded_pts(path)
    assert damage == Damage()
    assert not any(frame.concealed for frame in frames)


def test_a_start_before_zero_loses_no_frame(clip: Make) -> None:
    path = clip("clip.mkv", pts=[-80 + 40 * i for i in range(10)], time_base=Fraction(1, 1000), rate=Fraction(25))
    frames, damage = read(path)
    assert [frame.pts - frames[0].pts for frame in frames] == [40 * i for i in range(10)]
    assert -90 <= frames[0].pts < 0  # Matroska loses times before zero: these are counted back from the first it keeps
    assert damage == Damage()


def test_a_raw_stream_gets_one_warning_and_a_clock(clip: Make, caplog: pytest.LogCaptureFixture) -> None:
    path = clip("clip.h264", frames=20, b_frames=2, time_base=Fraction(1, 25), rate=Fraction(25))
    frames, _ = read(path)
    assert times(frames) == [Fraction(i, 25) for i in range(20)]
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_frames_come_in_order(clip: Make, codec: str) -> None:
    path = clip("clip.avi", codec=codec, frames=12, b_frames=2, time_base=Fraction(1, 25), rate=Fraction(25))
    frames, damage = read(path)
    assert times(frames) == [Fraction(i, 25) for i in range(12)]
    assert damage == Damage()


def test_durations_and_info(clip: Make) -> None:
    path = clip(pts=VFR_PTS, display_matrix=ROTATED, sample_aspect_ratio=Fraction(4, 3), tags=(9, 16, 9, 1))
    with VideoReader(path) as reader:
        info = reader.info
        frames = list(reader.frames())
    assert [f.duration for f in frames[:-1]] == [b - a for a, b in pairwise(VFR_PTS)]
    assert (info.width_px, info.height_px, info.codec, info.pixel_format) == (64, 48, "h264", "yuv420p")
    assert (info.rotation_deg, info.display_matrix, info.sample_aspect_ratio) == (-90, ROTATED, Fraction(4, 3))
    assert (info.tags.primaries, info.tags.transfer, info.tags.matrix, info.tags.range) == (9, 16, 9, 1)
    assert info.colour.matrix == "bt2020" and not info.colour.full_range
    assert info.time_base == Fraction(1, 90000) and info.frames_estimate == 12 and info.bit_rate


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [
        ("yuv420p", (64, 48)), ("yuv422p", (64, 48)), ("yuv444p", (64, 48)), ("yuv420p", (61, 47)),
        ("yuv422p10le", (64, 48)), ("yuv420p12le", (64, 48)), ("yuv444p10le", (61, 47)), ("gray", (61, 47)),
        ("gray10le", (64, 48)), ("gbrp10le", (64, 48)),
    ],
)  # fmt: skip
def test_planes_are_the_very_samples(clip: Make, pixel_format: str, size: tuple[int, int]) -> None:
    path = clip(
        "clip.mkv", codec="ffv1", pixel_format=pixel_format, size=size, frames=3, encoder_options={"level": "3"}
    )
    frames, _ = read(path)
    for number, frame in enumerate(frames):
        expected = samples(picture(number, pixel_format, size))
        if pixel_format.startswith("gbrp"):
            expected = [expected[2], expected[0], expected[1]]
        assert (frame.colour.matrix == "rgb") == pixel_format.startswith("gbrp")
        assert all(np.array_equal(a, b) for a, b in zip(frame.planes, expected, strict=True))
        chroma = (-(-size[1] // frame.colour.chroma_h), -(-size[0] // frame.colour.chroma_w))
        assert all(plane.shape == chroma for plane in frame.planes[1:])
        assert frame.planes[0].dtype == (np.uint16 if "le" in pixel_format else np.uint8)


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24", "nv12", "yuyv422", "bgra"])
def test_other_formats_become_planes_without_loss(clip: Make, pixel_format: str) -> None:
    path = clip("clip.nut", codec="rawvideo", pixel_format=pixel_format, frames=2, time_base=Fraction(1, 30))
    frames, _ = read(path)
    source = picture(1, pixel_format)
    if "rgb" in pixel_format or "bgr" in pixel_format:
        rgb = source.to_ndarray(format="rgb24")
        assert all(np.array_equal(frames[1].planes[i], rgb[..., i]) for i in range(3))
    elif pixel_format == "nv12":
        chroma = np.frombuffer(source.planes[1], np.uint8).reshape(24, -1)[:, :64]
        assert np.array_equal(frames[1].planes[1], chroma[:, 0::2])
        assert np.array_equal(frames[1].planes[2], chroma[:, 1::2])
    else:
        packed = np.frombuffer(source.planes[0], np.uint8).reshape(48, -1)[:, :128]
        assert np.array_equal(frames[1].planes[0], packed[:, 0::2])
        assert frames[1].planes[1].shape == (48, 32)


def test_untagged_colour_is_guessed_from_the_size(clip: Make) -> None:
    small = clip("small.mp4", frames=2)
    large = clip("large.mp4", frames=2, size=(1280, 64))
    full = clip("full.mov", frames=2, codec="mjpeg", pixel_format="yuvj420p")
    with VideoReader(small) as a, VideoReader(large) as b, VideoReader(full) as c:
        assert (a.info.colour.matrix, b.info.colour.matrix) == ("bt601", "bt709")
        assert not a.info.colour.full_range and c.info.colour.full_range


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("numbers", [(3,), (12, 13, 14), (29,), (5, 15, 25)])
def test_lost_frames_are_concealed(
    tmp_path: Path, clip: Make, suffix: str, b_frames: int, numbers: tuple[int, ...]
) -> None:
    whole = clip(f"whole{suffix}", frames=30, gop=10, b_frames=b_frames)
    frames, damage = read(damaged(whole, tmp_path / f"damaged{suffix}", numbers))
    assert times(frames) == decoded_pts(whole)
    assert damage.frames == sum(frame.concealed for frame in frames) == len(numbers)
    assert damage.events
    for before, frame in pairwise(frames):
        if frame.concealed:
            assert all(np.array_equal(a, b) for a, b in zip(before.planes, frame.planes, strict=True))


def test_a_damaged_beginning_is_concealed_by_the_first_good_frame(tmp_path: Path, clip: Make) -> None:
    whole = clip("whole.mov", frames=10, codec="mjpeg", pixel_format="yuvj420p")
    frames, damage = read(damaged(whole, tmp_path / "damaged.mov", (0, 1)))
    assert [frame.concealed for frame in frames] == [True, True] + [False] * 8
    assert times(frames) == decoded_pts(whole)
    assert np.array_equal(frames[0].planes[0], frames[2].planes[0])
    assert damage.frames == 2 and len(damage.events) == 1


def test_damage_in_avi_is_concealed(tmp_path: Path, clip: Make) -> None:
    whole = clip("whole.avi", frames=30, gop=10, codec="mpeg4", time_base=Fraction(1, 30))
    for numbers in [(0,), (5, 15), (29,)]:
        frames, damage = read(damaged(whole, tmp_path / "damaged.avi", numbers))
        assert [i for i, frame in enumerate(frames) if frame.concealed] == list(numbers)
        assert len(frames) == 30 and damage.frames == len(numbers)


def test_strict_stops_at_damage(tmp_path: Path, clip: Make) -> None:
    broken = damaged(clip(frames=30), tmp_path / "damaged.mp4", (7,))
    with VideoReader(broken, strict=True) as reader, pytest.raises(DamageError, match=r"0\.2\d\d s"):
        list(reader.frames())


def test_a_truncated_file_gives_what_it_has(tmp_path: Path, clip: Make) -> None:
    whole = clip(frames=40, muxer_options={"movflags": "+faststart"}, audio="aac")
    cut = truncated(whole, tmp_path / "cut.mp4", 0.6)
    frames, damage = read(cut)
    assert 10 < len(frames) < 35
    assert len(frames) + damage.missing == 40
    assert damage.frames <= 1  # the packet that was cut in two
    assert "ends early" in damage.events[-1]
    with VideoReader(cut, strict=True) as reader, pytest.raises(DamageError):
        list(reader.frames())


def test_a_lost_frame_without_a_timestamp_is_counted_as_missing(tmp_path: Path, clip: Make) -> None:
    """FFmpeg gives packets of an FLV file no time from a negative composition time on."""
    source = clip("whole.flv", frames=10, gop=20, time_base=Fraction(1, 1000), rate=Fraction(25))
    data = bytearray(source.read_bytes())
    at = 13  # behind the header; a tag is its type, size (3 bytes), time (4), stream (3), data, and its size again
    tags = []
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        tags.append((at + 11, size))
        at += size + 15
    begin, size = [(begin, size) for begin, size in tags if data[begin : begin + 2] == b"\x27\x01"][4]
    data[begin + 2 : begin + size] = b"\xff" * (size - 2)  # composition time -1, and no NAL unit
    (tmp_path / "lost.flv").write_bytes(data)
    frames, damage = read(tmp_path / "lost.flv")
    assert len(frames) + damage.missing == 10 and damage.missing + damage.frames == 1
    with VideoReader(tmp_path / "lost.flv", strict=True) as reader, pytest.raises(DamageError):
        list(reader.frames())


def test_audio_of_an_unknown_codec_is_no_obstacle(tmp_path: Path, clip: Make) -> None:
    data = clip(frames=6, audio="aac").read_bytes()
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"mp4a", b"xyza"))
    frames, damage = read(tmp_path / "odd.mp4")
    assert len(frames) == 6 and damage == Damage()


def test_repeated_packets_are_counted_and_are_no_damage(
    tmp_path: Path, clip: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(clip("whole.flv", frames=6, gop=20, time_base=Fraction(1, 1000)).read_bytes())
    begin = data.index(b"\x27\x01") - 11  # the tag of a frame that is no keyframe
    tag = data[begin : begin + 15 + int.from_bytes(data[begin + 1 : begin + 4], "big")]
    data[begin:begin] = tag * 3
    (tmp_path / "more.flv").write_bytes(data)
    frames, damage = read(tmp_path / "more.flv")
    told = [record.getMessage() for record in caplog.records if "without a picture" in record.getMessage()]
    left_out = sum(int(text.rpartition(" ")[2].rstrip(".")) for text in told)
    assert len(frames) + damage.missing + left_out == 9 and len(frames) >= 6


def test_the_mark_that_ends_a_sequence_is_no_lost_frame(
    tmp_path: Path, clip: Make, caplog: pytest.LogCaptureFixture
) -> None:
    mark = bytes.fromhex("000000010a")
    ended = remux(clip(frames=8, gop=20), tmp_path / "e.mp4", lambda n, data: mark if n == 7 else data)
    frames, damage = read(ended)
    assert len(frames) == 7 and damage == Damage()
    assert "'e.mp4': packets without a picture: 1." in caplog.text


MATROSKA = Clip(frames=75, rate=Fraction(25), gop=12, b_frames=2, audio="aac", time_base=Fraction(1, 1000))


def test_a_truncated_matroska_file_gives_what_it_has(tmp_path: Path) -> None:
    """Matroska does not list its frames, so none can be said to be missing."""
    cut = truncated(make(tmp_path / "whole.mkv", MATROSKA), tmp_path / "cut.mkv", 0.6)
    frames, damage = read(cut)
    assert 20 < len(frames) < 75 and damage.missing == 0


@pytest.mark.parametrize(
    ("name", "clip"),
    {
        "pauses.mkv": Clip(pts=[0, 40, 80, 5000, 5040, 9000], time_base=Fraction(1, 1000), rate=Fraction(25)),
        "live.mkv": replace(MATROSKA, muxer_options={"live": "1"}),
        "sound.mkv": replace(MATROSKA, pts=[40 * n for n in range(50)] + [9000], audio_start_s=Fraction(2)),
        "repeats.avi": Clip(pts=[0, 2, 3, 4, 8, 9], codec="mpeg4", time_base=Fraction(1, 25), rate=Fraction(25)),
    }.items(),
)
def test_intact_files_are_not_called_damaged(tmp_path: Path, name: str, clip: Clip) -> None:
    frames, damage = read(make(tmp_path / name, clip))
    assert len(frames) == len(clip.times()) and damage == Damage()


def test_a_packet_promises_a_picture_where_it_shows_one() -> None:
    """VP9: a hidden frame alone does not, one in a packet with a shown frame does."""
    hidden, shown = b"\x84\0", b"\x86\0"
    index = bytes([0b110_00_001, len(hidden), len(shown), 0b110_00_001])
    for data, expected in ((hidden, False), (shown, True), (hidden + shown + index, True)):
        assert shows_frame("vp9", av.Packet(data)) == expected


def test_a_second_pass_starts_afresh(tmp_path: Path, clip: Make) -> None:
    with VideoReader(damaged(clip(frames=20), tmp_path / "damaged.mp4", (7,))) as reader:
        first = times(list(reader.frames()))
        assert times(list(reader.frames())) == first
        assert reader.damage.frames == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_start_and_duration_choose_frames(clip: Make, suffix: str) -> None:
    b_frames = 0 if suffix == ".avi" else 2
    path = clip(f"clip{suffix}", frames=40, gop=7, b_frames=b_frames, time_base=Fraction(1, 20), rate=Fraction(20))
    whole, _ = read(path)
    part, damage = read(path, start_s=0.6, duration_s=0.5)
    assert damage == Damage()
    assert part[0].pts == 0
    chosen = [frame for frame in whole if 0.6 <= float(frame.pts * frame.time_base - times(whole)[0]) < 1.1 - 1e-6]
    assert len(part) == len(chosen) == 10
    assert [t - times(chosen)[0] for t in times(chosen)] == times(part)
    assert all(np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(part, chosen, strict=True))


@pytest.mark.parametrize("begins_s", [(0, 0), (100, 3)])
def test_a_part_of_a_joined_recording_is_chosen_on_its_one_clock(tmp_path: Path, begins_s: tuple[int, int]) -> None:
    """A recorder that begins to count anew: the same time may come twice in the file."""
    path = tmp_path / "joined.ts"
    for number, begin_s in enumerate(begins_s):
        pts = [begin_s * 90000 + 3600 * n for n in range(50)]
        one = make(tmp_path / f"{number}.ts", Clip(pts=pts, rate=Fraction(25), b_frames=2, gop=10))
        with path.open("ab") as file:
            file.write(one.read_bytes())
    whole, _ = read(path)
    assert [t - times(whole)[0] for t in times(whole)] == [Fraction(n, 25) for n in range(100)]
    for first in (0, 13, 49, 50, 51, 73):
        part, damage = read(path, start_s=first / 25, duration_s=0.4)
        assert damage == Damage() and len(part) == 10
        pairs = zip(part, whole[first : first + 10], strict=True)
        assert all(np.array_equal(a.planes[0], b.planes[0]) for a, b in pairs), first


def test_a_part_that_is_empty_is_a_usage_error(clip: Make) -> None:
    path = clip(frames=10)
    with VideoReader(path, start_s=5) as reader, pytest.raises(UsageError):
        list(reader.frames())
    for wrong in ({"start_s": -1.0}, {"duration_s": 0.0}):
        with pytest.raises(UsageError), VideoReader(path, **wrong):
            pass


def test_what_is_not_a_video_is_refused(tmp_path: Path, clip: Make) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("This is no video.\n" * 50)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame) + stream.encode(None))
    cut = truncated(clip(frames=20), tmp_path / "cut.mp4", 0.5)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/x.ts\n#EXT-X-ENDLIST\n")
    for path, words in [
        (tmp_path / "none.mp4", "does not exist"), (tmp_path, "directory"), (empty, "empty"), (text, "not a video"),
        (sound, "no video"), (cut, "index"), (playlist, "not a video"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words) as caught, VideoReader(path):
            pass
        assert caught.value.what.endswith(".") and caught.value.cure.endswith(".")


def test_names_may_hold_anything(tmp_path: Path, clip: Make) -> None:
    folder = tmp_path / "dash cam: größe %d 雨"
    folder.mkdir()
    path = clip(frames=3).rename(folder / "my clip #1 'é'.mp4")
    assert len(read(path)[0]) == 3


def test_ffmpeg_is_silent(tmp_path: Path, clip: Make, capfd: pytest.CaptureFixture[str]) -> None:
    read(damaged(clip(frames=20), tmp_path / "damaged.mp4", (3, 4)))
    assert capfd.readouterr() == ("", "")


def test_pictures_that_were_read_do_not_stay_in_memory(clip: Make) -> None:
    """Side data and its picture hold each other until the collector parts them, which here must be asked to."""
    source = clip(frames=90)
    gc.collect()
    gc.disable()
    try:
        read(source)
        left = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left <= _COLLECT_AFTER


def with_unlisted_packets(source: Path, target: Path) -> Path:
    """A transport stream with packets in its last third whose PID no table lists, as dashcams write GPS positions."""
    pes = b"\0\0\1\xbd" + (43).to_bytes(2, "big") + b"\x80\0\0" + b"position" * 5
    stuffing = bytes([183 - len(pes), 0]) + b"\xff" * (182 - len(pes))
    unlisted = b"\x47\x43\x00\x30" + stuffing + pes
    content = source.read_bytes()
    cut = len(content) // 188 * 2 // 3 * 188
    target.write_bytes(content[:cut] + unlisted * 3 + content[cut:])
    return target


def test_streams_that_the_header_does_not_list_are_named(clip: Make, tmp_path: Path) -> None:
    # FFmpeg probes the first seconds only; the last third comes later.
    whole = clip("clip.ts", frames=60, rate=Fraction(1), time_base=Fraction(1, 90000))
    with VideoReader(with_unlisted_packets(whole, tmp_path / "gps.ts")) as reader:
        assert len(list(reader.frames())) == 60
    assert reader.damage == Damage()
    assert reader.dropped == ["unknown stream #1 (none), which the header does not list"]


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".h264"])
def test_packets_before_the_first_keyframe_are_lost_frames(clip: Make, tmp_path: Path, suffix: str) -> None:
    whole = clip("whole.mp4", frames=20, gop=10, rate=Fraction(25), time_base=Fraction(1, 25))
    headless = remux(whole, tmp_path / f"headless{suffix}", lambda number, data: data if number > 6 else None)
    frames, damage = read(headless)
    assert len(frames) == 13
    assert [frame.concealed for frame in frames] == [True] * 3 + [False] * 10
    assert damage.frames == 3 and damage.events[0].startswith("3 lost frames concealed")
    with pytest.raises(DamageError, match="is damaged"):
        read(headless, strict=True)


def test_a_keyframe_sent_before_an_error_does_not_hide_the_lost_frame(clip: Make, tmp_path: Path) -> None:
    whole = clip("whole.mp4", frames=20, gop=10, b_frames=0, rate=Fraction(25), time_base=Fraction(1, 12800))
    broken = damaged(whole, tmp_path / "broken.mp4", [11])
    frames, damage = read(broken)
    assert len(frames) == 20
    assert damage.frames >= 1
