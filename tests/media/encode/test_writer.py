"""The writer: the same instants, the same other streams, the same bytes where lossless, nothing left after failure."""

import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import VFR_PTS, Clip, decoded_pts, make, packets, with_side_stream

from vderain.errors import OutputError, UsageError
from vderain.media.decode.reader import VideoReader
from vderain.media.describe import describe
from vderain.media.encode import writer as writer_module
from vderain.media.encode.codec_choice import working_encoders
from vderain.media.encode.writer import EncodeOptions, VideoWriter
from vderain.media.frame import Frame
from vderain.media.remux.capabilities import add_copy

Make = Callable[..., Path]
ROTATED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)  # -90 degrees
SOUND_AS_OPUS = "audio #1 (aac, eng) written as opus"
FAST = EncodeOptions(preset="veryfast")
LOSSLESS = EncodeOptions(codec="ffv1")

CLOCKS = {
    "vfr": Clip(pts=VFR_PTS),
    "b-frames": Clip(frames=20, b_frames=3),
    "late start": Clip(pts=[12345 + 3003 * i for i in range(12)], audio="aac", audio_start_s=Fraction(1, 3)),
    "24000/1001": Clip(frames=24, time_base=Fraction(1, 24000), rate=Fraction(24000, 1001), b_frames=2),
    "10 fps": Clip(rate=Fraction(10), time_base=Fraction(1, 10240), b_frames=2),
    "with sound": Clip(frames=40, audio="aac", b_frames=2),
}


def copy(source: Path, target: Path, options: EncodeOptions = FAST, **part: Any) -> VideoWriter:
    with VideoReader(source, **part) as reader, VideoWriter(target, like=reader, options=options) as writer:
        for frame in reader.frames():
            writer.write(frame)
    return writer


