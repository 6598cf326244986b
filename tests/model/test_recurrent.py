"""The generator with a memory: zero before training, a Kalman filter that can be computed by hand, and its weights."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_generator, tiny_recurrent
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vderain.errors import CheckpointError
from vderain.model.checkpoint import build_generator, load_checkpoint, save_checkpoint
from vderain.model.memory import HALF_LIVES, Evidence, Memory, SelectiveState, Step
from vderain.model.motion import Motion, sample, sampling_grid
from vderain.model.recurrent import (
    DRY_LEVELS,
    LUMA_WEIGHTS,
    MISMATCH_LEVELS,
    VARIANCE_MIN,
    VARIANCE_NONE,
    RecurrentUNet,
    _both_sides,
    from_window,
)
from vderain.model.unet import UNet, UNetConfig
from vderain.train.checkpoints import load_start

LEVELS = ((8, 16), (4, 8, 8), (4, 8, 8, 8))


def untrained(widths: tuple[int, ...] = (8, 16), scale: int = 1, stem: int = 2) -> RecurrentUNet:
    torch.manual_seed(1)
    return RecurrentUNet(UNetConfig(1, widths, stem, scale=scale, state=4)).eval().requires_grad_(False)


def luma_of(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 1, H, W)."""
    return (rgb * torch.tensor(LUMA_WEIGHTS).view(3, 1, 1)).sum(1, keepdim=True)


def still(luma: Tensor, step: tuple[int, int] = (1, 1), confidence: float = 1.0) -> Motion:
    """No motion, at the size of the frame divided by `step` and rounded down, as flow is computed."""
    h, w = (max(1, side // by) for side, by in zip(luma.shape[-2:], step, strict=True))
    step_px = luma.shape[-1] / w, luma.shape[-2] / h
    return Motion(luma.new_zeros(len(luma), 2, h, w), luma.new_full((len(luma), 1, h, w), confidence), step_px)


def run(generator: RecurrentUNet, frames: list[Tensor], motions: list[Motion] | None = None) -> list[Step]:
    """Restore (B, 3, H, W) frames one after the other, without looking ahead; zero motion if not given."""
    steps: list[Step] = []
    for number, rgb in enumerate(frames):
        luma = luma_of(rgb)
        evidence = generator.no_evidence(luma)
        if steps:
            motion = motions[number] if motions else still(luma)
            carried = generator.carried(steps[-1].memory, luma_of(frames[number - 1]), luma, motion)
            evidence = evidence._replace(**carried._asdict())
        steps.append(generator.step(rgb, luma, evidence))
    return steps


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 53),
    st.integers(1, 53),
    st.sampled_from(LEVELS),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 2),
)
def test_an_untrained_generator_changes_nothing_in_images_of_any_size(
    height: int, width: int, widths: tuple[int, ...], scale: int, stem: int, step: tuple[int, int]
) -> None:
    generator = untrained(widths, scale, stem)
    frames = [torch.rand(2, 3, height, width) for _ in range(2)]
    with torch.inference_mode():
        steps = run(generator, frames, [still(luma_of(frame), step) for frame in frames])
    for result in steps:
        assert result.change.shape == result.estimate.shape == (2, 1, height, width)
        assert torch.count_nonzero(result.change) == torch.count_nonzero(result.estimate) == 0
        assert result.memory.luma.shape == result.memory.variance.shape == (2, 1, height, width)
        assert result.memory.features.shape == (2, *generator.feature_shape(height, width))
        assert all(torch.isfinite(part).all() for part in result.memory)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("widths", LEVELS)
def test_what_was_remembered_makes_a_difference(widths: tuple[int, ...], scale: int) -> None:
    """Of two clips with the same second frame, the second results differ."""
    generator = tiny_recurrent(widths=widths, scale=scale)
    first, other, now = torch.rand(3, 1, 3, 32, 48)
    with torch.inference_mode():
        one, two = run(generator, [first, now])[1], run(generator, [other, now])[1]
        alike = run(generator, [first, now])[1]
    assert torch.equal(one.change, alike.change)
    for a, b in ((one.change, two.change), (one.memory.luma, two.memory.luma)):
        assert (a - b).abs().max() > 1e-3
    assert (one.memory.features - two.memory.features).abs().max() > 1e-6


