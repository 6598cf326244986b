"""The main job as one call: the same instants, the same other streams, the rain residual and nothing else."""

import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import VFR_PTS, Clip, decoded_pts, identical, make, names_in, packets, planes_of_file

from vderain.errors import InputError, OutputError, UsageError, VderainError
from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import EncodeOptions
from vderain.process import Options, Progress, Result, default_target, process

Make = Callable[..., Path]
LOSSLESS = EncodeOptions(codec="ffv1")
QUICK = EncodeOptions(preset="ultrafast")
UPRIGHT = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)  # -90 degrees
MILLISECONDS = {"time_base": Fraction(1, 1000)}


@pytest.fixture
def derained(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Processes a file in fp32 into a lossless one and returns its path."""

    def run(source: Path, name: str = "out.mkv", encode: EncodeOptions = LOSSLESS, **choices: Any) -> Path:
        options = Options(**{"model": str(tiny), "precision": "fp32", "encode": encode, **choices})
        return process(source, tmp_path / name, options).target

    return run


CLOCKS = {
    "vfr": Clip(pts=VFR_PTS),
    "late start": Clip(pts=[12345 + 3003 * i for i in range(12)], audio="aac", audio_start_s=Fraction(1, 3)),
    "24000/1001": Clip(frames=16, time_base=Fraction(1, 24000), rate=Fraction(24000, 1001), b_frames=2),
    "b-frames": Clip(frames=16, b_frames=3),
    "10 fps": Clip(frames=8, rate=Fraction(10), time_base=Fraction(1, 10240), b_frames=2),
}


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("name", CLOCKS)
def test_every_frame_keeps_its_instant(
    tmp_path: Path, derained: Callable[..., Path], name: str, suffix: str
) -> None:  # fmt: skip
    source = make(tmp_path / "in.mp4", CLOCKS[name])
    target = derained(source, f"out{suffix}", QUICK)
    before, after = decoded_pts(source), decoded_pts(target)
    assert len(before) == len(CLOCKS[name].times())
    assert after == before


@pytest.mark.parametrize("temporal", ["off", "light", "strong", "only"])
def test_sound_is_the_same_packets_and_rotation_stays(
    clip: Make, derained: Callable[..., Path], temporal: str
) -> None:  # fmt: skip
    source = clip("in.mp4", frames=10, audio="aac", display_matrix=UPRIGHT, b_frames=2)
    target = derained(source, "out.mp4", QUICK, temporal=temporal)
    assert packets(target, "audio") == packets(source, "audio") != []
    with VideoReader(source) as before, VideoReader(target) as after:
        assert after.info.rotation_deg == before.info.rotation_deg != 0
        assert after.info.display_matrix == before.info.display_matrix


@pytest.mark.parametrize("temporal", ["off", "light", "strong", "only"])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_shortest_clips_are_clips(
    clip: Make, derained: Callable[..., Path], frames: int, temporal: str
) -> None:  # fmt: skip
    source = clip("in.mkv", frames=frames, codec="ffv1", **MILLISECONDS)
    target = derained(source, temporal=temporal)
    assert decoded_pts(target) == decoded_pts(source)
    assert len(planes_of_file(target)) == frames


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gray", "gbrp10le"])
def test_no_strength_is_no_change_bit_for_bit(clip: Make, derained: Callable[..., Path], pixel_format: str) -> None:
    source = clip("in.mkv", codec="ffv1", pixel_format=pixel_format, frames=4, **MILLISECONDS)
    assert identical(planes_of_file(derained(source, strength=0)), planes_of_file(source))


def test_strength_is_a_factor_on_what_is_added(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=3, **MILLISECONDS)
    before = planes_of_file(source)
    half, whole = (planes_of_file(derained(source, f"{s}.mkv", strength=s)) for s in (0.5, 1.0))
    for old, some, more in zip(before, half, whole, strict=True):
        for a, b, c in zip(old, some, more, strict=True):
            full = c.astype(float) - a
            free = (c > 0) & (c < 255)
            assert np.abs(full).mean() > 1
            assert np.abs((b.astype(float) - a - full / 2)[free]).max() <= 0.75, "two roundings"


@pytest.mark.parametrize("temporal", ["off", "light", "strong", "only"])
def test_nothing_leaks_across_a_cut(
    tmp_path: Path, clip: Make, derained: Callable[..., Path], temporal: str
) -> None:  # fmt: skip
    whole = tmp_path / "whole.mkv"
    scenes = two_scenes(whole)
    apart = [derained(scene, f"{scene.stem}.out.mkv", temporal=temporal) for scene in scenes]
    together = derained(whole, temporal=temporal)
    assert identical(planes_of_file(together), [frame for part in apart for frame in planes_of_file(part)])


def two_scenes(whole: Path) -> list[Path]:
    """A dark scene and a bright one in one file, and each in a file of its own."""
    rng = np.random.default_rng(3)
    dark = rng.integers(20, 90, (48, 64), np.uint8)
    pictures = [np.roll(dark, i, 1) for i in range(4)] + [235 - np.roll(dark, i, 0) for i in range(3)]
    scenes = [(whole.with_name("dark.mkv"), pictures[:4]), (whole.with_name("bright.mkv"), pictures[4:])]
    for path, part in [(whole, pictures), *scenes]:
        with av.open(str(path), "w") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
            for picture in part:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "gray")))
            output.mux(stream.encode(None))
    return [path for path, _ in scenes]


def test_off_looks_at_one_frame_and_light_at_its_neighbours(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=9, rate=Fraction(25), **MILLISECONDS)
    for temporal, alike in (("off", True), ("light", False)):
        whole = planes_of_file(derained(source, f"{temporal}.mkv", temporal=temporal))
        part = planes_of_file(
            derained(source, f"{temporal}-part.mkv", temporal=temporal, start_s=0.16, duration_s=0.04)
        )
        assert len(part) == 1
        assert identical(part, whole[4:5]) == alike


def test_the_modes_differ(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=6, **MILLISECONDS)
    results = [planes_of_file(derained(source, f"{t}.mkv", temporal=t)) for t in ("off", "light", "only")]
    assert not any(identical(results[i], results[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("temporal", ["off", "light", "strong"])
def test_a_generator_of_one_frame_works_in_every_mode(
    clip: Make, derained: Callable[..., Path], tiny1: Path, temporal: str
) -> None:  # fmt: skip
    source = clip("in.mkv", codec="ffv1", frames=4, **MILLISECONDS)
    changed = planes_of_file(derained(source, model=str(tiny1), temporal=temporal))
    assert not identical(changed, planes_of_file(source))


def test_how_many_frames_at_once_does_not_matter(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=7, **MILLISECONDS)
    one, two, three = (planes_of_file(derained(source, f"{n}.mkv", batch_size=n)) for n in (1, 2, 3))
    assert identical(one, two)
    assert identical(one, three)


def test_a_rotated_clip_is_worked_on_upright(
    clip: Make, derained: Callable[..., Path], tmp_path: Path
) -> None:  # fmt: skip
    lying = clip("lying.mkv", codec="ffv1", pixel_format="gray", frames=3, display_matrix=UPRIGHT, **MILLISECONDS)
    with VideoReader(lying) as reader:
        turns = reader.info.rotation_deg // 90 % 4
    assert turns % 2 == 1
    standing = tmp_path / "standing.mkv"
    with av.open(str(standing), "w") as output:
        stream = output.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 64, "gray"
        for (luma,) in planes_of_file(lying):
            upright = np.ascontiguousarray(np.rot90(luma, turns))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(upright, "gray")))
        output.mux(stream.encode(None))
    shown = [np.rot90(luma, turns) for (luma,) in planes_of_file(derained(lying, "a.mkv"))]
    assert identical([(luma,) for luma in shown], planes_of_file(derained(standing, "b.mkv")))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (37, 53)])
@pytest.mark.parametrize("how", ["side", "split"])
def test_before_and_after_are_beside_each_other_as_shown(
    clip: Make, derained: Callable[..., Path], how: str, size: tuple[int, int], rotated: bool
) -> None:  # fmt: skip
    matrix = UPRIGHT if rotated else None
    source = clip("in.mkv", codec="ffv1", frames=2, size=size, display_matrix=matrix, **MILLISECONDS)
    plain, both = derained(source, "plain.mkv"), derained(source, "both.mkv", compare=how)
    with VideoReader(both) as reader:
        turns = reader.info.rotation_deg // 90 % 4
    assert turns % 2 == rotated
    old, new, joined = ([np.rot90(p[0], turns) for p in planes_of_file(f)] for f in (source, plain, both))
    height, width = old[0].shape
    for before, after, picture in zip(old, new, joined, strict=True):
        if how == "side":
            assert picture.shape == (height, 2 * width)
            assert np.array_equal(picture[:, :width], before)
            assert np.array_equal(picture[:, width:], after)
        else:
            assert picture.shape == (height, width)
            assert np.array_equal(picture[:, : width // 2 - 1], before[:, : width // 2 - 1])
            assert np.array_equal(picture[:, width // 2 + 1 :], after[:, width // 2 + 1 :])
            assert (picture[:, width // 2] == 235).all()


def test_colour_stays_beside_its_picture(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=1, **MILLISECONDS)
    (_, cb, cr), (_, both_b, both_r) = (
        planes_of_file(path)[0] for path in (source, derained(source, compare="side", temporal="only"))
    )
    for old, joined in ((cb, both_b), (cr, both_r)):
        assert np.array_equal(joined, np.concatenate([old, old], axis=1))


def test_a_part_begins_where_asked(clip: Make, derained: Callable[..., Path]) -> None:
    source = clip("in.mkv", codec="ffv1", frames=20, rate=Fraction(20), **MILLISECONDS)
    part = derained(source, strength=0, start_s=0.25, duration_s=0.3)
    assert identical(planes_of_file(part), planes_of_file(source)[5:11])
    assert decoded_pts(part) == [Fraction(i, 20) for i in range(6)]


def numbered(folder: Path, count: int, suffix: str = ".png") -> list[np.ndarray]:
    """A folder of pictures drop8 ... drop12, and their R, G, B."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(count)]
    for number, rgb in enumerate(pictures, 8):
        cv2.imwrite(str(folder / f"drop{number}{suffix}"), rgb[..., ::-1])
    return pictures


def read_rgb(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_folder_becomes_a_folder_of_the_same_names(tmp_path: Path, tiny: Path) -> None:
    pictures = numbered(tmp_path / "in", 5)
    result = process(tmp_path / "in", tmp_path / "out", Options(model=str(tiny), strength=0))
    assert result.frames == 5
    assert names_in(tmp_path / "out") == {f"drop{n}.png" for n in range(8, 13)}
    for number, rgb in enumerate(pictures, 8):
        assert np.array_equal(read_rgb(tmp_path / "out" / f"drop{number}.png"), rgb)


def test_pictures_of_a_folder_are_neighbours_in_time(tmp_path: Path, tiny: Path) -> None:
    numbered(tmp_path / "in", 5)
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "in/drop10.png", tmp_path / "one")
    for name in ("in", "one"):
        process(tmp_path / name, tmp_path / f"{name}.out", Options(model=str(tiny), precision="fp32"))
    many, one = (read_rgb(tmp_path / f"{name}.out/drop10.png") for name in ("in", "one"))
    assert many.shape == one.shape
    assert not np.array_equal(many, one)


def test_a_rate_says_which_pictures_a_part_holds(tmp_path: Path, tiny: Path) -> None:
    numbered(tmp_path / "in", 5)
    options = Options(model=str(tiny), strength=0, rate=Fraction(10), start_s=0.1, duration_s=0.2)
    process(tmp_path / "in", tmp_path / "out", options)
    assert names_in(tmp_path / "out") == {"drop9.png", "drop10.png"}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("how", [None, "side", "split"])
def test_a_picture_stays_a_picture(
    tmp_path: Path, tiny: Path, how: Any, channels: int
) -> None:  # fmt: skip
    pixels = np.random.default_rng(2).integers(40, 200, (20, 31, channels), np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), pixels)
    result = process(tmp_path / "in.png", None, Options(model=str(tiny), compare=how))
    assert result.target == tmp_path / "in.derained.png"
    after = cv2.imread(str(result.target), cv2.IMREAD_UNCHANGED).reshape(20, -1, channels)
    assert after.shape[1] == (62 if how == "side" else 31)
    assert not np.array_equal(after[:, -31:], pixels)
    if channels == 4:
        assert np.array_equal(after[:, -31:, 3], pixels[..., 3])