def frames_of(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return list(reader.frames())


def nothing_but(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_keep_their_instants(tmp_path: Path, name: str, suffix: str) -> None:
    clip = CLOCKS[name]
    source, target = make(tmp_path / "in.mp4", clip), tmp_path / f"out{suffix}"
    copy(source, target)
    before, after = decoded_pts(source), decoded_pts(target)
    tick = Fraction(1, 1000) if suffix == ".mkv" else 0
    assert len(before) == len(after) == len(clip.times())
    assert all(abs(a - b) <= tick / 2 for a, b in zip(before, after, strict=True))
    if suffix in (".mp4", ".mov"):
        with VideoReader(target) as reader:
            assert reader.info.time_base == clip.time_base


def test_matroska_to_matroska_keeps_instants(tmp_path: Path, clip: Make) -> None:
    source = clip("in.mkv", pts=[0, 33, 67, 80, 140, 141, 200], time_base=Fraction(1, 1000))
    copy(source, tmp_path / "out.mkv")
    assert decoded_pts(source) == decoded_pts(tmp_path / "out.mkv")


def test_a_start_before_zero_moves_all_streams_together(tmp_path: Path, clip: Make) -> None:
    source = clip(
        "in.mkv", pts=[-80 + 40 * i for i in range(10)], time_base=Fraction(1, 1000), rate=Fraction(25), audio="libopus"
    )
    before = frames_of(source)
    start_s = before[0].pts * before[0].time_base
    for suffix in (".mp4", ".mkv"):
        copy(source, tmp_path / f"out{suffix}")
        after = frames_of(tmp_path / f"out{suffix}")
        assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base - start_s for f in before]
    sounds = zip(packets(source, "audio"), packets(tmp_path / "out.mkv", "audio"), strict=True)
    assert all(new[0] == old[0] - start_s and new[3] == old[3] for old, new in sounds)


@pytest.mark.parametrize("name", ["with sound", "late start"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_sound_is_copied_byte_for_byte(tmp_path: Path, name: str, suffix: str) -> None:
    source, target = make(tmp_path / "in.mp4", CLOCKS[name]), tmp_path / f"out{suffix}"
    writer = copy(source, target)
    assert packets(source, "audio") == packets(target, "audio") != []
    assert writer.kept == ["audio #1 (aac, eng)"] and writer.dropped == []
    with av.open(str(target)) as container:
        assert container.streams.audio[0].language == "eng"


def test_what_the_container_cannot_hold_is_named(tmp_path: Path, clip: Make, caplog: pytest.LogCaptureFixture) -> None:
    source = clip(frames=8, audio="aac", display_matrix=ROTATED)
    with caplog.at_level(logging.WARNING):
        assert copy(source, tmp_path / "out.webm", EncodeOptions(preset="8")).changed == [SOUND_AS_OPUS]
        attached = with_side_stream(tmp_path / "side.mp4", "bin_data")
        assert copy(attached, tmp_path / "out.mkv").dropped == ["data #1 (bin_data)"]
    assert [r.getMessage() for r in caplog.records] == [
        f"'out.webm' holds in another form: {SOUND_AS_OPUS}.",
        "'out.mkv' cannot hold: data #1 (bin_data).",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tags_survive(tmp_path: Path, clip: Make, suffix: str) -> None:
    source = clip(
        display_matrix=ROTATED, tags=(9, 16, 9, 1), sample_aspect_ratio=Fraction(4, 3), chapters=True,
        encoder_options={"chroma_sample_location": "topleft"}, metadata={"title": "Regen über Köln"},
    )  # fmt: skip
    target = tmp_path / f"out{suffix}"
    assert copy(source, target).dropped == []
    with VideoReader(source) as before, VideoReader(target) as after:
        assert before.info.tags == after.info.tags
        assert after.info.tags.chroma_location == "topleft"
        assert after.info.display_matrix == ROTATED
        assert after.info.rotation_deg == before.info.rotation_deg == -90
        assert after.info.sample_aspect_ratio == Fraction(4, 3)
    with av.open(str(target)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        assert titles == ["Rain", "Sun"]
        assert container.metadata.get("title", container.metadata.get("TITLE")) == "Regen über Köln"


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "ffv1"])
def test_every_codec_keeps_colour_tags(tmp_path: Path, clip: Make, codec: str) -> None:
    source, target = clip(tags=(1, 1, 1, 1), frames=5), tmp_path / "out.mkv"
    copy(source, target, EncodeOptions(codec=codec))
    with VideoReader(source) as before, VideoReader(target) as after:
        assert replace(before.info.tags, chroma_location=None) == replace(after.info.tags, chroma_location=None)
        assert len(list(after.frames())) == 5


def test_full_range_stays_full_range(tmp_path: Path, clip: Make) -> None:
    source, target = clip("in.mov", codec="mjpeg", pixel_format="yuvj420p", frames=3), tmp_path / "out.mp4"
    copy(source, target)
    with VideoReader(target) as reader:
        assert reader.info.colour.full_range


@pytest.mark.parametrize("size", [(64, 48), (61, 47)])
@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "gray", "gray10le",
     "gbrp10le", "bgr0"],
)  # fmt: skip
def test_lossless_output_is_the_input_bit_for_bit(
    tmp_path: Path, clip: Make, pixel_format: str, size: tuple[int, int]
) -> None:
    source = clip(
        "in.mkv", codec="ffv1", pixel_format=pixel_format, size=size, frames=3, encoder_options={"level": "3"}
    )
    copy(source, tmp_path / "out.mkv", LOSSLESS)
    for a, b in zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True):
        assert a.colour == b.colour and a.pts == b.pts
        assert all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize(("pixel_format", "size"), [("gray", (64, 48)), ("yuv420p", (61, 47)), ("gbrp10le", (64, 48))])
def test_awkward_pictures_reach_h264(tmp_path: Path, clip: Make, pixel_format: str, size: tuple[int, int]) -> None:
    source = clip(
        "in.mkv", codec="ffv1", pixel_format=pixel_format, size=size, frames=3, encoder_options={"level": "3"}
    )
    copy(source, tmp_path / "out.mp4")
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 3
    assert (frames[0].width_px, frames[0].height_px) == size


def test_a_cut_starts_at_zero_and_keeps_offsets(tmp_path: Path, clip: Make) -> None:
    source = clip(frames=60, gop=7, b_frames=2, audio="aac", chapters=True)
    copy(source, tmp_path / "out.mp4", start_s=0.31, duration_s=1.0)
    whole, part = decoded_pts(source), decoded_pts(tmp_path / "out.mp4")
    begin = next(t for t in whole if t >= Fraction(31, 100))
    assert part == [t - begin for t in whole if begin <= t < Fraction(131, 100)]
    old = [p for p in packets(source, "audio") if begin <= p[0] < Fraction(131, 100)]
    new = packets(tmp_path / "out.mp4", "audio")
    assert [p[3] for p in new] == [p[3] for p in old]
    assert all(abs(a[0] - begin - b[0]) <= Fraction(1, 48000) for a, b in zip(old, new, strict=True))
    with av.open(str(tmp_path / "out.mp4")) as container:
        (chapter,) = container.chapters()
        assert chapter["metadata"]["title"] == "Sun" and chapter["start"] == 0


