"""Dry parts are copied packet by packet: every frame and every time is there, whatever decodes the file."""

import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import count, islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream
from clips import VFR_PTS, Clip, decoded_pts, make, packets, planes_of_file

from vderain.media.decode.reader import VideoReader
from vderain.media.encode import EncodeOptions
from vderain.media.encode.encoder import add_encoder
from vderain.media.encode.h264 import ParameterSets, annex_b
from vderain.media.encode.packet_copy import CopyPlan, joins_cleanly, plan_copy
from vderain.media.encode.segments import SegmentStore
from vderain.media.encode.writer import VideoWriter
from vderain.media.frame import Frame
from vderain.process import Options, process

SAMPLES = Path(__file__).parents[3] / "samples"
CLIP = Clip(frames=36, encoder_options={"sc_threshold": "0"})
DRY = [range(0, 14), range(18, 31)]  # of groups of six: 0, 6, 18 and 24 are copied
COPIED = [*range(12), *range(18, 30)]


def brighter(frame: Frame) -> Frame:
    return frame.with_planes((np.minimum(frame.planes[0], 239) + np.uint8(16), *frame.planes[1:]))


def write(source: Path, target: Path, store: SegmentStore | None = None, stop: int | None = None) -> None:
    """Writes a video of which dry frames stay as they are."""
    with VideoReader(source) as reader, VideoWriter(target, reader, store=store, unchanged=DRY) as writer:
        for number, frame in enumerate(reader.frames()):
            if number == stop:
                raise KeyboardInterrupt
            if store is None or number >= store.frames:
                writer.write(frame if any(number in part for part in DRY) else brighter(frame))


