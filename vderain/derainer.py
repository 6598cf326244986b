"""Frames in, frames out: removes rain from numpy arrays or torch tensors with the pipeline of ``vderain process``."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Self, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.errors import InputError
from vderain.media.frame import Colour, Frame
from vderain.model.released import DEFAULT_MODEL
from vderain.options import Options, Precision, Temporal
from vderain.pipeline import LoadedModels, Pipeline, RestoredFrame, load_models

FrameT = TypeVar("FrameT", NDArray[np.uint8], Tensor)

_RGB8 = Colour("rgb", full_range=True)
_RGB16 = Colour("rgb", full_range=True, depth_bits=16)  # holds floats to 1/65535
_PEAK16 = 65535


class FrameValueError(InputError, ValueError):
    """A frame has a shape, a size or values that cannot be restored."""


class FrameTypeError(InputError, TypeError):
    """A frame is neither a numpy array nor a torch tensor, or has another dtype than uint8 or float."""


class Derainer:
    """Removes rain from clips and still images in memory.

    The results equal those of ``vderain process`` on PNG files to the bit. Frames are processed in parallel, so OpenCV
    is set to one thread per call in the whole process. One object serves any number of clips.

    Args:
        options: strength, temporal mode and the like; see `vderain.options.Options`. Options of files do not count.
        models: what `vderain.pipeline.load_models` returned for these options.
    """

    def __init__(self, options: Options, models: LoadedModels | None) -> None:
        self.options = options
        self._models = models

    @classmethod
    def load(
        cls, model: str = DEFAULT_MODEL, *, device: str = "auto", precision: Precision = "auto",
        batch_size: int | None = None, strength: float = 1.0, temporal: Temporal = "strong", drops: bool = True,
        guard: bool = True,
    ) -> Self:  # fmt: skip
        """Loads a model.

        Args:
            model: name of a released generator (``base`` or ``fast``), or path of a file of weights.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            precision: ``auto``, ``fp32`` or ``bf16``.
            batch_size: frames processed at once; None fits it to the memory.
            strength: factor on what is removed, 0 to 2.
            temporal: ``off`` uses each frame alone; ``light`` and ``strong`` use neighbouring frames and filter over
                time; ``only`` uses neighbouring frames without a network.
            drops: remove raindrops on the windshield too.
            guard: leave frames of dry scenes unchanged.

        Raises:
            CheckpointError: the model does not exist or is unusable.
            DeviceError: this machine does not have the device.
            UsageError: a value is out of range.
        """
        options = Options(
            model=model, device=device, precision=precision, batch_size=batch_size, strength=strength,
            temporal=temporal, drops=drops, guard=guard,
        )  # fmt: skip
        return cls(options, load_models(options))

    def restore(self, frames: Iterable[FrameT], fps: float | Fraction = 30) -> Iterator[FrameT]:
        """Removes rain from the frames of one clip, lazily: one frame out for each frame in, in order.

        A frame depends on a few frames before and after it, so the iterator reads some frames ahead. Memory does not
        grow with the length of the clip. ``frames`` is iterated in the thread that iterates the result.

        Args:
            frames: of one clip, all of one size: numpy arrays (H, W, 3), uint8, R, G, B; or torch tensors (3, H, W) on
                any device, uint8 in 0..255 or floating point in 0..1.
            fps: frames per second. It sets timestamps only; no stage depends on it yet.

        Returns:
            An iterator of new arrays or tensors of the same shape, dtype and device as those given.

        Raises:
            FrameValueError: a frame has the wrong shape, another size than the first, or floats outside 0..1, or
                ``fps`` is not a positive number. It is a ValueError and a VderainError.
            FrameTypeError: a frame has another type or dtype. It is a TypeError and a VderainError.
            DeviceError: one frame does not fit into the memory of the device.
        """
        rate = Fraction(fps).limit_denominator(100_000) if 0 < fps < float("inf") else Fraction(0)
        if not rate:
            raise FrameValueError(f"fps is {fps}.", "Give frames per second, such as 30.")
        return self._restore(iter(frames), 1 / rate)

    def restore_image(self, image: FrameT) -> FrameT:
        """Removes rain from a still image.

        Args:
            image: numpy array (H, W, 3) or torch tensor (3, H, W), as for `restore`.

        Returns:
            A new array or tensor of the same shape, dtype and device.

        Raises:
            FrameValueError, FrameTypeError, DeviceError: see `restore`.
        """
        return next(self.restore([image]))

    def _restore(self, frames: Iterator[FrameT], time_base: Fraction) -> Iterator[FrameT]:
        first = next(frames, None)
        if first is None:
            return
        waiting: deque[_Input] = deque()  # taken by the pipeline and not yet restored
        converted = _convert(chain([first], frames), time_base, waiting)
        cv2.setNumThreads(1)  # optical flow differs with the number of threads
        pipeline = Pipeline(self.options, self._models)
        height_px, width_px = _input(first, 0).size_px
        upright, turns = pipeline.upright(converted, 0)
        with closing(pipeline(upright, 0, height_px * width_px, rain_quarters=turns)) as restored:  # type: ignore[type-var]
            for result in restored:
                yield cast("FrameT", waiting.popleft().like(result))


@dataclass(frozen=True, slots=True)
class _Input:
    """A frame as given.

    Attributes:
        pixels: (3, H, W), uint8 or uint16, a copy.
        tensor: the given tensor, a copy if it holds floats; None for a numpy array.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    tensor: Tensor | None

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def frame(self, number: int, time_base: Fraction) -> Frame:
        """The frame as the pipeline takes it."""
        colour = _RGB8 if self.pixels.dtype == np.uint8 else _RGB16
        return Frame(tuple(self.pixels), colour, number, 1, time_base)

    def like(self, result: RestoredFrame) -> NDArray[np.uint8] | Tensor:
        """The restored frame in the form of the given one."""
        planes = np.stack(result.after.planes)  # (3, H, W)
        if self.tensor is None:
            return np.ascontiguousarray(planes.transpose(1, 2, 0), np.uint8)
        if not self.tensor.is_floating_point():
            return torch.from_numpy(planes).to(self.tensor.device)
        # The change is added to the floats, so that unchanged pixels keep their exact values.
        change = torch.from_numpy(planes.astype(np.float32) - self.pixels).to(self.tensor.device) / _PEAK16
        wide = torch.promote_types(self.tensor.dtype, torch.float32)
        return (self.tensor.to(wide) + change).clamp(0, 1).to(self.tensor.dtype)