def test_raw_dv_has_a_rate_and_a_timecode(tmp_path: Path, clip: Make) -> None:
    """FFmpeg takes the ticks of its clock for the average rate."""
    source = clip(
        "in.dv", codec="dvvideo", pixel_format="yuv411p", size=(720, 480), frames=3, rate=Fraction(30000, 1001),
        time_base=Fraction(1001, 30000),
    )  # fmt: skip
    writer = copy(source, tmp_path / "out.mp4", EncodeOptions(preset="ultrafast"))
    assert "tag timecode" not in writer.dropped
    assert "29.97 fps" in describe(source).streams[0].detail
    assert len(decoded_pts(tmp_path / "out.mp4")) == 3
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].metadata["timecode"].startswith("00:00:00")


def test_nothing_is_left_after_a_failure(tmp_path: Path, clip: Make) -> None:
    source = clip("in.mp4", frames=20, audio="aac")
    target = tmp_path / "out.mp4"
    target.write_bytes(b"an older output")
    for failure in (RuntimeError("the network broke"), KeyboardInterrupt()):
        with (
            pytest.raises(type(failure)),
            VideoReader(source) as reader,
            VideoWriter(target, like=reader, options=FAST) as writer,
        ):
            for number, frame in enumerate(reader.frames()):
                writer.write(frame)
                if number == 10:
                    raise failure
        assert nothing_but(tmp_path, "in.mp4", "out.mp4")
        assert target.read_bytes() == b"an older output"


