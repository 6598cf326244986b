"""Simulates raindrops on a windshield over time; `refraction` renders the view through them.

Drops land at random, grow, run down, and dry up or are wiped. They stay for seconds, unlike streaks. Lengths are in
frame heights (``_h``), so that the rain does not depend on the size of a clip.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vderain.rain.streaks import log_uniform, uniform

BLOCK_S = 0.25  # drops of one block of time are drawn together, so that the frame rate does not change the rain
WARM_UP_S = 12.0  # rain before the first frame
MARGIN_H = 0.06  # drops also land this far outside the frame
PATH_STEP_S, PATH_STEPS = 0.02, 400  # a running drop is followed for 8 s at most
STICK_S = 0.7  # period with which a running drop slows down and speeds up
SWAY_H, SWAY_PERIOD_H = 0.006, 0.23  # amplitude and period of a path from side to side
BEAD_PROBABILITY = 0.12  # that a piece of the trail remains as a bead
NEVER_S = 1e9
DRAWN_REST_S = 12.0  # `rest_s` of glasses from `draw_glass`
SOFT_PROBABILITY = 0.4  # that the drops of such a glass are far out of focus


@dataclass(frozen=True, slots=True)
class Glass:
    """How a windshield gets wet and is wiped.

    Attributes:
        landing: drops per second on an area of one frame height squared.
        radius_h, spread: median radius of landing drops, and standard deviation of its logarithm.
        running: share of the drops of median size that run down; larger ones do so more often.
        rest_s: time for which most drops stay if they are not wiped.
        wipe_every_s, wipe_s: time between two passes of the wiper, and duration of a pass, there and back.
        pivot_h: pivot of the wiper, from the left and the upper edge of the frame.
        reach_h: distance from the pivot at which the blade begins and ends.
        defocus_h: standard deviation of the blur of the drops, since the lens is focused on the street.
        glow: share of a drop's light that comes from the sky, regardless of what is behind it.
        tall: factor on the height of drops; a slanted glass shortens them.
        street: weight of a synthetic view of bright sky over dark ground in a drop, which gathers light from more than
            the frame shows.
        flat: weight of a blurred view straight through a drop, as drops that are flat and uneven give, against the
            inverted view through a round one.
        uneven_h: standard deviation of that blur.
        gain: factor on the brightness of that view, since such a drop gathers light from around.
        rim: share of the light that a flat drop loses at its rim.
        trail: radius of the film behind a running drop, as a share of the drop's.
        film_s: time in which that film thins to 1/e.
    """

    landing: float = 90.0
    radius_h: float = 0.0055
    spread: float = 0.55
    running: float = 0.006
    rest_s: float = 12.0
    wipe_every_s: float = 6.0
    wipe_s: float = 1.1
    pivot_h: tuple[float, float] = (0.55, 1.35)
    reach_h: tuple[float, float] = (0.35, 1.42)
    defocus_h: float = 0.0022
    glow: float = 0.0
    tall: float = 1.0
    street: float = 0.0
    flat: float = 0.0
    uneven_h: float = 0.0
    gain: float = 1.0
    rim: float = 0.0
    trail: float = 0.65
    film_s: float = 0.7


@dataclass(frozen=True, slots=True)
class Drops:
    """Drops on a glass, all fields (N,) float64.

    Attributes:
        x_h, y_h: where they landed, from the upper left corner.
        radius_h: radius when they landed.
        elongation: ratio of height to width.
        lobe, phase: amplitude and phase of the deviation from an ellipse.
        born_s: time when they land.
        gone_s: time when they are wiped or run over; infinite if never.
        dry_s: time when they have dried up.
        grow_s: time in which the volume doubles; infinite for drops that do not grow.
        thin_s: time in which the radius falls to 1/e; infinite for drops that do not thin out.
        run_s, speed_h: time when they start to run down, infinite for most, and their speed in frame heights a second.
    """

    x_h: Tensor
    y_h: Tensor
    radius_h: Tensor
    elongation: Tensor
    lobe: Tensor
    phase: Tensor
    born_s: Tensor
    gone_s: Tensor
    dry_s: Tensor
    grow_s: Tensor
    thin_s: Tensor
    run_s: Tensor
    speed_h: Tensor

    def __len__(self) -> int:
        return len(self.x_h)

    def __getitem__(self, which: Tensor) -> "Drops":
        return Drops(*(getattr(self, field.name)[which] for field in fields(self)))

    def __add__(self, other: "Drops") -> "Drops":
        return Drops(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def at(self, time_s: float) -> tuple[Tensor, Tensor, Tensor]:
        """Positions x_h, y_h and radii radius_h at a time, (N,) each."""
        age_s = (time_s - self.born_s).clamp(min=0)
        down_h = _run_h(self.speed_h, (time_s - self.run_s).clamp(min=0))
        drying = ((self.dry_s - time_s) / 2).clamp(0, 1)
        radius_h = self.radius_h * ((1 + age_s / self.grow_s) * drying) ** (1 / 3) * torch.exp(-age_s / self.thin_s)
        return _path_x_h(self.x_h, self.phase, down_h), self.y_h + down_h, radius_h


def _run_h(speed_h: Tensor, since_s: Tensor) -> Tensor:
    """Distance that a drop has run; it slows down and speeds up but never goes up."""
    omega = 2 * math.pi / STICK_S
    return speed_h * (since_s - 0.8 / omega * torch.sin(omega * since_s))


def _path_x_h(x_h: Tensor, phase: Tensor, down_h: Tensor) -> Tensor:
    """Horizontal position of a drop that sways as it runs down."""
    return x_h + SWAY_H * (torch.sin(2 * math.pi * down_h / SWAY_PERIOD_H + phase) - torch.sin(phase))


class Windshield:
    """The drops on the glass of one clip; the same seed gives the same drops at any frame rate.

    Args:
        glass: how the glass gets wet and is wiped.
        aspect: width of the frame divided by its height.
        generator: random number generator, on the CPU.
    """

    def __init__(self, glass: Glass, aspect: float, generator: torch.Generator) -> None:
        self.glass = glass
        self._aspect = aspect
        self._generator = generator
        self._drawn_s = -WARM_UP_S
        self._wiped_s = glass.wipe_every_s * (0.25 + 0.5 * float(torch.rand((), generator=generator)))
        self._drops = self._landed(0)

    def drops(self, time_s: float) -> Drops:
        """Drops on the glass at a time, which must not be earlier than that of the last call."""
        while self._drawn_s <= time_s:
            self._add_block()
        here = (self._drops.gone_s > time_s) & (self._drops.dry_s > time_s)
        self._drops = self._drops[here]
        return self._drops[self._drops.born_s <= time_s]

    def next_wipe_s(self, x_h: Tensor, y_h: Tensor, after_s: Tensor) -> Tensor:
        """Time when the blade next reaches some positions.

        Args:
            x_h: (N,) positions on the glass, from the left edge.
            y_h: (N,) positions from the upper edge.
            after_s: (N,) times after which the next pass is wanted.

        Returns:
            (N,) seconds; infinite for positions out of the blade's reach.
        """
        glass = self.glass
        right_h, up_h = x_h - glass.pivot_h[0], glass.pivot_h[1] - y_h
        away_h = torch.hypot(right_h, up_h)
        share = torch.atan2(up_h, -right_h) / math.pi  # of the half circle, from the left
        there_s = glass.wipe_s / 2 * torch.arccos((1 - 2 * share).clamp(-1, 1)) / math.pi  # slower at both ends
        passes = [self._next_pass_s(offset_s, after_s) for offset_s in (there_s, glass.wipe_s - there_s)]
        reached = (glass.reach_h[0] < away_h) & (away_h < glass.reach_h[1]) & (share >= 0)
        return torch.where(reached, torch.minimum(*passes), math.inf)

    def blade(self, time_s: float) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Ends of the wiper blade, (x_h, y_h) from the upper left corner; None while it is parked."""
        glass = self.glass
        passed_s = (time_s - self._wiped_s) % glass.wipe_every_s
        if passed_s > glass.wipe_s or glass.wipe_every_s >= NEVER_S:
            return None
        share = (1 - math.cos(2 * math.pi * passed_s / glass.wipe_s)) / 2  # slower at both ends
        right, down = -math.cos(math.pi * share), -math.sin(math.pi * share)
        near, far = ((glass.pivot_h[0] + away * right, glass.pivot_h[1] + away * down) for away in glass.reach_h)
        return near, far

    def _next_pass_s(self, offset_s: Tensor, after_s: Tensor) -> Tensor:
        first_s, every_s = self._wiped_s + offset_s, self.glass.wipe_every_s
        return first_s + every_s * (torch.floor((after_s - first_s) / every_s) + 1)

    def _add_block(self) -> None:
        """Draw the drops of the next block of time, and the paths of those that run down."""
        glass = self.glass
        area = (self._aspect + 2 * MARGIN_H) * (1 + 2 * MARGIN_H)
        expected = torch.tensor(glass.landing * area * BLOCK_S)
        landed = self._landed(int(torch.poisson(expected, generator=self._generator)))
        first = len(self._drops)
        self._drops += landed
        self._drawn_s += BLOCK_S
        for index in torch.nonzero(landed.run_s < landed.gone_s).flatten().tolist():
            self._run_down(first + index)

    def _landed(self, count: int) -> Drops:
        glass = self.glass
        draws = torch.rand((10, count), generator=self._generator, dtype=torch.float64)
        size = torch.randn(count, generator=self._generator, dtype=torch.float64).clamp(-2.5, 2.5)
        x_h = draws[0] * (self._aspect + 2 * MARGIN_H) - MARGIN_H
        y_h = draws[1] * (1 + 2 * MARGIN_H) - MARGIN_H
        larger = torch.exp(glass.spread * size)
        born_s = self._drawn_s + draws[2] * BLOCK_S
        runs = draws[3] < glass.running * larger**2
        never = torch.full_like(x_h, math.inf)
        return Drops(
            x_h, y_h, glass.radius_h * larger,
            elongation=glass.tall * (0.9 + 0.4 * draws[4]), lobe=0.22 * draws[5], phase=2 * math.pi * draws[6],
            born_s=born_s, gone_s=self.next_wipe_s(x_h, y_h, born_s), dry_s=born_s + glass.rest_s * (0.4 + draws[7]),
            grow_s=3 + 9 * draws[8], thin_s=never,
            run_s=torch.where(runs, born_s + 0.2 + 3 * draws[9], never), speed_h=0.12 + 0.5 * draws[8],
        )  # fmt: skip

    def _run_down(self, index: int) -> None:
        """Let one drop run to the wiper or the lower edge; it absorbs drops on its way and leaves a trail."""
        drop = self._drops[torch.tensor([index])]
        since_s = PATH_STEP_S * torch.arange(PATH_STEPS, dtype=torch.float64)
        time_s, down_h = drop.run_s + since_s, _run_h(drop.speed_h, since_s)
        x_h, y_h = _path_x_h(drop.x_h, drop.phase, down_h), drop.y_h + down_h
        ends = (self.next_wipe_s(x_h, y_h, time_s - PATH_STEP_S) <= time_s) | (y_h > 1 + MARGIN_H)
        end = int(torch.nonzero(ends)[0]) if bool(ends.any()) else PATH_STEPS - 1
        self._absorb(drop, down_h[: end + 1], time_s)
        self._drops.gone_s[index] = time_s[end]
        self._drops.dry_s[index] = math.inf
        self._drops += self._trail(drop, down_h[: end + 1], time_s)

    def _absorb(self, drop: Drops, down_h: Tensor, time_s: Tensor) -> None:
        """End the drops that a running drop meets."""
        drops = self._drops
        at_h = drops.y_h - drop.y_h
        passed_s = time_s[torch.searchsorted(down_h, at_h).clamp(max=len(down_h) - 1)]
        aside_h = (drops.x_h - _path_x_h(drop.x_h, drop.phase, at_h)).abs()
        near = (at_h > 0) & (at_h < down_h[-1]) & (aside_h < drop.radius_h + drops.radius_h)
        met = (
            near & (drops.born_s < passed_s) & torch.isinf(drops.run_s)
        )  # running drops are kept: their trails are drawn
        drops.gone_s[met] = torch.minimum(drops.gone_s, passed_s)[met]

    def _trail(self, drop: Drops, down_h: Tensor, time_s: Tensor) -> Drops:
        """The film of water behind a running drop, and the beads into which it breaks."""
        glass = self.glass
        step_h = 0.3 / 0.65 * min(glass.trail, 0.65) * float(drop.radius_h)
        at_h = torch.arange(0, float(down_h[-1]), step_h, dtype=torch.float64)
        count = len(at_h)
        draws = torch.rand((5, count), generator=self._generator, dtype=torch.float64)
        bead = draws[0] < BEAD_PROBABILITY
        x_h, y_h = _path_x_h(drop.x_h, drop.phase, at_h), drop.y_h + at_h
        born_s = time_s[torch.searchsorted(down_h, at_h).clamp(max=len(time_s) - 1)]
        never = torch.full_like(x_h, math.inf)
        return Drops(
            x_h + torch.where(bead, (draws[1] - 0.5) * drop.radius_h, 0.0), y_h,
            radius_h=drop.radius_h * torch.where(bead, 0.16 + 0.3 * draws[2], glass.trail),
            elongation=1 + draws[3], lobe=0.1 * draws[4], phase=2 * math.pi * draws[2],
            born_s=born_s, gone_s=self.next_wipe_s(x_h, y_h, born_s),
            dry_s=born_s + torch.where(bead, glass.rest_s * 0.6, 5 * glass.film_s),
            grow_s=never, thin_s=torch.where(bead, math.inf, glass.film_s), run_s=never, speed_h=torch.zeros_like(x_h),
        )  # fmt: skip


