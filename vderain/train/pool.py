"""Recent training windows, of which crops are cut: a window is dear to make and good for several crops."""

from collections import deque

import torch
from torch import Tensor

from vderain.train.ranks import ALONE, Ranks
from vderain.train.windows import Window


class WindowPool:
    """The last `size` windows, and batches of random crops of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._windows: deque[Window] = deque(maxlen=size)  # by age: the same after a resume, wherever it began

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, window: Window) -> None:
        """Keep a window; it takes the place of the oldest when the pool is full."""
        self._windows.append(window)

    def batch(
        self, count: int, crop_px: int, generator: torch.Generator, ranks: Ranks = ALONE
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cut random crops, half of them mirrored left to right (rain falls: never upside down).

        Returns:
            rainy (B, 15, s, s), trust (B, 1, s, s) and clear (B, 3, s, s) in 0..1, dry (B,) bool, of our share.
        """
        places = [self._place(crop_px, generator) for _ in range(count)]
        crops = [self._crop(crop_px, *place) for place in ranks.share(places)]
        rainy, trust, clear, dry = (torch.stack(column) for column in zip(*crops, strict=True))
        return rainy.float() / 255, trust.float() / 255, clear.float() / 255, dry

    def _place(self, side_px: int, generator: torch.Generator) -> tuple[Window, int, int, bool]:
        """A window, top and left of a crop of it, and whether to mirror it."""

        def chance(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        window = self._windows[chance(len(self._windows))]
        height_px, width_px = window.clear.shape[-2:]
        return window, chance(height_px - side_px + 1), chance(width_px - side_px + 1), bool(chance(2))

    def _crop(self, side_px: int, window: Window, top: int, left: int, flip: bool) -> tuple[Tensor, ...]:
        cuts = (
            x[..., top : top + side_px, left : left + side_px]
            for x in (window.rainy.flatten(0, 1), window.trust, window.clear)
        )
        return (*(cut.flip(-1) if flip else cut for cut in cuts), window.dry)
