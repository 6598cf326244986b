"""Windows of real rain, for which there is no ground truth, with the supervision that can be derived from them.

That is a pseudo label (the median of the aligned neighbours where the median gate takes a pixel for rain), the next
frame and the optical flow to it, and rendered streaks for the rain generator to start from. Window number i is a
function of the seed and i alone.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vderain.evaluation.evaluate import frame_of
from vderain.restore.frames import AlignedWindow as Aligned
from vderain.restore.median_baseline import MedianGate, gated_median
from vderain.restore.window import single_frame, windows
from vderain.train.config import Data
from vderain.train.data.images import Picture
from vderain.train.data.scenes import CENTRE, WINDOW, Scenes
from vderain.train.data.windows import mirrored, rain_cuts

FRAMES = WINDOW + 1  # of two consecutive windows
NEXT = 2  # index of the frame after the centre among the neighbours of a window


@dataclass(frozen=True, slots=True)
class RealWindow:
    """One example of real rain; tensors are uint8 unless another type is given.

    Attributes:
        rainy: (2, 5, 3, S, S) RGB, two windows with consecutive centres.
        confidence: (2, 1, S, S) confidence in their alignment.
        pseudo: (3, S, S) RGB, pseudo label of the first centre.
        pseudo_confidence: (1, S, S) confidence in it.
        flow: (2, S, S) float32, optical flow in pixels from the first centre to the second.
        flow_confidence: (1, S, S) confidence in the flow.
        rain: (5, S, S) opacity of rendered streaks.
    """

    rainy: Tensor
    confidence: Tensor
    pseudo: Tensor
    pseudo_confidence: Tensor
    flow: Tensor
    flow_confidence: Tensor
    rain: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "RealWindow":
        """An uninitialised window of the right shapes and types."""

        def part(*channels: int, dtype: torch.dtype = torch.uint8) -> Tensor:
            return torch.empty((*channels, side_px, side_px), dtype=dtype)

        return cls(
            part(2, WINDOW, 3), part(2, 1), part(3), part(1), part(2, dtype=torch.float32), part(1), part(WINDOW)
        )

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop; mirroring also reverses the horizontal flow.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.

        Returns:
            The attributes, cut; the windows as (2, 15, s, s).
        """
        parts = (
            self.rainy.flatten(1, 2),
            self.confidence,
            self.pseudo,
            self.pseudo_confidence,
            self.flow,
            self.flow_confidence,
            self.rain,
        )
        cut = [mirrored(part[..., rows, columns], flip) for part in parts]
        if flip:
            cut[4] = cut[4] * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
        return tuple(cut)


class RealRain(Dataset[RealWindow]):
    """Makes window of real rain number i, for any i.

    Args:
        scenes: rainy photographs and clips.
        data: section of the recipe.
        seed: of the run.
    """

    def __init__(self, scenes: Scenes, data: Data, seed: int) -> None:
        self.data, self.seed = data, seed
        self.clips = [clip for clip in scenes.clips if len(clip) >= FRAMES]
        self.photos = scenes.photos
        self.side_px = data.side_px + 2 * data.border_px

    def __getitem__(self, index: int) -> RealWindow:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 4, index))
        which = int(rng.integers(len(self.clips) + len(self.photos)))
        if which < len(self.clips):
            first, second = self._moving(self.clips[which], rng)
        else:
            first = second = self._still(self.photos[which - len(self.clips)], rng)
        flow, flow_confidence = _flow_to_next(first, second)
        pseudo, pseudo_confidence = _pseudo_label(first)
        share = self.data.share_any_direction
        rain = rain_cuts(self.seed, index, self.side_px, WINDOW, rng, share_any_direction=share)
        inner = slice(self.data.border_px, self.data.border_px + self.data.side_px)

        def tensor(pictures: NDArray[np.generic]) -> Tensor:  # (..., S, S)
            return torch.from_numpy(np.ascontiguousarray(pictures[..., inner, inner]))

        return RealWindow(
            tensor(np.stack([np.moveaxis(w.aligned, -1, 1) for w in (first, second)])),
            tensor(np.stack([w.confidence[None] for w in (first, second)])),
            tensor(np.moveaxis(pseudo, -1, 0)), tensor(pseudo_confidence[None]),
            tensor(np.moveaxis(flow, -1, 0)), tensor(flow_confidence[None]), tensor(rain),
        )  # fmt: skip

    def _moving(self, clip: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Aligned, Aligned]:
        start = int(rng.integers(len(clip) - FRAMES + 1))
        rows, columns = self._place(clip.shape[1:3], rng)
        pictures = clip[start : start + FRAMES, rows, columns]
        around = list(windows(map(frame_of, pictures, range(FRAMES)), 1))
        return around[CENTRE], around[CENTRE + 1]

    def _still(self, photo: Picture, rng: np.random.Generator) -> Aligned:
        rows, columns = self._place(photo.shape[:2], rng)
        return single_frame(frame_of(photo[rows, columns]))

    def _place(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
        """Draw rows and columns to cut. Real rain is not resized, which would make streaks thinner."""
        top, left = (int(rng.integers(side - self.side_px + 1)) for side in shape)
        return slice(top, top + self.side_px), slice(left, left + self.side_px)


def _flow_to_next(first: Aligned, second: Aligned) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Optical flow from one centre to the next, (S, S, 2) in pixels, and its confidence, (S, S), 0 at a scene cut."""
    shape = first.confidence.shape
    flow_field = first.flows_to_neighbours[NEXT]
    if flow_field is None or first.sources[NEXT] != second.centre.number:
        return np.zeros((*shape, 2), np.float32), np.zeros(shape, np.uint8)
    scale = np.array([shape[1] / flow_field.flow.shape[1], shape[0] / flow_field.flow.shape[0]], np.float32)
    flow = cv2.resize(flow_field.flow * scale, shape[::-1], interpolation=cv2.INTER_LINEAR)
    confidence = cv2.resize(flow_field.confidence, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(flow, np.float32), np.asarray(confidence, np.uint8)


def _pseudo_label(window: Aligned) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Gated median of a window, (S, S, 3), and the confidence in it, (S, S), 0 if there are no neighbours."""
    change = gated_median(np.ascontiguousarray(window.aligned), MedianGate()) * np.float32(255)
    pseudo = np.asarray(cv2.add(window.centre.rgb, change, dtype=cv2.CV_8U), np.uint8)
    isolated = all(source == window.centre.number for source in window.sources)
    return pseudo, np.zeros_like(window.confidence) if isolated else window.confidence