def test_bytes_and_floats_give_the_same() -> None:
    generator = tiny_recurrent()
    rgb = torch.randint(0, 256, (1, 3, 33, 18), dtype=torch.uint8)
    grey = rgb[:, :1].contiguous()
    with torch.inference_mode():
        eight = generator.step(rgb, grey, generator.no_evidence(grey))
        luma = grey.float() / 255
        floats = generator.step(rgb.float() / 255, luma, generator.no_evidence(luma))
    assert eight.change.abs().max() > 0.01
    torch.testing.assert_close(eight.change, floats.change, atol=1e-5, rtol=1e-4)


def test_the_image_memory_of_an_untrained_generator_is_a_kalman_filter() -> None:
    """Zero motion, a constant scene under noise too weak for a mismatch: the scalar filter for every pixel."""
    rng = np.random.default_rng(4)
    noise_max = MISMATCH_LEVELS / 2 / 255
    frames = [(0.5 + rng.uniform(-noise_max, noise_max, (24, 40))).astype(np.float32) for _ in range(5)]
    with torch.inference_mode():
        steps = run(untrained(), [torch.from_numpy(y).expand(1, 3, 24, 40) for y in frames])
    process, floor = 1.5**2, 0.5**2  # levels squared
    mean, variance = frames[0].astype(np.float64), VARIANCE_NONE
    for number, (y, step) in enumerate(zip(frames, steps, strict=True)):
        predicted = min(variance + process, VARIANCE_NONE) if number else VARIANCE_NONE
        gain = predicted / (predicted + floor)
        mean = mean + gain * (y - mean)
        variance = max((1 - gain) * predicted, VARIANCE_MIN)
        np.testing.assert_allclose(step.memory.luma[0, 0].numpy(), mean, atol=1e-6)
        np.testing.assert_allclose(step.memory.variance[0, 0].numpy(), variance, rtol=5e-3)
    assert np.abs(mean - frames[-1]).max() > 2e-4, "the filter did nothing"


def test_the_memory_outweighs_what_the_network_changed() -> None:
    """Where the network takes 40 levels away its error is 15 % of them, and the remembered scene counts for more."""
    generator = untrained()
    with torch.no_grad():
        assert generator.head.bias is not None
        cells = generator.config.stem**2
        generator.head.bias[2 * cells : 3 * cells] = -40 / 255
    luma = torch.full((1, 1, 16, 16), 0.8)
    memory = Memory(torch.full_like(luma, 0.5), torch.full_like(luma, 2.0), torch.zeros(1, 4, 4, 4))
    with torch.inference_mode():
        evidence = generator.no_evidence(luma)
        carried = generator.carried(memory, luma, luma, still(luma))
        evidence = evidence._replace(**carried._asdict())
        step = generator.step(luma.expand(-1, 3, -1, -1), luma, evidence)
    predicted, error = 2 + 1.5**2, (0.15 * 40) ** 2 + 0.5**2
    gain = predicted / (predicted + error)
    expected = 0.5 + gain * (0.8 - 40 / 255 - 0.5)
    assert step.estimate.numpy() == pytest.approx(-40 / 255, abs=1e-6)
    assert step.memory.luma.numpy() == pytest.approx(expected, abs=1e-5)
    assert (luma + step.change).numpy() == pytest.approx(expected, abs=1e-5)
    assert step.memory.variance.numpy() == pytest.approx((1 - gain) * predicted, rel=1e-4)


