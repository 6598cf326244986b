"""Surfaces of the sample scene, drawn from noise, as BGR and BGRA images of known size in metres."""

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) B, G, R or (H, W, 4) with alpha
Field = NDArray[np.float32]

ROAD_PERIOD_M = 60.0  # the ground repeats along the road
ROAD_HALF_M = 16.0
ROAD_STEP_X_M = 0.0125
ROAD_STEP_Z_M = 0.025
FACADE_PX_PER_M = 40


def noise(shape: tuple[int, int], cell_px: float, octaves: int, rng: np.random.Generator, gain: float = 0.55) -> Field:
    """Multi-octave value noise that wraps, of mean about 0 and amplitude about 1."""
    total, weight = np.zeros(shape, np.float32), 1.0
    for _ in range(octaves):
        cells = max(2, round(shape[0] / cell_px)), max(2, round(shape[1] / cell_px))
        grid = rng.uniform(-1, 1, cells).astype(np.float32)
        grid = np.pad(grid, ((2, 2), (2, 2)), mode="wrap")
        scale = shape[0] / cells[0], shape[1] / cells[1]
        inner = round(2 * scale[0]), round(2 * scale[1])
        size = shape[1] + 2 * inner[1], shape[0] + 2 * inner[0]
        large = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        total += weight * large[inner[0] : inner[0] + shape[0], inner[1] : inner[1] + shape[1]]
        weight *= gain
        cell_px = max(1.0, cell_px / 2)
    return total


def as_picture(colour: NDArray[np.float32]) -> Picture:
    return np.clip(colour, 0, 255).astype(np.uint8)


def tinted(brightness: Field, bgr: tuple[float, float, float]) -> NDArray[np.float32]:
    return (brightness[..., None] * np.array(bgr, np.float32)).astype(np.float32)


def ground(rng: np.random.Generator) -> Picture:
    """(Z, X, 3): asphalt with lane marks, kerbs, pavement and grass, over ROAD_PERIOD_M by twice ROAD_HALF_M."""
    shape = round(ROAD_PERIOD_M / ROAD_STEP_Z_M), round(2 * ROAD_HALF_M / ROAD_STEP_X_M)
    x_m = np.abs((np.arange(shape[1]) + 0.5) * ROAD_STEP_X_M - ROAD_HALF_M).astype(np.float32)
    signed_m = ((np.arange(shape[1]) + 0.5) * ROAD_STEP_X_M - ROAD_HALF_M).astype(np.float32)
    grain = rng.normal(0, 1, shape).astype(np.float32)
    broad = noise(shape, 400, 5, rng)
    # Few shapes repeat within a glance, so the large octaves carry the look and the grain the scale.
    road = _asphalt(shape, signed_m, grain, broad, rng)
    pave = _pavement(shape, grain, noise(shape, 200, 4, rng))
    grass = _grass(shape, noise(shape, 120, 6, rng, 0.75), grain)
    dirt = np.clip(noise(shape, 160, 5, rng, 0.7) * 0.5, -0.25, 0.4)[..., None]
    wave = 0.25 * noise((shape[0], 8), 60, 3, rng)[:, :1]
    out = np.where((x_m > 5.75)[None, :, None], pave, road)
    out = np.where((x_m[None, :] > 8.0 + wave)[..., None], grass, out)
    kerb = ((x_m > 5.6) & (x_m < 5.9))[None, :, None]
    stone = tinted(128 + 9 * broad + 6 * grain, (0.98, 1.0, 1.0)) * _joints(shape, 1.0, 0.6)
    out = np.where(kerb, stone, out)
    gutter = np.exp(-(((x_m - 5.5) / 0.14) ** 2))[None, :, None]
    return as_picture(out * (1 - 0.45 * gutter) * (1 - 0.25 * dirt))


def _asphalt(
    shape: tuple[int, int], x_m: Field, grain: Field, broad: Field, rng: np.random.Generator
) -> NDArray[np.float32]:
    tracks = sum(np.exp(-(((x_m - c) / 0.32) ** 2)) for c in (-2.5, -0.95, 0.95, 2.5))
    oil = sum(np.exp(-(((x_m - c) / 0.25) ** 2)) for c in (-1.7, 1.7))
    level = 88 + 7 * broad + 7 * grain - 9 * np.asarray(tracks)[None] - 5 * np.asarray(oil)[None]
    level += 6 * noise(shape, 30, 3, rng)
    level = _patches(level.astype(np.float32), rng) * (1 - 0.4 * _cracks(shape, rng))
    return _marks(tinted(level, (1.02, 1.0, 0.97)), x_m, rng)


