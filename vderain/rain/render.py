"""Rain for one file: a clear clip enters, the same clip in rain leaves, and where the rain is if that is asked for."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.errors import UsageError
from vderain.media.clip import (
    Progress,
    check_name,
    check_source,
    create_clip,
    damaged_frames,
    duration_s,
    open_clip,
    quarter_turns,
)
from vderain.media.colour import add_residual, code_scale, to_rgb8
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.frame import Frame
from vderain.rain.weather import STYLES, Weather
from vderain.runtime.device import choose_device

__all__ = ["Options", "Progress", "Result", "render"]

NOISE_MAX = 64.0  # levels of 255
LOSSLESS_CRF = 0.0  # for the mask, which is a measure and no picture
NOISE_SEED = 1  # beyond the rain's, so that noise does not change the rain


@dataclass(frozen=True, slots=True)
class Options:
    """What the user can choose; the single home of these defaults.

    Attributes:
        style: of `rain.weather.STYLES`.
        seed: the same rain for the same seed and device.
        veil: let distant rain haze the picture, which counts as rain but has no place in the mask.
        noise: standard deviation of the sensor's noise, in levels of 255.
        device: see `restore.device`; by default the CPU, so that a seed means the same rain on all machines.
        encode: codec and quality; the default compresses as dashcams do.
        overwrite: replace outputs that exist.
    """

    style: str = "shower"
    seed: int = 0
    veil: bool = True
    noise: float = 0.0
    device: str = "cpu"
    encode: EncodeOptions = field(default_factory=lambda: EncodeOptions(crf=23))
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UsageError(f"there is no style {self.style!r}.", f"Choose {', '.join(STYLES)}.")
        if not 0 <= self.seed < 2**63 - NOISE_SEED:
            raise UsageError(f"seed {self.seed} is out of range.", "Give a whole number, 0 or more.")
        if not 0 <= self.noise <= NOISE_MAX:
            raise UsageError(f"noise {self.noise:g} is out of range.", f"Give levels of 255 from 0 to {NOISE_MAX:g}.")


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Attributes:
        source, target, mask: files or folders; the mask None where none was asked for.
        style, seed: of the rain.
        frames: written.
        repeated: frames that stood in for damaged ones.
        kept, dropped: other streams that were copied, and what the container could not hold.
        device: where it ran.
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
    source: Path, target: Path, mask: Path | None = None, options: Options | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Result:  # fmt: skip
    """Let it rain on one video, picture or folder of numbered pictures.

    Args:
        source: what to read.
        target: what to write.
        mask: where to write the opacity of streaks and drops as grey, black where there are none.
        options: the user's choices.
        report: is told of progress after every frame.

    Raises:
        VderainError: whatever goes wrong; nothing is left under the target's name then.
    """
    options = options or Options()
    check_source(source)
    for name in filter(None, (target, mask)):
        check_name(name, source, options.overwrite)
    if mask is not None and mask.absolute() == target.absolute():
        raise UsageError(f"{mask} is to be both output and mask.", "Choose another name with --mask.")
    started_s = time.monotonic()
    device = choose_device(options.device, "fp32").device
    with ExitStack() as stack:
        reader = open_clip(source)
        stack.enter_context(reader)
        writer = create_clip(target, reader, options.encode)
        stack.enter_context(writer)
        masker = create_clip(mask, reader, EncodeOptions(crf=LOSSLESS_CRF)) if mask else None
        stack.enter_context(masker or nullcontext())
        rain = _Rain(options, device, quarter_turns(reader))
        total_s, frames = duration_s(reader), 0
        for frame in reader.frames():
            rainy, opacity_HW = rain(frame)
            writer.write(rainy)
            if masker is not None:
                masker.write(grey(frame, opacity_HW))
            frames += 1
            report(Progress(frames, rain.time_s + float(frame.duration * frame.time_base), total_s))
    return Result(
        source, target, mask, options.style, options.seed, frames,
        damaged_frames(reader),
        tuple(getattr(writer, "kept", ())), tuple(getattr(writer, "dropped", ())), str(device),
        time.monotonic() - started_s,
    )  # fmt: skip


class _Rain:
    """Frames to frames in rain, one after the other."""

    def __init__(self, options: Options, device: torch.device, turns: int) -> None:
        rng = torch.Generator(device).manual_seed(options.seed)
        self._noise = options.noise / 255
        self._noise_chance = torch.Generator(device).manual_seed(options.seed + NOISE_SEED)
        self._weather = Weather(STYLES[options.style], rng, options.veil)
        self._device, self._turns = device, turns
        self._first_s: float | None = None
        self.time_s = 0.0  # of the last frame, from the first

    def __call__(self, frame: Frame) -> tuple[Frame, NDArray[np.float32]]:
        """The frame in rain, and the rain's opacity, (H, W) in 0..1 as stored."""
        now_s = float(frame.pts * frame.time_base)
        self._first_s = now_s if self._first_s is None else self._first_s
        self.time_s = now_s - self._first_s
        upright = np.ascontiguousarray(np.rot90(to_rgb8(frame), self._turns))  # rain falls downwards as shown
        clear = torch.from_numpy(upright).to(self._device).permute(2, 0, 1).float() / 255  # (3, H, W)
        rainy, opacity = self._weather.over(clear, self.time_s)
        change = (rainy - clear).permute(1, 2, 0)  # (H, W, 3)
        if self._noise:
            change = change + self._noise * torch.randn(
                change.shape, generator=self._noise_chance, device=change.device
            )
        return add_residual(frame, self._as_stored(change)), self._as_stored(opacity)

    def _as_stored(self, picture: Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.rot90(picture.cpu().numpy(), -self._turns), np.float32)


def grey(frame: Frame, opacity_HW: NDArray[np.float32]) -> Frame:
    """An opacity as a grey picture of the same instant, in the planes and code values of a frame."""
    scale, offset = code_scale(frame.colour)
    kind = frame.planes[0].dtype
    codes = np.rint(offset[0] + scale[0] * opacity_HW).astype(kind)
    if len(frame.planes) == 1 or frame.colour.matrix == "rgb":
        return frame.with_planes((codes,) * len(frame.planes))
    return frame.with_planes((codes, *(np.full_like(plane, round(offset[1])) for plane in frame.planes[1:])))