def test_smoothing_an_untrained_filter_is_the_textbooks_smoother() -> None:
    """Rauch, Tung and Striebel's backward pass by hand, over four frames without motion."""
    generator = untrained()
    with torch.no_grad():
        assert generator.head.bias is not None
        cells = generator.config.stem**2
        generator.head.bias[2 * cells : 3 * cells] = -20 / 255
    rng = np.random.default_rng(6)
    frames = [rng.uniform(0.3, 0.7, (16, 20)).astype(np.float32) for _ in range(4)]
    lumas = [torch.from_numpy(y)[None, None] for y in frames]
    with torch.inference_mode():
        steps = run(generator, [y.expand(1, 3, -1, -1) for y in lumas])
        correction, smoothed = steps[-1].innovation, [steps[-1].change]
        for luma, (step, after) in zip(lumas[-2::-1], list(pairwise(steps))[::-1], strict=True):
            change, correction = generator.smoothed(luma, step, after, correction, still(luma, (2, 2)))
            smoothed.insert(0, change)
    process, error = 1.5**2, (0.15 * 20) ** 2 + 0.5**2
    means, variances = [], []
    for y in frames:
        predicted = variances[-1] + process if variances else VARIANCE_NONE
        before = means[-1] if means else y.astype(np.float64)
        gain = predicted / (predicted + error)
        means.append(before + gain * (y - 20 / 255 - before))
        variances.append((1 - gain) * predicted)
    for number in (2, 1, 0):
        share = variances[number] / (variances[number] + process)
        filtered = means[number]  # what it predicts of the next frame as well: nothing moves
        means[number] = filtered + share * (means[number + 1] - filtered)
    for y, change, mean in zip(frames, smoothed, means, strict=True):
        np.testing.assert_allclose(y + change[0, 0].numpy(), mean, atol=1e-4)


