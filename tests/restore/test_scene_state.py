"""Rain is a state of a scene: it comes and goes slowly, and a flash or a single frame does not change it."""

import numpy as np
import pytest

from vderain.restore.scene_state import (
    AHEAD,
    CAUTION,
    FLASH_FRAMES,
    LIMIT,
    MEMORY,
    RAMP,
    Observation,
    State,
    scene_states,
    thumbnail_of,
)

DARK, BRIGHT = (thumbnail_of(np.full((36, 64), level, np.uint8)) for level in (20, 220))


def states(levels: list[float], shots: list[int] | None = None, bright: tuple[int, ...] = ()) -> list[State]:
    shots = shots or [0] * len(levels)
    return list(
        scene_states(
            (
                Observation(shot, shots.count(shot) == 1, BRIGHT if number in bright else DARK, level, level)
                for number, (level, shot) in enumerate(zip(levels, shots, strict=True))
            ),
            dry=1,
            full=2,
        )
    )


def strengths(levels: list[float], shots: list[int] | None = None, bright: tuple[int, ...] = ()) -> list[float]:
    return [state.strength for state in states(levels, shots, bright)]


def test_rain_that_begins_and_ends_ramps_by_less_than_a_tenth() -> None:
    found = strengths([0.0] * 40 + [9.0] * 60 + [0.0] * 80)
    assert (found[0], max(found), found[-1]) == (0, 1, 0)
    assert 0.02 < max(np.abs(np.diff(found))) <= 1 / RAMP + 1e-9 < 0.1


def test_rain_taken_in_bursts_is_steady() -> None:
    found = strengths(([6.0] * 2 + [3.0] * 4) * 20)
    assert min(found) == 1


@pytest.mark.parametrize("count", [2, 5, 30])
def test_short_clips_begin_in_their_state(count: int) -> None:
    rainy, dry = strengths([9.0] * count, [0] * count), strengths([0.0] * count, [0] * count)
    assert rainy == [1] * count and dry == [0] * count


def test_a_shot_that_has_just_begun_needs_more_evidence() -> None:
    enough = 2 * (1 + CAUTION)
    assert strengths([1.0 + CAUTION / 2] * (AHEAD + 1))[0] == 0
    assert strengths([enough] * (AHEAD + 1))[0] == 1


def test_a_single_frame_neither_starts_rain_nor_changes_more_than_its_neighbours() -> None:
    found = states([0.5] * 30 + [900.0] + [0.5] * 30)
    assert all(state.strength == 0 for state in found)
    assert found[30].limit * 900 == pytest.approx(0.5 * LIMIT)
    assert all(state.limit == 1 for number, state in enumerate(found) if number != 30)


@pytest.mark.parametrize("length", range(1, FLASH_FRAMES))
def test_a_flash_is_no_cut(length: int) -> None:
    flash = tuple(range(30, 30 + length))
    shots = [0] * 30 + [1 + number for number in range(length)] + [9] * 30
    found = states([9.0] * 30 + [0.0] * length + [9.0] * 30, shots, flash)
    assert all(state.strength == 1 and not state.is_still_image for state in found)
    found = states([0.0] * 30 + [90.0] * length + [0.0] * 30, shots, flash)
    assert all(state.strength == 0 for state in found)
    assert all(found[number].limit < 0.01 for number in flash)


def test_a_cut_ends_a_state_at_once() -> None:
    found = strengths([9.0] * 30 + [0.0] * 30, [0] * 30 + [1] * 30, tuple(range(30, 60)))
    assert found == [1] * 30 + [0] * 30


def test_unrelated_images_are_judged_by_themselves() -> None:
    found = states([9.0, 0.0] * 5, list(range(10)), (1, 3, 5, 7, 9))
    assert all(state.is_still_image and state.limit == 1 for state in found)


def test_a_state_depends_on_a_bounded_number_of_frames() -> None:
    rng = np.random.default_rng(3)
    levels = rng.uniform(0, 4, 200).tolist()
    shots = [0] * 90 + [1] * 60 + [2] + [3] * 49
    bright = (*range(90, 150), 150)
    whole = states(levels, shots, bright)
    for first in (0, 17, 60, 88, 100, 120):
        later = tuple(number - first for number in bright if number >= first)
        again = states(levels[first:], shots[first:], later)
        assert again[MEMORY:] == whole[first + MEMORY :]
