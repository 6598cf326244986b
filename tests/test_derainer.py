"""Frames in, frames out: the results of `Derainer` equal those of `process`, for every kind of array."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clips import textured
from numpy.typing import NDArray
from torch import Tensor

from vderain import Derainer
from vderain.errors import InputError, UsageError, VderainError
from vderain.options import Options
from vderain.process import process

HEIGHT_PX, WIDTH_PX = 48, 80
RGB = NDArray[np.uint8]


def rainy_clip(count: int = 9) -> list[RGB]:
    """A texture that moves, under bright streaks that change with each frame."""
    scene = textured(3, (HEIGHT_PX + 40, WIDTH_PX + 40))
    rng = np.random.default_rng(0)
    clip = []
    for number in range(count):
        frame = scene[number : number + HEIGHT_PX, number : number + WIDTH_PX].copy()
        for x in rng.integers(0, WIDTH_PX, 12):
            frame[:, x] = np.minimum(frame[:, x].astype(int) + 70, 255)
        clip.append(frame)
    return clip


@pytest.fixture(scope="module")
def derainer(tiny: Path) -> Derainer:
    return Derainer.load(str(tiny), drops=False, guard=False)


def processed(frames: list[RGB], folder: Path, options: Options) -> list[RGB]:
    (folder / "in").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / "in" / f"{number}.png"), frame[..., ::-1])
    process(folder / "in", folder / "out", options)
    return [cv2.imread(str(folder / "out" / f"{number}.png"))[..., ::-1] for number in range(len(frames))]


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"guard": False, "drops": False},
        {"temporal": "light", "guard": False, "drops": False},
        {"temporal": "off", "guard": False, "drops": False, "strength": 0.5},
        {"temporal": "only"},
        {"strength": 0.0},
    ],
)
def test_the_result_equals_that_of_process(tiny: Path, tmp_path: Path, choices: dict[str, object]) -> None:
    frames = rainy_clip()
    expected = processed(frames, tmp_path, Options(model=str(tiny), **choices))  # type: ignore[arg-type]
    restored = list(Derainer.load(str(tiny), **choices).restore(frames, fps=25))  # type: ignore[arg-type]
    assert len(restored) == len(frames)
    for number, (frame, wanted) in enumerate(zip(restored, expected, strict=True)):
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        assert np.array_equal(frame, wanted), number
    if not choices.get("guard", True):
        assert not np.array_equal(restored[4], frames[4])


def test_an_image_equals_that_of_process(derainer: Derainer, tiny: Path, tmp_path: Path) -> None:
    image = rainy_clip(1)[0]
    (expected,) = processed([image], tmp_path, Options(model=str(tiny), drops=False, guard=False))
    before = image.copy()
    assert np.array_equal(derainer.restore_image(image), expected)
    assert np.array_equal(image, before)


def as_tensor(frame: RGB) -> Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)


def test_uint8_tensors_give_the_same_values(derainer: Derainer) -> None:
    frames = rainy_clip()
    expected = derainer.restore(frames)
    for tensor, wanted in zip(derainer.restore(as_tensor(f) for f in frames), expected, strict=True):
        assert tensor.dtype == torch.uint8 and tensor.shape == (3, HEIGHT_PX, WIDTH_PX)
        assert torch.equal(tensor, as_tensor(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_float_tensors_keep_their_dtype_and_agree_with_uint8(derainer: Derainer, dtype: torch.dtype) -> None:
    frames = rainy_clip(5)
    given = [(as_tensor(frame).double() / 255).to(dtype) for frame in frames]
    tolerance = 1.5 / 255 if dtype != torch.bfloat16 else 4 / 255
    for tensor, wanted in zip(derainer.restore(given), derainer.restore(frames), strict=True):
        assert tensor.dtype == dtype
        difference = (tensor.double() - as_tensor(wanted).double() / 255).abs()
        assert difference.mean() < tolerance


def test_unchanged_floats_keep_their_exact_values(tiny: Path) -> None:
    unchanged = Derainer.load(str(tiny), strength=0)
    image = torch.rand(3, 16, 16, dtype=torch.float64)
    assert torch.equal(unchanged.restore_image(image), image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_stay_on_their_device(derainer: Derainer) -> None:
    image = as_tensor(rainy_clip(1)[0]).cuda()
    restored = derainer.restore_image(image)
    assert restored.device == image.device
    assert torch.equal(restored.cpu(), derainer.restore_image(image.cpu()))


def test_a_generator_is_read_lazily_and_only_some_frames_ahead(derainer: Derainer) -> None:
    read = 0

    def endless() -> Iterator[RGB]:
        nonlocal read
        clip = rainy_clip()
        while True:
            read += 1
            yield clip[read % len(clip)]

    restored = derainer.restore(endless())
    assert read == 0
    ahead = []
    for number, _ in zip(range(150), restored, strict=False):
        ahead.append(read - number)
    restored.close()  # type: ignore[attr-defined]
    assert max(ahead[50:]) <= max(ahead[:50]) + 1


def test_a_buffer_may_be_used_again(derainer: Derainer) -> None:
    frames = rainy_clip()

    def through_one_buffer() -> Iterator[RGB]:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    for result, wanted in zip(derainer.restore(through_one_buffer()), derainer.restore(frames), strict=True):
        assert np.array_equal(result, wanted)


def test_no_frames_give_no_frames_and_the_object_serves_many_clips(derainer: Derainer) -> None:
    assert list(derainer.restore(iter(()))) == []
    clip = rainy_clip(4)
    first, second = (np.stack(list(derainer.restore(clip))) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(first, np.stack(list(derainer.restore(np.stack(clip)))))


@pytest.mark.parametrize(
    ("frame", "error", "says"),
    [
        (np.zeros((8, 8), np.uint8), ValueError, r"shape \(8, 8\), not \(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"shape \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.float32), TypeError, "holds float32"),
        (torch.zeros(8, 8, 3), ValueError, r"not \(3, H, W\)"),
        (torch.zeros((3, 8, 8), dtype=torch.int32), TypeError, "holds torch.int32"),
        (torch.full((3, 8, 8), 255.0), ValueError, "outside 0..1"),
        (torch.full((3, 8, 8), float("nan")), ValueError, "outside 0..1"),
        ("frame.png", TypeError, "is a str"),
    ],
)
def test_a_wrong_frame_is_refused(derainer: Derainer, frame: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        derainer.restore_image(frame)  # type: ignore[type-var]
    assert isinstance(caught.value, InputError) and caught.value.cure


def test_a_change_of_size_is_refused(derainer: Derainer) -> None:
    frames = [np.zeros((16, 16, 3), np.uint8)] * 3 + [np.zeros((16, 24, 3), np.uint8)]
    with pytest.raises(ValueError, match="frame 3 is 24x16, not 16x16 as the first"):
        list(derainer.restore(frames))


def test_a_mixture_of_arrays_and_tensors_is_refused(derainer: Derainer) -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(TypeError, match="frame 1 is a Tensor, the first a ndarray"):
        list(derainer.restore([frame, as_tensor(frame)]))  # type: ignore[list-item]


def test_wrong_choices_are_refused_at_once(derainer: Derainer, tiny: Path) -> None:
    with pytest.raises(ValueError, match="fps"):
        derainer.restore([], fps=0)
    with pytest.raises(UsageError, match="strength"):
        Derainer.load(str(tiny), strength=3)
    with pytest.raises(VderainError, match="no model"):
        Derainer.load("none")


def test_an_error_of_the_caller_passes_through(derainer: Derainer) -> None:
    def failing() -> Iterator[RGB]:
        yield from rainy_clip(3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(derainer.restore(failing()))


def test_importing_the_package_is_light() -> None:
    code = "import sys, vderain; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_says_what_it_lacks() -> None:
    import vderain

    with pytest.raises(AttributeError, match="no attribute 'Rainer'"):
        _ = vderain.Rainer


def test_every_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (24, 32, 3)).astype(np.uint8) for _ in range(3)]
    for number, image in enumerate(images):
        cv2.imwrite(f"{number}.png", image)
    cv2.imwrite("rainy.png", images[0])
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        exec(example, {"__name__": "example"})  # the page's own text