@pytest.mark.parametrize("step", [(1, 1), (2, 2)])
def test_two_motions_in_turn_lead_to_the_next_but_one(step: tuple[int, int]) -> None:
    """A flow that grows from left to right, taken at the place that the first one leads to."""
    luma = torch.rand(1, 1, 32, 48)
    first, second = still(luma, step), still(luma, step)
    first.flow_px[:, 0] = 6.0
    width = first.flow_px.shape[-1]
    second.flow_px[:, 0] = torch.arange(width) * 0.25
    second.flow_px[:, 1] = -2.0
    second.confidence[:] = 0.5
    both = first.then(second)
    ahead = 6 // step[0]
    expected = 6 + 0.25 * (torch.arange(width - ahead) + ahead)
    torch.testing.assert_close(both.flow_px[0, 0, :, : width - ahead], expected.expand(32 // step[1], -1))
    assert both.flow_px[0, 1].numpy() == pytest.approx(-2.0)
    assert both.confidence.numpy() == pytest.approx(0.5)
    assert both.step_px == first.step_px


def evidence_of(before: float, after: float) -> Evidence:
    """Five unlike planes for two frames, with these confidences on both sides."""
    memory, previous, first, second = torch.rand(4, 2, 1, 6, 8)
    trusts = (torch.full((2, 1, 6, 8), trust) for trust in (before, after))
    features = torch.zeros(2, 4, 2, 2)
    return Evidence(
        memory, torch.ones_like(memory), previous, next(trusts), torch.cat([first, second], 1), next(trusts), features
    )


def test_with_both_sides_each_frame_is_its_own_neighbour() -> None:
    evidence = evidence_of(0.25, 0.75)
    evidence.confidence[..., 3:] = 0  # lost somewhere, but not everywhere
    (memory, previous, first, second), (before, after) = _both_sides(evidence)
    assert torch.equal(memory, evidence.memory) and torch.equal(previous, evidence.previous)
    assert torch.equal(torch.cat([first, second], 1), evidence.following)
    assert torch.equal(before, evidence.confidence) and torch.equal(after, evidence.following_confidence)


def test_at_the_start_of_a_shot_the_next_frames_stand_in_for_those_before() -> None:
    evidence = evidence_of(0.0, 0.75)
    (memory, previous, first, second), (before, after) = _both_sides(evidence)
    assert torch.equal(torch.cat([previous, memory], 1), evidence.following), "mirrored in time"
    assert torch.equal(torch.cat([first, second], 1), evidence.following)
    assert torch.equal(before, evidence.following_confidence) and torch.equal(after, before)


def test_at_the_end_of_a_shot_the_frames_before_stand_in_for_the_next() -> None:
    evidence = evidence_of(0.25, 0.0)
    (memory, previous, first, second), (before, after) = _both_sides(evidence)
    assert torch.equal(memory, evidence.memory) and torch.equal(previous, evidence.previous)
    assert torch.equal(first, evidence.previous) and torch.equal(second, evidence.memory), "mirrored in time"
    assert torch.equal(before, evidence.confidence) and torch.equal(after, before)


def test_a_frame_without_neighbours_is_aligned_perfectly() -> None:
    luma = torch.rand(1, 1, 20, 12)
    neighbours, trusts = _both_sides(untrained().no_evidence(luma))
    assert all(torch.equal(neighbour, luma) for neighbour in neighbours)
    assert all((trust == 1).all() for trust in trusts)
    evidence = evidence_of(0.0, 0.0)
    (memory, previous, first, second), _ = _both_sides(evidence)
    assert torch.equal(memory, evidence.memory) and torch.equal(previous, evidence.previous)
    assert torch.equal(torch.cat([first, second], 1), evidence.following)


def test_frames_of_a_batch_stand_at_ends_of_their_own() -> None:
    """The first begins a shot, the second ends one."""
    evidence = evidence_of(0.25, 0.75)
    evidence.confidence[0] = 0
    evidence.following_confidence[1] = 0
    (memory, previous, first, second), (before, after) = _both_sides(evidence)
    assert torch.equal(torch.cat([previous, memory], 1)[0], evidence.following[0])
    assert torch.equal(first[1], evidence.previous[1]) and torch.equal(second[1], evidence.memory[1])
    assert before[:, 0, 0, 0].tolist() == after[:, 0, 0, 0].tolist() == [0.75, 0.25]


def mismatch(off_levels: Tensor, removed: Tensor) -> Tensor:
    """Of an untrained generator, whose factor is 1, for a memory that is off by so many levels."""
    return untrained()._mismatch(off_levels / 255, removed)


def rain_in_the_middle() -> Tensor:
    """(1, 1, 64, 96) levels of rain: a band of 8 pixels."""
    removed = torch.zeros(1, 1, 64, 96)
    removed[..., 44:52] = 40.0
    return removed


def test_a_memory_that_fits_beside_the_rain_is_not_off() -> None:
    """As far as noise explains the difference; what differs under the rain is the rain."""
    removed = rain_in_the_middle()
    assert not mismatch(torch.zeros_like(removed), removed).any()
    noise = torch.where(torch.rand(removed.shape) < 0.5, -MISMATCH_LEVELS, MISMATCH_LEVELS) * 0.9
    assert not mismatch(noise, removed).any()
    assert not mismatch(torch.where(removed > 0, -60.0, noise), removed).any()
    covered = torch.full_like(removed, DRY_LEVELS)
    assert not mismatch(-60 * covered, covered).any(), "nothing is known where it rains everywhere"


def test_the_mismatch_grows_with_the_error_beside_the_rain() -> None:
    removed = rain_in_the_middle()
    found = []
    for off in (3.0, -6.0, 12.0):
        everywhere = mismatch(torch.full_like(removed, off), removed)
        under = everywhere[..., 44:52]
        assert under.min() > 0.5 * everywhere.max(), "rain takes it over from beside it"
        found.append(everywhere[..., :16, :16])
        weight = 1 / 1.05  # of the measured mean, beside the prior
        expected = (weight * (abs(off) - MISMATCH_LEVELS)) ** 2
        assert everywhere[..., 30, 22].item() == pytest.approx(expected, rel=1e-4)
    assert found[0].max() < found[1].min() and found[1].max() < found[2].min()


def test_the_mismatch_stays_near_the_place_that_is_off() -> None:
    removed = torch.zeros(1, 1, 160, 160)
    off = torch.zeros_like(removed)
    off[..., :24, :24] = 30.0
    found = mismatch(off, removed)
    assert found[..., :16, :16].min() > 20
    assert not found[..., 64:, :].any() and not found[..., 64:].any()


def test_a_memory_that_is_off_counts_less() -> None:
    """The same rain and the same memory at it: beside it the memory fits, or it does not."""
    generator = untrained()
    luma = torch.full((1, 1, 64, 64), 0.5)
    memory = luma.clone()
    evidence = generator.no_evidence(luma)._replace(variance=torch.full_like(luma, 4.0))
    with torch.inference_mode():
        fits = generator.step(luma.expand(-1, 3, -1, -1), luma, evidence._replace(memory=memory))
        off = generator.step(luma.expand(-1, 3, -1, -1), luma, evidence._replace(memory=memory + 11.5 / 255))
    assert fits.prior.numpy() == pytest.approx(4.0)
    inner = slice(24, 40)  # the mean at the border counts what is beyond it as nothing
    prior, error = 4 + (10 / 1.05) ** 2, 0.5**2
    assert off.prior[..., inner, inner].numpy() == pytest.approx(prior, rel=1e-4)
    assert off.memory.variance[..., inner, inner].numpy() == pytest.approx(prior * error / (prior + error), rel=1e-2)
    assert fits.memory.variance.numpy() == pytest.approx(4 * error / (4 + error), rel=1e-3)


@pytest.mark.parametrize("step", [(1, 1), (2, 2)])
def test_a_cut_forgets_everything(step: tuple[int, int]) -> None:
    generator = tiny_recurrent()
    frames = list(torch.rand(3, 1, 3, 32, 48))
    lost = still(luma_of(frames[0]), step, confidence=0.0)
    kept = still(luma_of(frames[0]), step)
    with torch.inference_mode():
        (alone,) = run(generator, frames[2:])
        cut = run(generator, frames, [kept, kept, lost])[2]
        uncut = run(generator, frames, [kept, kept, kept])[2]
    for part, after_cut, remembered in zip(
        (alone.change, *alone.memory), (cut.change, *cut.memory), (uncut.change, *uncut.memory), strict=True
    ):
        assert torch.equal(part, after_cut)
        assert not torch.equal(part, remembered)


def test_without_evidence_only_the_frame_itself_is_known() -> None:
    luma = torch.rand(1, 1, 20, 12)
    evidence = untrained().no_evidence(luma)
    assert isinstance(evidence, Evidence)
    assert torch.equal(evidence.memory, luma) and torch.equal(evidence.previous, luma)
    assert torch.equal(evidence.following, luma.expand(-1, 2, -1, -1))
    assert (evidence.variance == VARIANCE_NONE).all()
    assert not evidence.confidence.any() and not evidence.following_confidence.any() and not evidence.features.any()


@pytest.mark.parametrize("size", [(20, 30), (17, 1), (1, 1), (33, 48)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_no_motion_samples_the_picture_itself(size: tuple[int, int], mode: str) -> None:
    x = torch.rand(2, 3, *size)
    small = tuple(max(1, side // 2) for side in size)
    for flow in (torch.zeros(2, 2, *size), torch.zeros(2, 2, *small)):
        found = sample(x, sampling_grid(flow, size), mode)
        assert (found - x).abs().max() < 1e-5


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 5)])
def test_an_integer_shift_samples_a_slice(dx: int, dy: int, mode: str, half: bool) -> None:
    x = torch.rand(1, 2, 24, 32)
    flow = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, *((12, 16) if half else (24, 32)))
    found = sample(x, sampling_grid(flow, (24, 32)), mode)
    inner = slice(6, -6)
    expected = x[..., 6 + dy : 18 + dy, 6 + dx : 26 + dx]
    assert (found[..., inner, inner] - expected).abs().max() < 1e-4
    if mode == "bilinear":  # beyond the border the outermost pixels are repeated
        left = x[..., 6 + dy : 18 + dy, :1] if dx < 0 else x[..., 6 + dy : 18 + dy, -1:]
        edge = found[..., inner, :1] if dx < 0 else found[..., inner, -1:]
        assert dx == 0 or (edge - left).abs().max() < 1e-4


@pytest.mark.parametrize("step", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(64, 96), (67, 101)])
def test_the_memory_moves_along_the_flow(size: tuple[int, int], step: int) -> None:
    """A camera that pans by two cells of the feature state: memory and features arrive where the scene went."""
    generator = tiny_recurrent()
    cell_px = 4
    height, width = size
    luma = torch.rand(1, 1, height, width)
    h, w = generator.feature_shape(height, width)[1:]
    features = torch.arange(float(w)).expand(1, 4, h, w).contiguous()
    memory = Memory(torch.rand(1, 1, height, width), torch.full_like(luma, 4.0), features)
    motion = still(luma, (step, step))
    motion.flow_px[:, 0] = 2.0 * cell_px
    previous = torch.rand(1, 1, height, width)
    carried = generator.carried(memory, previous, luma, motion)
    seen = width - 4 * cell_px
    assert (carried.previous[..., :seen] - previous[..., 2 * cell_px : 2 * cell_px + seen]).abs().max() < 1e-4
    assert (carried.memory[..., :seen] - memory.luma[..., 2 * cell_px : 2 * cell_px + seen]).abs().max() < 1e-4
    cells = seen // cell_px
    assert (carried.features[..., :cells] - features[..., 2 : 2 + cells]).abs().max() < 1e-3
    assert carried.variance.numpy() == pytest.approx(4 + 1.5**2, rel=1e-5)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 96), (35, 100), (33, 97)])