def test_the_result_says_what_was_done(clip: Make, tmp_path: Path, tiny: Path) -> None:
    source = clip("in.mp4", frames=8, audio="aac")
    told: list[Progress] = []
    result = process(source, tmp_path / "out.mp4", Options(model=str(tiny), temporal="strong"), told.append)
    assert isinstance(result, Result)
    assert (result.source, result.target) == (source, tmp_path / "out.mp4")
    assert (result.frames, result.repeated, result.missing, result.damage) == (8, 0, 0, ())
    assert len(result.kept) == 1
    assert "audio" in result.kept[0]
    assert result.dropped == ()
    assert result.model == "tiny"
    assert result.device.startswith(("cpu", "cuda", "mps"))
    assert result.seconds > 0
    assert set(result.stages_s) == {
        "prepare", "raindrops", "flow", "align", "network", "rain_detection", "temporal_filter", "add_residual",
        "video",
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in result.stages_s.values())
    assert [progress.frames for progress in told] == list(range(1, 9))
    assert told[-1].total_s is not None
    assert told[-1].done_s == pytest.approx(told[-1].total_s, abs=0.04)
    assert [p.done_s for p in told] == sorted(p.done_s for p in told)


def test_without_a_network_none_is_loaded(clip: Make, tmp_path: Path) -> None:
    source = clip("in.mp4", frames=3)
    unusable = tmp_path / "unusable.safetensors"
    unusable.touch()
    for number, options in enumerate((Options(str(unusable), temporal="only"), Options(str(unusable), strength=0))):
        assert process(source, tmp_path / f"{number}.mp4", options).model is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("film.mp4", "film.derained.mp4"), ("a.b.MOV", "a.b.derained.MOV"), ("noext", "noext.derained.mp4"),
        ("tape.avi", "tape.derained.mp4"), ("tv.m2ts", "tv.derained.mp4"),
        ("shots", "shots.derained"), ("shots.v2", "shots.v2.derained"),
    ],
)  # fmt: skip
def test_the_default_name_says_what_it_is(tmp_path: Path, source: str, expected: str) -> None:
    path = tmp_path / source
    path.mkdir() if source.startswith("shots") else path.touch()
    assert default_target(path) == tmp_path / expected


