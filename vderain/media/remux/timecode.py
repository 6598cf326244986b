"""Owns SMPTE timecodes: one enters with a number of frames, that of the frame so many later leaves (SMPTE ST 12-1)."""

import re
from fractions import Fraction

_FORM = re.compile(r"^(\d{2}):(\d{2}):(\d{2})([:;.])(\d{2,3})$")
_MINUTES_A_DAY = 24 * 60


def advance(timecode: str, frames: int, rate: Fraction) -> str | None:
    """The timecode of a later frame.

    Args:
        timecode: ``hh:mm:ss:ff``, or ``hh:mm:ss;ff`` where numbers are dropped to keep up with the clock.
        frames: how much later.
        rate: frames a second.

    Returns:
        None where it is no timecode.
    """
    match = _FORM.match(timecode)
    if match is None:
        return None
    hours, minutes, seconds, number = (int(match[group]) for group in (1, 2, 3, 5))
    base = max(1, round(rate))
    dropped = round(base / 15) if match[4] != ":" else 0  # 2 numbers of 30, 4 of 60
    count = ((hours * 60 + minutes) * 60 + seconds) * base + number
    count -= dropped * _dropping_minutes(hours * 60 + minutes)
    return _written(count + frames, base, dropped, match[4], len(match[5]))


def _dropping_minutes(minutes: int) -> int:
    """How many minutes up to here began with dropped numbers: all but each tenth."""
    return minutes - minutes // 10


def _written(count: int, base: int, dropped: int, separator: str, digits: int) -> str:
    per_ten_minutes = 600 * base - 9 * dropped
    count %= per_ten_minutes * _MINUTES_A_DAY // 10
    if dropped:
        tens, rest = divmod(count, per_ten_minutes)
        count += 9 * dropped * tens + dropped * max(0, (rest - dropped) // (60 * base - dropped))
    seconds, number = divmod(count, base)
    minutes, second = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}{separator}{number:0{digits}}"
