"""Owns the question whether frames come at an even rate: instants enter, numbers on a clock of that rate leave."""

from fractions import Fraction

_LEEWAY = Fraction(1, 4)  # of a frame


def to_frame_number(time_s: Fraction, step_s: Fraction, tick_s: Fraction) -> int | None:
    """The number of a frame on a clock that counts steps; None where it lies between two.

    Args:
        time_s: instant of the frame, on a source's clock that may have rounded it.
        step_s: seconds between two frames.
        tick_s: seconds in one unit of the source's clock.
    """
    steps = time_s / step_s
    return round(steps) if abs(steps - round(steps)) <= min(tick_s / step_s, _LEEWAY) else None