@pytest.mark.parametrize("here", [".", "..", "../in"])
def test_a_folder_named_by_dots_is_written_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:  # fmt: skip
    inside = tmp_path / "in"
    (inside / "deeper").mkdir(parents=True)
    monkeypatch.chdir(inside / "deeper" if here == ".." else inside)
    assert default_target(Path(here)).resolve() == tmp_path / "in.derained"


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 7}, {"strength": -0.1}, {"strength": float("nan")}, {"temporal": "foo"}, {"compare": "foo"},
        {"batch_size": 0}, {"batch_size": -3}, {"rate": Fraction(0)}, {"rate": Fraction(-30)},
        {"start_s": -1.0}, {"start_s": float("nan")}, {"start_s": float("inf")},
        {"duration_s": 0.0}, {"duration_s": -2.0}, {"duration_s": float("nan")}, {"duration_s": float("inf")},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_with_a_cure(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Options(**wrong)
    assert caught.value.cure


@pytest.mark.parametrize("fails_after", [1, 4])
def test_an_error_on_the_way_leaves_no_file(
    clip: Make, tmp_path: Path, tiny: Path, fails_after: int
) -> None:  # fmt: skip
    source = clip("in.mp4", frames=30)

    def full(progress: Progress) -> None:
        if progress.frames == fails_after:
            raise OutputError("the disk is full.")

    with pytest.raises(OutputError, match="full"):
        process(source, tmp_path / "out.mp4", Options(model=str(tiny)), full)
    assert names_in(tmp_path) == {"in.mp4"}


def test_an_older_output_survives_a_failure(clip: Make, tmp_path: Path, tiny: Path) -> None:
    source, target = clip("in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(VderainError):
        process(source, target, Options(model=str(tiny), overwrite=True, encode=EncodeOptions(codec="nonsense")))
    with pytest.raises(OutputError, match="exists"):
        process(source, target, Options(model=str(tiny)))
    assert target.read_bytes() == b"precious"
    process(source, target, Options(model=str(tiny), overwrite=True))
    assert len(planes_of_file(target)) == 12
    assert names_in(tmp_path) == {"in.mp4", "out.mp4"}


def test_a_file_without_video_is_an_error_of_the_input(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "in.mp4").write_text("not a video")
    with pytest.raises(InputError):
        process(tmp_path / "in.mp4", tmp_path / "out.mp4", Options(model=str(tiny)))
    assert names_in(tmp_path) == {"in.mp4"}


def test_a_released_generator_runs(clip: Make, tmp_path: Path) -> None:
    source = clip("in.mp4", frames=3)
    result = process(source, tmp_path / "out.mp4")
    assert result.model == Options().model
    assert decoded_pts(result.target) == decoded_pts(source)


def test_what_the_container_refuses_is_said_before_the_look_at_the_weather(
    tmp_path: Path, clip: Make, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr("vderain.pipeline.scan", lambda *args: looked.append(args))
    options = Options(model=str(tiny), auto=True, encode=EncodeOptions(codec="vp9"))
    with pytest.raises(UsageError, match="cannot hold vp9"):
        process(clip(frames=8), tmp_path / "out.mov", options)
    assert looked == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_output_is_not_more_readable_than_the_input(clip: Make, mode: int) -> None:
    source = clip(frames=3)
    source.chmod(mode)
    target = process(source, source.with_name("out.mp4"), Options(strength=0)).target
    assert target.stat().st_mode & 0o777 == mode


def test_a_file_that_appears_during_the_run_is_kept(clip: Make) -> None:
    source = clip(frames=3)
    target = source.with_name("out.mp4")
    with pytest.raises(OutputError, match="exists already"):
        process(source, target, Options(strength=0), lambda _: target.write_bytes(b"of another") and None)
    assert target.read_bytes() == b"of another"
    assert names_in(source.parent) == {source.name, "out.mp4"}


def test_a_second_run_on_the_same_output_is_refused_while_the_first_goes_on(clip: Make) -> None:
    source, refused = clip(frames=3), []
    target = source.with_name("out.mp4")

    def second(_: object) -> None:
        with pytest.raises(OutputError, match="another run is writing") as caught:
            process(source, target, Options(strength=0))
        refused.append(caught.value)

    assert process(source, target, Options(strength=0), second).frames == len(refused) == 3
    assert names_in(source.parent) == {source.name, "out.mp4"}