def test_features_are_forgotten_where_the_flow_is_lost(size: tuple[int, int], step: int) -> None:
    """Also in frames whose sides are no multiples of the coarsest cell, and are padded."""
    generator = tiny_recurrent(widths=(4, 8, 8, 8))
    luma = torch.rand(1, 1, *size)
    features = torch.ones(1, *generator.feature_shape(*size))
    motion = still(luma, (step, step))
    motion.confidence[..., 48 // step :] = 0
    memory = Memory(luma, torch.full_like(luma, 4.0), features)
    carried = generator.carried(memory, luma, luma, motion).features
    assert (carried[..., :12] - 1).abs().max() < 1e-5
    assert not carried[..., 12 + (size[1] % step > 0) :].any()


def test_a_state_without_input_halves_in_its_half_life() -> None:
    states = 5
    recurrence = SelectiveState(3, states)
    torch.nn.init.zeros_(recurrence.value.bias)
    half_lives = torch.logspace(math.log2(HALF_LIVES[0]), math.log2(HALF_LIVES[1]), states, base=2.0)
    assert (half_lives[0], half_lives[-1]) == HALF_LIVES
    nothing, state = torch.zeros(1, 3, 2, 2), torch.ones(1, states, 2, 2)
    with torch.inference_mode():
        for frame in range(1, 17):
            out, state = recurrence(nothing, state)
            torch.testing.assert_close(state[0, :, 0, 0], 0.5 ** (frame / half_lives), rtol=1e-4, atol=1e-8)
    assert torch.equal(out, nothing), "the last layer starts at zero"


def test_what_is_written_into_a_state_is_read_later() -> None:
    torch.manual_seed(2)
    recurrence = SelectiveState(3, 4)
    torch.nn.init.normal_(recurrence.out.weight)
    u, later = torch.rand(2, 1, 3, 2, 2)
    with torch.inference_mode():
        _, state = recurrence(u, torch.zeros(1, 4, 2, 2))
        remembered, _ = recurrence(later, state)
        forgotten, _ = recurrence(later, torch.zeros(1, 4, 2, 2))
    assert (remembered - forgotten).abs().min() > 1e-4


@pytest.mark.parametrize("widths", LEVELS)
def test_gradients_flow_from_the_last_frame_to_the_first_and_to_every_parameter(widths: tuple[int, ...]) -> None:
    generator = tiny_recurrent(widths=widths).train().requires_grad_(True)
    frames = [torch.rand(1, 3, 32, 32).requires_grad_() for _ in range(4)]
    last = run(generator, frames)[-1]
    last.change.square().sum().backward()
    assert all(frame.grad is not None and frame.grad.abs().sum() > 0 for frame in frames)
    missing = [name for name, value in generator.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing == []


def test_gradients_reach_the_first_frame_through_the_features_alone() -> None:
    recurrence = SelectiveState(3, 4)
    torch.nn.init.normal_(recurrence.out.weight)
    frames = [torch.rand(1, 3, 2, 2).requires_grad_() for _ in range(4)]
    state = torch.zeros(1, 4, 2, 2)
    for u in frames:
        out, state = recurrence(u, state)
    out.square().sum().backward()
    assert all(u.grad is not None and u.grad.any() for u in frames)


def trained_window(widths: tuple[int, ...]) -> UNet:
    torch.manual_seed(3)
    window = UNet(UNetConfig(5, widths))
    for layer in (window.head, window.stem):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias, std=0.1)  # type: ignore[arg-type]
    return window.eval().requires_grad_(False)


def converted(window: UNet, widths: tuple[int, ...]) -> RecurrentUNet:
    config = UNetConfig(1, widths, state=4)
    generator = RecurrentUNet(config).eval().requires_grad_(False)
    generator.load_state_dict(generator.state_dict() | from_window(window.state_dict(), config))
    return generator


@pytest.mark.parametrize("confidence", [0.5, 1.0])
@pytest.mark.parametrize("widths", [(8, 16), (8, 8, 16)])
def test_a_converted_generator_estimates_what_the_window_generator_predicts(
    widths: tuple[int, ...], confidence: float
) -> None:
    """For five unlike grey frames, the first of which is remembered; padding makes a difference at the border."""
    window = trained_window(widths)
    generator = converted(window, widths)
    border, inner = window.config.reach_px, 40
    side = 2 * border + inner
    planes = torch.randint(0, 256, (1, 5, side, side), dtype=torch.uint8)
    before2, before1, now, after1, after2 = planes.split(1, 1)
    rgb = now.expand(-1, 3, -1, -1).contiguous()
    trust = torch.full((1, 1, side, side), confidence)
    with torch.inference_mode():
        residual = window(planes.repeat_interleave(3, 1), trust)
        evidence = generator.no_evidence(now)._replace(
            memory=before2 / 255,
            previous=before1,
            confidence=trust,
            following=torch.cat([after1, after2], 1),
            following_confidence=trust,
        )
        estimate = generator.step(rgb, now, evidence).estimate
    cut = slice(border, border + inner)
    expected = luma_of(residual)[..., cut, cut]
    assert expected.std() > 0.01
    torch.testing.assert_close(estimate[..., cut, cut], expected, atol=1e-4, rtol=1e-3)


def test_a_converted_generator_restores_a_lone_image_as_a_window_of_it_alone() -> None:
    """All five frames are the same, and are aligned perfectly."""
    window = trained_window((8, 16))
    generator = converted(window, (8, 16))
    border, inner = window.config.reach_px, 24
    side = 2 * border + inner
    grey = torch.randint(0, 256, (1, 1, side, side), dtype=torch.uint8)
    rgb = grey.expand(-1, 3, -1, -1).contiguous()
    with torch.inference_mode():
        residual = window(rgb.repeat(1, 5, 1, 1))
        estimate = generator.step(rgb, grey, generator.no_evidence(grey)).estimate
    cut = slice(border, border + inner)
    torch.testing.assert_close(estimate[..., cut, cut], luma_of(residual)[..., cut, cut], atol=1e-5, rtol=1e-4)


def saved(path: Path, generator: UNet) -> str:
    save_checkpoint(path, generator, {})
    return str(path)


def test_a_window_generator_is_converted_when_training_starts_from_it(tmp_path: Path) -> None:
    window = tiny_generator(5)
    path = saved(tmp_path / "window.safetensors", window)
    config = UNetConfig(1, window.config.widths, state=4)
    known = load_start((path,), config)
    expected = from_window(load_checkpoint(path).generator.state_dict(), config)
    assert known.keys() == expected.keys()
    assert all(torch.equal(known[name], expected[name]) for name in expected)
    missing = build_generator(config).state_dict().keys() - known.keys()
    assert {name.partition(".")[0] for name in missing} == {
        "recurrence", "log_process", "log_mismatch", "log_floor", "log_share",
    }  # fmt: skip


@pytest.mark.parametrize(
    "config", [UNetConfig(1, (8, 24), state=4), UNetConfig(1, (8, 16, 16), state=4), UNetConfig(1, (8, 16), 1, state=4)]
)
def test_a_start_of_other_widths_is_refused(tmp_path: Path, config: UNetConfig) -> None:
    path = saved(tmp_path / "window.safetensors", tiny_generator(5))
    with pytest.raises(CheckpointError, match="another network") as caught:
        load_start((path,), config)
    assert path in str(caught.value) and "\n" not in str(caught.value)
    assert "model.widths" in caught.value.cure


def test_a_start_of_another_state_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "memory.safetensors", tiny_recurrent())
    assert load_start((path,), UNetConfig(1, (8, 16), state=4)).keys() == tiny_recurrent().state_dict().keys()
    for config in (UNetConfig(1, (8, 16), state=8), UNetConfig(1, (8, 16)), UNetConfig(5, (8, 16))):
        with pytest.raises(CheckpointError, match="another network") as caught:
            load_start((path,), config)
        assert "model.state" in caught.value.cure


