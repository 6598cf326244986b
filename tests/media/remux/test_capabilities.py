"""Streams that change their form because the container asks for it: the same sound, the same words, the same time."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import Clip, make, packets, remux, truncated
from fidelity.rows import resized
from fidelity.snapshot import snapshot
from fidelity.sources import assemble, interlaced, sound, telemetry, text, with_clean_aperture

from vderain.errors import DamageError
from vderain.media.decode.deinterlace import shows_fields
from vderain.media.decode.reader import VideoReader
from vderain.media.describe import describe
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.mp4.boxes import rename_entries, sample_entries
from vderain.process import Options, Result, process

LOSSLESS = EncodeOptions(codec="ffv1")
QUICK = EncodeOptions(codec="h264", preset="ultrafast")


def untouched(source: Path, target: Path, encode: EncodeOptions = QUICK, **choices: Any) -> Result:
    return process(source, target, Options(strength=0, encode=encode, **choices))


def heard(path: Path) -> tuple[Fraction, Any]:
    """When a sound begins, and its samples between -1 and 1."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        scale = {"u8": 128.0, "s16": 32768.0, "s32": 2.0**31, "flt": 1.0}[frames[0].format.name.removesuffix("p")]
        values = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(float)
        silence = 128.0 if frames[0].format.name.startswith("u8") else 0.0
        return frames[0].pts * frames[0].time_base, (values - silence) / scale


@pytest.mark.parametrize(("codec", "rate", "suffix"), [("pcm_u8", 48000, ".mp4"), ("pcm_alaw", 8000, ".mkv")])
def test_pcm_that_does_not_fit_loses_no_sample(tmp_path: Path, codec: str, rate: int, suffix: str) -> None:
    source = assemble(tmp_path / "in.mov", Clip(), [sound(codec, rate=rate, start_s=Fraction(1, 10))])
    result = untouched(source, tmp_path / f"out{suffix}")
    assert result.changed == (f"audio #1 ({codec}) written as pcm_s16le without loss",) and result.dropped == ()
    (begin, before), (begin_after, after) = heard(source), heard(result.target)
    assert np.array_equal(before, after)
    assert abs(begin - begin_after) < Fraction(1, 1000)


def test_flac_in_mov_becomes_alac_of_the_same_samples(tmp_path: Path) -> None:
    source = assemble(tmp_path / "in.mkv", Clip(), [sound("flac")])
    before, after = heard(source), heard(untouched(source, tmp_path / "out.mov").target)
    assert np.array_equal(before[1], after[1])


def test_sound_that_is_encoded_anew_stays_where_it_was(tmp_path: Path) -> None:
    source = assemble(tmp_path / "in.mkv", Clip(frames=60), [sound("libopus", start_s=Fraction(3, 10), seconds=1)])
    result = untouched(source, tmp_path / "out.mov")
    assert abs(_onset_s(source) - _onset_s(result.target)) < Fraction(2, 1000)
    assert result.changed == ("audio #1 (opus) written as aac",)


def _onset_s(path: Path) -> Fraction:
    """When a tone is first heard at half its loudness."""
    begin, samples = heard(path)
    return begin + Fraction(int(np.argmax(np.abs(samples) > 0.12)), 48000)


def test_the_part_of_a_recoded_sound_is_the_part_of_the_pictures(tmp_path: Path) -> None:
    source = assemble(tmp_path / "in.mkv", Clip(frames=60), [sound("libopus", seconds=2)])
    result = untouched(source, tmp_path / "out.mov", start_s=0.5, duration_s=0.6)
    times = [packet[0] for packet in packets(result.target, "audio")]
    assert -0.07 < times[0] < 0.03 and 0.5 < times[-1] < 0.62


