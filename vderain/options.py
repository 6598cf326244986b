"""What a user can choose for one file: flags enter, checked options leave. Nothing heavy is imported for it."""

import json
import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction

from vderain.errors import UsageError
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.remux.capabilities import CONTAINERS
from vderain.model.released import DEFAULT_MODEL, DROPS_MODEL, weights_hash
from vderain.restore.comparison import COMPARISONS, Comparison
from vderain.restore.frames import TEMPORAL_MODES, Temporal

NOT_OF_THE_RESULT = ("device", "batch_size", "overwrite")  # these change how it is made, not what it is


@dataclass(frozen=True, slots=True)
class Options:
    """What the user can choose; the single home of these defaults.

    Attributes:
        model: name of a released generator, or a file of weights.
        strength: factor on everything that is added to a frame; 0 leaves every code value as it is.
        temporal: ``off`` looks at each frame alone; ``light`` lets the network see aligned neighbours and steadies its
            result along the same motion; ``strong`` looks for motion again in that result, which rain no longer
            hides, and steadies along that; ``only`` takes for rain what the neighbours show, without a network.
        device, precision: see `restore.device`.
        batch_size: frames at once; None fits it to memory.
        encode: codec and quality of a video.
        start_s, duration_s: the part to process, in seconds; None is the beginning, or the rest.
        rate: frames a second of a folder of pictures.
        drops: take drops off the windshield too; see `restore.wiper`.
        guard: leave frames of dry scenes as they are, to the bit; see `restore.guard`.
        auto: look first when it rains in a video, and run nothing over dry spells; see `restore.spells`.
        gpx: write the camera's GPS track beside the video, as ``.gpx``.
        container: file suffix of the output without its dot; must be that of the target, where one is given.
        compare: ``side`` or ``split`` shows before and after in one picture.
        overwrite: replace an output that exists.
        strict: stop at damage in the input instead of bridging it, and at interlaced pictures.
    """

    model: str = DEFAULT_MODEL
    strength: float = 1.0
    temporal: Temporal = "strong"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    start_s: float | None = None
    duration_s: float | None = None
    rate: Fraction = Fraction(30)
    drops: bool = True
    guard: bool = True
    auto: bool = False
    gpx: bool = False
    container: str | None = None
    compare: Comparison | None = None
    overwrite: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 2:
            raise UsageError(f"strength {self.strength:g} is out of range.", "Give a number from 0 to 2.")
        if self.temporal not in TEMPORAL_MODES:
            raise UsageError(f"there is no temporal mode {self.temporal!r}.", f"Choose {', '.join(TEMPORAL_MODES)}.")
        if self.compare is not None and self.compare not in COMPARISONS:
            raise UsageError(f"there is no comparison {self.compare!r}.", f"Choose {' or '.join(COMPARISONS)}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size} is out of range.", "Give 1 or more.")
        if self.start_s is not None and not 0 <= self.start_s < math.inf:
            raise UsageError(f"start {self.start_s:g} is out of range.", "Give seconds from the beginning.")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"duration {self.duration_s:g} is out of range.", "Give the number of seconds to process.")
        if self.container is not None and f".{self.container}" not in CONTAINERS:
            known = ", ".join(suffix[1:] for suffix in CONTAINERS)
            raise UsageError(f"there is no container {self.container!r}.", f"Choose one of {known}.")
        if self.rate <= 0:
            raise UsageError("a rate must be above 0.", "Give frames per second, such as 30 or 30000/1001.")


def settings(options: Options) -> str:
    """Whatever of the options changes a result, as JSON that is the same for the same."""
    facts = {name: value for name, value in asdict(options).items() if name not in NOT_OF_THE_RESULT}
    return json.dumps(facts, sort_keys=True, default=str)


def needs_network(options: Options) -> bool:
    return options.temporal != "only" and options.strength != 0


def weights(options: Options) -> str:
    """The hashes of the weights that the options need, joined by +; empty where they need none.

    Raises:
        CheckpointError: there is no such model.
    """
    if not needs_network(options):
        return ""
    return "+".join(weights_hash(model) for model in (options.model, *([DROPS_MODEL] if options.drops else [])))
