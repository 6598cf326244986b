"""The recurrent generator along a clip: joints, cuts, single frames, and the whole of `process` with it."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from clips import Clip as ClipFile
from clips import as_frame, drive, identical, make, planes_of_file, textured
from conftest import tiny_recurrent
from hypothesis import given, settings
from hypothesis import strategies as st

from vderain import Derainer
from vderain.errors import CheckpointError
from vderain.media.colour import add_residual
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.frame import Colour, Frame
from vderain.model.recurrent import RecurrentUNet
from vderain.model.unet import UNetConfig
from vderain.options import Options
from vderain.pipeline import Pipeline, load_models
from vderain.process import Hooks, process
from vderain.restore import flow, recurrent
from vderain.restore.frames import PreparedFrame, Restoration
from vderain.restore.rain_detection import zero_dry_scenes
from vderain.restore.recurrent import RecurrentRunner, context_begins
from vderain.restore.window import prepare_frames
from vderain.runtime.device import DevicePlacement

CPU = DevicePlacement(torch.device("cpu"), bf16=False)
LOSSLESS = EncodeOptions(codec="ffv1")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def runner() -> RecurrentRunner:
    return RecurrentRunner(tiny_recurrent(), CPU)


@pytest.fixture
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "PERIOD", 8)
    monkeypatch.setattr(recurrent, "WARM_UP", 3)


def prepared(pictures: list[np.ndarray], first: int = 0) -> list[PreparedFrame]:
    return list(prepare_frames((as_frame(picture, i) for i, picture in enumerate(pictures, first)), 1, first=first))


def noisy_drive(count: int, size: tuple[int, int] = (40, 56), seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.clip(f + rng.normal(0, 12, f.shape), 0, 255).astype(np.uint8) for f in drive(count, size, seed=seed)]


def residuals(
    runner: RecurrentRunner, pictures: list[np.ndarray], first: int = 0, workers: int = 1, lag: int = 1
) -> list[np.ndarray]:
    return [item.residual for item in runner(prepared(pictures, first), workers, lag)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


def test_the_context_begins_a_warm_up_before_a_period() -> None:
    period, warm_up = recurrent.PERIOD, recurrent.WARM_UP
    assert [context_begins(n) for n in (-3, 0, 5, period - 1)] == [0, 0, 0, 0]
    assert [context_begins(n) for n in (period, period + 1, 2 * period - 1)] == [period - warm_up] * 3
    assert context_begins(2 * period) == 2 * period - warm_up


@pytest.mark.parametrize("number", [8, 11, 15, 16, 19])
def test_a_run_that_begins_where_the_context_does_gives_the_same(
    runner: RecurrentRunner, short_periods: None, number: int
) -> None:
    clip = noisy_drive(21)
    whole = residuals(runner, clip)
    begins = context_begins(number)
    assert 0 < begins < number
    resumed = residuals(runner, clip[begins:], begins)
    assert all(same(whole[number:], resumed[number - begins :]))
    earlier = residuals(runner, clip[begins - 2 :], begins - 2)
    assert all(same(whole[number:], earlier[number - begins + 2 :])), "what is before the context does not matter"
    late = residuals(runner, clip[begins + 1 :], begins + 1)
    assert not np.array_equal(whole[number], late[number - begins - 1])


def test_without_a_joint_the_memory_goes_on(runner: RecurrentRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is replaced at a period's first frame and not before; earlier frames change by the lag alone."""
    clip = noisy_drive(12)
    monkeypatch.setattr(recurrent, "WARM_UP", 1)
    for lag in (0, 1):
        monkeypatch.setattr(recurrent, "PERIOD", 100)
        straight = residuals(runner, clip, lag=lag)
        monkeypatch.setattr(recurrent, "PERIOD", 8)
        unchanged = 8 - lag
        assert same(straight, residuals(runner, clip, lag=lag)) == [True] * unchanged + [False] * (12 - unchanged)


