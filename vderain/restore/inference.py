"""Runs the network over windows of frames, in batches or tiles that fit into memory."""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from threading import local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.errors import CheckpointError, DeviceError
from vderain.model.unet import UNet
from vderain.restore.frames import RADIUS, AlignedWindow, Picture, Residual, Restoration, flip_ensemble, repeat_frame
from vderain.runtime.device import DevicePlacement, frames_in_flight
from vderain.runtime.threads import ordered_map, stage

log = logging.getLogger(__name__)

# Frames with more lines on their shorter side are downscaled for the network: streaks grow with the frame, and would
# be broader than any that the network was trained on.
MAX_LINES = 1080
TILE_PX = 1024  # first side tried when a whole frame does not fit
TILE_MIN_PX = 128  # a device that cannot hold this cannot run the network
BATCH_MAX = 16
BYTES_PER_CHANNEL_PX = 24  # measured peak of a forward pass: about six fp32 maps of the finest width alive at once

NetworkInput = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (5, H, W, 3) aligned frames and (H, W) confidence


class NetworkRunner:
    """A generator on its device.

    Args:
        generator: trained; its window is 1 or 5.
        placement: device and precision.
        batch_size: frames in one pass on a GPU, frames processed side by side on a CPU; None fits it to memory.

    Attributes:
        tile_px: side of the tiles that a frame is split into; None while whole frames fit.
    """

    def __init__(self, generator: UNet, placement: DevicePlacement, batch_size: int | None = None) -> None:
        self.placement, self.batch_size = placement, batch_size
        self.tile_px: int | None = None
        self._generator = placement.place(generator)
        self._threads = local()

    @property
    def on_cpu(self) -> bool:
        return self.placement.device.type == "cpu"

    def __call__(self, windows: Iterable[AlignedWindow]) -> Iterator[Restoration]:
        """The residuals of all windows, in order.

        Raises:
            DeviceError: not even a small tile of a frame fits into memory.
            CheckpointError: the network's output is infinite or not a number.
        """
        iterator = iter(windows)
        first = next(iterator, None)
        if first is None:
            return
        count = self.batch_size or self._fitting_batch(*first.confidence.shape)
        windows = chain([first], iterator)
        del first  # its pixels need not stay in memory until the end of the clip
        if self.on_cpu:
            yield from ordered_map(self._restore_window, windows, count)
        else:
            for batch in _batches(windows, count):
                yield from self._restore_batch(batch)

    def restore_image(self, rgb: Picture) -> Residual:
        """The residual of an image without neighbours.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (H, W, 3) float16 in 0..1 units.
        """
        return self._run_single(repeat_frame(rgb))

    def flip_ensemble(self, rgb: Picture) -> Residual:
        """The mean of the residuals of an image and of its mirror image, which errs less than either.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (H, W, 3) float16 in 0..1 units.
        """
        return flip_ensemble(self.restore_image, rgb)

    @stage("network")
    def _restore_window(self, window: AlignedWindow) -> Restoration:
        return Restoration.of_window(window, self._run_single((window.aligned, window.confidence)))

    @stage("network")
    def _restore_batch(self, batch: list[AlignedWindow]) -> list[Restoration]:
        residuals = self._run([(window.aligned, window.confidence) for window in batch])
        return list(map(Restoration.of_window, batch, residuals))

    def _fitting_batch(self, height_px: int, width_px: int) -> int:
        """Frames of a size to process at once without running out of memory."""
        if self.on_cpu:
            return frames_in_flight(height_px * width_px)
        if self.placement.device.type != "cuda":
            return 1
        config = self._at_scale(height_px, width_px).config
        input_px = height_px * width_px // (config.scale * config.stem) ** 2
        frame_bytes = input_px * config.widths[0] * BYTES_PER_CHANNEL_PX
        free_bytes, _ = torch.cuda.mem_get_info(self.placement.device)
        return int(max(1, min(BATCH_MAX, 0.6 * free_bytes // frame_bytes)))

    def _run_single(self, item: NetworkInput) -> Residual:
        if self.on_cpu and not hasattr(self._threads, "ready"):
            torch.set_num_threads(1)  # of this thread: frames run side by side, see `threads`
            self._threads.ready = True
        return self._run([item])[0]

    def _run(self, batch: list[NetworkInput]) -> list[Residual]:
        """One pass; when memory runs out, two passes of half the batch each, and tiles for a single frame.

        Raises:
            DeviceError: not even a small tile fits.
        """
        tried_px = self.tile_px
        try:
            return self._forward(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) > 1:
            half = len(batch) // 2
            log.info("out of memory: batch size %d", half)
            return self._run(batch[:half]) + self._run(batch[half:])
        if self.tile_px == tried_px:  # else another thread has made the tiles smaller already
            self.tile_px = self._smaller_tile(tried_px)
            log.info("out of memory: tiles of %d px", self.tile_px)
        return self._run(batch)

    def _smaller_tile(self, tile_px: int | None) -> int:
        smaller_px = tile_px // 2 if tile_px else TILE_PX
        if smaller_px < TILE_MIN_PX:
            device = self.placement.device.type
            cure = "Close other programs." if device == "cpu" else "Use --device cpu."
            raise DeviceError(f"a frame does not fit into the memory of {device}.", cure)
        return smaller_px

    def _forward(self, batch: list[NetworkInput]) -> list[Residual]:
        with torch.inference_mode():
            frames, confidence = self._tensors(batch)
            generator = self._at_scale(*frames.shape[-2:])
            tile_px = self.tile_px
            residual = (  # (B, 3, H, W)
                generator(frames, confidence) if tile_px is None else _tiled(generator, frames, confidence, tile_px)
            )
            rounded = finite_half(residual)
        return [np.moveaxis(chw, 0, -1) for chw in rounded.cpu().numpy()]  # (H, W, 3) each

    def _tensors(self, batch: list[NetworkInput]) -> tuple[Tensor, Tensor]:
        """(B, T*3, H, W) and (B, 1, H, W), both uint8, on the device; T is 1 or 5."""
        used = slice(None) if self._generator.config.window > 1 else slice(RADIUS, RADIUS + 1)
        device = self.placement.device
        frames = torch.from_numpy(np.stack([aligned[used] for aligned, _ in batch])).to(device)  # (B, T, H, W, 3)
        confidence = torch.from_numpy(np.stack([confidence for _, confidence in batch])).to(device)  # (B, H, W)
        return frames.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous(), confidence.unsqueeze(1)

    def _at_scale(self, height_px: int, width_px: int) -> UNet:
        """The generator at the scale for frames of that size."""
        generator: UNet = self._generator.at_scale(max(1, min(height_px, width_px) // MAX_LINES))
        return generator


def finite_half(residual: Tensor) -> Tensor:
    """A residual of any shape, as float16.

    Raises:
        CheckpointError: it is infinite or not a number.
    """
    rounded = residual.half()
    low, high = torch.aminmax(rounded)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise CheckpointError("the network's output is not finite.", "Choose another --model; this one may be damaged.")
    return rounded


def _tiled(generator: UNet, frames: Tensor, confidence: Tensor, tile_px: int) -> Tensor:
    """The same as `generator` on the whole frame, tile by tile, each with a margin of the network's receptive field.

    Args:
        generator: at its scale.
        frames: (B, T*3, H, W) uint8.
        confidence: (B, 1, H, W) uint8.
        tile_px: side of a tile; rounded up to the network's stride.

    Returns:
        (B, 3, H, W) float32.
    """
    config = generator.config
    margin_px = -(-config.reach_px // config.stride_px) * config.stride_px
    step_px = -(-tile_px // config.stride_px) * config.stride_px
    height_px, width_px = frames.shape[-2:]
    out = frames.new_empty((frames.shape[0], 3, height_px, width_px), dtype=torch.float32)
    for top in range(0, height_px, step_px):
        for left in range(0, width_px, step_px):
            y0, x0 = max(0, top - margin_px), max(0, left - margin_px)
            seen = (..., slice(y0, top + step_px + margin_px), slice(x0, left + step_px + margin_px))
            tile = generator(frames[seen], confidence[seen])  # (B, 3, h, w), with its margins
            tile = tile[..., top - y0 :, left - x0 :][..., :step_px, :step_px]
            out[..., top : top + tile.shape[-2], left : left + tile.shape[-1]] = tile
    return out


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has an exception of its own; the CPU's allocator and MPS differ in the message only."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _batches(windows: Iterator[AlignedWindow], count: int) -> Iterator[list[AlignedWindow]]:
    """Up to `count` successive windows of one frame size together."""
    for _, same_size in groupby(windows, key=lambda window: window.confidence.shape):
        while batch := list(islice(same_size, count)):
            yield batch
