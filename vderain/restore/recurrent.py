"""Runs the recurrent generator along a clip, one frame after the other, with a few frames of look-ahead.

Every `PERIOD` frames the memory is replaced by one that began `WARM_UP` frames earlier. So a frame depends on a bounded
number of frames before it, and a run that is resumed gives the same result as one that was not interrupted.

Flow is computed once for each pair of successive frames, by other threads and ahead of the network. Everything else
happens on the network's device: a frame is uploaded once, and the change of its luma is downloaded once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vderain.model.memory import Evidence, Memory, Step
from vderain.model.motion import Motion, sample
from vderain.model.recurrent import RecurrentUNet
from vderain.restore.frames import ConsistentFlow, Picture, PreparedFrame, Residual, Restoration, flip_ensemble, luma_of
from vderain.restore.inference import finite_half
from vderain.restore.window import add_flows
from vderain.runtime.device import DevicePlacement, cores
from vderain.runtime.threads import sliding_window, stage

PERIOD = 96  # frames
WARM_UP = 6  # frames, in which a memory becomes as good as it gets but for a few hundredths of a decibel


def context_begins(number: int) -> int:
    """The first frame that the restoration of frame `number` depends on."""
    return max(0, number // PERIOD * PERIOD - WARM_UP)


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """A frame with the flows between it and the one before, on the network's device.

    Attributes:
        frame: prepared.
        rgb: (1, 3, H, W) uint8.
        luma: (1, 1, H, W) float32 in 0..1.
        to_previous: from this frame to the one before; None at the start of a shot.
        from_previous: from the one before to this frame; likewise.
    """

    frame: PreparedFrame
    rgb: Tensor
    luma: Tensor
    to_previous: Motion | None
    from_previous: Motion | None


@dataclass(frozen=True, slots=True)
class _Result:
    """A frame and what the network made of it."""

    now: _Uploaded
    step: Step


class RecurrentRunner:
    """A recurrent generator on its device.

    Args:
        generator: trained.
        placement: device and precision.
    """

    def __init__(self, generator: RecurrentUNet, placement: DevicePlacement) -> None:
        self.placement = placement
        self._generator = placement.place(generator)

    def __call__(self, frames: Iterable[PreparedFrame], workers: int, lag: int = 1) -> Iterator[Restoration]:
        """The residuals of a clip's frames, in order.

        Args:
            frames: prepared, with their numbers in the whole clip.
            workers: threads that compute flow.
            lag: later frames whose results correct a frame's.
        """
        with _network_threads(self.placement.device):
            for around in sliding_window(self._forward(frames, workers), lag):
                result, later = around[lag], around[lag + 1 :]
                assert result is not None
                yield Restoration.of_frame(result.now.frame, self._smooth(result, later))

    def _forward(self, frames: Iterable[PreparedFrame], workers: int) -> Iterator[_Result]:
        """Carry the memory through a clip."""
        memory: Memory | None = None
        renewed: Memory | None = None
        uploaded = map(self._upload_frame, add_flows(frames, workers))
        for _, before, now, *after in sliding_window(uploaded, 2):
            assert now is not None
            place = now.frame.number % PERIOD
            if place == 0 and renewed is not None:
                memory = renewed
            if place >= PERIOD - WARM_UP:
                renewed = self._restore(before, now, after, renewed if place > PERIOD - WARM_UP else None).memory
            step = self._restore(before, now, after, memory)
            memory = step.memory
            yield _Result(now, step)

    @stage("network")
    def _smooth(self, result: _Result, later: Sequence[_Result | None]) -> Residual:
        """Correct a frame's result by those of later frames of its shot, the last one first."""
        chain = [result, *takewhile(lambda other: other.now.from_previous is not None, filter(None, later))]
        with torch.inference_mode():
            correction = chain[-1].step.innovation
            change = chain[-1].step.change
            for one, after in reversed(list(pairwise(chain))):
                motion = after.now.from_previous
                assert motion is not None
                change, correction = self._generator.smoothed(one.now.luma, one.step, after.step, correction, motion)
            return _grey(change)

    def each(self, frames: Iterable[PreparedFrame]) -> Iterator[Restoration]:
        """The residuals of frames that are restored each by itself, in order."""
        for frame in frames:
            yield Restoration.of_frame(frame, self.restore_image(frame.rgb))

    def restore_image(self, rgb: Picture) -> Residual:
        """The residual of an image without neighbours.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (H, W, 1) float16 in 0..1 units.
        """
        with torch.inference_mode():
            picture, luma = self._upload(rgb)
            step = self._generator.step(picture, luma, self._generator.no_evidence(luma))
            return _grey(step.change)

    def flip_ensemble(self, rgb: Picture) -> Residual:
        """The mean of the residuals of an image and of its mirror image, which errs less than either.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (H, W, 1) float16 in 0..1 units.
        """
        return flip_ensemble(self.restore_image, rgb)

    @stage("network")
    def _restore(
        self, before: _Uploaded | None, now: _Uploaded, after: Sequence[_Uploaded | None], memory: Memory | None
    ) -> Step:
        """Restore a frame.

        Args:
            before: the frame before; not used if it is of another shot.
            now: the frame.
            after: the next ones, up to two; those of another shot are not used.
            memory: of the frame before.
        """
        generator = self._generator
        with torch.inference_mode():
            evidence = _look_ahead(generator.no_evidence(now.luma), now.luma, after)
            if memory is not None and now.to_previous is not None:
                assert before is not None
                carried = generator.carried(memory, before.luma, now.luma, now.to_previous)
                evidence = evidence._replace(**carried._asdict())
            return generator.step(now.rgb, now.luma, evidence)

    @stage("network")
    def _upload_frame(self, frame: PreparedFrame) -> _Uploaded:
        """Upload a frame with its flows: once, though several steps need them."""
        with torch.inference_mode():
            rgb, luma = self._upload(frame.rgb)
            flows = frame.flows_to_previous or (None, None)
            to, back = (None if flow is None else self._motion(flow, luma) for flow in flows)
            return _Uploaded(frame, rgb, luma, to, back)

    def _upload(self, rgb: Picture) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W) uint8 and its luma, (1, 1, H, W) float32 in 0..1."""
        device = self.placement.device
        luma = torch.from_numpy(luma_of(rgb)).to(device)[None, None].float() / 255
        return torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None], luma

    def _motion(self, flow: ConsistentFlow, luma: Tensor) -> Motion:
        """Upload a flow, at the size at which it was computed."""
        device, (height_px, width_px) = self.placement.device, luma.shape[-2:]
        small = torch.from_numpy(flow.flow).to(device).permute(2, 0, 1)[None]  # (1, 2, h, w)
        h, w = small.shape[-2:]
        step_px = width_px / w, height_px / h
        factors = torch.tensor(step_px, device=device).view(1, 2, 1, 1)
        confidence = torch.from_numpy(flow.confidence).to(device)[None, None].float() / 255
        return Motion(small * factors, confidence, step_px)


def _grey(change: Tensor) -> Residual:
    """(1, 1, H, W) change of luma to (H, W, 1) float16.

    Raises:
        CheckpointError: it is infinite or not a number.
    """
    plane: NDArray[np.float16] = finite_half(change[0, 0]).cpu().numpy()
    return plane[..., None]


def _look_ahead(evidence: Evidence, luma: Tensor, after: Sequence[_Uploaded | None]) -> Evidence:
    """Add the next frames of the shot to the evidence; where there is one only, it stands in for both.

    Args:
        evidence: of a frame without neighbours.
        luma: (1, 1, H, W) of the frame, in 0..1.
        after: the next frames, up to two.
    """
    aligned: list[Tensor] = []
    confidences: list[Tensor] = []
    motion: Motion | None = None
    for other in filter(None, after):
        onward = other.from_previous
        if onward is None:
            break
        motion = onward if motion is None else motion.then(onward)
        places, confidence = motion.full_size(luma)
        aligned.append(torch.lerp(luma, sample(other.luma, places, "bicubic"), confidence))
        confidences.append(confidence)
    if not aligned:
        return evidence
    following = torch.cat([aligned[0], aligned[-1]], 1)
    confidence = (confidences[0] + confidences[-1]) / 2
    return evidence._replace(following=following, following_confidence=confidence)


@contextmanager
def _network_threads(device: torch.device) -> Iterator[None]:
    """Use half of the cores for the network on a CPU: the rest is left to flow, decoding and encoding."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, cores() // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)