def check_decoders(path: Path, frames: int) -> None:
    """FFmpeg's command, if it is there, and OpenCV decode all frames; FFmpeg has nothing to say."""
    video = cv2.VideoCapture(str(path))
    assert sum(1 for _ in iter(lambda: video.read()[0], False)) == frames
    if ffmpeg := shutil.which("ffmpeg"):
        command = [ffmpeg, "-v", "warning", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
        command += ["-f", "framehash", "-"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert said.stderr == ""
        assert sum(not line.startswith("#") for line in said.stdout.splitlines()) == frames


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "clip",
    [
        CLIP,
        replace(CLIP, b_frames=2),
        replace(
            CLIP, encoder_options={"sc_threshold": "0", "x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:sps-id=1"}
        ),
        replace(CLIP, pts=[*VFR_PTS, *(pts + 48000 for pts in VFR_PTS), *(pts + 96000 for pts in VFR_PTS)]),
        replace(CLIP, encoder_options={"sc_threshold": "0", "profile": "baseline"}, audio="aac"),
        replace(CLIP, encoder_options={"sc_threshold": "0", "x264-params": "repeat-headers=1:aud=1"}),
    ],
    ids=["no reordering", "b-frames", "b-pyramid", "variable rate", "baseline with sound", "repeated headers"],
)
def test_dry_groups_are_copied(tmp_path: Path, clip: Clip, suffix: str) -> None:
    source, target = make(tmp_path / "source.mp4", clip), tmp_path / f"target{suffix}"
    write(source, target)
    before, after = planes_of_file(source), planes_of_file(target)
    same = [all(map(np.array_equal, *pair)) for pair in zip(before, after, strict=True)]
    assert [number for number, equal in enumerate(same) if equal] == COPIED
    offset = decoded_pts(target)[0] - decoded_pts(source)[0]
    tick_s = 0.0005 if suffix == ".mkv" else 0
    assert all(
        abs(b - a - offset) <= tick_s for a, b in zip(decoded_pts(source), decoded_pts(target), strict=True)
    )  # fmt: skip
    check_decoders(target, 36)


def test_a_resumed_file_is_the_same(tmp_path: Path) -> None:
    source = make(tmp_path / "source.mp4", replace(CLIP, b_frames=2))
    results = []
    for stops in ((), (8,), (14, 22), (29, 35)):
        target = tmp_path / "target.mp4"
        for stop in stops:
            with pytest.raises(KeyboardInterrupt), SegmentStore(tmp_path / "store", "key", 5) as store:
                write(source, target, store, stop)
        with SegmentStore(tmp_path / "store", "key", 5) as store:
            write(source, target, store)
        (tmp_path / "store").unlink()
        results.append(target.read_bytes())
    assert len(results[0]) > 0
    assert results.count(results[0]) == len(results)


def planned(source: Path) -> CopyPlan | None:
    with VideoReader(source) as reader:
        return plan_copy(reader.media, DRY)


@pytest.mark.parametrize(
    "clip",
    [
        replace(CLIP, codec="libx265", size=(128, 96)),
        replace(CLIP, pixel_format="yuv420p10le"),
        replace(CLIP, encoder_options={"sc_threshold": "0", "x264-params": "bframes=2:b-adapt=0:open-gop=1"}),
        replace(CLIP, gop=250),
    ],
    ids=["codec", "depth", "open groups", "long groups"],
)
def test_what_cannot_be_copied_is_encoded(tmp_path: Path, clip: Clip) -> None:
    source = make(tmp_path / "source.mkv", clip)
    plan = planned(source)
    assert plan is None or not plan.frames
    write(source, tmp_path / "target.mkv")
    assert decoded_pts(tmp_path / "target.mkv") == decoded_pts(source)


def test_a_stream_that_changes_its_parameter_sets_is_encoded(tmp_path: Path) -> None:
    source, changed = make(tmp_path / "source.mp4", CLIP), tmp_path / "changed.mp4"
    with av.open(str(source)) as a, av.open(str(changed), "w") as b:
        stream = b.add_stream_from_template(a.streams.video[0])
        sets = ParameterSets.read(a.streams.video[0].codec_context.extradata or b"")
        level = sets.units[0][3]
        for number, packet in enumerate(a.demux(video=0)):
            if packet.size:
                other = bytes([*sets.units[0][:3], level + 1 if number == 18 else level, *sets.units[0][4:]])
                unit = len(other).to_bytes(4, "big") + other if number % 6 == 0 else b""
                copy = av.Packet(unit + bytes(packet))
                copy.pts, copy.dts, copy.duration, copy.is_keyframe = (
                    packet.pts, packet.dts, packet.duration, packet.is_keyframe,
                )  # fmt: skip
                copy.time_base, copy.stream = packet.time_base, stream
                b.mux(copy)
    assert planned(source) is not None
    assert planned(changed) is None


@pytest.mark.parametrize(("clip", "delay"), [(CLIP, 0), (replace(CLIP, b_frames=2), 2)])
def test_encoded_frames_are_not_reordered_more_than_those_of_the_source(tmp_path: Path, clip: Clip, delay: int) -> None:
    """FFmpeg's decoder loses frames of a stretch that reorders more than all before it."""
    source, target = make(tmp_path / "source.mp4", clip), tmp_path / "target.mp4"
    write(source, target)
    times = [pts for pts, *_ in packets(target, "video")]
    assert max(number - sorted(times).index(pts) for number, pts in enumerate(times)) <= delay


def test_a_copy_that_does_not_decode_to_the_source_is_refused(tmp_path: Path) -> None:
    with VideoReader(make(tmp_path / "source.mp4", CLIP)) as reader:
        info, plan = reader.info, plan_copy(reader.media, DRY)
    assert plan is not None

    def encoder(number: int, output: OutputContainer) -> VideoStream:
        options = replace(plan, number=number).encoder_opts
        return add_encoder(output, "h264", EncodeOptions(encoder_opts=options), info)

    assert joins_cleanly(plan, partial(encoder, plan.number), "mp4")
    assert not joins_cleanly(plan, partial(encoder, 0), "mp4")  # two parameter sets of one number


def test_parameter_sets_are_read_from_both_forms(tmp_path: Path) -> None:
    with av.open(str(make(tmp_path / "source.mp4", CLIP))) as container:
        sets = ParameterSets.read(container.streams.video[0].codec_context.extradata or b"")
    assert (sets.length_bytes, sets.numbers) == (4, {0})
    assert ParameterSets.read(annex_b(list(sets.units))) == ParameterSets(sets.units)
    for broken in (b"", b"\1", b"\1\x64\0\x1f\xff\xe1\0\xff", b"\0\0\1\x67\x7a\0\x1f", b"text"):
        with pytest.raises(ValueError):
            ParameterSets.read(broken)
    for packet in (b"", b"\0\0\0\xff\x41", b"\0\0\0\0"):
        with pytest.raises(ValueError):
            sets.split(packet)


def joined(path: Path, parts: dict[Path, int]) -> Path:
    """The first frames of several clips at half their size, one after another, in groups of ten."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"g": "10", "crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        pts = count()
        for part, frames in parts.items():
            with av.open(str(part)) as container:
                for large in islice(container.decode(video=0), frames):
                    frame = large.reformat(320, 180)
                    frame.pts, frame.time_base = next(pts), Fraction(1, 30)
                    output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.timeout(180)
def test_dry_parts_of_a_rainy_file_are_copied(tmp_path: Path) -> None:
    parts = {SAMPLES / "driving_dry.mp4": 75, SAMPLES / "driving_rain.mp4": 60}
    source, target = joined(tmp_path / "source.mp4", parts), tmp_path / "target.mp4"
    result = process(source, target, Options(model="fast", device="cpu", auto=True, drops=False, temporal="off"))
    dry, rain = result.rain_intervals
    assert (dry.rainy, rain.rainy, rain.first > 30) == (False, True, True)
    same = [all(map(np.array_equal, *pair)) for pair in zip(*map(planes_of_file, (source, target)), strict=True)]
    copied = rain.first // 10 * 10
    assert all(same[:copied]) and not any(same[copied:])
    assert decoded_pts(source) == decoded_pts(target)
    check_decoders(target, 135)