@pytest.mark.parametrize("lag", [0, 2])
def test_each_frame_and_each_flow_is_uploaded_once(
    runner: RecurrentRunner, short_periods: None, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """Through the warm-up, where a frame is restored twice, and a cut; a change is downloaded once."""
    uploaded: list[np.ndarray] = []
    downloads: list[torch.Tensor] = []
    from_numpy, to_numpy = torch.from_numpy, torch.Tensor.numpy

    def counted(array: np.ndarray) -> torch.Tensor:
        uploaded.append(array)
        return from_numpy(array)

    def counted_back(tensor: torch.Tensor) -> np.ndarray:
        downloads.append(tensor)
        return to_numpy(tensor)

    clip = [f // 4 for f in noisy_drive(10)] + [255 - f // 4 for f in noisy_drive(4)]
    frames = prepared(clip)
    assert [frame.shot for frame in frames] == [0] * 10 + [1] * 4
    monkeypatch.setattr(torch, "from_numpy", counted)
    monkeypatch.setattr(torch.Tensor, "numpy", counted_back)
    results = list(runner(frames, 1, lag))
    assert len(results) == len(downloads) == len(clip)
    pictures = [array for array in uploaded if array.shape == clip[0].shape]
    assert len(pictures) == len({id(array) for array in pictures}) == len(clip)
    lumas, flows = len(clip), 2 * (len(clip) - 2)  # both ways, but for the first frames of shots
    assert len(uploaded) == len(pictures) + lumas + 2 * flows, "a flow is two arrays"


def test_the_luma_of_the_frame_before_is_carried_along(
    runner: RecurrentRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    carried = RecurrentUNet.carried

    def watched(self: RecurrentUNet, memory: Any, previous: torch.Tensor, *rest: Any) -> Any:
        seen.append(previous)
        return carried(self, memory, previous, *rest)

    monkeypatch.setattr(RecurrentUNet, "carried", watched)
    clip = noisy_drive(4)
    residuals(runner, clip)
    expected = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in clip[:-1]]
    assert all(same([(previous[0, 0] * 255).round().byte().numpy() for previous in seen], expected))


@pytest.mark.parametrize("ends", ["end", "close", "error"])
def test_the_number_of_threads_is_as_before_when_a_run_ends(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(recurrent, "cores", lambda: 4)
    generator = tiny_recurrent()
    try:
        torch.set_num_threads(3)
        run = RecurrentRunner(generator, CPU)(prepared(noisy_drive(4)), 1)
        next(run)
        assert torch.get_num_threads() == 2
        if ends == "end":
            assert len(list(run)) == 3
        elif ends == "close":
            run.close()
        else:
            with torch.no_grad():
                generator.head.weight.fill_(float("nan"))
            with pytest.raises(CheckpointError):
                list(run)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_number_of_workers_does_not_matter(runner: RecurrentRunner) -> None:
    clip = noisy_drive(7)
    assert all(same(residuals(runner, clip, workers=1), residuals(runner, clip, workers=3)))


@pytest.mark.parametrize("cut", [1, 4, 6, 7, 8, 9])
def test_frames_after_a_cut_are_those_of_the_second_shot_alone(
    runner: RecurrentRunner, short_periods: None, cut: int
) -> None:
    """Wherever the cut is in a period: before, in and after the warm-up."""
    dark, bright = [f // 4 for f in noisy_drive(7)], [255 - f // 4 for f in noisy_drive(7)]
    first = (dark * 2)[:cut]
    together = residuals(runner, first + bright)
    assert all(same(together[cut:], residuals(runner, bright, first=cut)))
    assert all(same(together[:cut], residuals(runner, first)))


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_frame_depends_on_all_before_and_on_the_next_two_and_the_lag(runner: RecurrentRunner, lag: int) -> None:
    clip = noisy_drive(9)
    frame = residuals(runner, clip, lag=lag)[2]
    assert not np.array_equal(frame, residuals(runner, clip[1:], 1, lag=lag)[1])
    for changed in range(3, 9):
        other = [picture if number != changed else 255 - picture for number, picture in enumerate(clip)]
        linked = [replace(item, shot=0) for item in prepared(other)]  # no cut
        again = [item.residual for item in runner(linked, 1, lag)][2]
        assert np.array_equal(frame, again) == (changed > 2 + 2 + lag), changed


def test_each_is_one_image_after_the_other(runner: RecurrentRunner) -> None:
    clip = noisy_drive(3)
    alone = [runner.restore_image(picture) for picture in clip]
    assert all(same([item.residual for item in runner.each(prepared(clip))], alone))
    assert not any(same(residuals(runner, clip), alone))


def test_a_shot_of_one_frame_is_restored_like_an_image(runner: RecurrentRunner) -> None:
    before, (single, *_), after = noisy_drive(3), noisy_drive(1, seed=2), noisy_drive(3)
    clip = [*(f // 4 for f in before), 255 - single // 4, *(f // 4 for f in after)]
    results = list(runner(prepared(clip), 2))
    assert [item.is_still_image for item in results] == [False] * 3 + [True] + [False] * 3
    assert np.array_equal(results[3].residual, runner.restore_image(clip[3]))


def test_the_flip_ensemble_of_a_mirrored_image_is_mirrored(runner: RecurrentRunner) -> None:
    (picture,) = noisy_drive(1, (36, 52))
    one, mirrored = runner.flip_ensemble(picture), runner.flip_ensemble(np.ascontiguousarray(picture[:, ::-1]))
    assert one.shape == (36, 52, 1) and one.dtype == np.float16
    assert np.array_equal(one, mirrored[:, ::-1])
    assert not np.array_equal(one, runner.restore_image(picture))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 67), st.integers(1, 67), st.sampled_from([(8, 16), (4, 8, 8, 8)]), st.sampled_from([1, 2]))
def test_clips_of_any_size_are_restored(height: int, width: int, widths: tuple[int, ...], scale: int) -> None:
    clip = noisy_drive(3, (height, width))
    found = residuals(RecurrentRunner(tiny_recurrent(widths=widths, scale=scale), CPU), clip)
    assert all(part.shape == (height, width, 1) and part.dtype == np.float16 for part in found)
    assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("side_max_px", [64, 20, 10])
def test_flow_at_a_half_a_quarter_and_an_eighth(stem: int, side_max_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for 4K and 8K, whose flow is coarser than the feature state."""
    monkeypatch.setattr(flow, "FLOW_SIDE_MAX_PX", side_max_px)
    monkeypatch.setattr(flow.FlowEstimator, "SIDE_MIN_PX", 100)
    runner = RecurrentRunner(tiny_recurrent(stem=stem), CPU)
    still = noisy_drive(1, (60, 76)) * 3
    frames = prepared(still)
    assert frames[0].luma.shape[1] <= side_max_px
    assert len(residuals(runner, still)) == 3


def test_an_untrained_generator_changes_nothing() -> None:
    runner = RecurrentRunner(RecurrentUNet(UNetConfig(1, (8, 16), state=4)), CPU)
    assert not any(part.any() for part in residuals(runner, noisy_drive(4)))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_output_that_is_not_finite_stops_the_run(value: float) -> None:
    generator = tiny_recurrent()
    with torch.no_grad():
        assert generator.head.bias is not None
        generator.head.bias[2 * generator.config.stem**2] = value
    broken = RecurrentRunner(generator, CPU)
    with pytest.raises(CheckpointError, match="not finite"):
        residuals(broken, noisy_drive(2))
    with pytest.raises(CheckpointError, match="not finite"):
        broken.restore_image(noisy_drive(1)[0])


def test_bf16_is_close_to_fp32() -> None:
    clip = noisy_drive(4)
    exact = residuals(RecurrentRunner(tiny_recurrent(), CPU), clip)
    rough = residuals(RecurrentRunner(tiny_recurrent(), DevicePlacement(torch.device("cpu"), bf16=True)), clip)
    for a, b in zip(exact, rough, strict=True):
        assert 0 < np.abs(a.astype(float) - b).mean() < 0.05 * np.abs(a.astype(float)).mean()


def test_no_frames_give_no_results(runner: RecurrentRunner) -> None:
    assert list(runner([], 2)) == []


def test_rain_of_one_shot_is_not_counted_in_the_next(runner: RecurrentRunner) -> None:
    """A shower before a cut; behind it the network would change a few pixels of a dry scene."""
    wet, dry = ([f // 4 for f in noisy_drive(3)], [255 - f // 4 for f in noisy_drive(3)])
    items = list(runner(prepared(wet + dry), 1))
    rain = np.full((40, 56, 1), -0.2, np.float16)
    marked = [replace(item, residual=rain * np.float16(number < 3)) for number, item in enumerate(items)]
    assert [item.rain_score for item in zero_dry_scenes(marked)] == [1, 1, 1, 0, 0, 0]


COLOURS = [
    Colour("bt709", False, 8, 2, 2), Colour("bt601", True, 10, 2, 1), Colour("bt2020", False, 10, 1, 1),
    Colour("rgb", True, 8), Colour("rgb", True, 16),
]  # fmt: skip


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.matrix}-{colour.depth_bits}")
def test_a_residual_of_luma_is_the_same_change_of_all_three_colours(colour: Colour, planes: int) -> None:
    rng = np.random.default_rng(0)
    small = -(-21 // colour.chroma_h), -(-35 // colour.chroma_w)
    sizes = [(21, 35), small, small][:planes]
    dtype = np.uint8 if colour.depth_bits == 8 else np.uint16
    codes = tuple(rng.integers(0, 2**colour.depth_bits, size).astype(dtype) for size in sizes)
    frame = Frame(codes, colour, 0, 1, Fraction(1, 30))
    grey = rng.normal(0, 0.2, (21, 35, 1)).astype(np.float32)
    one, three = add_residual(frame, grey), add_residual(frame, grey.repeat(3, axis=2))
    for a, b in zip(one.planes, three.planes, strict=True):
        assert a.dtype == b.dtype and np.abs(a.astype(int) - b.astype(int)).max() <= 1
    assert not np.array_equal(one.planes[0], frame.planes[0])
    if colour.matrix != "rgb":
        assert all(np.array_equal(a, b) for a, b in zip(one.planes[1:], frame.planes[1:], strict=True))
    elif planes == 3:
        assert not any(np.array_equal(a, b) for a, b in zip(one.planes, frame.planes, strict=True))
    tiny = np.full_like(grey, 0.4 / 2**colour.depth_bits)
    assert all(np.array_equal(a, b) for a, b in zip(add_residual(frame, tiny).planes, frame.planes, strict=True))


@pytest.mark.parametrize("shape", [(21, 35), (21, 35, 2), (35, 21, 1)])
def test_a_residual_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    frame = as_frame(np.zeros((21, 35, 3), np.uint8))
    with pytest.raises(ValueError, match="residual is"):
        add_residual(frame, np.zeros(shape, np.float32))


def options(model: Path, **choices: Any) -> Options:
    defaults = {"model": str(model), "precision": "fp32", "encode": LOSSLESS, "guard": False, "drops": False}
    return Options(**defaults | choices)


@pytest.fixture
def source(clip: Make) -> Path:
    return clip("in.mkv", frames=23, codec="ffv1", size=(64, 48), time_base=Fraction(1, 1000))


def test_a_video_becomes_a_video(source: Path, tiny_memory: Path) -> None:
    result = process(source, source.with_name("out.mkv"), options(tiny_memory))
    assert (result.frames, result.model) == (23, "tiny_memory")
    assert {"prepare", "flow", "network", "add_residual"} <= set(result.stages_s)
    before, after = planes_of_file(source), planes_of_file(result.target)
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old[0], new[0])
        assert np.array_equal(old[1], new[1]) and np.array_equal(old[2], new[2]), "chroma stays as it is"


class Crash(Exception):
    """What a power cut is to a process."""


def crash_at(number: int) -> Callable[[Frame, Frame, int], None]:
    left = [number]

    def see(before: Frame, after: Frame, turns: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    return see


def in_pieces(source: Path, chosen: Options, crashes: tuple[int, ...]) -> Path:
    target, store = source.with_name("pieces.mkv"), source.with_name("store")
    for number in crashes:
        hooks = Hooks(on_frame=crash_at(number), segments=store, segment_frames=4)
        with pytest.raises(Crash):
            process(source, target, chosen, hooks=hooks)
        assert not target.exists()
    return process(source, target, chosen, hooks=Hooks(segments=store, segment_frames=4)).target


@pytest.mark.parametrize(
    "choices",
    [{}, {"guard": True}, {"temporal": "light"}, {"temporal": "off"}, {"drops": True}, {"auto": True}],
    ids=lambda choices: " ".join(f"{key} {value}" for key, value in choices.items()) or "default",
)
def test_a_joint_shows_in_no_frame(
    source: Path, tiny_memory: Path, monkeypatch: pytest.MonkeyPatch, choices: dict[str, Any]
) -> None:
    """The last joint is at frame 20, so it needs frame 12 and what that remembers, from frame 9 on."""
    monkeypatch.setattr(recurrent, "PERIOD", 12)
    monkeypatch.setattr(recurrent, "WARM_UP", 3)
    chosen = options(tiny_memory, **choices)
    whole = process(source, source.with_name("whole.mkv"), chosen).target
    pieces = in_pieces(source, chosen, (22, 7))
    assert identical(planes_of_file(pieces), planes_of_file(whole))
    assert not identical(planes_of_file(pieces), planes_of_file(source))


def test_the_context_is_enough_for_raindrops_as_well(tiny_memory: Path, short_periods: None) -> None:
    """Raindrops are removed by a median over five frames, and what is remembered was seen without them."""
    chosen = options(tiny_memory, drops=True)
    pipeline, clip = Pipeline(chosen, load_models(chosen)), noisy_drive(12)
    assert pipeline.context_begins(-5) == 0

    def restored(first: int) -> dict[int, Restoration]:
        frames = (as_frame(picture, number) for number, picture in enumerate(clip[first:], first))
        return {item.number: item for item in pipeline._run_network(pipeline._prepare(frames, 0, 1, first), 1)}

    whole, resumed, late = restored(0), restored(pipeline.context_begins(9)), restored(context_begins(9))
    assert whole[9].raindrop_residual is not None and whole[9].raindrop_residual.any()
    assert np.array_equal(whole[9].residual, resumed[9].residual)
    assert not np.array_equal(whole[9].residual, late[9].residual)


def test_nothing_leaks_across_a_cut(tmp_path: Path, tiny_memory: Path) -> None:
    """With the guard, which looks at several frames, and with raindrops."""
    dark, bright = [f // 3 for f in noisy_drive(4)], [255 - f // 3 for f in noisy_drive(4, seed=1)]
    derainer = Derainer.load(str(tiny_memory), precision="fp32")
    together = list(derainer.restore(dark + bright))
    apart = [*derainer.restore(dark), *derainer.restore(bright)]
    assert all(same(together, apart))


def test_temporal_off_looks_at_one_frame(source: Path, tiny_memory: Path) -> None:
    for temporal, alike in (("off", True), ("strong", False)):
        chosen = options(tiny_memory, temporal=temporal)
        whole = planes_of_file(process(source, source.with_name(f"{temporal}.mkv"), chosen).target)
        part = options(tiny_memory, temporal=temporal, start_s=0.2, duration_s=0.02)
        single = planes_of_file(process(source, source.with_name(f"{temporal}-part.mkv"), part).target)
        assert len(single) == 1
        assert any(identical(single, [frame]) for frame in whole) == alike


def test_auto_restores_rainy_intervals(source: Path, tiny_memory: Path) -> None:
    result = process(source, source.with_name("out.mkv"), options(tiny_memory, auto=True))
    assert result.frames == 23
    assert [interval.rainy for interval in result.rain_intervals] == [True]
    whole = process(source, source.with_name("whole.mkv"), options(tiny_memory))
    assert identical(planes_of_file(result.target), planes_of_file(whole.target))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_stays_a_picture(tmp_path: Path, tiny_memory: Path, channels: int) -> None:
    pixels = textured(1, (37, 50))[..., [0, 1, 2, 0]][..., :channels]
    cv2.imwrite(str(tmp_path / "in.png"), pixels)
    result = process(tmp_path / "in.png", None, Options(model=str(tiny_memory), guard=False, drops=False))
    after = cv2.imread(str(result.target), cv2.IMREAD_UNCHANGED).reshape(37, 50, channels)
    assert not np.array_equal(after[..., :3], pixels[..., :3])
    if channels == 4:
        assert np.array_equal(after[..., 3], pixels[..., 3])


def test_the_derainer_gives_what_process_gives(tmp_path: Path, tiny_memory: Path) -> None:
    frames = noisy_drive(5)
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), frame[..., ::-1])
    chosen = Options(model=str(tiny_memory), guard=False, drops=False)
    process(tmp_path / "in", tmp_path / "out", chosen)
    expected = [cv2.imread(str(tmp_path / "out" / f"{number}.png"))[..., ::-1] for number in range(5)]
    derainer = Derainer.load(str(tiny_memory), guard=False, drops=False)
    assert all(same(list(derainer.restore(frames)), expected))
    assert not any(same(expected, frames))


def test_an_odd_clip_goes_all_the_way(tmp_path: Path, tiny_memory: Path) -> None:
    clip = make(tmp_path / "in.mkv", ClipFile(frames=4, codec="ffv1", size=(33, 49), time_base=Fraction(1, 1000)))
    result = process(clip, tmp_path / "out.mkv", options(tiny_memory))
    assert [planes[0].shape for planes in planes_of_file(result.target)] == [(49, 33)] * 4