def draw_glass(generator: torch.Generator) -> Glass:
    """Draw the glass of a clip: from fine, sharp drops to a few large ones far out of focus."""
    if uniform(0, 1, generator) < SOFT_PROBABILITY:
        return _out_of_focus(generator)
    radius_h = log_uniform(0.006, 0.11, generator)
    return replace(
        _resting(radius_h, log_uniform(0.04, 0.4, generator)),
        spread=uniform(0.1, 0.5, generator),
        defocus_h=radius_h * log_uniform(0.03, 1.2, generator),
        glow=max(0.0, uniform(-0.3, 0.9, generator)),
        tall=uniform(0.4, 1.1, generator),
        street=max(0.0, uniform(-0.3, 1.0, generator)),
        flat=max(0.0, uniform(-0.8, 1.0, generator)),
        uneven_h=radius_h * log_uniform(0.08, 0.6, generator),
    )


def draw_rimmed_glass(generator: torch.Generator) -> Glass:
    """Draw a glass of drops as others render them: a blurred view straight through, and a dark rim."""
    radius_h = log_uniform(0.008, 0.07, generator)
    return replace(
        _resting(radius_h, log_uniform(0.04, 0.5, generator)),
        spread=uniform(0.1, 0.6, generator),
        defocus_h=radius_h * log_uniform(0.04, 0.5, generator),
        glow=max(0.0, uniform(-0.3, 0.3, generator)),
        tall=uniform(0.6, 1.3, generator),
        flat=1.0,
        uneven_h=log_uniform(0.01, 0.1, generator),
        gain=uniform(0.8, 1.3, generator),
        rim=uniform(0.1, 0.8, generator),
    )


