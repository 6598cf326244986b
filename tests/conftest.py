"""Fixtures that every test may use."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import Result
from clips import Clip, make, textured
from typer.testing import CliRunner

from vderain.cli.console import STOP_SIGNALS
from vderain.cli.main import app
from vderain.model.checkpoint import save_checkpoint
from vderain.model.glass import GlassUNet
from vderain.model.recurrent import RecurrentUNet
from vderain.model.unet import UNet, UNetConfig

LONG_TIMEOUT_S = 600
# A shell's background jobs ignore SIGINT, and so would the child processes of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--film-seconds", type=int, default=7200, help="length of the film of `pytest -m long` in 1080p")


def pytest_configure() -> None:
    """Keep one worker of pytest-xdist to one thread: two workers that take all cores each are slower than one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # for child processes
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no CUDA, and give long tests the time they need."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU with CUDA"))
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Errors are raised, not logged: a test during which one is logged fails."""
    yield
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, errors


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Makes a clip: ``clip("name.mp4", frames=8, ...)``; the keywords are those of ``Clip``."""

    def build(name: str = "clip.mp4", **properties: object) -> Path:
        return make(tmp_path / name, Clip(**properties))  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four clear images to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), textured(number, (90, 110)))
    return folder


def tiny_generator(window: int) -> UNet:
    """A small untrained generator that changes every pixel a little."""
    torch.manual_seed(window)
    generator = UNet(UNetConfig(window, (8, 16)))
    torch.nn.init.normal_(generator.head.weight, std=0.1)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny generator with a window of five frames."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(path, tiny_generator(5), {})
    return path


@pytest.fixture(scope="session")
def tiny1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny generator with a window of one frame."""
    path = tmp_path_factory.mktemp("tiny1") / "tiny1.safetensors"
    save_checkpoint(path, tiny_generator(1), {})
    return path


def tiny_recurrent(**config: object) -> RecurrentUNet:
    """A small untrained generator with a memory that changes every pixel a little, and reads all that it remembers."""
    torch.manual_seed(7)
    generator = RecurrentUNet(UNetConfig(**{"window": 1, "widths": (8, 16), "state": 4} | config))  # type: ignore[arg-type]
    torch.nn.init.normal_(generator.head.weight, std=0.05)
    torch.nn.init.normal_(generator.recurrence.out.weight, std=0.5)
    return generator.eval().requires_grad_(False)


def tiny_glass(trained: bool = True, **config: object) -> GlassUNet:
    """A small generator for the windshield, whose answers are arbitrary unless it is untrained."""
    torch.manual_seed(7)
    generator = GlassUNet(UNetConfig(**{"window": 1, "widths": (4, 8), "glass": 4} | config))  # type: ignore[arg-type]
    if trained:
        for network, std in ((generator, 0.2), (generator.cover, 0.5), (generator.flow, 0.01)):
            torch.nn.init.normal_(network.head.weight, std=std)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny generator with a memory."""
    path = tmp_path_factory.mktemp("tiny_memory") / "tiny_memory.safetensors"
    save_checkpoint(path, tiny_recurrent(), {})
    return path


@pytest.fixture
def vderain() -> Iterator[Callable[..., Result]]:
    """The command line, run in this process: ``vderain("process", path, "--strength", 0)``."""
    logger = logging.getLogger("vderain")
    before = logger.handlers[:], logger.level, logger.propagate
    signals = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)
