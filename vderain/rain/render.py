"""Renders rain onto a video, an image or a folder of images, and optionally writes a mask of the rain."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.errors import UsageError
from vderain.media.clip import Progress, check_name, check_source, open_sink, open_source
from vderain.media.colour import add_residual, code_scale, to_rgb8
from vderain.media.encode import EncodeOptions
from vderain.media.frame import Frame
from vderain.options import NOISE_SEED, RenderOptions
from vderain.rain.weather import STYLES, Weather
from vderain.runtime.device import choose_device
from vderain.runtime.files import Draft

LOSSLESS_CRF = 0.0  # for the mask, whose values are measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """What `render` did.

    Attributes:
        source, target, mask: files or folders; the mask is None where none was written.
        style, seed: of the rain.
        frames: number of frames written.
        repeated: number of damaged frames that were replaced by a neighbour.
        kept, dropped: other streams that were copied, and those that the container cannot hold.
        device: device that rendered.
        seconds: wall-clock time.
    """

    source: Path
    target: Path
    mask: Path | None
    style: str
    seed: int
    frames: int
    repeated: int
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    device: str
    seconds: float


def render(
    source: Path, target: Path, mask: Path | None = None, options: RenderOptions | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RenderResult:  # fmt: skip
    """Render rain onto a video, an image or a folder of numbered images.

    Args:
        source: the clear video, image or folder.
        target: the file or folder to write.
        mask: where to write the opacity of streaks and drops as grey; None for no mask.
        options: style, seed and more.
        on_progress: called after each frame.

    Raises:
        VderainError: for any failure; the target does not exist then.
    """
    options = options or RenderOptions()
    _check_paths(source, target, mask, options.overwrite)
    started_s = time.monotonic()
    device = choose_device(options.device, "fp32").device
    with ExitStack() as stack:
        reader = open_source(source)
        stack.enter_context(reader)
        writer = open_sink(Draft(target, options.overwrite, source), reader, options.encode)
        stack.enter_context(writer)
        draft = Draft(mask, options.overwrite, source) if mask else None
        masker = open_sink(draft, reader, EncodeOptions(crf=LOSSLESS_CRF)) if draft else None
        stack.enter_context(masker or nullcontext())
        rain = _Rain(options, device, reader.rotation_quarters)
        total_s, frames = reader.duration_s, 0
        for frame in reader.frames():
            rainy, opacity_HW = rain(frame)
            writer.write(rainy)
            if masker is not None:
                masker.write(grey(frame, opacity_HW))
            frames += 1
            on_progress(Progress(frames, rain.time_s + float(frame.duration * frame.time_base), total_s))
    return RenderResult(
        source=source,
        target=target,
        mask=mask,
        style=options.style,
        seed=options.seed,
        frames=frames,
        repeated=reader.report.repeated,
        kept=writer.report.kept,
        dropped=writer.report.dropped,
        device=str(device),
        seconds=time.monotonic() - started_s,
    )


def _check_paths(source: Path, target: Path, mask: Path | None, overwrite: bool) -> None:
    check_source(source)
    for name in filter(None, (target, mask)):
        check_name(name, source, overwrite)
    if mask is not None and mask.absolute() == target.absolute():
        raise UsageError(f"{mask} is to be both output and mask.", "Choose another name with --mask.")


class _Rain:
    """Renders rain onto successive frames."""

    def __init__(self, options: RenderOptions, device: torch.device, turns: int) -> None:
        rng = torch.Generator(device).manual_seed(options.seed)
        self._noise = options.noise / 255
        self._noise_rng = torch.Generator(device).manual_seed(options.seed + NOISE_SEED)
        self._weather = Weather(STYLES[options.style], rng, options.haze)
        self._device, self._turns = device, turns
        self._first_s: float | None = None
        self.time_s = 0.0  # of the last frame, from the first

    def __call__(self, frame: Frame) -> tuple[Frame, NDArray[np.float32]]:
        """Return the rainy frame and the opacity of its rain, (H, W) float32 in 0..1, as stored."""
        now_s = float(frame.pts * frame.time_base)
        self._first_s = now_s if self._first_s is None else self._first_s
        self.time_s = now_s - self._first_s
        upright = np.ascontiguousarray(np.rot90(to_rgb8(frame), self._turns))  # rain falls downwards on the screen
        clear = torch.from_numpy(upright).to(self._device).permute(2, 0, 1).float() / 255  # (3, H, W)
        rainy, opacity = self._weather.render(clear, self.time_s)
        change = (rainy - clear).permute(1, 2, 0)  # (H, W, 3)
        if self._noise:
            change = change + self._noise * torch.randn(change.shape, generator=self._noise_rng, device=change.device)
        return add_residual(frame, self._as_stored(change)), self._as_stored(opacity)

    def _as_stored(self, picture: Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.rot90(picture.cpu().numpy(), -self._turns), np.float32)


def grey(frame: Frame, opacity_HW: NDArray[np.float32]) -> Frame:
    """Convert an opacity to a grey frame.

    Args:
        frame: gives timestamp, planes and range of code values.
        opacity_HW: (H, W) float32 in 0..1.
    """
    scale, offset = code_scale(frame.colour)
    kind = frame.planes[0].dtype
    codes = np.rint(offset[0] + scale[0] * opacity_HW).astype(kind)
    if len(frame.planes) == 1 or frame.colour.matrix == "rgb":
        return frame.with_planes((codes,) * len(frame.planes))
    return frame.with_planes((codes, *(np.full_like(plane, round(offset[1])) for plane in frame.planes[1:])))