def test_starts_of_both_kinds_have_no_mean(tmp_path: Path) -> None:
    paths = (
        saved(tmp_path / "memory.safetensors", tiny_recurrent()),
        saved(tmp_path / "window.safetensors", tiny_generator(5)),
    )
    for starts in (paths, paths[::-1]):
        with pytest.raises(CheckpointError, match="mean"):
            load_start(starts, UNetConfig(1, (8, 16), state=4))


def test_a_state_dict_of_a_recurrent_generator_is_a_start(tmp_path: Path) -> None:
    generator = tiny_recurrent()
    torch.save(generator.state_dict(), tmp_path / "mine.pth")
    known = load_start((str(tmp_path / "mine.pth"),), generator.config)
    assert all(torch.equal(known[name], value) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("widths", LEVELS)
def test_a_checkpoint_brings_the_generator_back(tmp_path: Path, widths: tuple[int, ...]) -> None:
    generator = tiny_recurrent(widths=widths, scale=2)
    loaded = load_checkpoint(saved(tmp_path / "memory.safetensors", generator)).generator
    assert isinstance(loaded, RecurrentUNet)
    assert loaded.config == generator.config
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, generator.state_dict()[name].half().float()), name
    frames = list(torch.rand(3, 1, 3, 24, 40))
    generator.load_state_dict(loaded.state_dict())
    with torch.inference_mode():
        for one, other in zip(run(generator, frames), run(loaded, frames), strict=True):
            assert torch.equal(one.change, other.change)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": -1}, {"state": 1025}, {"state": float("nan")}, {"state": 10**30},
        {"state": 4, "window": 5}, {"state": 4, "widths": (8,)}, {"state": 4, "residual": False},
    ],
)  # fmt: skip
def test_an_impossible_memory_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"state|recurrent"):
        UNetConfig(**{"window": 1, "widths": (8, 16)} | wrong)  # type: ignore[arg-type]