def _convert(frames: Iterator[FrameT], time_base: Fraction, waiting: deque[_Input]) -> Iterator[Frame]:
    """Frames as the pipeline takes them; remembers the form of each until it comes out."""
    size_px, kind = None, None
    for number, given in enumerate(frames):
        item = _input(given, number)
        size_px, kind = size_px or item.size_px, kind or type(given)
        if not isinstance(given, kind):
            raise FrameTypeError(
                f"frame {number} is a {type(given).__name__}, the first a {kind.__name__}.", "Give one kind only."
            )
        if item.size_px != size_px:
            sizes = f"{item.size_px[1]}x{item.size_px[0]}, not {size_px[1]}x{size_px[0]} as the first"
            raise FrameValueError(f"frame {number} is {sizes}.", "Restore clips of different sizes one by one.")
        waiting.append(item)
        yield item.frame(number, time_base)


def _input(given: object, number: int) -> _Input:
    """Checks and copies a frame: the caller may reuse its memory."""
    if isinstance(given, Tensor):
        _check_shape(number, tuple(given.shape), given.shape[0] if given.ndim else 0, "(3, H, W)")
        return _from_tensor(given.detach(), number)
    if not isinstance(given, np.ndarray):
        raise FrameTypeError(
            f"frame {number} is a {type(given).__name__}.", "Give numpy arrays (H, W, 3) or torch tensors (3, H, W)."
        )
    _check_shape(number, given.shape, given.shape[-1] if given.ndim else 0, "(H, W, 3)")
    if given.dtype != np.uint8:
        raise FrameTypeError(f"frame {number} holds {given.dtype}.", "Convert it to uint8, 0 to 255.")
    return _Input(given.transpose(2, 0, 1).copy(), None)


def _from_tensor(given: Tensor, number: int) -> _Input:
    if given.dtype == torch.uint8:
        return _Input(given.cpu().numpy().copy(), given)
    if not given.is_floating_point():
        raise FrameTypeError(f"frame {number} holds {given.dtype}.", "Give uint8, or floating point in 0..1.")
    values = given.cpu().to(torch.float64).numpy()
    if not (values.min() >= 0 and values.max() <= 1):  # so written, NaN is refused too
        raise FrameValueError(f"frame {number} has values outside 0..1.", "Divide 8-bit values by 255.")
    return _Input(np.rint(values * _PEAK16).astype(np.uint16), given.clone())


def _check_shape(number: int, shape: tuple[int, ...], channels: int, wanted: str) -> None:
    if len(shape) != 3 or channels != 3 or 0 in shape:
        raise FrameValueError(
            f"frame {number} has shape {shape}, not {wanted}.", "For a single frame, use restore_image."
        )
