"""Training sequences for the recurrent generator: successive frames with rendered rain, and the flow between them.

Sequence number i is a function of the seed and i alone, as windows are (`vderain.train.data.windows`). In a sequence of
pictures the frames are unrelated: nothing is remembered between them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vderain.restore.flow import FlowEstimator, align_plane, composed, flow_luma, full_size
from vderain.restore.frames import ConsistentFlow, luma_of
from vderain.train.config import Data
from vderain.train.data.scenes import Scenes, clip_window, drive_window, of_sequences, photo_window
from vderain.train.data.windows import (
    Frames,
    compressed,
    draw_quality,
    frames8,
    jittered,
    mirrored,
    noise,
    rain_cuts,
    rained_on,
    shifted,
    tone,
)

LENGTH = 6  # frames of a sequence
AHEAD = 2  # more frames that are rendered, which the last ones look ahead at
CUT_SHARE = 0.2  # of sequences that forget everything once, as at a cut
LAST_SHARE = 0.2  # of sequences whose last frame has no next one


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One training example of T frames.

    Attributes:
        rainy: (T, 3, S, S) uint8 RGB.
        luma: (T, 1, S, S) uint8, its luma.
        flow: (T, 2, S, S) float16 in pixels, optical flow to the frame before.
        confidence: (T, 1, S, S) uint8, of that flow; 0 where there is no frame before.
        following: (T, 2, S, S) uint8, luma of the next two frames, aligned.
        following_confidence: (T, 1, S, S) uint8, mean of both; 0 where there is no next frame.
        clear: (T, 1, S, S) uint8, luma of the ground truth.
        dry: () bool, whether there is no rain, so that nothing may change.
    """

    rainy: Tensor
    luma: Tensor
    flow: Tensor
    confidence: Tensor
    following: Tensor
    following_confidence: Tensor
    clear: Tensor
    dry: Tensor

    @classmethod
    def empty(cls, side_px: int) -> "TrainingSequence":
        """An uninitialised sequence of the right shapes and types."""

        def part(channels: int, dtype: torch.dtype = torch.uint8) -> Tensor:
            return torch.empty((LENGTH, channels, side_px, side_px), dtype=dtype)

        return cls(part(3), part(1), part(2, torch.float16), part(1), part(2), part(1), part(1), torch.tensor(False))

    def crop(self, rows: slice, columns: slice, flip: bool) -> tuple[Tensor, ...]:
        """Cut a crop; mirroring also reverses the horizontal flow.

        Args:
            rows: to keep.
            columns: to keep.
            flip: whether to mirror left to right.

        Returns:
            The attributes, cut: (T, C, s, s) each, and () bool.
        """
        parts = (
            self.rainy, self.luma, self.flow, self.confidence, self.following, self.following_confidence, self.clear
        )  # fmt: skip
        cut = [mirrored(part[..., rows, columns], flip) for part in parts]
        if flip:
            cut[2] = cut[2] * torch.tensor([-1.0, 1.0], dtype=torch.float16).view(2, 1, 1)
        return (*cut, self.dry)