@pytest.mark.parametrize("top_first", [True, False])
def test_fields_become_whole_pictures(tmp_path: Path, top_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    source = interlaced(tmp_path / "in.mkv", "ffv1", top_first, frames=6)
    with caplog.at_level(logging.WARNING):
        result = untouched(source, tmp_path / "out.mkv", LOSSLESS)
    assert result.frames == 6 and result.changed == ("interlaced frames (deinterlaced)",)
    assert [r.getMessage() for r in caplog.records][:1] == ["'in.mkv' is interlaced and is deinterlaced (bwdif)."]
    with av.open(str(source)) as a, av.open(str(result.target)) as b:
        for before, after in zip(a.decode(video=0), b.decode(video=0), strict=True):
            old, new = (np.asarray(f.to_ndarray(format="gray"), int) for f in (before, after))
            kept = slice(0 if top_first else 1, None, 2)
            assert np.array_equal(old[kept], new[kept])  # the earlier field is the file's own
            assert not after.interlaced_frame


@pytest.mark.parametrize("top_first", [True, False])
def test_a_wrong_flag_is_not_believed(tmp_path: Path, top_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Until a comb is seen on the way; no picture comes twice, too late or not at all."""
    source = interlaced(tmp_path / "in.mkv", "ffv1", top_first, frames=60, whole=40)
    assert not describe(source).interlaced
    with caplog.at_level(logging.INFO):
        result = untouched(source, tmp_path / "out.mkv", LOSSLESS)
    assert "its frames are progressive" in caplog.text and result.changed == ("interlaced frames (deinterlaced)",)
    before, after = snapshot(source), snapshot(result.target)
    same = [a == b for a, b in zip(before.pictures, after.pictures, strict=True)]
    assert all(same[:40]) and not any(same[43:])
    assert before.times == after.times


@pytest.mark.parametrize("moves", [True, False])
def test_a_flag_is_believed_where_nothing_speaks_against_it(tmp_path: Path, moves: bool) -> None:
    """Three whole pictures of five, as in film made interlaced, or a picture that stands still."""
    source = interlaced(tmp_path / "in.mkv", "ffv1", frames=40)
    with av.open(str(source)) as container:
        pictures = list(container.decode(video=0))
    if not moves:
        pictures = pictures[:1] * 40
    assert shows_fields(iter(pictures))
    whole = interlaced(tmp_path / "whole.mkv", "ffv1", frames=40, whole=40)
    with av.open(str(whole)) as container:
        progressive = list(container.decode(video=0))
    assert not shows_fields(iter(progressive))
    telecined = [progressive[n] if n % 5 < 3 else pictures[n] for n in range(40)]
    assert not moves or shows_fields(iter(telecined))


def test_strict_refuses_fields(tmp_path: Path) -> None:
    source = interlaced(tmp_path / "in.mkv", "ffv1", frames=3)
    with pytest.raises(DamageError, match="is interlaced"):
        untouched(source, tmp_path / "out.mkv", LOSSLESS, strict=True)
    assert not (tmp_path / "out.mkv").exists()


def test_a_description_says_what_will_change(tmp_path: Path) -> None:
    source = assemble(
        tmp_path / "in.mkv",
        interlaced(tmp_path / "i.mkv", "libx264", **{"x264-params": "tff=1"}),
        [sound("flac"), text(".srt")],
    )
    description = describe(source, ".mov")
    assert description.interlaced
    assert [(s.kept, s.becomes) for s in description.streams] == [
        (True, None), (False, "alac without loss"), (False, None),
    ]  # fmt: skip


def test_an_untagged_matrix_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, large = (make(tmp_path / f"{w}.mp4", Clip(frames=2, size=(w, 64))) for w in (64, 1280))
    tagged = make(tmp_path / "tagged.mp4", Clip(frames=2, tags=(1, 1, 1, 1)))
    with caplog.at_level(logging.INFO):
        for path in (small, large, tagged):
            with VideoReader(path):
                pass
    assert [r.getMessage() for r in caplog.records] == [
        "'64.mp4' names no colour matrix: BT.601 is taken, as players do at 64x64.",
        "'1280.mp4' names no colour matrix: BT.709 is taken, as players do at 1280x64.",
    ]


def test_what_a_container_crops_is_left_out(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mp4", Clip(frames=2))
    source = with_clean_aperture(plain, tmp_path / "in.mp4")
    with VideoReader(plain) as whole, VideoReader(source) as cropped:
        for before, after in zip(whole.frames(), cropped.frames(), strict=True):
            for plane, part, by in zip(before.planes, after.planes, (1, 2, 2), strict=True):
                assert np.array_equal(plane[2 // by : 42 // by, 10 // by : 58 // by], part)
    result = untouched(source, tmp_path / "out.mkv", LOSSLESS)
    assert snapshot(result.target).size == (48, 40)
    assert result.changed == ("cropping rectangle (the frames themselves are cropped)",)


def test_a_cut_has_no_timecode_and_says_so(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mov", Clip(frames=30, rate=Fraction(30), metadata={"timecode": "01:02:03:04"}))
    whole, part = untouched(source, tmp_path / "whole.mov"), untouched(source, tmp_path / "part.mov", start_s=0.5)
    with av.open(str(whole.target)) as container:
        assert [s.metadata.get("timecode") for s in container.streams] == ["01:02:03:04"] * 2
    with av.open(str(part.target)) as container:
        assert [s.metadata.get("timecode") for s in container.streams] == [None]
    assert whole.dropped == () and "tag timecode of video #0 (h264)" in part.dropped


@pytest.mark.parametrize(("suffix", "target", "name"), [
    (".srt", ".mp4", "subtitle #1 (subrip)"), (".ass", ".mov", "subtitle #1 (ass)"), (".vtt", ".webm", None),
])  # fmt: skip
def test_subtitles_that_do_not_fit_are_named(tmp_path: Path, suffix: str, target: str, name: str | None) -> None:
    source = assemble(tmp_path / "in.mkv", Clip(), [text(suffix)])
    result = untouched(source, tmp_path / f"out{target}", EncodeOptions())
    assert result.dropped == ((name,) if name else ())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_data_of_a_kind_without_a_name_keeps_its_kind(tmp_path: Path, suffix: str) -> None:
    """Beside GoPro's, which FFmpeg knows: each track has its own kind again."""
    source = assemble(tmp_path / "in.mp4", Clip(), [telemetry(), telemetry(), sound("aac")])
    rename_entries(source, {2: "camm"})
    assert [entry.kind for entry in sample_entries(source).values()] == ["avc1", "camm", "gpmd", "mp4a"]
    result = untouched(source, tmp_path / f"out{suffix}")
    kept, named = description_of_data(source, suffix)
    if suffix == ".mkv":
        assert result.dropped == ("data #1 (camm)", "data #2 (bin_data)") and kept == [False, False]
        return
    assert result.kept == ("data #1 (camm)", "data #2 (bin_data)", "audio #3 (aac)") and kept == [True, True]
    assert result.dropped == () and named == ["camm", "bin_data"]
    assert [entry.kind for entry in sample_entries(result.target).values()] == ["avc1", "camm", "gpmd", "mp4a"]
    assert packets(source, "data") == packets(result.target, "data") != []


def description_of_data(path: Path, suffix: str) -> tuple[list[bool], list[str]]:
    data = [s for s in describe(path, suffix).streams if s.kind == "data"]
    return [s.kept for s in data], [s.codec for s in data]


def test_what_a_muxer_counted_in_the_source_is_not_said_of_a_part(tmp_path: Path) -> None:
    """Matroska's tags of statistics; who encoded a sound stays true of it, as long as it is copied."""
    counted = {"BPS": "128000", "NUMBER_OF_FRAMES": "500", "DURATION-eng": "01:00:00"}
    tags = {"ENCODER": "A recorder", "COMMENT": "left", **counted}
    plain = assemble(tmp_path / "plain.mkv", Clip(frames=60), [sound("aac", seconds=2)])
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as before, av.open(str(source), "w") as output:
        streams = [output.add_stream_from_template(stream, opaque=True) for stream in before.streams]
        streams[1].metadata.update(tags)
        for packet in (p for p in before.demux() if p.size):
            packet.stream = streams[packet.stream_index]
            output.mux(packet)
    result = untouched(source, tmp_path / "out.mkv", duration_s=0.5)
    with av.open(str(result.target)) as container:
        tags = container.streams.audio[0].metadata
    assert {key: tags.get(key) for key in ("ENCODER", "COMMENT")} == {"ENCODER": "A recorder", "COMMENT": "left"}
    assert not set(counted) & set(tags)
    recoded = untouched(source, tmp_path / "out.webm", EncodeOptions(preset="8"))
    with av.open(str(recoded.target)) as container:
        assert "A recorder" not in container.streams.audio[0].metadata.values()


def test_a_truncated_file_gives_the_streams_it_has(tmp_path: Path) -> None:
    parts = [sound("aac", seconds=2), telemetry()]
    whole = assemble(tmp_path / "whole.mp4", Clip(frames=60), parts, options={"movflags": "faststart"})
    source = truncated(whole, tmp_path / "in.mp4", 0.7)
    assert describe(source).gps_fixes == 0
    before, after = packets(whole, "audio"), packets(untouched(source, tmp_path / "out.mp4").target, "audio")
    assert len(before) / 3 < len(after) < len(before)
    assert [packet[3] for packet in after[:-1]] == [packet[3] for packet in before[: len(after) - 1]]


def supplemental(kind: int, payload: bytes) -> bytes:
    """A unit of supplemental enhancement information, as MP4 stores it (ITU-T H.264, 7.3.2.3)."""
    unit = bytes([6, kind, len(payload)]) + payload + b"\x80"
    return len(unit).to_bytes(4, "big") + unit


CAPTIONS = supplemental(4, bytes.fromhex("b50031") + b"GA94" + bytes.fromhex("0341fffc9420ff"))  # CTA-708 in ATSC A/53
OWN_DATA = supplemental(5, bytes(range(1, 17)) + b"N5056.4 E00657.6")


@pytest.mark.parametrize(
    ("unit", "words"), [(CAPTIONS, "closed captions in the frames"), (OWN_DATA, "user data in the frames")]
)
def test_what_lies_between_the_pictures_is_named(tmp_path: Path, unit: bytes, words: str) -> None:
    plain = make(tmp_path / "plain.mp4", Clip(frames=8))  # with x264's own settings, which are those of the old stream
    source = remux(plain, tmp_path / "in.mp4", lambda number, data: unit + data)
    assert untouched(plain, tmp_path / "a.mp4").dropped == () and not describe(plain).hidden
    assert untouched(source, tmp_path / "b.mp4").dropped == (words,)
    assert [(part.name, part.kept) for part in describe(source).hidden] == [(words, False)]


def test_conversions_on_the_way_are_named(tmp_path: Path) -> None:
    assert "(converted)" in "".join(untouched(resized(tmp_path), tmp_path / "a.mkv").changed)
    for pixel_format, lost, changed in (
        ("yuva420p", ("transparency of the frames",), ()),
        ("yuv411p", (), ("yuv411p frames written as yuv422p",)),
        ("yuv440p", (), ("yuv440p frames written as yuv444p",)),
    ):
        clip = Clip(frames=2, codec="ffv1", pixel_format=pixel_format, time_base=Fraction(1, 1000))
        result = untouched(make(tmp_path / f"{pixel_format}.mkv", clip), tmp_path / f"{pixel_format}.out.mkv", LOSSLESS)
        assert (result.dropped, result.changed) == (lost, changed)


def test_sound_that_changes_its_channels_on_the_way(tmp_path: Path) -> None:
    """Broadcasts go from two channels to six and back; what is encoded anew has one kind."""
    path = tmp_path / "in.ts"
    for number, layout in enumerate(("mono", "stereo", "mono")):
        clip = Clip(pts=[90000 * (number + 1) + 3600 * n for n in range(25)], rate=Fraction(25))
        tone = sound("mp2", layout, start_s=Fraction(number + 1), seconds=1)
        with path.open("ab") as file:
            file.write(assemble(tmp_path / f"{number}.ts", clip, [tone]).read_bytes())
    result = untouched(path, tmp_path / "out.webm", EncodeOptions(preset="8"))
    begin_s, samples = heard(result.target)
    assert abs(begin_s - 1) < Fraction(1, 20) and len(samples) / 48000 == pytest.approx(3, abs=0.1)
    assert all(np.abs(second).max() > 0.1 for second in np.array_split(samples, 3))


def test_channels_that_are_only_counted_fit_into_mp4(tmp_path: Path) -> None:
    """Matroska and AVI say how many there are, and not which: MP4 has no word for that."""
    source = assemble(tmp_path / "in.mkv", Clip(), [sound("pcm_s16le", "stereo", 16000)])
    with av.open(str(source)) as container:
        assert container.streams.audio[0].layout.name == "2 channels"
    result = untouched(source, tmp_path / "out.mp4")
    assert result.kept == ("audio #1 (pcm_s16le)",) and result.dropped == result.changed == ()
    assert np.array_equal(heard(source)[1], heard(result.target)[1])
