"""Training recipes: settings, their defaults, and reading them from TOML."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vderain.errors import InputError, UsageError
from vderain.model.unet import UNetConfig

RENAMED = {  # old keys, and what they are called now
    "dashcam": "semi_supervised",
    "optimiser.foot": "optimiser.epsilon",
    "semi_supervised.stay": "semi_supervised.self_regularisation",
    "semi_supervised.pseudo": "semi_supervised.pseudo_label",
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pair(_Section):
    """Rainy and clear footage of one scene, frame by frame."""

    rain: Path
    clear: Path
    single: bool = Field(False, description="the pictures of a folder are unrelated, not a clip")


class Data(_Section):
    """Training material, and how windows are cut from it."""

    photos: Path | None = Field(None, description="folder of clear photographs")
    clips: Path | None = Field(None, description="folder of clear clips")
    rain: Path | None = Field(
        None, description="folder of rainy pictures and clips without ground truth, for cyclegan and semi_supervised"
    )
    pairs: tuple[Pair, ...] = Field((), description="rainy footage with ground truth")
    share_pairs: float = Field(0.25, ge=0, le=1, description="share of windows from `pairs`, if there are any")
    remove: Literal["rain", "drops"] = Field(
        "rain", description="what the generator learns to remove: rain, or raindrops on the windshield only"
    )
    part: Literal["view", "memory"] = Field(
        "view",
        description="what a generator for the windshield learns: to see drops and the motion behind them, or, from "
        "`model.start` on, whom to believe: the frame or the memory",
    )
    side_px: int = Field(176, ge=32, description="side of a window")
    border_px: int = Field(24, ge=0, description="border cut off around a window, where optical flow has no context")
    workers: int | None = Field(
        None, ge=0, description="worker processes; 0: none; not given: one, more while cores are idle"
    )
    pool: int = Field(256, ge=1, description="windows kept to cut crops from")
    fresh: int = Field(4, ge=1, description="new windows in the pool at each iteration")
    every: int = Field(1, ge=1, description="iterations of which one gets new windows")
    share_clips: float = Field(0.50, ge=0, le=1, description="share of windows from clips")
    share_drives: float = Field(0.18, ge=0, le=1, description="share of simulated drives through photographs")
    share_stills: float = Field(
        0.10, ge=0, le=1, description="share of photographs with small errors of alignment; the rest repeat one frame"
    )
    share_drops: float = Field(
        0.2, ge=0, le=1, description="share of rainy windows with raindrops on the windshield as well"
    )
    share_any_direction: float = Field(
        0.0, ge=0, le=1, description="share of rendered rain that falls in any direction, not just downwards"
    )
    share_lettering: float = Field(
        0.0, ge=0, le=1, description="share of windows from photographs with signs painted into them"
    )
    share_dry: float = Field(0.15, ge=0, le=1, description="share of windows without rain, where nothing may change")
    colour_jitter: float = Field(
        0.0, ge=0, le=1, description="largest random change of brightness, contrast and saturation; needs torchvision"
    )


class Model(_Section):
    """The generator."""

    start: str | tuple[str, ...] | None = Field(
        None, description="released model or file of weights to start from, or several, for their mean"
    )
    renew: tuple[str, ...] = Field(
        (), description="with `start`: layers to initialise at random all the same, by the beginning of their names"
    )
    train: tuple[str, ...] = Field(
        (), description="layers to train, by the beginning of their names; the others stay as they start; none: all"
    )
    window: Literal[1, 5] = Field(5, description="frames the network looks at")
    widths: tuple[int, ...] = Field((32, 64, 128, 256), description="channels of each level, from the finest")
    stem: int = Field(2, description="pixel-unshuffle factor in front of the finest level")
    paths: tuple[int, ...] = Field((1,), description="dilations of the encoder's parallel paths")
    slope: float = Field(0.1, ge=0, lt=1, description="negative slope of the leaky ReLUs")
    residual: bool = Field(True, description="the output is added to the input; false: it replaces it")
    scale: int = Field(1, description="factor by which the network sees the picture reduced")
    state: int = Field(
        0, description="channels of the state that a recurrent generator carries from frame to frame; 0: not recurrent"
    )

    glass: int = Field(
        0,
        description="channels of the finest level of the networks that find drops on the windshield and the motion "
        "behind them; 0: not a generator for the windshield",
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        UNetConfig(  # raises ValueError for what cannot be built
            self.window, self.widths, self.stem, self.paths, self.slope, self.residual, self.scale, self.state,
            self.glass,
        )  # fmt: skip
        return self


class Optimiser(_Section):
    """Schedule and loss."""

    iterations: int = Field(40_000, ge=1, description="length of the run")
    warmup: int = Field(300, ge=0, description="iterations of linear warm-up")
    decay: int = Field(15_000, ge=0, description="iterations of linear decay to zero at the end")
    batch: int = Field(12, ge=1, description="crops in a batch, over all processes")
    crop_px: int = Field(112, ge=16, description="side of a crop")
    rate: float = Field(8e-4, gt=0, description="learning rate of Adam")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the exponential moving average of the weights")
    bf16: bool | None = Field(
        None, description="convolutions in bf16; not given: if the device multiplies bf16 in hardware"
    )
    epsilon: float = Field(0.016, gt=0, description="of the Charbonnier loss: smaller errors count as squares")
    block_weight: float = Field(0.15, ge=0, description="weight of the loss over 8x8 blocks")
    untouched_weight: float = Field(1.0, ge=1, description="weight of pixels without rain, beside 1 for others")
    dry_weight: float = Field(1.0, ge=0, description="weight of dry windows, beside 1 for rainy ones")


class DiscriminatorSettings(_Section):
    """Discriminators. The defaults are those of the CycleGAN paper."""

    pool: int = Field(50, ge=0, description="earlier images, shown to the discriminators half of the time")
    layers: int = Field(3, ge=1, le=6, description="strided layers of a discriminator; 3: patches of 70x70")
    width: int = Field(64, ge=1, description="channels of its first layer")
    spectral: bool = Field(False, description="spectral norm instead of instance norm")


class CycleGANSettings(DiscriminatorSettings):
    """Unpaired training. The defaults are those of the CycleGAN paper."""

    cycle: float = Field(10.0, ge=0, description="weight of the cycle losses")
    identity: float = Field(0.5, ge=0, description="weight of the identity losses, times `cycle`")
    rendered: float = Field(0.0, ge=0, description="weight of a supervised loss on rendered rain")


class SemiSupervisedSettings(DiscriminatorSettings):
    """Real rain beside rendered rain. Each loss has a weight; 0 switches it off."""

    warmup: int = Field(0, ge=0, description="iterations with rendered pairs only, at the start")
    real: int = Field(4, ge=1, description="crops of real rain in a batch, beside optimiser.batch rendered ones")
    fresh: int = Field(1, ge=1, description="new windows of real rain at each iteration")
    rendered: float = Field(1.0, ge=0, description="rendered rain against the ground truth")
    half_cycle: float = Field(0.5, ge=0, description="generated rain, removed again, against the ground truth")
    cycle: float = Field(0.05, ge=0, description="real rain, removed and added again")
    adversarial: float = Field(0.002, ge=0, description="adversarial loss of both generators")
    self_regularisation: float = Field(0.5, ge=0, description="the rain generator stays close to rendered rain")
    identity: float = Field(0.1, ge=0, description="the generator leaves clear images as they are")
    mask: float = Field(0.01, ge=0, description="share of the pixels of clear images that it changes")
    grey: float = Field(0.2, ge=0, description="colour in what it removes from real rain")
    bright: float = Field(0.0, ge=0, description="light that it adds to real rain, which only ever brightens")
    transplanted: float = Field(
        0.0, ge=0, description="what it removes from real rain, laid onto clear images, against the ground truth"
    )
    temporal: float = Field(0.2, ge=0, description="warping error between neighbouring frames")
    pseudo_label: float = Field(0.2, ge=0, description="distance to the gated median of aligned neighbours")
    layer_max: float = Field(0.6, gt=0, le=1, description="largest brightness the rain generator adds")
    width: int = Field(32, ge=1, description="channels of a discriminator's first layer")
    spectral: bool = Field(True, description="spectral norm instead of instance norm")


class PairedSet(_Section):
    """Footage with ground truth, of the kinds that `vderain evaluate` reads."""

    name: str
    rain: Path
    clear: Path
    single: bool = Field(False, description="the pictures of a folder are unrelated, not a clip")
    limit: int | None = Field(24, ge=1, description="number of frames used")
    weight: float = Field(1.0, ge=0, description="of the derained rainy footage in the blend")
    clear_weight: float = Field(0.0, ge=0, description="of the derained clear footage in the blend; 0: not derained")


class Validation(_Section):
    """When and on what a generator is validated; the one with the highest blend is kept."""

    every: int = Field(500, ge=0, description="iterations between validations; 0: none, and nothing is held out")
    share: float = Field(0.04, gt=0, le=0.5, description="share of the photographs held out")
    windows: int = Field(16, ge=1, description="held-out windows with rendered rain, and as many dry ones")
    rendered_weight: float = Field(1.0, ge=0, description="of the rendered windows in the blend")
    dry_weight: float = Field(1.0, ge=0, description="of the dry windows in the blend")
    ceiling_db: float = Field(50.0, gt=0, description="a higher PSNR does not count as better: it is invisible")
    sets: tuple[PairedSet, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [paired.name for paired in self.sets]
        if len(set(names)) < len(names) or {"rendered", "dry"} & set(names):
            raise ValueError("each of validation.sets needs its own name, other than rendered and dry")
        return self


class Run(_Section):
    """Seed and schedule of a run."""

    seed: int = Field(0, description="of all random numbers")
    threads: int = Field(0, ge=0, description="threads of PyTorch; 0: the cores that workers leave")
    log_every: int = Field(100, ge=1, description="iterations between lines of the log")
    save_every: int = Field(1000, ge=1, description="iterations between saved states")


class Card(_Section):
    """What the header of the weights states."""

    licence: str = "not stated"
    data: str = "not stated"


class Recipe(_Section):
    """All settings of `vderain train`."""

    name: str
    data: Data = Data()
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    cyclegan: CycleGANSettings | None = None
    semi_supervised: SemiSupervisedSettings | None = None
    validation: Validation = Validation()
    run: Run = Run()
    card: Card = Card()

    @property
    def held_share(self) -> float:
        """Share of the clear material that is held out for validation."""
        return self.validation.share if self.validation.every else 0.0

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        semi_supervised, window = self.semi_supervised, self.model.window
        if self.cyclegan is None and self.optimiser.crop_px > self.data.side_px:
            raise ValueError("optimiser.crop_px is larger than data.side_px")
        if semi_supervised is not None and self.cyclegan is not None:
            raise ValueError("cyclegan and semi_supervised are two ways of training: keep one section")
        if semi_supervised is not None and window < 5 and (semi_supervised.temporal or semi_supervised.pseudo_label):
            raise ValueError(
                "semi_supervised.temporal and semi_supervised.pseudo_label need neighbouring frames: set both to 0, or "
                "model.window to 5"
            )
        if semi_supervised is not None and semi_supervised.real > self.optimiser.batch:
            raise ValueError("semi_supervised.real is larger than optimiser.batch")
        if self.model.state and (self.cyclegan is not None or semi_supervised is not None):
            raise ValueError("cyclegan and semi_supervised train generators without a state: set model.state to 0")
        if self.model.state and self.validation.every:
            raise ValueError("validation is of windows, not of a memory: set validation.every to 0 or model.state to 0")
        if self.model.state and (self.data.pairs or self.data.remove == "drops"):
            raise ValueError("a memory is trained on rendered streaks alone: leave out data.pairs and data.remove")
        if self.model.glass and (self.cyclegan is not None or semi_supervised is not None or self.validation.every):
            raise ValueError("a generator for the windshield has no validation and no other sections: see glass.toml")
        if self.model.glass and self.data.side_px % 8 + self.data.border_px % 8:
            raise ValueError("data.side_px and data.border_px must be multiples of 8")
        if self.cyclegan is not None and window > 1:
            raise ValueError("cyclegan trains on single frames: set model.window to 1")
        return self


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file.
        overrides: ``section.key=value`` each, which replace values of the file.

    Raises:
        InputError: the file is missing or is not TOML.
        UsageError: a key is unknown (the nearest known one is named) or a value is out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}.", "Recipes are in configs/.") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets without end
        raise InputError(f"{path} is not TOML: {error}.", "See configs/smoke.toml for a small example.") from error
    for override in overrides:
        _override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(*_explain(path, error)) from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override} has no '='.", "Write --set section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    *sections, last = key.strip().split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {override}: {section} is a value, not a section.", "Write section.key=value.")
    place[last] = value


def _explain(path: Path, error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and where in RENAMED:
        return f"{path}: {where} was renamed.", f"Write {RENAMED[where]} instead."
    if first["type"] != "extra_forbidden":
        return f"{path}: {where}: {first['msg']}.".replace(": : ", ": "), "Correct the value."
    model: type[BaseModel] = Recipe
    for part in first["loc"][:-1]:
        if isinstance(part, str):  # otherwise an index into a list of sections
            model = _section(model.model_fields[part].annotation)
    near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, n=1, cutoff=0.0)
    return f"{path}: unknown key {where}.", f"Did you mean {near[0]!r}?"


def _section(annotation: Any) -> type[BaseModel]:
    """The section in ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_section(inner) for inner in get_args(annotation) if inner not in (type(None), Ellipsis))
