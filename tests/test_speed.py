"""What `--speed` chooses, and what it leaves to other flags."""

from pathlib import Path

import numpy as np
import pytest
from clips import drive, textured

from vderain.cli.flags import build_options
from vderain.derainer import Derainer
from vderain.media.encode import EncodeOptions
from vderain.options import Options
from vderain.pipeline import load_models
from vderain.process import process
from vderain.restore.window import HALVED_LINES

SAMPLE = Path(__file__).parents[1] / "samples/driving_rain.mp4"


def test_a_speed_chooses_what_no_other_flag_names() -> None:
    assert build_options() == build_options(speed="best") == Options()
    fast = build_options(speed="fast")
    assert (fast.model, fast.temporal, fast.encode.fast_preset, fast.half_size) == ("fast", "strong", True, False)
    assert build_options(speed="fast", model="base", temporal="light").model == "base"
    assert build_options(speed="preview").half_size
    assert build_options(speed="preview", temporal="strong").temporal == "strong"


@pytest.mark.parametrize(("encode", "subme"), [
    (EncodeOptions(), b"subme=7"),
    (EncodeOptions(fast_preset=True), b"subme=2"),
    (EncodeOptions(fast_preset=True, preset="slow"), b"subme=8"),
])  # fmt: skip
def test_the_encoder_is_fast_unless_a_preset_is_named(encode: EncodeOptions, subme: bytes, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    process(SAMPLE, target, Options(strength=0, duration_s=0.1, encode=encode))
    assert subme in target.read_bytes(), "x264 writes its settings into the first picture"


def restored(frames: list[np.ndarray], half_size: bool) -> list[np.ndarray]:
    options = Options(model="fast", half_size=half_size, temporal="off", drops=False, guard=False)
    return list(Derainer(options, load_models(options)).restore(iter(frames)))


def test_a_preview_restores_large_frames_at_half_their_size() -> None:
    frame = textured(3, (HALVED_LINES + 1, HALVED_LINES + 7))  # odd sides
    whole, half = (restored([frame], half_size)[0] for half_size in (False, True))
    assert whole.shape == half.shape == frame.shape
    assert not np.array_equal(whole, half)
    assert np.abs(half.astype(int) - frame).max() > 2


def test_a_preview_restores_small_frames_as_they_are() -> None:
    frames = drive(2)
    assert all(np.array_equal(a, b) for a, b in zip(restored(frames, False), restored(frames, True), strict=True))
