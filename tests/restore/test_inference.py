"""The network over windows: the same residual for whole frames, in tiles, in batches and when memory runs out."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from clips import as_frame, drive, textured
from conftest import tiny_generator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vderain.errors import CheckpointError, DeviceError
from vderain.model.unet import UNet, UNetConfig
from vderain.restore.frames import AlignedWindow
from vderain.restore.inference import TILE_MIN_PX, NetworkInput, NetworkRunner, _batches
from vderain.restore.window import single_frame, windows
from vderain.runtime import device
from vderain.runtime.device import DevicePlacement, choose_device

CPU = DevicePlacement(torch.device("cpu"), bf16=False)
HALF_STEP = 2.5e-4  # of a float16 residual of up to .5; processors sum a convolution in different orders


def seen(count: int = 3, size: tuple[int, int] = (37, 53)) -> list[AlignedWindow]:
    return list(windows((as_frame(picture, i) for i, picture in enumerate(drive(count, size))), 2))


def inputs(around: list[AlignedWindow]) -> list[NetworkInput]:
    return [(window.aligned, window.confidence) for window in around]


def residuals(network: NetworkRunner, around: list[AlignedWindow]) -> list[np.ndarray]:
    return [item.residual for item in network(around)]


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("size", [(200, 150), (161, 37), (97, 203)])
@pytest.mark.parametrize("tile_px", [16, 50, 128])
def test_tiles_give_the_same_as_the_whole(window: int, size: tuple[int, int], tile_px: int) -> None:
    network = NetworkRunner(tiny_generator(window), CPU, 1)
    around = seen(1, size)
    whole = residuals(network, around)[0]
    network.tile_px = tile_px
    tiled = residuals(network, around)[0]
    assert np.abs(whole).max() > 0.01
    assert np.abs(tiled - whole).max() < HALF_STEP


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e6])
@pytest.mark.parametrize("tile_px", [None, 64])
def test_an_output_that_is_not_finite_stops_the_run(value: float, tile_px: int | None) -> None:
    generator = tiny_generator(5)
    with torch.no_grad():
        generator.head.bias.fill_(value)
    network = NetworkRunner(generator, CPU, 1)
    network.tile_px = tile_px
    with pytest.raises(CheckpointError, match="not finite"):
        residuals(network, seen(1))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40))
def test_tiles_give_the_same_at_any_size(height: int, width: int, tile_px: int) -> None:
    network = NetworkRunner(tiny_generator(1), CPU, 1)
    around = [single_frame(as_frame(textured(1, (height, width))))]
    whole = residuals(network, around)[0]
    network.tile_px = tile_px
    assert np.abs(residuals(network, around)[0] - whole).max() < HALF_STEP


@pytest.mark.parametrize("tile_px", [None, 64])
def test_frames_of_many_lines_are_downscaled_for_the_network(
    tile_px: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vderain.restore.inference.MAX_LINES", 60)
    around = seen(1, (130, 200))
    network = NetworkRunner(tiny_generator(5), CPU, 1)
    network.tile_px = tile_px
    frames, confidence = network._tensors(inputs(around))
    with torch.inference_mode():
        smaller = tiny_generator(5).at_scale(2)(frames, confidence)[0].permute(1, 2, 0).numpy()
        as_it_is = tiny_generator(5)(frames, confidence)[0].permute(1, 2, 0).numpy()
    found = residuals(network, around)[0]
    assert np.abs(found - smaller).max() < 1e-3 < np.abs(found - as_it_is).max()


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 8), (15, 16), (37, 53)])
def test_frames_of_any_size_are_restored(window: int, size: tuple[int, int]) -> None:
    found = residuals(NetworkRunner(tiny_generator(window), CPU), seen(2, size))
    assert [residual.shape for residual in found] == [(*size, 3)] * 2
    assert all(np.isfinite(residual).all() for residual in found)


def test_an_untrained_generator_adds_exactly_nothing() -> None:
    for residual in residuals(NetworkRunner(UNet(UNetConfig(5, (8, 16))), CPU), seen()):
        assert np.count_nonzero(residual) == 0


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_results_do_not_depend_on_the_batch_size(batch_size: int | None) -> None:
    around = seen(7)
    single = residuals(NetworkRunner(tiny_generator(5), CPU, 1), around)
    together = residuals(NetworkRunner(tiny_generator(5), CPU, batch_size), around)
    assert all(np.array_equal(a, b) for a, b in zip(single, together, strict=True))


def test_a_batch_has_frames_of_one_size_only() -> None:
    windows = [single_frame(as_frame(textured(1, size))) for size in [(16, 24)] * 3 + [(24, 16)] * 2 + [(16, 24)]]
    assert [len(batch) for batch in _batches(iter(windows), 2)] == [2, 1, 2, 1]


def test_results_belong_to_their_windows_in_order() -> None:
    around = seen(9)
    found = list(NetworkRunner(tiny_generator(5), CPU, 4)(around))
    assert [item.number for item in found] == list(range(9))
    assert all(item.frame is window.centre.frame for item, window in zip(found, around, strict=True))


def test_no_windows_give_no_results() -> None:
    assert list(NetworkRunner(tiny_generator(5), CPU)([])) == []


def test_windows_are_consumed_lazily() -> None:
    taken = 0
    around = seen(1)[0]

    def endless() -> Iterator[AlignedWindow]:
        nonlocal taken
        while True:
            taken += 1
            yield around

    stream = NetworkRunner(tiny_generator(1), CPU, 2)(endless())
    next(stream)
    assert taken <= 4
    stream.close()


class LimitedMemory(UNet):
    """A generator on a device whose memory holds only so many pixels at once."""

    def __init__(self, generator: UNet, limit_px: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__(generator.config)
        self.load_state_dict(generator.state_dict())
        self.limit_px, self.error = limit_px, error
        self.passed: list[tuple[int, ...]] = []

    def forward(self, window: Tensor, confidence: Tensor | None = None) -> Tensor:
        if window.shape[0] * window.shape[-1] * window.shape[-2] > self.limit_px:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.passed.append(tuple(window.shape))
        return super().forward(window, confidence)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_halved(error: type[Exception]) -> None:
    around = seen(4, (40, 60))
    tight = LimitedMemory(tiny_generator(5), 2 * 40 * 60, error)
    network = NetworkRunner(tight, CPU)
    halved = network._run(inputs(around))
    assert [shape[0] for shape in tight.passed] == [2, 2]
    assert network.tile_px is None
    for one, other in zip(halved, residuals(NetworkRunner(tiny_generator(5), CPU, 1), around), strict=True):
        assert np.abs(one - other).max() < HALF_STEP


@pytest.mark.parametrize("batch", [1, 2])
def test_a_frame_that_does_not_fit_is_split_into_tiles(batch: int) -> None:
    around = seen(batch, (700, 500))
    reach = 2 * tiny_generator(1).config.reach_px
    tight = LimitedMemory(tiny_generator(1), (256 + reach + 8) ** 2)
    network = NetworkRunner(tight, CPU)
    tiled = network._run(inputs(around))
    assert network.tile_px == 256
    assert len(tight.passed) > 2 * batch
    for one, other in zip(tiled, residuals(NetworkRunner(tiny_generator(1), CPU, 1), around), strict=True):
        assert np.abs(one - other).max() < HALF_STEP


def test_the_tile_size_is_kept_for_the_next_frame() -> None:
    network = NetworkRunner(LimitedMemory(tiny_generator(1), 300 * 300), CPU, 1)
    frames = seen(3, (400, 400))
    whole = residuals(NetworkRunner(tiny_generator(1), CPU, 1), frames)
    for one, other in zip(residuals(network, frames), whole, strict=True):
        assert np.abs(one - other).max() < HALF_STEP
    assert network.tile_px is not None
    assert network.tile_px >= TILE_MIN_PX


def test_a_device_without_enough_memory_is_a_clear_error() -> None:
    with pytest.raises(DeviceError, match="does not fit") as caught:
        residuals(NetworkRunner(LimitedMemory(tiny_generator(1), 10), CPU, 1), seen(1, (300, 300)))
    assert caught.value.cure == "Close other programs."


def test_threads_that_run_out_of_memory_together_halve_the_tiles_once() -> None:
    meeting = threading.Barrier(6, timeout=10)

    class Crowded(LimitedMemory):
        def forward(self, window: Tensor, confidence: Tensor | None = None) -> Tensor:
            if window.shape[-1] == 1500:
                meeting.wait()
            return super().forward(window, confidence)

    around = [single_frame(as_frame(np.zeros((16, 1500, 3), np.uint8)))] * 6
    network = NetworkRunner(Crowded(tiny_generator(1), 16 * 1400), CPU, 6)
    assert len(residuals(network, around)) == 6
    assert network.tile_px == 1024


def test_other_errors_of_the_network_are_not_handled_as_out_of_memory() -> None:
    class Broken(LimitedMemory):
        def forward(self, window: Tensor, confidence: Tensor | None = None) -> Tensor:
            raise RuntimeError("expected 15 channels, got 12")

    with pytest.raises(RuntimeError, match="15 channels"):
        residuals(NetworkRunner(Broken(tiny_generator(1), 1), CPU, 1), seen(1))


def test_bf16_is_close_to_fp32() -> None:
    around = seen(1, (64, 64))
    exact, rough = (
        residuals(NetworkRunner(tiny_generator(5), DevicePlacement(torch.device("cpu"), bf16), 1), around)[0]
        for bf16 in (False, True)
    )
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize(
    ("device", "precision"), [("tpu", "auto"), ("cpu", "fp8"), ("", "auto"), ("cuda:99", "auto"), ("cpu:x", "auto")]
)
def test_a_missing_device_is_a_clear_error(device: str, precision: str) -> None:
    with pytest.raises(DeviceError):
        choose_device(device, precision)


def test_the_requested_device_is_chosen() -> None:
    assert str(choose_device("cpu", "fp32")) == "cpu, fp32"
    assert str(choose_device("cpu", "bf16")) == "cpu, bf16"
    assert choose_device() == choose_device()


def test_frames_in_flight_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cores", lambda: 16)
    monkeypatch.setattr(device, "free_bytes", lambda: 4 << 30)
    full_hd, uhd = device.frames_in_flight(1920 * 1080), device.frames_in_flight(3840 * 2160)
    assert 1 <= uhd < full_hd < 16
    monkeypatch.setattr(device, "free_bytes", lambda: None)
    assert device.frames_in_flight(3840 * 2160) == 16


def test_free_memory_is_plausible() -> None:
    free_bytes = device.free_bytes()
    assert free_bytes is None or free_bytes > 1 << 20
