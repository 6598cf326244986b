"""Codecs: the source's own by default, every bit where asked, a limit that spares the picture, disks that are full."""

import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import Clip, decoded_pts, drive, identical, make, names_in, planes_of_file, psnr

from vderain.errors import OutputError, UsageError
from vderain.media.decode.probe import probe
from vderain.media.decode.reader import VideoReader
from vderain.media.encode import codecs
from vderain.media.encode import encoder as encoders
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.frame import Frame
from vderain.process import Hooks, Options, process

Make = Callable[..., Path]
MILLISECONDS = {"time_base": Fraction(1, 1000)}
SMALL_BYTES = 256 << 10


def copied(source: Path, target: Path, **encode: Any) -> Path:
    return process(source, target, Options(strength=0, encode=EncodeOptions(**encode))).target


def video_of(path: Path) -> tuple[str, str]:
    """Codec and pixel format."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return str(context.codec.canonical_name), str(context.pix_fmt)


@pytest.mark.parametrize(
    ("source", "encoder", "pixel_format", "target", "expected"),
    [
        ("in.mp4", "libx264", "yuv420p", "out.mp4", "h264"),
        ("in.mp4", "libx265", "yuv420p", "out.mp4", "hevc"),
        ("in.mp4", "libx265", "yuv420p12le", "out.mov", "hevc"),
        ("in.mkv", "libsvtav1", "yuv420p10le", "out.mp4", "av1"),
        ("in.webm", "libvpx-vp9", "yuv420p", "out.webm", "vp9"),
        ("in.webm", "libvpx-vp9", "yuv444p", "out.mkv", "vp9"),
        ("in.webm", "libvpx", "yuv420p", "out.webm", "vp9"),
        ("in.mkv", "ffv1", "yuv422p10le", "out.mkv", "ffv1"),
        ("in.mov", "prores_ks", "yuv422p10le", "out.mov", "prores"),
        # what cannot be encoded, or does not fit
        ("in.mkv", "mpeg2video", "yuv420p", "out.mkv", "h264"),
        ("in.mov", "mjpeg", "yuvj420p", "out.mp4", "h264"),
        ("in.mp4", "libx264", "yuv420p", "out.webm", "vp9"),
        ("in.mp4", "libx264", "yuv420p10le", "out.webm", "av1"),
        ("in.webm", "libvpx-vp9", "yuv420p", "out.mov", "h264"),
        ("in.mov", "prores_ks", "yuv422p10le", "out.mp4", "h264"),
        ("in.mkv", "ffv1", "yuv422p12le", "out.mp4", "hevc"),
        ("in.mkv", "ffv1", "gbrp10le", "out.mp4", "hevc"),
    ],
)  # fmt: skip
def test_the_output_has_the_codec_of_the_source(
    tmp_path: Path, clip: Make, caplog: pytest.LogCaptureFixture,
    source: str, encoder: str, pixel_format: str, target: str, expected: str,
) -> None:  # fmt: skip
    base = Fraction(1, 25)
    path = clip(
        source, codec=encoder, pixel_format=pixel_format, frames=4, time_base=base, rate=Fraction(25),
        encoder_options={"x265-params": "log-level=none"} if encoder == "libx265" else {},
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        output = copied(path, tmp_path / target)
    assert video_of(output) == (expected, pixel_format if pixel_format != "yuvj420p" else "yuvj420p")
    assert decoded_pts(output) == decoded_pts(path)
    before = video_of(path)[0]
    assert (f"the output is {expected}" in caplog.text) == (before != expected)


def test_a_quality_of_ones_own_is_for_a_codec_that_has_one(tmp_path: Path, clip: Make) -> None:
    path = clip("in.mkv", codec="ffv1", frames=3, **MILLISECONDS)
    assert video_of(copied(path, tmp_path / "a.mkv", crf=20))[0] == "h264"
    assert video_of(copied(path, tmp_path / "b.mkv", preset="veryfast"))[0] == "h264"


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "ffv1", None])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "gray"])
def test_lossless_keeps_every_bit(tmp_path: Path, clip: Make, codec: str | None, pixel_format: str) -> None:
    if (codec, pixel_format) in (("vp9", "yuv420p10le"), ("vp9", "gray"), ("av1", "gray")):
        pytest.skip("not offered by this encoder")
    path = clip("in.mkv", codec="ffv1", pixel_format=pixel_format, frames=4, **MILLISECONDS)
    output = copied(path, tmp_path / "out.mkv", codec=codec, lossless=True)
    for old, new in zip(planes_of_file(path), planes_of_file(output), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=False))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_lossless_of_what_is_lossy_already(tmp_path: Path, clip: Make, codec: str) -> None:
    path = clip("in.mp4", frames=4)
    assert identical(planes_of_file(path), planes_of_file(copied(path, tmp_path / "o.mp4", codec=codec, lossless=True)))
    old = clip("old.mkv", codec="mpeg2video", frames=4, time_base=Fraction(1, 25), rate=Fraction(25))
    assert identical(planes_of_file(old), planes_of_file(copied(old, tmp_path / "new.mp4", lossless=True)))


@pytest.mark.parametrize(
    ("encode", "pixel_format", "words"),
    [
        ({"codec": "prores"}, "yuv422p10le", "is not lossless"),
        ({"codec": "mpeg4"}, "yuv420p", "is not lossless"),
        ({"codec": "h264"}, "yuv420p12le", "cannot keep yuv420p12le"),
        ({"codec": "av1"}, "yuv444p", "cannot keep yuv444p"),
        ({"codec": "h264"}, "bgr0", "cannot keep gbrp"),
    ],
)
def test_what_cannot_be_lossless_is_refused(
    tmp_path: Path, clip: Make, encode: dict[str, Any], pixel_format: str, words: str
) -> None:
    path = clip("in.mkv", codec="ffv1", pixel_format=pixel_format, frames=2, **MILLISECONDS)
    with pytest.raises(UsageError, match=words):
        copied(path, tmp_path / "out.mkv", lossless=True, **encode)
    assert names_in(tmp_path) == {"in.mkv"}


def test_lossless_has_no_quality() -> None:
    with pytest.raises(UsageError, match="lossless"):
        EncodeOptions(lossless=True, crf=20)


def test_prores_is_nearly_lossless(tmp_path: Path, clip: Make) -> None:
    path = clip("in.mkv", codec="ffv1", pixel_format="yuv422p10le", frames=3, **MILLISECONDS)
    output = copied(path, tmp_path / "out.mov", codec="prores")
    for old, new in zip(planes_of_file(path), planes_of_file(output), strict=True):
        assert psnr(old[0] / 4, new[0] / 4) > 38
    with pytest.raises(UsageError, match="no crf"):
        copied(path, tmp_path / "again.mov", codec="prores", crf=20)


def film(path: Path, crf: int, frames: int = 240) -> Path:
    """A drive with grain, in H.264 of some coarseness."""
    rng = np.random.default_rng(4)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "ultrafast"}
        for rgb in drive(frames):
            noisy = np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
        output.mux(stream.encode(None))
    return path


def bits_s(path: Path) -> float:
    rate = probe(path).bit_rate
    assert rate is not None
    return rate.bits_s


def test_the_limit_holds_and_spares_the_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    source = film(tmp_path / "in.mp4", 28)
    with caplog.at_level(logging.INFO):
        limited = copied(source, tmp_path / "limited.mp4")
    assert "At most" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        free = copied(source, tmp_path / "free.mp4", crf=encoders.FAMILIES["h264"].crf)
        copied(source, tmp_path / "own.mp4", encoder_opts=(("maxrate", "9M"), ("bufsize", "9M")))
    assert "At most" not in caplog.text
    assert bits_s(free) > 1.5 * bits_s(source), "else there is nothing to limit"
    assert bits_s(limited) < 1.7 * bits_s(source), "two of eight seconds are the buffer"
    assert bits_s(limited) < 0.8 * bits_s(free)
    quality = [
        np.mean([psnr(a[0], b[0]) for a, b in zip(planes_of_file(source), planes_of_file(p), strict=True)])
        for p in (limited, free)
    ]
    assert quality[0] > quality[1] - 5 and quality[0] > 40


def test_a_starved_source_does_not_starve_the_output(tmp_path: Path) -> None:
    """The limit goes no coarser than crf 22, whatever the source got along with."""
    source = film(tmp_path / "in.mp4", 40, 60)
    limited, coarse = copied(source, tmp_path / "a.mp4"), copied(source, tmp_path / "b.mp4", crf=23)
    quality = [
        np.mean([psnr(a[0], b[0]) for a, b in zip(planes_of_file(source), planes_of_file(p), strict=True)])
        for p in (limited, coarse)
    ]
    assert quality[0] > quality[1]


@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9"])
def test_other_codecs_are_limited_too(tmp_path: Path, codec: str) -> None:
    source = film(tmp_path / "in.mp4", 34, 90)
    limited = copied(source, tmp_path / "a.mp4", codec=codec)
    free = copied(source, tmp_path / "b.mp4", codec=codec, crf=encoders.FAMILIES[codec].crf)
    assert bits_s(limited) < 0.9 * bits_s(free)


def test_the_rate_of_a_source(tmp_path: Path, clip: Make) -> None:
    source = film(tmp_path / "in.mp4", 25, 90)
    with av.open(str(source)) as container:
        packets = [(float(p.pts * p.time_base), 8 * p.size) for p in container.demux(video=0) if p.size]
    total = sum(bits for _, bits in packets)
    rate = probe(source).bit_rate
    assert rate is not None and rate.burst_bits is not None
    assert rate.bits_s == pytest.approx(total / 3, rel=0.01)
    levels, level = [], 0.0
    for (now, bits), (then, _) in zip(packets, [(0.0, 0), *packets], strict=False):
        level = max(0.0, level - rate.bits_s * (now - then)) + bits
        levels.append(level)
    assert rate.burst_bits == pytest.approx(max(levels), rel=0.01)
    with av.open(str(source)) as container, av.open(str(tmp_path / "in.mkv"), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    other = probe(tmp_path / "in.mkv").bit_rate
    assert other is not None and other.burst_bits is None
    assert other.bits_s == pytest.approx(rate.bits_s, rel=0.1)
    (tmp_path / "no.mp4").write_text("nothing")


def test_encoders_of_graphics_cards_get_a_constant_quality() -> None:
    """Their own default is a low bit rate."""
    for name, expected in (
        ("h264_nvenc", {"rc": "vbr", "cq": "19"}),
        ("hevc_amf", {"rc": "cqp", "qp_i": "19", "qp_p": "19"}),
    ):
        context: Any = av.CodecContext.create(name, "w")
        known = {option.name for option in context.supported_options.private}
        assert encoders._quality(codecs.family_of(name), None, known, context) == expected
    with pytest.raises(UsageError, match="no video encoder 'auto-hw'"):
        codecs.family_of("auto-hw")


def test_the_container_can_be_named(tmp_path: Path, clip: Make, vderain: Any, tiny: Path) -> None:
    source = clip("in.mp4", frames=3)
    assert vderain("process", source, "--strength", 0, "--container", "MKV").exit_code == 0
    with av.open(str(tmp_path / "in.derained.mkv")) as container:
        assert container.format.name == "matroska,webm"
    named = vderain("process", source, "--strength", 0, "--container", "mov", "-o", tmp_path / "out.mov")
    assert named.exit_code == 0
    for flags in (["--container", "xyz"], ["--container", "mov", "-o", tmp_path / "out2.mp4"]):
        run = vderain("process", source, "--strength", 0, *flags)
        assert run.exit_code == 2 and "Traceback" not in run.stderr, run.stderr
    picture = tmp_path / "in.png"
    picture.write_bytes(b"")
    assert vderain("process", picture, "--container", "mp4").exit_code == 2
    assert names_in(tmp_path) == {"in.mp4", "in.png", "in.derained.mkv", "out.mov"}


def test_lossless_on_the_command_line(tmp_path: Path, clip: Make, vderain: Any) -> None:
    source = clip("in.mp4", frames=3)
    assert vderain("process", source, "--strength", 0, "--lossless").exit_code == 0
    assert identical(planes_of_file(source), planes_of_file(tmp_path / "in.derained.mp4"))
    refused = vderain("process", source, "--lossless", "--crf", 3, "--overwrite")
    assert refused.exit_code == 2 and "--crf" in refused.stderr


def test_room_is_looked_for_before_the_work(tmp_path: Path, clip: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the codec will take, which is far more where it is lossless."""
    source = clip("in.mp4", frames=200, encoder_options={"crf": "50"})
    free = 2 * source.stat().st_size
    usage = shutil._ntuple_diskusage(free, 0, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    copied(source, tmp_path / "out.mp4", crf=50)
    for encode in ({"lossless": True}, {"codec": "ffv1"}, {"codec": "prores"}):
        with pytest.raises(OutputError, match="are needed"):
            copied(source, tmp_path / "large.mkv", **encode)
    assert names_in(tmp_path) == {"in.mp4", "out.mp4"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def coarse(tmp_path: Path) -> Path:
    """A little file whose pictures are large."""
    return make(
        tmp_path / "coarse.mp4", Clip(frames=40, size=(320, 240), audio="aac", encoder_options={"crf": "51"})
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_disk_that_fills_up_leaves_nothing(small_disk: Path, coarse: Path, vderain: Any, suffix: str) -> None:
    run = vderain("process", coarse, "-o", small_disk / f"out{suffix}", "--strength", 0, "--codec", "h264", "--crf", 0)
    assert run.exit_code == 4, run.output
    assert "the disk is full" in run.stderr and "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert names_in(small_disk) == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system")
def test_a_disk_that_is_too_small_is_seen_at_once(small_disk: Path, tmp_path: Path, clip: Make, vderain: Any) -> None:
    source = clip("in.mp4", frames=60, size=(320, 240), encoder_options={"crf": "10"})
    assert source.stat().st_size > SMALL_BYTES
    run = vderain("process", source, "-o", small_disk / "out.mp4", "--strength", 0)
    assert run.exit_code == 4 and "are needed" in run.stderr
    assert names_in(small_disk) == set()


def alone(*arguments: object, **limits: Any) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own."""
    program = [sys.executable, "-c", "from vderain.__main__ import main; main()"]
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, **limits)


def test_encoders_are_silent_from_the_start(tmp_path: Path, clip: Make) -> None:
    """SVT-AV1 looks once, when it is first used, whether it may speak."""
    run = alone("process", clip(frames=2), "-o", tmp_path / "out.mp4", "--strength", 0, "--codec", "av1")
    assert run.returncode == 0 and run.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path, coarse: Path) -> None:
    """A quota or a file system with a largest size of files: the system refuses in the middle of a write."""
    out = tmp_path / "out"
    out.mkdir()
    run = alone(
        "process", coarse, "-o", out / "out.mp4", "--strength", 0, "--codec", "h264", "--crf", 0,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, SMALL_BYTES)),
    )  # fmt: skip
    assert run.returncode == 4, run.stderr
    assert len(run.stderr.splitlines()) == 1 and "cannot be written" in run.stderr
    assert names_in(out) == set()


def test_an_index_in_front(tmp_path: Path, clip: Make) -> None:
    source = clip("in.mkv", frames=5, **MILLISECONDS)
    for suffix in ("mp4", "mov", "m4v"):
        data = copied(source, tmp_path / f"out.{suffix}").read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_reading_does_not_need_to_know_the_codec(tmp_path: Path, clip: Make) -> None:
    with VideoReader(clip("in.mov", codec="prores_ks", pixel_format="yuv422p10le", frames=2)) as reader:
        assert reader.info.codec == "prores"


@pytest.mark.parametrize("codec", ["av1", "vp9", "ffv1"])
def test_a_codec_that_the_container_refuses_is_seen_at_once(tmp_path: Path, clip: Make, codec: str) -> None:
    """MOV's muxer refuses AV1 and VP9 only with its header."""
    shown: list[Frame] = []
    with pytest.raises(UsageError, match=rf".mov file cannot hold {codec}") as caught:
        process(
            clip(frames=3), tmp_path / "out.mov", Options(strength=0, encode=EncodeOptions(codec=codec)),
            hooks=Hooks(on_frame=lambda before, after, turns: shown.append(after)),
        )  # fmt: skip
    assert ".mkv" in caught.value.cure
    assert shown == [] and names_in(tmp_path) == {"clip.mp4"}


@pytest.mark.parametrize("encoder", ["libsvtav1", "libvpx-vp9"])
def test_the_default_codec_is_one_that_the_container_holds(tmp_path: Path, clip: Make, encoder: str) -> None:
    source = clip("in.mp4", codec=encoder, pixel_format="yuv420p10le" if "svt" in encoder else "yuv420p", frames=3)
    assert video_of(copied(source, tmp_path / "out.mov"))[0] in ("h264", "hevc")
