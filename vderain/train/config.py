"""Training recipes: TOML in, checked and frozen settings out."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vderain.errors import InputError, UsageError
from vderain.model.unet import UNetConfig
from vderain.runtime.device import choose_device


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pair(_Section):
    """Rainy and clear footage of one scene, frame by frame."""

    rain: Path
    clear: Path
    single: bool = Field(False, description="the pictures of the folders are no clip")


class Data(_Section):
    """Where the clear pictures are and how windows are cut from them."""

    photos: Path | None = None
    clips: Path | None = None
    rain: Path | None = Field(None, description="rainy pictures and clips, unpaired: for cyclegan and dashcam")
    pairs: tuple[Pair, ...] = ()
    share_pairs: float = Field(0.25, ge=0, le=1, description="windows from `pairs`, where there are any")
    remove: Literal["rain", "drops"] = Field(
        "rain", description="what the generator learns to take out: rain, or drops on the windshield alone"
    )
    side_px: int = Field(176, ge=32, description="side of a prepared window")
    border_px: int = Field(24, ge=0, description="thrown away around it: flow has no context there")
    workers: int | None = Field(None, ge=0, description="feeding processes; None: one, more while cores idle")
    pool: int = Field(256, ge=1, description="windows kept to cut crops from")
    fresh: int = Field(4, ge=1, description="windows that replace the oldest in the pool at each step")
    share_clips: float = Field(0.50, ge=0, le=1, description="windows of real motion, from clips")
    share_drives: float = Field(0.18, ge=0, le=1, description="photographs that a camera drives through")
    share_stills: float = Field(
        0.10, ge=0, le=1, description="photographs with small errors of alignment; rest: one frame repeated"
    )
    share_drops: float = Field(
        0.2, ge=0, le=1, description="of the rainy windows: seen through drops on a windshield too"
    )
    share_dry: float = Field(0.15, ge=0, le=1, description="windows without rain: nothing may change")


class Model(_Section):
    """The generator."""

    start: str | tuple[str, ...] | None = Field(
        None, description="released model or file of weights to start from, or the mean of several; None: from nothing"
    )
    renew: tuple[str, ...] = Field((), description="layers that begin anew nevertheless, by the start of their names")
    window: Literal[1, 5] = 5
    widths: tuple[int, ...] = (32, 64, 128, 256)
    stem: int = 2
    paths: tuple[int, ...] = Field((1,), description="dilations of the encoder's parallel paths")
    slope: float = Field(0.1, ge=0, lt=1, description="of the ReLUs below zero")
    residual: bool = Field(True, description="the generator says what to add; false: what the picture shall be")
    scale: int = Field(1, description="how many times smaller than the picture the convolutions see it")

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        UNetConfig(
            self.window, self.widths, self.stem, self.paths, self.slope, self.residual, self.scale
        )  # says itself what it cannot be
        return self


class Optimiser(_Section):
    """How the weights move."""

    iterations: int = Field(40_000, ge=1)
    warmup: int = Field(300, ge=0)
    decay: int = Field(15_000, ge=0, description="iterations of linear decay to zero at the end")
    batch: int = Field(12, ge=1)
    crop_px: int = Field(112, ge=16)
    rate: float = Field(8e-4, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    bf16: bool | None = Field(
        None, description="convolutions in bf16; None: where the processor has instructions for it"
    )
    epsilon: float = Field(0.016, gt=0, description="errors below it count as squares, those above as they are")
    block_weight: float = Field(0.15, ge=0, description="penalty on the worst 8x8 blocks")
    untouched_weight: float = Field(1.0, ge=1, description="how much more a change costs where no rain is")
    dry_weight: float = Field(1.0, ge=0, description="how much more a changed dry window costs")


class Discriminators(_Section):
    """Those of a run. The defaults are of the CycleGAN paper."""

    pool: int = Field(50, ge=0, description="earlier pictures that the discriminators are shown half of the time")
    layers: int = Field(3, ge=1, le=6, description="strided layers of a discriminator; 3: patches of 70x70")
    width: int = Field(64, ge=1, description="channels of its first layer")
    spectral: bool = Field(False, description="spectral norm instead of instance norm in the discriminators")


class CycleGAN(Discriminators):
    """Unpaired training: losses and discriminators. The defaults are those of the paper."""

    cycle: float = Field(
        10.0, ge=0, description="weight of coming back: rain to clear to rain, and the other way round"
    )
    identity: float = Field(0.5, ge=0, description="weight, times `cycle`, of leaving alone what is clear already")
    rendered: float = Field(0.0, ge=0, description="weight of a supervised loss on rain rendered onto the clear crops")


class Dashcam(Discriminators):
    """Real rain beside rendered: what a generator is paid for, each by a weight; 0 leaves it out."""

    warmup: int = Field(0, ge=0, description="iterations with rendered pairs alone, at the start")
    real: int = Field(4, ge=1, description="crops of real rain in a batch, beside optimiser.batch rendered ones")
    fresh: int = Field(1, ge=1, description="windows of real rain that replace the oldest at each step")
    rendered: float = Field(1.0, ge=0, description="pairs of rendered rain and the truth")
    half_cycle: float = Field(0.5, ge=0, description="clear to rainy by the rain maker and back: the truth is known")
    cycle: float = Field(0.05, ge=0, description="real rain to clear and back")
    adversarial: float = Field(0.002, ge=0, description="of both generators")
    stay: float = Field(0.5, ge=0, description="the rain maker leaves rendered rain as it is")
    identity: float = Field(0.1, ge=0, description="the generator leaves clear pictures as they are")
    mask: float = Field(0.01, ge=0, description="share of a clear picture that it touches at all")
    grey: float = Field(0.2, ge=0, description="colour in what it takes out of real rain")
    temporal: float = Field(0.2, ge=0, description="it makes the same of a thing in neighbouring frames")
    pseudo: float = Field(0.2, ge=0, description="nearness to the gated median of aligned neighbours")
    layer_max: float = Field(0.6, gt=0, le=1, description="the most the rain maker brightens")
    width: int = Field(32, ge=1, description="channels of a discriminator's first layer")
    spectral: bool = True


class PairedSet(_Section):
    """Footage of which the truth is known: `vderain evaluate` says what may be given."""

    name: str
    rain: Path
    clear: Path
    single: bool = Field(False, description="the pictures of the folders are no clip")
    limit: int | None = Field(24, ge=1, description="frames looked at")
    weight: float = Field(1.0, ge=0, description="in the blend, of the derained rain")
    clear_weight: float = Field(0.0, ge=0, description="in the blend, of the derained clear footage; 0: not looked at")


class Validation(_Section):
    """When a generator is judged, and by what: the best by the blend of all sets is kept."""

    every: int = Field(500, ge=0, description="iterations between two looks; 0: never, and nothing is held out")
    share: float = Field(0.04, gt=0, le=0.5, description="of the photographs, kept from training")
    windows: int = Field(16, ge=1, description="rendered from those, and as many dry ones")
    rendered_weight: float = Field(1.0, ge=0, description="in the blend, of the rendered windows")
    dry_weight: float = Field(1.0, ge=0, description="in the blend, of the dry windows: harm counts")
    ceiling_db: float = Field(50.0, gt=0, description="PSNR beyond which nothing is gained: nobody sees it")
    sets: tuple[PairedSet, ...] = ()

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        names = [paired.name for paired in self.sets]
        if len(set(names)) < len(names) or {"rendered", "dry"} & set(names):
            raise ValueError("each of validation.sets needs a name of its own, and not rendered or dry")
        return self


class Run(_Section):
    """Files and schedule of a run."""

    seed: int = 0
    threads: int = Field(0, ge=0, description="torch threads; 0: the cores that the workers leave")
    log_every: int = Field(100, ge=1)
    save_every: int = Field(1000, ge=1)


class Card(_Section):
    """What the header of the weights says about itself."""

    licence: str = "not stated"
    data: str = "not stated"


class Recipe(_Section):
    """Everything `vderain train` needs to know."""

    name: str
    data: Data = Data()
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    cyclegan: CycleGAN | None = None
    dashcam: Dashcam | None = None
    validation: Validation = Validation()
    run: Run = Run()
    card: Card = Card()

    @property
    def bf16(self) -> bool:
        """Whether convolutions are in bf16: emulated it would be several times slower than fp32."""
        return choose_device("cpu").bf16 if self.optimiser.bf16 is None else self.optimiser.bf16

    @property
    def held_share(self) -> float:
        """Of the clear material, kept from training to judge by."""
        return self.validation.share if self.validation.every else 0.0

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        if self.cyclegan is None and self.optimiser.crop_px > self.data.side_px:
            raise ValueError("optimiser.crop_px is larger than data.side_px")
        return self

    @model_validator(mode="after")
    def _one_way_of_training(self) -> Self:
        if self.cyclegan is not None and self.dashcam is not None:
            raise ValueError("cyclegan and dashcam are two ways of training: keep one section")
        if self.dashcam is not None and self.model.window < 5:
            raise ValueError("dashcam looks at neighbouring frames: set model.window to 5")
        if self.dashcam is not None and self.dashcam.real > self.optimiser.batch:
            raise ValueError("dashcam.real is larger than optimiser.batch")
        return self

    @model_validator(mode="after")
    def _cycles_are_of_pictures(self) -> Self:
        if self.cyclegan is not None and self.model.window > 1:
            raise ValueError("cyclegan looks at single pictures: set model.window to 1")
        return self


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and lay ``section.key=value`` overrides over it.

    Raises:
        InputError: the file is missing or is not TOML.
        UsageError: a key is unknown (the nearest known one is named) or a value is out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}.", "Recipes are in configs/.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.", "See configs/smoke.toml for a small example.") from error
    for override in overrides:
        _lay_over(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(*_explain(path, error)) from error


def _lay_over(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"--set {override} has no '='.", "Write --set section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
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
    if first["type"] != "extra_forbidden":
        return f"{path}: {where}: {first['msg']}.".replace(": : ", ": "), "Correct the value."
    model: type[BaseModel] = Recipe
    for part in first["loc"][:-1]:
        if isinstance(part, str):  # else a place in a list of sections
            model = _section(model.model_fields[part].annotation)
    near = difflib.get_close_matches(str(first["loc"][-1]), model.model_fields, n=1, cutoff=0.0)
    return f"{path}: unknown key {where}.", f"Did you mean {near[0]!r}?"


def _section(annotation: Any) -> type[BaseModel]:
    """The section in ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_section(inner) for inner in get_args(annotation) if inner not in (type(None), Ellipsis))