class SequenceMaker(Dataset[TrainingSequence]):
    """Makes training sequence number i, for any i.

    Args:
        scenes: to cut sequences from.
        data: section of the recipe.
        seed: of the run.

    Raises:
        InputError: every clip is too short, and there are no photographs.
    """

    def __init__(self, scenes: Scenes, data: Data, seed: int) -> None:
        self.scenes, self.data, self.seed = of_sequences(scenes, LENGTH + AHEAD), data, seed
        self.side_px = data.side_px + 2 * data.border_px
        self._estimator = FlowEstimator()

    def __getitem__(self, index: int) -> TrainingSequence:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 5, index))
        clear, unrelated = self._scene(rng)
        clear = tone(clear, rng)
        if self.data.colour_jitter:
            clear = jittered(clear, self.data.colour_jitter, rng)
        clear = noise(clear, rng)
        dry = bool(rng.random() < self.data.share_dry)
        rainy = clear
        if not dry:
            opacity = rain_cuts(
                self.seed, index, self.side_px, len(clear), rng, share_any_direction=self.data.share_any_direction
            )
            hazy, rained, _, _ = rained_on(clear, opacity, rng)
            clear, rainy = frames8(hazy), frames8(rained)
        quality = draw_quality(rng)
        if quality is not None:
            rainy = np.stack([compressed(frame, quality) for frame in rainy])
            clear = rainy if dry else np.stack([compressed(frame, quality) for frame in clear])
        return self._aligned(rainy, clear, dry, unrelated, rng)

    def _scene(self, rng: np.random.Generator) -> tuple[Frames, bool]:
        """(T + 2, S, S, 3) clear frames, and whether they are unrelated pictures."""
        data, count = self.data, LENGTH + AHEAD
        draw = rng.random()
        if not self.scenes.photos or (self.scenes.clips and draw < data.share_clips):
            return clip_window(self.scenes.clips, self.side_px, rng, count), False
        if draw < data.share_clips + data.share_drives:
            return drive_window(self.scenes, self.side_px, rng, count), False
        if draw < data.share_clips + data.share_drives + data.share_stills:
            photo = photo_window(self.scenes, self.side_px, rng)
            return np.stack([photo, *(shifted(photo, rng) for _ in range(count - 1))]), False
        photos = [photo_window(self.scenes, self.side_px, rng) for _ in range(LENGTH)]
        return np.stack([*photos, *photos[:AHEAD]]), True

    def _aligned(
        self, rainy: Frames, clear: Frames, dry: bool, unrelated: bool, rng: np.random.Generator
    ) -> TrainingSequence:
        """Compute flow and align each next frame, as `vderain process` does; then cut the border off."""
        luma = [luma_of(frame) for frame in rainy]
        shape = luma[0].shape
        flow = np.zeros((LENGTH, *shape, 2), np.float16)
        confidence, following_confidence = np.zeros((2, LENGTH, *shape), np.uint8)
        following = np.stack([np.dstack([plane] * AHEAD) for plane in luma[:LENGTH]])
        to_next: list[ConsistentFlow] = []
        small = [flow_luma(frame) for frame in rainy]
        for now in range(0 if unrelated else len(small) - 1):
            onward, to_previous = self._estimator.both_ways(small[now], small[now + 1])
            to_next.append(onward)
            if now + 1 < LENGTH:
                flow[now + 1], confidence[now + 1] = full_size(to_previous, shape)
        last = LENGTH - 1 if rng.random() < LAST_SHARE else LENGTH
        for now in range(0 if unrelated else last):
            flows = to_next[now], composed(to_next[now], to_next[now + 1])
            pairs = [align_plane(luma[now], luma[now + 1 + ahead], to) for ahead, to in enumerate(flows)]
            following[now] = np.dstack([plane for plane, _ in pairs])
            following_confidence[now] = np.mean([trust for _, trust in pairs], 0)
        if rng.random() < CUT_SHARE:
            confidence[rng.integers(2, LENGTH)] = 0
        truth = np.stack([luma_of(frame) for frame in clear[:LENGTH]])
        inner = slice(self.data.border_px, self.data.border_px + self.data.side_px)

        def tensor(pictures: NDArray[np.generic]) -> Tensor:
            """(T, S, S) or (T, S, S, C) to (T, C, s, s)."""
            with_channels = pictures[..., None] if pictures.ndim == 3 else pictures
            return torch.from_numpy(np.ascontiguousarray(np.moveaxis(with_channels[:, inner, inner], -1, 1)))

        return TrainingSequence(
            tensor(rainy[:LENGTH]), tensor(np.stack(luma[:LENGTH])), tensor(flow), tensor(confidence),
            tensor(following), tensor(following_confidence), tensor(truth), torch.tensor(dry),
        )  # fmt: skip
