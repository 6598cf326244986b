"""The choices for rendering rain, with their defaults. Imports no heavy library, so that `--help` stays fast."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from vderain.errors import UsageError
from vderain.media.encode import EncodeOptions

Style = Literal["drizzle", "shower", "downpour", "windshield"]

NOISE_MAX = 64.0  # levels of 255
NOISE_SEED = 1  # added to the seed of the rain, so that noise does not change the rain


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """All choices for rendering rain and their defaults.

    Attributes:
        style: kind of rain, see `rain.weather.STYLES`.
        seed: equal seeds give equal rain on the same device.
        haze: add the haze of distant rain. It counts as rain but does not appear in the mask.
        noise: standard deviation of the sensor noise, in levels of 255.
        device: see `runtime.device`; the CPU by default, so that a seed gives the same rain on all machines.
        encode: codec and quality; by default the compression of a typical dashcam.
        overwrite: replace existing outputs.

    Raises:
        UsageError: a value is out of range or not one of the choices.
    """

    style: Style = "shower"
    seed: int = 0
    haze: bool = True
    noise: float = 0.0
    device: str = "cpu"
    encode: EncodeOptions = field(default_factory=lambda: EncodeOptions(crf=23))
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.style not in get_args(Style):
            raise UsageError(f"there is no style {self.style!r}.", f"Choose {', '.join(get_args(Style))}.")
        if not 0 <= self.seed < 2**63 - NOISE_SEED:
            raise UsageError(f"seed {self.seed} is out of range.", "Give a whole number, 0 or more.")
        if not 0 <= self.noise <= NOISE_MAX:
            raise UsageError(f"noise {self.noise:g} is out of range.", f"Give levels of 255 from 0 to {NOISE_MAX:g}.")