def _patches(level: Field, rng: np.random.Generator) -> Field:
    """Repairs: rectangles of newer, darker asphalt with a sealed rim."""
    for _ in range(9):
        x, z = rng.uniform(-5.2, 4.0), rng.uniform(0, ROAD_PERIOD_M - 6)
        left, top = int((x + ROAD_HALF_M) / ROAD_STEP_X_M), int(z / ROAD_STEP_Z_M)
        width, height = int(rng.uniform(0.6, 2.2) / ROAD_STEP_X_M), int(rng.uniform(0.8, 5) / ROAD_STEP_Z_M)
        level[top : top + height, left : left + width] *= rng.uniform(0.78, 0.9)
        cv2.rectangle(level, (left, top), (left + width, top + height), 42.0, 3)
    for _ in range(2):  # covers of drains
        at = int((rng.uniform(-3, 3) + ROAD_HALF_M) / ROAD_STEP_X_M), int(rng.uniform(3, 57) / ROAD_STEP_Z_M)
        cv2.ellipse(level, at, (26, 13), 0, 0, 360, 48.0, -1)
        cv2.ellipse(level, at, (26, 13), 0, 0, 360, 105.0, 2)
    return level


def _cracks(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    drawn = np.zeros(shape, np.uint8)
    for _ in range(26):
        at = np.array([rng.uniform(-5.4, 5.4) + ROAD_HALF_M, rng.uniform(0, ROAD_PERIOD_M)])
        heading, points = rng.uniform(0, 2 * np.pi), []
        for _ in range(int(rng.integers(12, 60))):
            heading += rng.normal(0, 0.5)
            at = at + 0.12 * np.array([np.cos(heading), np.sin(heading)])
            points.append((at[0] / ROAD_STEP_X_M, at[1] / ROAD_STEP_Z_M))
        cv2.polylines(drawn, [np.array(points, np.int32)], False, 255, int(rng.integers(1, 3)), cv2.LINE_AA)
    return np.asarray(drawn, np.float32) / np.float32(255)


def _marks(road: NDArray[np.float32], x_m: Field, rng: np.random.Generator) -> NDArray[np.float32]:
    z_m = (np.arange(road.shape[0]) * ROAD_STEP_Z_M)[:, None]
    centre = (np.abs(x_m)[None] < 0.075) & (z_m % 10 < 4)
    edges = np.abs(np.abs(x_m) - 3.4)[None] < 0.07
    worn = np.clip(0.95 + 0.5 * noise(road.shape[:2], 24, 5, rng, 0.8), 0.15, 1)
    alpha = ((centre | edges) * worn)[..., None].astype(np.float32)
    return np.asarray(road * (1 - alpha) + alpha * np.array([196, 202, 204]), np.float32)


def _pavement(shape: tuple[int, int], grain: Field, broad: Field) -> NDArray[np.float32]:
    return tinted(116 + 10 * broad + 6 * grain, (0.96, 0.99, 1.02)) * _joints(shape, 0.5, 0.5)


def _joints(shape: tuple[int, int], along_m: float, across_m: float) -> Field:
    """1 on slabs, darker between them, (Z, X, 1)."""
    z_m, x_m = np.arange(shape[0]) * ROAD_STEP_Z_M, np.arange(shape[1]) * ROAD_STEP_X_M
    open_z, open_x = (z_m % along_m < 0.03)[:, None], (x_m % across_m < 0.02)[None]
    return np.asarray(np.where(open_z | open_x, 0.72, 1.0)[..., None], np.float32)


def _grass(shape: tuple[int, int], broad: Field, grain: Field) -> NDArray[np.float32]:
    level = np.clip(0.62 + 0.2 * broad + 0.16 * grain, 0.2, 1.4).astype(np.float32)
    earth = np.clip(noise(shape, 90, 4, np.random.default_rng(5)) - 0.75, 0, 1)[..., None]
    return np.asarray(tinted(level, (58, 112, 92)) * (1 - earth) + earth * tinted(level, (80, 104, 122)), np.float32)


def facade(width_m: float, floors: int, wall_bgr: tuple[float, float, float], rng: np.random.Generator) -> Picture:
    """A house front with windows, sills, doors and the dirt below them; 3 m a floor and a cornice."""
    px = FACADE_PX_PER_M
    shape = int((floors * 3.0 + 0.8) * px), int(width_m * px)
    level = 1 + 0.05 * noise(shape, 90, 5, rng) + 0.03 * rng.normal(0, 1, shape).astype(np.float32)
    if rng.random() < 0.45:
        level *= _bricks(shape, rng)
    wall = tinted(level.astype(np.float32), wall_bgr)
    columns = max(2, round(width_m / rng.uniform(2.3, 3.1)))
    step = shape[1] / columns
    trim = np.array(wall_bgr, np.float32) * rng.choice([0.7, 1.18])
    for floor in range(floors):
        base = shape[0] - int((floor * 3.0 + 0.95) * px)
        for column in range(columns):
            middle = int((column + 0.5) * step)
            if floor == 0 and column == columns // 2:
                _door(wall, middle, shape[0], px, rng)
            else:
                _window(wall, middle, base, px, rng, trim)
    for floor in range(1, floors + 1):
        y = shape[0] - int(floor * 3.0 * px)
        wall[y - 3 : y + 3] *= 0.82 if floor < floors else 0.6
    wall[: int(0.35 * px)] = trim * 0.9
    wall[int(0.35 * px) : int(0.5 * px)] *= 0.62
    wall[-int(0.5 * px) :] *= 0.72
    return as_picture(wall)


def gable(end: Picture, high_m: float, wall_bgr: tuple[float, float, float], rng: np.random.Generator) -> Picture:
    """BGRA: the end of a house with the triangle below its roof."""
    rows, width = round(high_m * FACADE_PX_PER_M), end.shape[1]
    level = 1 + 0.05 * noise((rows, width), 60, 4, rng)
    above = np.dstack([tinted(level.astype(np.float32), wall_bgr), np.full((rows, width), 255, np.float32)])
    from_middle = np.abs(np.arange(width) - width / 2)[None] / (width / 2)
    height = (np.arange(rows)[:, None] + 0.5) / rows
    above[..., 3] *= from_middle < height
    above[..., :3] *= np.where(from_middle > height - 0.07, 0.5, 1.0)[..., None]
    opaque = np.dstack([end, np.full(end.shape[:2], 255, np.uint8)])
    return np.ascontiguousarray(np.concatenate([as_picture(above.astype(np.float32)), opaque]))


def _bricks(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    row = y // 4
    mortar = (y % 4 == 0) | ((x + 5 * (row % 2)) % 10 == 0)
    tone = rng.uniform(0.84, 1.08, (shape[0] // 4 + 1, shape[1] // 10 + 2)).astype(np.float32)
    each = tone[row, (x + 5 * (row % 2)) // 10]
    return np.where(mortar, 1.04, each).astype(np.float32)


def _window(
    wall: NDArray[np.float32], middle: int, base: int, px: int, rng: np.random.Generator, trim: NDArray[np.float32]
) -> None:
    half, height = int(0.55 * px), int(1.5 * px)
    top, left, right = base - height, middle - half, middle + half
    rim = int(0.1 * px)
    wall[top - rim : base + rim, left - rim : right + rim] = trim * rng.uniform(0.95, 1.05)
    shade = np.linspace(1.25, 0.6, height, dtype=np.float32)[:, None, None]
    pane = shade * np.array([66, 60, 54], np.float32) + rng.uniform(-14, 26)
    pane = pane * np.ones((1, right - left, 1), np.float32)
    if rng.random() < 0.55:  # curtains
        cut = int((right - left) * rng.uniform(0.15, 0.32))
        folds = (150 + 18 * np.sin(np.arange(cut) * 1.1)).astype(np.float32)[None, :, None]
        pane[:, :cut] = 0.35 * pane[:, :cut] + 0.6 * folds
        pane[:, -cut:] = 0.35 * pane[:, -cut:] + 0.6 * folds
    elif rng.random() < 0.18:  # a lamp is on
        pane = pane * 0.9 + shade * np.array([46, 84, 104], np.float32)
    wall[top:base, left:right] = pane
    wall[top : top + 5, left:right] *= 0.55
    frame = (205.0, 208.0, 208.0)
    cv2.rectangle(wall, (left, top), (right, base), frame, 3)
    cv2.line(wall, (middle, top), (middle, base), frame, 3)
    cv2.line(wall, (left, top + height // 3), (right, top + height // 3), frame, 2)
    wall[base + rim : base + rim + 4, left - rim - 3 : right + rim + 3] = trim * 1.1
    streak = np.linspace(0.86, 1, int(0.9 * px), dtype=np.float32)[:, None, None]
    below = wall[base + rim + 4 : base + rim + 4 + streak.shape[0], left - rim : right + rim]
    below *= streak[: below.shape[0]]


def _door(wall: NDArray[np.float32], middle: int, bottom: int, px: int, rng: np.random.Generator) -> None:
    half, height = int(0.6 * px), int(2.3 * px)
    colour = rng.uniform(35, 95, 3).astype(np.float32)
    wall[bottom - height - 5 : bottom, middle - half - 5 : middle + half + 5] *= 0.7
    wall[bottom - height : bottom, middle - half : middle + half] = colour
    wall[bottom - height + 6 : bottom - height + int(0.6 * px), middle - half + 6 : middle + half - 6] = (62, 58, 54)
    cv2.line(wall, (middle, bottom - height + int(0.65 * px)), (middle, bottom), (20.0, 20.0, 20.0), 2)


def roof(rng: np.random.Generator) -> Picture:
    shape = 120, 480
    y = np.arange(shape[0])[:, None]
    level = 1 + 0.1 * noise(shape, 40, 4, rng) + 0.06 * rng.normal(0, 1, shape).astype(np.float32)
    level *= np.where(y % 8 < 2, 0.78, 1.0)
    tones = [(62, 70, 104), (72, 74, 78), (58, 66, 88)]
    return as_picture(tinted(level.astype(np.float32), tones[int(rng.integers(3))]))


def hedge(rng: np.random.Generator) -> Picture:
    """BGRA, 4 m by 1.6 m, with a ragged top."""
    shape = 128, 320
    leaves = noise(shape, 16, 4, rng, 0.8) + 0.5 * rng.normal(0, 1, shape).astype(np.float32)
    light = np.linspace(1.1, 0.45, shape[0], dtype=np.float32)[:, None]
    picture = tinted((np.clip(0.6 + 0.22 * leaves, 0.12, 1.5) * light).astype(np.float32), (52, 98, 74))
    top = 14 + 7 * noise((1, shape[1]), 14, 3, rng) + rng.normal(0, 2, (1, shape[1]))
    alpha = 255 * (np.arange(shape[0])[:, None] > top)
    return as_picture(np.dstack([picture, alpha.astype(np.float32)]))


def tree(rng: np.random.Generator) -> Picture:
    """BGRA, square: trunk and branches behind and between clusters of leaves, lit from above."""
    side = 768
    picture = np.zeros((side, side, 4), np.uint8)
    hue = np.array([rng.uniform(38, 56), rng.uniform(84, 104), rng.uniform(58, 84)])
    centre, radius = np.array([side / 2, side * 0.37]), np.array([side * 0.36, side * 0.31])
    places = rng.normal(0, 0.42, (300, 2)).clip(-1, 1)
    places = places[np.argsort(-places[:, 1] + rng.normal(0, 0.6, len(places)))]
    lower = [(side // 2, side), (side // 2 + int(rng.normal(0, 10)), int(side * 0.45))]
    _bark(picture, lower, 30, rng)
    for _ in range(9):
        end = centre + radius * rng.uniform(-0.75, 0.75, 2)
        _bark(picture, [(side // 2, int(side * rng.uniform(0.5, 0.68))), (int(end[0]), int(end[1]))], 9, rng)
    for index, place in enumerate(places):
        depth = index / len(places)
        light = 0.45 + 0.5 * depth - 0.28 * place[1]
        _cluster(picture, centre + radius * place, hue * light, rng)
    return picture


def _bark(picture: Picture, line: list[tuple[int, int]], width: int, rng: np.random.Generator) -> None:
    cv2.line(picture, line[0], line[1], (44, 54, 62, 255), width, cv2.LINE_AA)
    for _ in range(width // 2):
        shift = int(rng.uniform(-width / 2.4, width / 2.4))
        tone = float(rng.uniform(28, 82))
        a, b = (line[0][0] + shift, line[0][1]), (line[1][0] + shift // 2, line[1][1])
        cv2.line(picture, a, b, (tone * 0.85, tone * 0.95, tone, 255), 1, cv2.LINE_AA)


def _cluster(picture: Picture, at: NDArray[np.float64], bgr: NDArray[np.float64], rng: np.random.Generator) -> None:
    for _ in range(46):
        spread = rng.normal(0, 22, 2)
        tone = bgr * rng.uniform(0.6, 1.35) * (1 - 0.006 * spread[1])
        size = int(rng.uniform(4, 9)), int(rng.uniform(2, 5))
        spot = int(at[0] + spread[0]), int(at[1] + spread[1])
        colour = (*(float(c) for c in tone.clip(5, 230)), 255.0)
        cv2.ellipse(picture, spot, size, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_8)


def lamp_post() -> Picture:
    """BGRA, 8 m high by 4 m: a post at the left third with an arm over the road to the right."""
    picture = np.zeros((640, 320, 4), np.uint8)
    for offset, tone in ((-3, 70), (-1, 108), (1, 92), (3, 60)):
        cv2.line(picture, (60 + offset, 640), (60 + offset // 2, 40), (tone, tone, tone - 4, 255), 3, cv2.LINE_AA)
    cv2.rectangle(picture, (52, 560), (68, 640), (74, 76, 76, 255), -1)
    cv2.ellipse(picture, (150, 42), (90, 30), 0, 180, 275, (96, 98, 98, 255), 5, cv2.LINE_AA)
    cv2.ellipse(picture, (182, 18), (38, 9), 6, 0, 360, (86, 88, 90, 255), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (184, 23), (28, 5), 6, 0, 360, (196, 206, 208, 255), -1, cv2.LINE_AA)
    return picture


def sign() -> Picture:
    """BGRA, 3 m high by 1 m: a round limit of 50 on a post."""
    picture = np.zeros((480, 160, 4), np.uint8)
    cv2.line(picture, (80, 480), (80, 60), (120, 122, 122, 255), 9, cv2.LINE_AA)
    cv2.circle(picture, (80, 74), 62, (40, 36, 176, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, (80, 74), 47, (224, 226, 226, 255), -1, cv2.LINE_AA)
    cv2.putText(picture, "50", (46, 91), cv2.FONT_HERSHEY_DUPLEX, 1.65, (28, 28, 28, 255), 6, cv2.LINE_AA)
    return picture


def sky(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Overcast: clouds shrink towards the horizon at the lower edge, where haze takes over."""
    field = noise((1024, 1024), 340, 6, rng, 0.55)
    up = (height - np.arange(height, dtype=np.float32))[:, None] / height
    reach = 1.0 / (up + 0.18)
    across = (np.arange(width, dtype=np.float32)[None] / width - 0.5) * 900 * reach
    map_x, map_y = np.broadcast_arrays(across, 260 * reach)
    maps = (map_x + 512).astype(np.float32) % 1022, map_y.astype(np.float32) % 1022
    clouds = cv2.remap(field, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    clouds = cv2.GaussianBlur(np.asarray(clouds, np.float32), (0, 0), 3)
    level = 192 + 17 * clouds * np.clip(up * 3.2, 0, 1) + 18 * (1 - up) ** 3
    return as_picture(tinted(level.astype(np.float32), (1.02, 0.995, 0.96)))


def skyline(width: int, rng: np.random.Generator) -> Picture:
    """BGRA, 96 px high: hills, and woods before them, with haze."""
    picture = np.zeros((96, width, 4), np.float32)
    rows = np.arange(96)[:, None]
    layers = ((34, 300, 15, (182, 176, 166)), (58, 130, 10, (160, 156, 142)), (72, 40, 8, (126, 132, 116)))
    for base, cell, swing, colour in layers:
        top = base + swing * noise((1, width), cell, 5, rng)
        body = np.array(colour, np.float32) * (1 + 0.06 * noise((96, width), 9, 3, rng))[..., None]
        soft = np.clip((rows - top) / 2, 0, 1)[..., None].astype(np.float32)
        picture[..., :3] = picture[..., :3] * (1 - soft) + body * soft
        picture[..., 3:] = np.maximum(picture[..., 3:], 255 * soft)
    return as_picture(picture)