@pytest.mark.parametrize("step", ["mux_one", "close"])
def test_a_full_disk_is_a_clean_error(tmp_path: Path, clip: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    source, open_file = clip("in.mp4", frames=20), av.open

    class Full:
        """An output container on a disk that fills up."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            if name == step:
                return self._fail
            return getattr(self._inner, name)

        def _fail(self, *_: Any) -> None:
            raise av.error.OSError(errno.ENOSPC, "No space left on device", "out.mp4")

    class Av:
        error, VideoFrame = av.error, av.VideoFrame

        @staticmethod
        def open(*args: Any, **options: Any) -> Any:
            return Full(open_file(*args, **options))

    monkeypatch.setattr(writer_module, "av", Av)
    with pytest.raises(OutputError, match="full") as caught:
        copy(source, tmp_path / "out.mp4")
    assert caught.value.cure
    assert nothing_but(tmp_path, "in.mp4")


def test_a_file_that_reads_back_wrong_is_refused(tmp_path: Path, clip: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip("in.mp4", frames=20)
    with (
        pytest.raises(OutputError, match="20 of 21"),
        VideoReader(source) as reader,
        VideoWriter(tmp_path / "out.mp4", like=reader, options=FAST) as writer,
    ):
        for frame in reader.frames():
            writer.write(frame)
        monkeypatch.setattr(writer, "_count", 21)
    assert nothing_but(tmp_path, "in.mp4")


def test_bad_targets_are_refused_before_any_work(tmp_path: Path, clip: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip("in.mp4", frames=3)
    (tmp_path / "folder.mp4").mkdir()
    for target, kind in [
        ("out.xyz", UsageError), ("out.avi", UsageError), ("out.ts", UsageError), ("out", UsageError),
        ("none/out.mp4", OutputError), ("folder.mp4", OutputError),
        ("in.mp4", UsageError),
    ]:  # fmt: skip
        with pytest.raises(kind):
            copy(source, tmp_path / target)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match="are needed"):
        copy(source, tmp_path / "out.mp4")
    assert nothing_but(tmp_path, "in.mp4", "folder.mp4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EncodeOptions(codec="h246"), "Did you mean h264"),
        (EncodeOptions(codec="aac"), "no video encoder"),
        (EncodeOptions(codec="ffv1", crf=3), "lossless"),
        (EncodeOptions(codec="ffv1", preset="slow"), "no presets"),
        (EncodeOptions(preset="quick"), "no preset 'quick'"),
        (EncodeOptions(encoder_opts=(("tuen", "film"),)), "Did you mean tune"),
        (EncodeOptions(codec="prores_ks"), "cannot hold"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, clip: Make, options: EncodeOptions, words: str) -> None:
    source = clip("in.mp4", frames=3)
    target = tmp_path / ("out.mp4" if options.codec != "ffv1" else "out.mkv")
    with pytest.raises(UsageError, match=words):
        copy(source, target, options)
    assert nothing_but(tmp_path, "in.mp4")


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (17, 1), (33, 35)])
def test_tiny_pictures(tmp_path: Path, clip: Make, size: tuple[int, int]) -> None:
    source = clip("in.mkv", codec="ffv1", size=size, frames=3)
    for name in ("out.mp4", "out.webm"):
        copy(source, tmp_path / name, EncodeOptions())
        assert [frame.planes[0].shape for frame in frames_of(tmp_path / name)] == [size[::-1]] * 3
    with pytest.raises(UsageError, match="HEVC"):  # its encoder would take the whole program down
        copy(source, tmp_path / "out.mkv", EncodeOptions(codec="hevc"))


def test_options_reach_the_encoder(tmp_path: Path, clip: Make) -> None:
    source = clip("in.mp4", frames=10)
    fine, coarse = tmp_path / "fine.mp4", tmp_path / "coarse.mp4"
    copy(source, fine, EncodeOptions(crf=1, preset="ultrafast"))
    copy(source, coarse, EncodeOptions(crf=50, preset="ultrafast", encoder_opts=(("tune", "psnr"),)))
    assert fine.stat().st_size > 2 * coarse.stat().st_size
    even = clip("even.mp4", frames=10, time_base=Fraction(1, 30))
    copy(even, tmp_path / "old.mp4", EncodeOptions(codec="mpeg4", crf=2))
    with VideoReader(tmp_path / "old.mp4") as reader:
        assert reader.info.codec == "mpeg4"


def test_names_may_hold_anything(tmp_path: Path, clip: Make) -> None:
    folder = tmp_path / "größe %d: 雨"
    folder.mkdir()
    source = clip(frames=3).rename(folder / "a clip.mp4")
    copy(source, folder / "out put #1 'é'.mp4")
    assert nothing_but(folder, "a clip.mp4", "out put #1 'é'.mp4")


def test_encoders_are_silent(tmp_path: Path, clip: Make, capfd: pytest.CaptureFixture[str]) -> None:
    source = clip(frames=3)
    for codec in ("h264", "hevc", "av1", "vp9", "ffv1"):
        copy(source, tmp_path / "out.mkv", EncodeOptions(codec=codec))
    assert {"h264", "ffv1"} <= {info.codec for info in working_encoders()}
    assert capfd.readouterr() == ("", "")


def test_cover_pictures_and_attachments_are_kept(tmp_path: Path, clip: Make) -> None:
    plain, source = clip("plain.mp4", frames=6), tmp_path / "in.mp4"
    cover = clip("cover.mov", frames=1, codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(plain)) as video, av.open(str(cover)) as image, av.open(str(source), "w") as output:
        moving = add_copy(output, video.streams.video[0])
        still = add_copy(output, image.streams.video[0])
        still.disposition = 1024  # attached_pic
        for stream, target in ((image.streams.video[0], still), (video.streams.video[0], moving)):
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = target
                    output.mux(packet)
    writer = copy(source, tmp_path / "out.mp4")
    assert writer.kept == ["cover picture #1 (mjpeg)"]
    copy(source, tmp_path / "out.mkv")
    copy(tmp_path / "out.mkv", tmp_path / "back.mp4")
    for name in ("out.mp4", "out.mkv", "back.mp4"):
        kinds = [stream.kind for stream in describe(tmp_path / name).streams]
        assert kinds == ["video", "cover picture"], name


@pytest.mark.parametrize(
    ("suffix", "codec", "holders"),
    [
        (".mp4", "bin_data", {".mp4", ".mov"}),  # FFmpeg's tag for it is GoPro's telemetry
        (".mp4", "mov_text", {".mp4", ".mov"}),
        (".mkv", "subrip", {".mkv"}),
        (".ts", "klv", set()),
    ],
)
def test_data_and_subtitles_are_kept_or_named(tmp_path: Path, suffix: str, codec: str, holders: set[str]) -> None:
    source = with_side_stream(tmp_path / f"in{suffix}", codec)
    for target in (".mp4", ".mov", ".mkv"):
        writer = copy(source, tmp_path / f"out{target}")
        kind = "data" if codec in ("bin_data", "klv") else "subtitle"
        (name,) = writer.kept if target in holders else writer.dropped
        assert codec in name and len(writer.kept + writer.changed + writer.dropped) == 1, target
        if target in holders:
            assert packets(source, kind) == packets(tmp_path / f"out{target}", kind) != []


def test_a_file_is_described(clip: Make) -> None:
    path = clip(frames=12, audio="aac", chapters=True, metadata={"title": "Rain"})
    description = describe(path)
    video, audio, *rest = description.streams
    assert (video.kind, video.codec, video.processed, video.kept) == ("video", "h264", True, True)
    assert (audio.kind, audio.codec, audio.language, audio.kept) == ("audio", "aac", "eng", True)
    assert all(stream.kind == "chapters" and stream.kept for stream in rest)
    assert description.chapters == 2 and description.metadata["title"] == "Rain"
    assert not describe(path, ".webm").streams[1].kept
