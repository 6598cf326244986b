"""The pipeline of a frame: prepare, remove raindrops, align, run the network, detect rain, filter, add the residual.

`Pipeline._restore` lists the stages in the order in which frames pass them. Each stage is a generator over frames, so
memory holds a few frames whatever the length of a clip.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vderain.errors import CheckpointError
from vderain.media.colour import add_residual
from vderain.media.frame import Frame, Plane
from vderain.model.checkpoint import load_checkpoint
from vderain.model.engine import attach_engine, choose_engine
from vderain.model.glass import GlassUNet
from vderain.model.recurrent import RecurrentUNet
from vderain.model.released import DROPS_MODEL, GLASS_MODEL, released_models, weights_file
from vderain.model.unet import UNet
from vderain.options import Comparison, Options, needs_network
from vderain.restore.frames import RADIUS, AlignedWindow, PreparedFrame, Restoration, upscaled
from vderain.restore.glass_memory import REACH, GlassMemory
from vderain.restore.glass_network import GlassNetwork
from vderain.restore.inference import NetworkRunner
from vderain.restore.median_baseline import restore_by_median
from vderain.restore.orientation import quarters_to_upright
from vderain.restore.quick_look import MODEL as QUICK_MODEL
from vderain.restore.quick_look import QuickLook
from vderain.restore.rain_detection import zero_dry_scenes
from vderain.restore.rain_intervals import RainInterval, Sample, by_interval, rain_intervals, scan
from vderain.restore.raindrops import RaindropRemover
from vderain.restore.recurrent import RecurrentRunner, context_begins
from vderain.restore.still_image import refine_still_images
from vderain.restore.temporal_filter import filter_over_time
from vderain.restore.window import align_windows, prepare_frames, single_frame_window
from vderain.runtime.device import DevicePlacement, choose_device, cores, frames_in_flight
from vderain.runtime.threads import ordered_map, stage

LAGS = {"light": 0, "strong": 1}  # later frames whose results correct a frame's, with a recurrent generator


@dataclass(frozen=True, slots=True)
class RestoredFrame:
    """The result for one frame.

    Attributes:
        before: the frame as decoded.
        after: the frame without rain.
        shown: the frame to be written: `after`, or a comparison of both.
        dry: whether the frame was left as it is because it does not rain in it.
    """

    before: Frame
    after: Frame
    shown: Frame
    dry: bool = False


class Pipeline:
    """Removes rain from frames.

    Args:
        options: the user's choices.
        models: what `load_models` returned for these options.

    Attributes:
        model: name of the generator; None where none runs.
        device: description of the device it runs on, or "-".
        quick_look: decides whether a whole video is dry; None without ``--auto`` or without a network.
    """

    def __init__(self, options: Options, models: "LoadedModels | None") -> None:
        self.options = options
        self.model = models.name if models else None
        self.device = str(models.network.placement) if models else "-"
        self._network = models.network if models else None
        self._remove_raindrops = models.raindrop_remover if models else None
        self.quick_look = models.quick_look if models and options.auto else None

    def __call__(
        self,
        frames: Iterator[Frame],
        rotation_quarters: int,
        frame_px: int,
        intervals: list[RainInterval] | None = None,
        first: int = 0,
        rain_quarters: int | None = None,
    ) -> Iterator[RestoredFrame]:
        """Restore the frames of a clip, in order.

        Args:
            frames: of the clip, from frame number `first` on.
            rotation_quarters: quarter turns counter-clockwise that a player makes before showing the frames.
            frame_px: pixels of a frame.
            intervals: what `rain_intervals` returned; frames of dry intervals are left as they are.
            first: number of the first frame.
            rain_quarters: quarter turns after which rain falls downwards, see `upright`; None for `rotation_quarters`.
        """
        quarters = rotation_quarters, rotation_quarters if rain_quarters is None else rain_quarters
        restore = partial(self._restore, quarters=quarters, workers=self._workers(frame_px))
        leave = partial(self._finish, rotation_quarters=rotation_quarters)
        if self.options.strength == 0:
            yield from (leave(frame, frame) for frame in frames)
        elif intervals is None:
            yield from restore(frames, first=first)
        else:
            for rainy, begins, interval in by_interval(frames, intervals, first):
                if rainy:
                    yield from restore(interval, first=begins)
                else:
                    yield from (leave(frame, frame, dry=True) for frame in interval)

    def _restore(
        self, frames: Iterator[Frame], quarters: tuple[int, int], workers: int, first: int
    ) -> Iterator[RestoredFrame]:
        """The stages of restoration, in the order in which each frame passes them."""
        rotation_quarters, rain_quarters = quarters
        options = self.options
        single = options.temporal == "off"
        prepared = self._prepare(frames, rain_quarters, workers, first)
        if self._network is None:
            restored = restore_by_median(self._align(prepared, workers), workers)
        else:
            restored = self._run_network(prepared, workers)
            if options.guard:
                restored = zero_dry_scenes(restored, radius=0 if single else RADIUS)
            if not single:
                restored = refine_still_images(restored, self._network, skip_dry=options.guard)
                if not isinstance(self._network, RecurrentRunner):
                    recompute_flow = options.temporal == "strong"
                    restored = filter_over_time(restored, recompute_flow=recompute_flow, workers=workers)
        add = partial(self._add_residual, rotation_quarters=rotation_quarters, rain_quarters=rain_quarters)
        return ordered_map(add, restored, workers)

    def _prepare(
        self, frames: Iterable[Frame], rotation_quarters: int, workers: int, first: int = 0
    ) -> Iterator[PreparedFrame]:
        """The stages before flow and alignment."""
        prepared = prepare_frames(frames, workers, rotation_quarters, first, self.options.half_size)
        if self._remove_raindrops:
            radius = 0 if self.options.temporal == "off" else RADIUS
            prepared = self._remove_raindrops(prepared, workers, radius=radius)
        return prepared

    def _align(self, prepared: Iterable[PreparedFrame], workers: int) -> Iterator[AlignedWindow]:
        if self.options.temporal == "off":
            return map(single_frame_window, prepared)
        return align_windows(prepared, workers, keep_flows=self.options.temporal == "light")

    def _run_network(self, prepared: Iterable[PreparedFrame], workers: int) -> Iterator[Restoration]:
        network = self._network
        if isinstance(network, RecurrentRunner):
            if self.options.temporal == "off":
                return network.each(prepared)
            return network(prepared, workers, lag=LAGS[self.options.temporal])
        assert network is not None
        return network(self._align(prepared, workers))

    @stage("add_residual")
    def _add_residual(self, restored: Restoration, rotation_quarters: int, rain_quarters: int) -> RestoredFrame:
        """Add the residuals of rain and raindrops to the planes of the decoded frame."""
        sideways = rain_quarters % 2
        width_px, height_px = restored.frame.width_px, restored.frame.height_px
        upright_px = (width_px, height_px) if sideways else (height_px, width_px)
        residual = upscaled(restored.residual, *upright_px)  # (H, W, 3 or 1)
        if restored.raindrop_residual is not None:
            residual = residual + upscaled(restored.raindrop_residual, *upright_px)
        residual = residual * np.float32(self.options.strength)
        after = add_residual(restored.frame, np.rot90(residual, -rain_quarters))
        dry = restored.rain_score == 0 and restored.raindrop_score == 0
        return self._finish(restored.frame, after, rotation_quarters, dry)

    def _finish(self, before: Frame, after: Frame, rotation_quarters: int, dry: bool = False) -> RestoredFrame:
        mode = self.options.compare
        shown = compare_frames(before, after, mode, rotation_quarters) if mode else after
        return RestoredFrame(before, after, shown, dry)

    def context_begins(self, number: int) -> int:
        """The first frame that must be restored for the network's result for frame `number` to be exact."""
        if isinstance(self._network, RecurrentRunner):
            number = context_begins(number) - RADIUS  # raindrops are removed by what is seen around each frame
        if self._remove_raindrops and self._remove_raindrops.has_memory:
            number -= REACH
        return max(0, number)

    def upright(self, frames: Iterator[Frame], rotation_quarters: int) -> tuple[Iterator[Frame], int]:
        """See `quarters_to_upright`; a clip that no network sees is not turned."""
        if self._network is None or self.options.strength == 0:
            return frames, rotation_quarters
        return quarters_to_upright(frames, rotation_quarters)

    def find_rain(self, frames: Iterable[Frame], rotation_quarters: int) -> list[RainInterval] | None:
        """Find the rainy intervals of a clip; None without ``--auto`` or without a network.

        Args:
            frames: of the whole clip, in order.
            rotation_quarters: see `__call__`.
        """
        return (
            rain_intervals(self.sample_rain(frames, rotation_quarters)) if self.options.auto and self._network else None
        )

    def sample_rain(self, frames: Iterable[Frame], rotation_quarters: int = 0) -> list[Sample]:
        """Rain scores about once a second; needs a network.

        Args:
            frames: of the whole clip, in order.
            rotation_quarters: see `__call__`.
        """
        assert self._network is not None

        def restore(frames: Iterable[Frame]) -> Iterator[Restoration]:
            return self._run_network(self._prepare(frames, rotation_quarters, 1), 1)

        return scan(frames, restore)

    def _workers(self, frame_px: int) -> int:
        return min(frames_in_flight(frame_px), self.options.batch_size or cores())


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The networks on their device, for any number of files.

    Attributes:
        name: of the generator.
        network: the generator.
        raindrop_remover: None where raindrops are not removed.
        quick_look: None without ``--auto``.
    """

    name: str
    network: NetworkRunner | RecurrentRunner
    raindrop_remover: RaindropRemover | None
    quick_look: QuickLook | None = None


def load_models(options: Options) -> LoadedModels | None:
    """Load the networks that `options` need; None where they need none, though the named model must exist.

    Raises:
        CheckpointError: the model does not exist or is unusable.
        DeviceError: this machine does not have the device.
    """
    placement = choose_device(options.device, options.precision)
    if not needs_network(options):
        weights_file(options.model)
        return None
    checkpoint = load_checkpoint(options.model)
    placement = choose_engine(options.engine, checkpoint, placement, options.precision)

    def load(model: str) -> NetworkRunner:
        return NetworkRunner(attach_engine(load_checkpoint(model), placement), placement)

    network = _runner(attach_engine(checkpoint, placement), placement, options.batch_size)
    raindrop_remover, raindrop_network = None, None
    if options.drops:
        raindrop_network = load(DROPS_MODEL)
        memory = _glass_memory(placement) if options.temporal != "off" else None
        raindrop_remover = RaindropRemover(raindrop_network, skip_dry=options.guard, memory=memory)
    quick_look = None
    if options.auto:
        quick_look = QuickLook(load(QUICK_MODEL), raindrop_network)
    return LoadedModels(checkpoint.name, network, raindrop_remover, quick_look)


def _glass_memory(placement: DevicePlacement) -> GlassMemory | None:
    """What looks through raindrops; None where no such generator is released."""
    if GLASS_MODEL not in released_models():
        return None
    generator = load_checkpoint(GLASS_MODEL).generator
    if not isinstance(generator, GlassUNet):
        raise CheckpointError(f"the released model {GLASS_MODEL} is of another kind.", "Install vderain again.")
    return GlassMemory(GlassNetwork(generator, placement))


def _runner(generator: UNet, placement: DevicePlacement, batch_size: int | None) -> NetworkRunner | RecurrentRunner:
    if isinstance(generator, GlassUNet):
        raise CheckpointError("a generator for the windshield does not remove rain.", "Choose another --model.")
    if isinstance(generator, RecurrentUNet):
        return RecurrentRunner(generator, placement)
    return NetworkRunner(generator, placement, batch_size)


def compare_frames(before: Frame, after: Frame, mode: Comparison, rotation_quarters: int = 0) -> Frame:
    """Join two frames of one timestamp.

    Args:
        before: the frame as decoded.
        after: the restored frame.
        mode: ``side`` puts both beside each other, twice as wide; ``split`` shows the left half of `before` and the
            right half of `after`, with a white line between.
        rotation_quarters: quarter turns counter-clockwise that a player makes before showing; left and right are
            meant as shown.
    """
    join = _side if mode == "side" else _split
    planes: list[Plane] = []
    for index, (old, new) in enumerate(zip(before.planes, after.planes, strict=True)):
        joined = join(np.rot90(old, rotation_quarters), np.rot90(new, rotation_quarters))
        if mode == "split" and (index == 0 or before.colour.matrix == "rgb"):
            middle = joined.shape[1] // 2
            joined[:, max(0, middle - 1) : middle + 1] = 235 << (before.colour.depth_bits - 8)
        width = _side_width(before, index, rotation_quarters) if mode == "side" else joined.shape[1]
        joined = joined[:, :width]  # two frames of odd width have one chroma sample too many
        planes.append(np.ascontiguousarray(np.rot90(joined, -rotation_quarters)))  # type: ignore[arg-type]
    return after.with_planes(tuple(planes))


def _side_width(frame: Frame, index: int, rotation_quarters: int) -> int:
    """Width of the joined frames in one plane, in samples, as shown."""
    sideways = rotation_quarters % 2
    shown_px = 2 * (frame.height_px if sideways else frame.width_px)
    covered = (frame.colour.chroma_h if sideways else frame.colour.chroma_w) if index else 1
    return -(-shown_px // covered)


def _side(old: Plane, new: Plane) -> Plane:
    return np.concatenate([old, new], axis=1)


def _split(old: Plane, new: Plane) -> Plane:
    middle = old.shape[1] // 2
    return np.concatenate([old[:, :middle], new[:, middle:]], axis=1)
