"""Renders a drive along a street, dry and in rain, to driving_dry.mp4 and driving_rain.mp4.

Everything seen is drawn here: the ground is a texture seen in perspective, houses are textured planes, trees and posts
stand as cut-outs, cars are lofted bodies. A canvas of twice the size is rendered twice a frame, for the blur of motion,
and averaged down, so that edges are as soft as through a lens.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import scene_cars
import scene_textures as textures
from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX, RATE, COUNT = 640, 360, 30, 150
MARGIN_PX = 40  # of the canvas around the picture, for the sway of the camera
CANVAS_W, CANVAS_H = 2 * WIDTH_PX + 2 * MARGIN_PX, 2 * HEIGHT_PX + 2 * MARGIN_PX
FOCAL_PX = 1080.0
HORIZON_PX = MARGIN_PX + 318.0
CENTRE_PX = CANVAS_W / 2
EYE_M = 1.32
SPEED_MPS = 11.5
FAR_M = 260.0
HAZE_M = 330.0
HAZE_BGR = (200.0, 197.0, 190.0)
SHUTTER = 0.35  # share of a frame's time the shutter is open
SUBFRAMES = 2

Picture = textures.Picture
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """A textured rectangle of the world: corners (4, 3) from the upper left, clockwise, x right, y up, z forward."""

    corners: Points
    texture: Picture
    shade: float = 1.0


@dataclass(frozen=True)
class Vehicle:
    """A car; ``speed_mps`` along z, seen from behind where ``ahead``."""

    faces: scene_cars.Faces
    x_m: float
    z_m: float
    speed_mps: float
    ahead: bool


@dataclass(frozen=True)
class World:
    """What stands along the street."""

    ground_levels: list[list[Picture]]
    grain: NDArray[np.float32]
    sky: Picture
    skyline: Picture
    planes: list[Plane]
    vehicles: list[Vehicle]
    shadow: Picture


def build(rng: np.random.Generator) -> World:
    planes = [*_houses(rng), *_greenery(rng), *_furniture()]
    return World(
        ground_levels=_levels(textures.ground(rng)),
        grain=textures.noise((1024, 1024), 24, 5, rng, 0.8),
        sky=textures.sky(round(HORIZON_PX) + 2, CANVAS_W, rng),
        skyline=textures.skyline(CANVAS_W, rng),
        planes=planes,
        vehicles=_vehicles(),
        shadow=_shadow(),
    )


def _levels(ground: Picture) -> list[list[Picture]]:
    """Halved along z in rows and along x in columns: the footprint of a pixel on the ground is long and narrow."""
    levels = []
    for _ in range(8):
        row = [ground]
        for _ in range(5):
            row.append(_halved(row[-1], 1, 2))
        levels.append(row)
        ground = _halved(ground, 2, 1)
    return levels


def _halved(picture: Picture, by_y: int, by_x: int) -> Picture:
    size = picture.shape[1] // by_x, picture.shape[0] // by_y
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _houses(rng: np.random.Generator) -> list[Plane]:
    walls = [(150, 178, 196), (120, 138, 168), (176, 190, 196), (96, 112, 150), (160, 170, 172), (128, 160, 184)]
    planes: list[Plane] = []
    for side in (-1, 1):
        z_m, index = -10.0 if side > 0 else -4.0, 0
        while z_m < FAR_M + 60:
            width, floors = float(rng.uniform(10, 17)), int(rng.integers(2, 5))
            wall = walls[int(rng.integers(len(walls)))]
            x_m = side * (11.5 + float(rng.uniform(0, 1.6)))
            planes += _house(x_m, z_m, width, floors, (float(wall[0]), float(wall[1]), float(wall[2])), rng)
            z_m += width + (float(rng.uniform(3, 9)) if index % 3 == 2 else float(rng.uniform(0, 0.6)))
            index += 1
    return planes


def _house(
    x_m: float, z_m: float, width_m: float, floors: int, wall: tuple[float, float, float], rng: np.random.Generator
) -> list[Plane]:
    """Front along the street, the end that faces the camera, and the slope of the roof."""
    height, side, deep = floors * 3.0 + 0.8, np.sign(x_m), 9.0
    front = textures.facade(width_m, floors, wall, rng)
    light = 0.94 if side > 0 else 1.04
    planes = _strip(front, (x_m, z_m), width_m, height, light)
    end = textures.gable(textures.facade(deep, floors, wall, rng), 3.0, wall, rng)
    outer = x_m + side * deep
    left, right = min(x_m, outer), max(x_m, outer)
    planes.append(Plane(_upright(left, right, 0, height + 3.0, z_m), end, 0.8))
    ridge = x_m + side * 4.5
    slope = [(x_m - side * 0.4, height - 0.1, z_m), (x_m - side * 0.4, height - 0.1, z_m + width_m)]
    top = [(ridge, height + 3, z_m + width_m), (ridge, height + 3, z_m)]
    planes.append(Plane(np.array([top[1], top[0], slope[1], slope[0]], np.float64), textures.roof(rng), 1.0))
    return planes


def _strip(texture: Picture, at: tuple[float, float], length_m: float, height_m: float, shade: float) -> list[Plane]:
    """A plane along the street in pieces of about 2 m, each sampled at its own distance."""
    pieces = max(1, round(length_m / 2))
    edges_px = np.linspace(0, texture.shape[1], pieces + 1).round().astype(int)
    planes = []
    for a, b in pairwise(edges_px):
        z0, z1 = (at[1] + length_m * float(e) / texture.shape[1] for e in (a, b))
        x = at[0]
        corners = [(x, height_m, z0), (x, height_m, z1), (x, 0.0, z1), (x, 0.0, z0)]
        planes.append(Plane(np.array(corners), np.ascontiguousarray(texture[:, a:b]), shade))
    return planes


def _upright(left_m: float, right_m: float, low_m: float, high_m: float, z_m: float) -> Points:
    """Corners of a rectangle that faces the camera."""
    return np.array([(left_m, high_m, z_m), (right_m, high_m, z_m), (right_m, low_m, z_m), (left_m, low_m, z_m)])


def _greenery(rng: np.random.Generator) -> list[Plane]:
    trees, hedges = [textures.tree(rng) for _ in range(5)], [textures.hedge(rng) for _ in range(3)]
    planes: list[Plane] = []
    for side in (-1, 1):
        z_m = 6.0 if side > 0 else 11.0
        while z_m < FAR_M:
            size, x_m = float(rng.uniform(5.5, 8.5)), side * (8.9 + float(rng.uniform(-0.3, 0.5)))
            texture = trees[int(rng.integers(5))][:, :: int(rng.choice([-1, 1]))]
            planes.append(Plane(_upright(x_m - size / 2, x_m + size / 2, -0.05, size, z_m), texture))
            z_m += float(rng.uniform(9, 17))
        for start in np.arange(-8, FAR_M, 4.0):
            if rng.random() < 0.6:
                planes += _strip(hedges[int(rng.integers(3))], (side * 10.6, float(start)), 4.0, 1.3, 1.0)
    return planes


def _furniture() -> list[Plane]:
    post, sign = textures.lamp_post(), textures.sign()
    planes = []
    for z_m in np.arange(14.0, FAR_M, 32.0):
        planes.append(Plane(_upright(-7.15, -3.15, 0, 8, z_m), post))
        planes.append(Plane(_upright(3.15, 7.15, 0, 8, z_m + 16), post[:, ::-1]))
    for z_m in (38.0, 122.0):
        planes.append(Plane(_upright(6.0, 6.85, 0, 2.6, z_m), sign))
    return planes


def _vehicles() -> list[Vehicle]:
    paints: dict[str, tuple[float, float, float]] = {
        "silver": (168, 166, 162), "red": (42, 38, 150), "blue": (124, 74, 38), "white": (206, 208, 208),
        "black": (44, 42, 40), "green": (70, 84, 52), "sand": (122, 148, 164),
    }  # fmt: skip
    made = [Vehicle(scene_cars.car(paints["red"], 1.0, True), 1.75, 12.5, SPEED_MPS + 0.5, True)]
    for name, z_m, speed in (("silver", 62, 11), ("blue", 118, 12), ("white", 150, 11.5), ("black", 215, 12)):
        made.append(Vehicle(scene_cars.car(paints[name], 1.02), -1.75, z_m, -speed, False))
    right = (("blue", 15), ("white", 22), ("black", 40), ("sand", 47), ("silver", 66), ("red", 84), ("green", 96))
    left = (("sand", 20), ("black", 33), ("green", 39), ("silver", 58), ("white", 79), ("blue", 101), ("red", 110))
    for name, z_m in right:
        made.append(Vehicle(scene_cars.car(paints[name], 1.04), 4.6, z_m, 0.0, True))
    for name, z_m in left:
        made.append(Vehicle(scene_cars.car(paints[name], 1.0), -4.6, z_m, 0.0, False))
    return made


def _shadow() -> Picture:
    picture = np.zeros((96, 64, 4), np.uint8)
    cv2.rectangle(picture, (14, 16), (50, 80), (8, 8, 8, 235), -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 5), np.uint8)


class Canvas:
    """What one instant looks like from x_m, z_m: drawn from far to near."""

    def __init__(self, world: World, x_m: float, z_m: float, time_s: float) -> None:
        self.world, self.x_m, self.z_m, self.time_s = world, x_m, z_m, time_s
        self.picture: Picture = np.zeros((CANVAS_H, CANVAS_W, 3), np.uint8)
        self.bare = np.full((CANVAS_H, CANVAS_W), 255, np.uint8)  # where ground is seen

    def render(self) -> Picture:
        self._draw_backdrop()
        self._draw_ground()
        for _, draw in sorted(self._things(), key=lambda thing: -thing[0]):
            draw()
        self._wet()
        return self.picture

    def _draw_backdrop(self) -> None:
        rows = self.world.sky.shape[0]
        self.picture[:rows] = self.world.sky
        strip = self.world.skyline
        top = round(HORIZON_PX) - strip.shape[0] + 4
        alpha = strip[..., 3:].astype(np.float32) / 255
        under = self.picture[top : top + strip.shape[0]]
        under[:] = (under * (1 - alpha) + strip[..., :3] * alpha).astype(np.uint8)

    def _draw_ground(self) -> None:
        first = int(HORIZON_PX) + 1
        z: Points = EYE_M * FOCAL_PX / (np.arange(first, CANVAS_H, dtype=np.float64) + 0.5 - HORIZON_PX)
        level_z = np.clip(np.log2(z**2 / (FOCAL_PX * EYE_M) / textures.ROAD_STEP_Z_M), 0, 6.999)
        level_x = np.clip(np.round(np.log2(z / FOCAL_PX / textures.ROAD_STEP_X_M)), 0, 5).astype(int)
        pairs = np.floor(level_z).astype(int) * 8 + level_x
        for pair in np.unique(pairs):
            rows = np.flatnonzero(pairs == pair)
            blend = (level_z[rows] % 1)[:, None, None].astype(np.float32)
            near, far = (self._sampled(z[rows], pair // 8 + k, pair % 8) for k in (0, 1))
            mixed = near * (1 - blend) + far * blend
            self.picture[first + rows[0] : first + rows[-1] + 1] = self._hazy(self._grained(mixed, z[rows]), z[rows])

    def _sampled(self, z: Points, level_z: int, level_x: int) -> NDArray[np.float32]:
        texture = self.world.ground_levels[level_z][level_x]
        x = self.x_m + (np.arange(CANVAS_W) + 0.5 - CENTRE_PX)[None] * z[:, None] / FOCAL_PX
        x = np.clip(x, 0.2 - textures.ROAD_HALF_M, textures.ROAD_HALF_M - 0.2)
        map_x = (x + textures.ROAD_HALF_M) / textures.ROAD_STEP_X_M / 2**level_x - 0.5
        map_y = ((z + self.z_m) % textures.ROAD_PERIOD_M)[:, None] / textures.ROAD_STEP_Z_M / 2**level_z - 0.5
        maps = map_x.astype(np.float32), np.broadcast_to(map_y, map_x.shape).astype(np.float32)
        return np.asarray(cv2.remap(texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)

    def _grained(self, rows: NDArray[np.float32], z: Points) -> NDArray[np.float32]:
        """Fine grain close to the camera, where the texture alone would look like paper."""
        weight = np.clip(1 - (z - 4) / 9, 0, 1)
        if not weight.any():
            return rows
        x = (self.x_m + (np.arange(CANVAS_W) - CENTRE_PX)[None] * z[:, None] / FOCAL_PX) / 0.007
        y = np.broadcast_to(((z + self.z_m) / 0.012)[:, None], x.shape)
        maps = (x % 1024).astype(np.float32), (y % 1024).astype(np.float32)
        grain = cv2.remap(self.world.grain, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return (rows * (1 + 0.07 * grain * weight[:, None])[..., None]).astype(np.float32)

    def _hazy(self, rows: NDArray[np.float32], z: Points) -> Picture:
        clear = np.exp(-z / HAZE_M)[:, None, None]
        return textures.as_picture(rows * clear + np.array(HAZE_BGR) * (1 - clear))

    def _things(self) -> Iterator[tuple[float, Callable[[], None]]]:
        eye = np.array([self.x_m, EYE_M, self.z_m])
        for plane in self.world.planes:
            seen = plane.corners - eye
            if seen[:, 2].min() > 1.2 and seen[:, 2].min() < FAR_M:
                yield float(np.hypot(*seen.mean(0)[[0, 2]])), _later(self._draw_plane, seen, plane)
        for vehicle in self.world.vehicles:
            z_m = vehicle.z_m + vehicle.speed_mps * self.time_s
            if 1.0 < z_m - self.z_m < FAR_M and abs(z_m - self.z_m) > 1.2:
                away = float(np.hypot(vehicle.x_m - self.x_m, z_m + 2 - self.z_m))
                yield away, _later(self._draw_vehicle, vehicle, z_m, eye)

    def _draw_plane(self, seen: Points, plane: Plane) -> None:
        self.warp(seen, plane.texture, plane.shade)

    def warp(self, seen: Points, texture: Picture, shade: float = 1.0) -> None:
        """Draws a texture between four corners, seen from the eye."""
        corners = _projected(seen)
        left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [CANVAS_W, CANVAS_H])
        if right - left < 2 or bottom - top < 2:
            return
        texture = _fitting(texture, corners)
        clear = float(np.exp(-seen[:, 2].mean() / HAZE_M))
        height, width = texture.shape[:2]
        source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(source, (corners - [left, top] - 0.5).astype(np.float32))
        size = int(right - left), int(bottom - top)
        cut_out = texture.shape[2] == 4
        border = cv2.BORDER_CONSTANT if cut_out else cv2.BORDER_REPLICATE
        patch = np.asarray(cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border))
        colour = patch[..., :3].astype(np.float32) * (shade * clear) + np.array(HAZE_BGR, np.float32) * (1 - clear)
        alpha = patch[..., 3] if cut_out else self._inside(corners - [left, top], size)
        self._blend(colour, alpha, int(left), int(top))

    def _inside(self, corners: Points, size: tuple[int, int]) -> NDArray[np.uint8]:
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillConvexPoly(mask, np.round(corners.clip(-3000, 6000) * 16).astype(np.int32), 255, cv2.LINE_8, 4)
        return mask

    def _blend(self, colour: NDArray[np.float32], alpha: NDArray[Any], left: int, top: int) -> None:
        place = slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1])
        share = (alpha.astype(np.float32) / 255)[..., None]
        under = self.picture[place]
        under[:] = np.clip(under * (1 - share) + colour * share, 0, 255).astype(np.uint8)
        self.bare[place] = np.minimum(self.bare[place], 255 - alpha)

    def _draw_vehicle(self, vehicle: Vehicle, z_m: float, eye: Points) -> None:
        x, end = vehicle.x_m, z_m + scene_cars.LENGTH_M
        ground = [
            (x - 1.35, 0, end + 0.9),
            (x + 1.35, 0, end + 0.9),
            (x + 1.35, 0, z_m - 0.8),
            (x - 1.35, 0, z_m - 0.8),
        ]
        if (np.array(ground) - eye)[:, 2].min() > 0.8:
            self.warp(np.array(ground) - eye, self.world.shadow)
        faces = scene_cars.placed(vehicle.faces, x, z_m, vehicle.ahead)
        middle = np.array([x, 0.6, z_m + scene_cars.LENGTH_M / 2])
        clear = float(np.exp(-(z_m - self.z_m) / HAZE_M))
        for index in _visible(faces, middle, eye):
            corners = _projected(faces.corners[index] - eye)
            colour = faces.colours[index] * clear + np.array(HAZE_BGR) * (1 - clear)
            whole = np.round(corners.clip(-4000, 8000) * 16).astype(np.int32)
            cv2.fillConvexPoly(self.picture, whole, tuple(float(c) for c in colour.clip(0, 255)), cv2.LINE_8, 4)
            cv2.fillConvexPoly(self.bare, whole, 0, cv2.LINE_8, 4)

    def _wet(self) -> None:
        """The road mirrors what stands above the horizon, more so at a glance (Schlick's approximation)."""
        first = int(HORIZON_PX) + 1
        rows = CANVAS_H - first
        above = self.picture[max(0, first - rows) : first][::-1]
        above = np.pad(above, ((0, rows - above.shape[0]), (0, 0), (0, 0)), mode="edge")
        mirror = np.asarray(cv2.GaussianBlur(above, (0, 0), sigmaX=4, sigmaY=26), np.float32)
        z = EYE_M * FOCAL_PX / (np.arange(rows) + 0.5)
        fresnel = 0.03 + 0.6 * (1 - EYE_M / np.hypot(EYE_M, z)) ** 5
        x = self.x_m + (np.arange(CANVAS_W) - CENTRE_PX)[None] * z[:, None] / FOCAL_PX
        share = fresnel[:, None] * (np.abs(x) < 5.7) * (self.bare[first:] / 255)
        share = share[..., None].astype(np.float32)
        below = self.picture[first:]
        below[:] = (below * (1 - share) + mirror * share).astype(np.uint8)


def _later(draw: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: draw(*arguments)


def _projected(seen: Points) -> Points:
    """(N, 2) canvas pixels of points relative to the eye."""
    z = np.maximum(seen[:, 2:], 0.3)
    return np.asarray(seen[:, :2] * [1, -1] * FOCAL_PX / z + [CENTRE_PX, HORIZON_PX])


def _fitting(texture: Picture, corners: Points) -> Picture:
    """The texture averaged down to about the size it is seen at, so that it does not shimmer."""
    wide = max(np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[2] - corners[3]))
    high = max(np.linalg.norm(corners[3] - corners[0]), np.linalg.norm(corners[2] - corners[1]))
    size = [
        max(1, min(have, round(float(want)))) for have, want in zip(texture.shape[1::-1], (wide, high), strict=True)
    ]
    if size == list(texture.shape[1::-1]):
        return texture
    return np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _visible(faces: scene_cars.Faces, middle: Points, eye: Points) -> NDArray[np.int64]:
    """Indices of faces turned towards the eye, from far to near, fixtures last."""
    centres = faces.corners.mean(1)
    normals = np.cross(faces.corners[:, 2] - faces.corners[:, 0], faces.corners[:, 3] - faces.corners[:, 1])
    outward = np.sign(((centres - middle) * normals).sum(1))
    towards = (normals * (eye - centres)).sum(1) * outward > 0
    near = faces.corners[:, :, 2].min(1) - eye[2] > 0.35
    away = np.linalg.norm(centres - eye, axis=1)
    chosen = np.flatnonzero(towards & near)
    return chosen[np.lexsort((-away[chosen], faces.order[chosen]))]


def frames(world: World, rng: np.random.Generator, only: set[int] | None = None) -> Iterator[Picture]:
    """The drive, (HEIGHT_PX, WIDTH_PX, 3) each."""
    for index in range(COUNT):
        sensor = rng.normal(0, 1, (HEIGHT_PX, WIDTH_PX)).astype(np.float32)
        if only is not None and index not in only:
            continue
        instants = (index + SHUTTER * np.arange(SUBFRAMES) / SUBFRAMES) / RATE
        light = np.mean([_through_lens(world, float(t)) for t in instants], axis=0)
        yield _developed(light.astype(np.float32), sensor)


def _through_lens(world: World, time_s: float) -> NDArray[np.float32]:
    """One instant, swayed as a car on its springs, at the size of the picture."""
    x_m = 1.72 + 0.05 * np.sin(0.9 * time_s)
    canvas = Canvas(world, x_m, SPEED_MPS * time_s, time_s).render()
    up = 4.5 * np.sin(9.4 * time_s) * np.sin(1.3 * time_s + 0.4) + 2.2 * np.sin(21 * time_s + 1)
    roll = 0.18 * np.sin(3.1 * time_s) + 0.08 * np.sin(11 * time_s)
    matrix = cv2.getRotationMatrix2D((CENTRE_PX, CANVAS_H / 2), roll, 1.0)
    matrix[:, 2] += [3 * np.sin(1.1 * time_s) - MARGIN_PX, up - MARGIN_PX]
    level = cv2.warpAffine(canvas, matrix, (2 * WIDTH_PX, 2 * HEIGHT_PX), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(level, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA), np.float32)


def _developed(light: NDArray[np.float32], sensor: NDArray[np.float32]) -> Picture:
    """Bonnet, soft lens, glare of the sky, vignette, tone and sensor noise."""
    light = _bonnet(light)
    soft = cv2.GaussianBlur(light, (0, 0), 0.55)
    glare = cv2.GaussianBlur(light, (0, 0), 22)
    light = np.asarray(0.9 * soft + 0.1 * glare, np.float32)
    y, x = np.mgrid[-1 : 1 : HEIGHT_PX * 1j, -1 : 1 : WIDTH_PX * 1j]
    vignette = (1 - 0.17 * (x**2 + y**2) ** 1.2 / 2)[..., None]
    tone = np.clip(1.07 * light * vignette / 255, 0, 1)
    tone = 0.82 * tone + 0.18 * tone * tone * (3 - 2 * tone)
    return textures.as_picture(tone * np.array([255, 252, 248]) + 1.1 * sensor[..., None])


def _bonnet(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """The dark bonnet of our own car, which mirrors a little sky."""
    x = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)
    edge = HEIGHT_PX - 20 + 15 * np.abs(x) ** 2.6
    y = np.arange(HEIGHT_PX, dtype=np.float32)[:, None]
    alpha = np.clip((y - edge) / 2.5, 0, 1)[..., None]
    gleam = 22 + 74 * np.exp(-np.abs(y - edge - 3) / 5) * (1 - 0.6 * x**2)
    return np.asarray(light * (1 - alpha) + alpha * gleam[..., None] * np.array([1.05, 1.0, 0.94]), np.float32)


def rainy(clear: list[Picture], seed: int) -> list[Picture]:
    """Rain of three depths over the clip, by the renderer the training uses."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout
    import torch

    from vderain.rain.streaks import Light, StreakLayer, rain_onto, streak_opacity

    rng = torch.Generator().manual_seed(seed)
    style = (
        StreakLayer(angle_deg=7, length_px=52, width_px=2.3, density=1.8, opacity=0.42),
        StreakLayer(angle_deg=9, length_px=26, width_px=1.3, density=8.0, opacity=0.45),
        StreakLayer(angle_deg=8, length_px=13, width_px=0.9, density=20.0, opacity=0.38),
    )
    light = Light(ambient=0.45, sky=0.86, occlusion=0.75, haze=0)
    out: list[Picture] = []
    for picture in clear:
        opacity = streak_opacity(style, HEIGHT_PX, WIDTH_PX, rng)
        image = torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]
        raindrop_score = rain_onto(image, opacity, light)[0].permute(1, 2, 0).numpy()
        out.append(textures.as_picture(np.round(raindrop_score * 255)))
    return out


def engine_sound(rng: np.random.Generator, rate_hz: int = 32000) -> NDArray[np.float32]:
    """(1, samples): a hum and the hiss of tyres, quiet."""
    t = np.arange(COUNT * rate_hz // RATE) / rate_hz
    hum = sum(np.sin(2 * np.pi * f * t + 0.4 * np.sin(2 * np.pi * 0.7 * t)) / k for k, f in enumerate((58, 87, 116), 1))
    hiss = np.convolve(rng.normal(0, 1, len(t)), np.ones(12) / 12, mode="same")
    return (0.02 * np.asarray(hum) + 0.05 * hiss).astype(np.float32)[None]


def encode(path: Path, pictures: list[Picture], crf: int, sound: NDArray[np.float32] | None = None) -> None:
    """H.264 in BT.709, limited range, with AAC where there is sound."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": str(crf), "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        video.codec_context.color_primaries = video.codec_context.color_trc = video.codec_context.colorspace = 1
        video.codec_context.color_range = 1
        audio = container.add_stream("aac", rate=32000, layout="mono", bit_rate=48000) if sound is not None else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            _encode_sound(container, audio, sound)


def _encode_sound(container: Any, audio: Any, sound: NDArray[np.float32]) -> None:
    for start in range(0, sound.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1024]), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 32000, start, Fraction(1, 32000)
        container.mux(audio.encode(frame))
    container.mux(audio.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the two clips")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--crf", type=int, default=22, help="of the dry clip; streaks cost bits, rain gets 2 more")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    clear = list(frames(build(rng), rng))
    encode(arguments.out / "driving_dry.mp4", clear, arguments.crf)
    encode(arguments.out / "driving_rain.mp4", rainy(clear, arguments.seed), arguments.crf + 2, engine_sound(rng))


if __name__ == "__main__":
    main()
