"""Frames in, clear frames out: the network over windows of frames, within the memory there is."""

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from threading import local

import numpy as np
import torch
from torch import Tensor

from vderain.errors import DeviceError
from vderain.model.unet import UNet
from vderain.restore.window import RADIUS, AlignedWindow, Residual, Restoration
from vderain.runtime.device import DevicePlacement, frames_in_flight
from vderain.runtime.threads import Timed, ordered_map, untimed

log = logging.getLogger(__name__)

MAX_LINES = (
    1080  # of the shorter side, at most, of pictures seen as they are: streaks grow with pictures, and in larger
)
# ones they are broader than any that generators learn from
TILE_PX = 1024  # first side tried when a whole picture does not fit
TILE_MIN_PX = 128  # a device that cannot hold this holds nothing
BYTES_PER_CHANNEL_PX = 24  # measured peak of a forward pass: about six fp32 maps of the finest width alive at once


class NetworkRunner:
    """A generator at its place.

    Args:
        generator: trained; its window is 1 or 5.
        place: device and precision.
        batch_size: frames in one pass on a GPU, frames worked on side by side on a CPU; chosen by memory where None.
    """

    def __init__(self, generator: UNet, place: DevicePlacement, batch_size: int | None = None) -> None:
        self.place, self.batch_size = place, batch_size
        self.tile_px: int | None = None
        self._generator = generator.to(place.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._threads = local()

    def __call__(self, windows: Iterable[AlignedWindow], timed: Timed = untimed) -> Iterator[Restoration]:
        """Residuals of all windows, in order."""
        iterator = iter(windows)
        first = next(iterator, None)
        if first is None:
            return
        count = self.batch_size or self._fitting(first)
        if self.place.device.type == "cpu":
            yield from ordered_map(timed("network", self._alone), _chain(first, iterator), count)
        else:
            run = timed("network", self._residuals)
            for batch in _batches(_chain(first, iterator), count):
                yield from map(Restoration, [window.without_pixels() for window in batch], run(batch))

    def picture(self, window: AlignedWindow) -> Residual:
        """(H, W, 3), the residual of one window, whichever thread asks for it."""
        return self._alone(window).residual if self.place.device.type == "cpu" else self._residuals([window])[0]

    def _fitting(self, window: AlignedWindow) -> int:
        """Frames at once that memory surely holds."""
        height_px, width_px = window.confidence.shape
        config = self._at_scale(height_px, width_px).config
        seen_px = height_px * width_px // (config.scale * config.stem) ** 2
        frame_bytes = seen_px * config.widths[0] * BYTES_PER_CHANNEL_PX
        if self.place.device.type == "cuda":
            free_bytes, _ = torch.cuda.mem_get_info(self.place.device)
            return int(max(1, min(16, 0.6 * free_bytes // frame_bytes)))
        return frames_in_flight(height_px * width_px) if self.place.device.type == "cpu" else 1

    def _alone(self, window: AlignedWindow) -> Restoration:
        if not hasattr(self._threads, "ready"):
            torch.set_num_threads(1)  # of this thread: frames are side by side, see `parallel`
            self._threads.ready = True
        return Restoration(window.without_pixels(), self._residuals([window])[0])

    def _residuals(self, batch: list[AlignedWindow]) -> list[Residual]:
        """One pass; on lack of memory two of half the batch, and for a single frame in tiles.

        Raises:
            DeviceError: not even a small tile fits.
        """
        tried_px = self.tile_px
        try:
            return self._forward(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) > 1:
            half = len(batch) // 2
            log.info("out of memory: batches of %d", half)
            return self._residuals(batch[:half]) + self._residuals(batch[half:])
        if self.tile_px == tried_px:  # else another thread met the same lack and made tiles smaller already
            self.tile_px = self._smaller(tried_px)
            log.info("out of memory: tiles of %d px", self.tile_px)
        return self._residuals(batch)

    def _smaller(self, tile_px: int | None) -> int:
        smaller_px = tile_px // 2 if tile_px else TILE_PX
        if smaller_px < TILE_MIN_PX:
            device = self.place.device.type
            cure = "Close other programs." if device == "cpu" else "Use --device cpu."
            raise DeviceError(f"a frame does not fit into the memory of {device}.", cure)
        return smaller_px

    def _forward(self, batch: list[AlignedWindow]) -> list[Residual]:
        with torch.inference_mode(), torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.place.bf16):
            frames, confidence = self._tensors(batch)
            generator = self._at_scale(*frames.shape[-2:])
            tile_px = self.tile_px
            residual = (
                generator(frames, confidence) if tile_px is None else _tiled(generator, frames, confidence, tile_px)
            )
        return [np.moveaxis(picture, 0, -1) for picture in residual.half().cpu().numpy()]

    def _tensors(self, batch: list[AlignedWindow]) -> tuple[Tensor, Tensor]:
        """(B, T*3, H, W) and (B, 1, H, W), both uint8."""
        span = slice(None) if self._generator.config.window > 1 else slice(RADIUS, RADIUS + 1)
        stacked = torch.from_numpy(np.stack([window.aligned[span] for window in batch])).to(self.place.device)
        confidence = torch.from_numpy(np.stack([window.confidence for window in batch])).to(self.place.device)
        return stacked.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous(), confidence.unsqueeze(1)

    def _at_scale(self, height_px: int, width_px: int) -> UNet:
        """The generator, at the scale for a picture of that size."""
        generator: UNet = self._generator.at_scale(max(1, min(height_px, width_px) // MAX_LINES))
        return generator


def _tiled(generator: UNet, frames: Tensor, confidence: Tensor, tile_px: int) -> Tensor:
    """The same as the whole at once, piece by piece: each tile sees as far around itself as the network looks."""
    config = generator.config
    reach_px = -(-config.reach_px // config.stride_px) * config.stride_px
    step_px = -(-tile_px // config.stride_px) * config.stride_px
    height_px, width_px = frames.shape[-2:]
    out = frames.new_empty((frames.shape[0], 3, height_px, width_px), dtype=torch.float32)
    for top in range(0, height_px, step_px):
        for left in range(0, width_px, step_px):
            y0, x0 = max(0, top - reach_px), max(0, left - reach_px)
            seen = (..., slice(y0, top + step_px + reach_px), slice(x0, left + step_px + reach_px))
            kept = generator(frames[seen], confidence[seen])[..., top - y0 :, left - x0 :][..., :step_px, :step_px]
            out[..., top : top + kept.shape[-2], left : left + kept.shape[-1]] = kept
    return out


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it, the CPU's allocator and MPS only words."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _chain(first: AlignedWindow, rest: Iterator[AlignedWindow]) -> Iterator[AlignedWindow]:
    yield first
    yield from rest


def _batches(windows: Iterator[AlignedWindow], count: int) -> Iterator[list[AlignedWindow]]:
    """Up to `count` together, of one size."""
    for _, alike in groupby(windows, key=lambda window: window.confidence.shape):
        while batch := list(islice(alike, count)):
            yield batch