def draw_spray(generator: torch.Generator) -> Glass:
    """Draw a glass full of drops so fine that they look like haze with grain."""
    radius_h = log_uniform(0.003, 0.007, generator)
    return replace(
        _resting(radius_h, log_uniform(0.05, 0.35, generator)),
        defocus_h=radius_h * log_uniform(0.1, 1.2, generator),
        glow=max(0.0, uniform(-0.2, 0.6, generator)),
        street=max(0.0, uniform(-0.3, 0.8, generator)),
    )


def _out_of_focus(generator: torch.Generator) -> Glass:
    """Draw a glass so close to the lens that drops are soft patches in which the street is paler and blurred."""
    radius_h = log_uniform(0.012, 0.1, generator)
    return replace(
        _resting(radius_h, log_uniform(0.06, 0.7, generator)),
        spread=uniform(0.1, 0.5, generator),
        defocus_h=radius_h * uniform(0.25, 1.0, generator),
        glow=max(0.0, uniform(-0.2, 0.4, generator)),
        tall=uniform(0.6, 1.1, generator),
        flat=uniform(0.6, 1.0, generator),
        uneven_h=radius_h * log_uniform(0.2, 1.2, generator),
        gain=uniform(0.9, 1.5, generator),
    )


def _resting(radius_h: float, cover: float) -> Glass:
    """A glass without a wiper, of which drops cover about a given share (exact if they never overlap)."""
    landing = cover / (DRAWN_REST_S * math.pi * radius_h**2)
    return Glass(landing, radius_h, rest_s=DRAWN_REST_S, wipe_every_s=NEVER_S)
