"""The choices for restoring a file and for rendering rain, with their defaults.

Imports no heavy library, so that `--help` stays fast.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Literal, get_args

from vderain.errors import UsageError
from vderain.media.encode import EncodeOptions
from vderain.model.released import DEFAULT_MODEL, DROPS_MODEL, GLASS_MODEL, released_models, weights_hash

Temporal = Literal["off", "light", "strong", "only"]
Precision = Literal["auto", "fp32", "bf16"]
Engine = Literal["auto", "torch", "openvino"]
Comparison = Literal["side", "split"]
Speed = Literal["best", "fast", "preview"]
DryAction = Literal["copy", "link", "skip"]
RainStyle = Literal["drizzle", "shower", "downpour", "windshield"]

STRENGTH_MAX = 2
NOISE_MAX = 64.0  # levels of 255
NOISE_SEED = 1  # added to the seed of the rain, so that noise does not change the rain
WITHOUT_EFFECT = (
    "device",
    "batch_size",
    "overwrite",
    "dry",
)  # options that say how to run, and do not change the result


@dataclass(frozen=True, slots=True)
class Options:
    """All choices for one file and their defaults.

    Attributes:
        model: name of a released generator, or a checkpoint file.
        strength: factor on the residual that is added to each frame, 0 to 2; 0 keeps every code value.
        temporal: ``off`` restores each frame by itself. ``light`` gives the network aligned neighbours and filters its
            result along the same motion. ``strong`` estimates the motion again in the restored frames for that filter.
            ``only`` replaces rain by the temporal median, without a network.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: of the network; see `runtime.device`.
        engine: what runs the network; see `model.engine`.
        batch_size: frames per network call; None chooses what fits into memory.
        encode: codec and quality of the video.
        start_s: beginning of the part to process, in seconds; None is the beginning of the file.
        duration_s: length of the part to process, in seconds; None is the rest of the file.
        rate: frames per second of a folder of images.
        half_size: restore large frames at half their size, and enlarge what is removed.
        drops: also remove raindrops on the windshield.
        guard: copy the frames of dry scenes unchanged.
        auto: look for rain first, skip dry parts, and leave a file untouched that is dry throughout.
        dry: what the output of such a file is: a ``copy`` byte for byte, a ``link`` to the same data, or nothing
            (``skip``); on a doubt, a copy rather than nothing. A file of which another part, container, codec
            or comparison is wanted is encoded unless skipped.
        gpx: write the camera's GPS track to a ``.gpx`` file beside the video.
        container: file suffix of the output without its dot; must match the target's name where one is given.
        compare: show before and after in one frame, ``side`` by side or ``split`` in the middle.
        overwrite: replace an existing output.
        strict: stop at damaged frames instead of concealing them, and refuse interlaced video.

    Raises:
        UsageError: a value is out of range or not one of the choices.
    """

    model: str = DEFAULT_MODEL
    strength: float = 1.0
    temporal: Temporal = "strong"
    device: str = "auto"
    precision: Precision = "auto"
    engine: Engine = "auto"
    batch_size: int | None = None
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    start_s: float | None = None
    duration_s: float | None = None
    rate: Fraction = Fraction(30)
    half_size: bool = False
    drops: bool = True
    guard: bool = True
    auto: bool = False
    dry: DryAction = "copy"
    gpx: bool = False
    container: str | None = None
    compare: Comparison | None = None
    overwrite: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= STRENGTH_MAX:
            raise UsageError(f"strength {self.strength:g} is out of range.", "Give a number from 0 to 2.")
        if self.temporal not in get_args(Temporal):
            raise UsageError(
                f"there is no temporal mode {self.temporal!r}.", f"Choose {', '.join(get_args(Temporal))}."
            )
        if self.engine not in get_args(Engine):
            raise UsageError(f"there is no engine {self.engine!r}.", f"Choose {', '.join(get_args(Engine))}.")
        if self.dry not in get_args(DryAction):
            raise UsageError(f"a dry file cannot be treated by {self.dry!r}.", "Choose copy, link or skip.")
        if self.compare is not None and self.compare not in get_args(Comparison):
            raise UsageError(f"there is no comparison {self.compare!r}.", "Choose side or split.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is out of range.", "Give 1 or more.")
        if self.start_s is not None and not 0 <= self.start_s < math.inf:
            raise UsageError(f"start {self.start_s:g} is out of range.", "Give seconds from the beginning.")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"duration {self.duration_s:g} is out of range.", "Give the number of seconds to process.")
        if self.rate <= 0:
            raise UsageError("a rate must be above 0.", "Give frames per second, such as 30 or 30000/1001.")
        _check_container(self.container)


@dataclass(frozen=True, slots=True)
class SpeedChoice:
    """What a speed stands for, where nothing else is asked for.

    Attributes:
        model: see `Options`.
        temporal: likewise.
        fast_preset: see `EncodeOptions`.
        half_size: see `Options`.
    """

    model: str = DEFAULT_MODEL
    temporal: Temporal = "strong"
    fast_preset: bool = False
    half_size: bool = False


SPEEDS: dict[Speed, SpeedChoice] = {
    "best": SpeedChoice(),
    "fast": SpeedChoice(model="fast", fast_preset=True),
    "preview": SpeedChoice(temporal="light", fast_preset=True, half_size=True),
}

FAST_SHARE = 0.7  # of the time of ``best`` that ``fast`` takes; measured in docs/benchmarks.md


def _check_container(container: str | None) -> None:
    if container is None:
        return
    from vderain.media.remux.capabilities import CONTAINERS  # imports PyAV

    if f".{container}" not in CONTAINERS:
        known = ", ".join(suffix[1:] for suffix in CONTAINERS)
        raise UsageError(f"there is no container {container!r}.", f"Choose one of {known}.")


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """All choices for rendering rain and their defaults.

    Attributes:
        style: kind of rain, see `vderain.rain.weather.STYLES`.
        seed: equal seeds give equal rain on the same device.
        haze: add the haze of distant rain. It counts as rain but does not appear in the mask.
        noise: standard deviation of the sensor noise, in levels of 255.
        device: see `vderain.runtime.device`; the CPU by default, so that a seed gives the same rain on all machines.
        encode: codec and quality; by default the compression of a typical dashcam.
        overwrite: replace existing outputs.

    Raises:
        UsageError: a value is out of range or not one of the choices.
    """

    style: RainStyle = "shower"
    seed: int = 0
    haze: bool = True
    noise: float = 0.0
    device: str = "cpu"
    encode: EncodeOptions = field(default_factory=lambda: EncodeOptions(crf=23))
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.style not in get_args(RainStyle):
            raise UsageError(f"there is no style {self.style!r}.", f"Choose {', '.join(get_args(RainStyle))}.")
        if not 0 <= self.seed < 2**63 - NOISE_SEED:
            raise UsageError(f"seed {self.seed} is out of range.", "Give a whole number, 0 or more.")
        if not 0 <= self.noise <= NOISE_MAX:
            raise UsageError(f"noise {self.noise:g} is out of range.", f"Give levels of 255 from 0 to {NOISE_MAX:g}.")


def settings(options: Options) -> str:
    """All options that change a result, as canonical JSON: equal options give equal text."""
    facts = {name: value for name, value in asdict(options).items() if name not in WITHOUT_EFFECT}
    return json.dumps(facts, sort_keys=True, default=str)


def needs_network(options: Options) -> bool:
    """Whether any network runs for these options."""
    return options.temporal != "only" and options.strength != 0


def is_best(options: Options) -> bool:
    """Whether the options are those of ``--speed best``, as far as a speed chooses them."""
    best = SPEEDS["best"]
    chosen = SpeedChoice(options.model, options.temporal, options.encode.fast_preset, options.half_size)
    return chosen == best and options.encode.preset is None and needs_network(options)


def weights(options: Options) -> str:
    """SHA-256 hashes of the checkpoints that the options need, joined by ``+``; empty where none is needed.

    Raises:
        CheckpointError: there is no such model.
    """
    if not needs_network(options):
        return ""
    windshield = {DROPS_MODEL, GLASS_MODEL}.intersection(released_models()) if options.drops else set()
    return "+".join(weights_hash(model) for model in (options.model, *sorted(windshield)))
