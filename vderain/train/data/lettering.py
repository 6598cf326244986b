"""Paints signs into photographs: words, number plates, logos, stripes and other detail with hard edges.

What people made to be read is where a generator does most harm: it takes strokes for streaks, and gaps between them for
drops.
"""

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/.&"
GLYPH_PX = 64  # height in which words are drawn, before they are reduced
SMALLEST_PX = 6  # of the height of a sign
OPENCV_FONTS = 8  # of Hershey, numbered from 0
PATTERNS = "stripes", "chevrons", "checks", "rings"

Picture = NDArray[np.uint8]  # (h, w, 3) RGB
Mask = NDArray[np.uint8]  # (h, w), 0..255


def with_lettering(
    picture: Picture, rng: np.random.Generator, count: int | None = None, tallest_px: float = math.inf
) -> tuple[Picture, Mask]:
    """Paint signs into a picture.

    Args:
        picture: (H, W, 3) uint8 RGB.
        rng: random number generator.
        count: number of signs; one to three if not given.
        tallest_px: height of a sign that is not exceeded.

    Returns:
        The picture with the signs, and how much of each pixel they cover, (H, W) 0..255.
    """
    painted, covered = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    for _ in range(int(rng.integers(1, 4)) if count is None else count):
        sign, cover = _placed(*_sign(rng), picture.shape[:2], rng, tallest_px)
        opaque = cover.astype(np.float32) / 255
        painted = np.asarray(cv2.blendLinear(sign, painted, opaque, 1 - opaque), np.uint8)
        covered = np.maximum(covered, cover)
    return painted, covered


def _sign(rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Draw a sign, (h, w, 3) RGB, and its cover: a panel, or letters without one."""
    ink = _pattern(rng) if rng.random() < 0.25 else _words(rng)
    margin_px = int(rng.integers(4, GLYPH_PX // 2))
    ink = np.pad(ink, margin_px)
    bright, dark = (np.array(_colour(rng, *levels)) for levels in ((150, 255), (0, 90)))
    over, under = (bright, dark) if rng.random() < 0.5 else (dark, bright)
    share = ink[..., None] / np.float32(255)
    sign = (share * over + (1 - share) * under + 0.5).astype(np.uint8)
    if rng.random() < 0.3:
        return sign, ink
    if rng.random() < 0.5:
        inset_px = margin_px // 3
        corner = sign.shape[1] - 1 - inset_px, sign.shape[0] - 1 - inset_px
        cv2.rectangle(sign, (inset_px, inset_px), corner, over.tolist(), max(1, margin_px // 6), cv2.LINE_AA)
    return sign, np.full(ink.shape, 255, np.uint8)


def _colour(rng: np.random.Generator, low: int, high: int) -> list[int]:
    """Draw a colour; a third of them are grey."""
    if rng.random() < 1 / 3:
        return [int(rng.integers(low, high))] * 3
    return [int(level) for level in rng.integers(low, high, 3)]


def _words(rng: np.random.Generator) -> Mask:
    """Draw one to three lines of letters and digits."""
    lines = [_word("".join(rng.choice(list(ALPHABET), rng.integers(2, 9))), rng) for _ in range(rng.integers(1, 4))]
    width_px = max(line.shape[1] for line in lines)
    gap_px = int(rng.integers(2, GLYPH_PX // 3))
    return np.vstack([np.pad(line, ((0, gap_px), (0, width_px - line.shape[1]))) for line in lines])


def _word(word: str, rng: np.random.Generator) -> Mask:
    """Draw a word with a font of OpenCV or that of Pillow, `GLYPH_PX` high and squeezed or stretched."""
    if rng.random() < 0.5:
        stroke_px = int(rng.integers(0, 3))
        left, top, right, bottom = _font().getbbox(word, stroke_width=stroke_px)
        sheet = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
        ImageDraw.Draw(sheet).text((-left, -top), word, 255, _font(), stroke_width=stroke_px)
        drawn = np.asarray(sheet, np.uint8)
    else:
        font, scale, stroke_px = int(rng.integers(OPENCV_FONTS)), GLYPH_PX / 30, int(rng.integers(2, 11))
        (width_px, height_px), baseline_px = cv2.getTextSize(word, font, scale, stroke_px)
        drawn = np.zeros((height_px + baseline_px + 2 * stroke_px, width_px + 2 * stroke_px), np.uint8)
        cv2.putText(drawn, word, (stroke_px, height_px + stroke_px), font, scale, 255, stroke_px, cv2.LINE_AA)
    width_px = max(1, round(drawn.shape[1] / max(1, drawn.shape[0]) * GLYPH_PX * rng.uniform(0.6, 1.3)))
    return np.asarray(cv2.resize(drawn, (width_px, GLYPH_PX), interpolation=cv2.INTER_AREA), np.uint8)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(GLYPH_PX)


def _pattern(rng: np.random.Generator) -> Mask:
    """Draw a regular pattern: barriers, arrows of a bend, chequered bands, targets."""
    width_px, period_px = int(GLYPH_PX * rng.uniform(1, 4)), rng.uniform(8, 40)
    y, x = np.mgrid[:GLYPH_PX, :width_px].astype(np.float32)
    from_left, from_top = x - width_px / 2, y - GLYPH_PX / 2
    match rng.choice(PATTERNS):
        case "stripes":
            angle = rng.uniform(0, math.pi)
            phase = x * math.cos(angle) + y * math.sin(angle)
        case "chevrons":
            phase = x + np.abs(from_top)
        case "rings":
            phase = np.hypot(from_left, from_top)
        case _:
            on = (x // (period_px / 2) + y // (period_px / 2)) % 2 > 0
            return np.asarray(on * np.uint8(255))
    return np.asarray((phase / period_px % 1 < 0.5) * np.uint8(255))


def _placed(
    sign: Picture, cover: Mask, shape: tuple[int, ...], rng: np.random.Generator, tallest_px: float
) -> tuple[Picture, Mask]:
    """Reduce a sign, turn it a little as seen from the side, dim it, and lay it at a random place of a frame."""
    height_px, width_px = shape
    fits_px = max(SMALLEST_PX + 1, 0.9 * min(height_px, width_px * sign.shape[0] / sign.shape[1]))
    tall_px = math.exp(rng.uniform(math.log(SMALLEST_PX), math.log(min(fits_px, tallest_px))))
    size = max(2, round(tall_px * sign.shape[1] / sign.shape[0])), max(2, round(tall_px))
    small, covered = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (sign, cover))
    dimmed = (small * rng.uniform(0.45, 1.0)).astype(np.uint8)
    place = np.array([rng.uniform(-0.1, 0.9) * width_px, rng.uniform(-0.1, 0.9) * height_px])
    corners = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], np.float32)
    angle = math.radians(rng.normal() * 4)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    seen = corners @ turn.T + place + rng.normal(size=(4, 2)) * 0.04 * size[1]
    matrix = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    blur_px = rng.uniform(0.3, 0.9)
    laid = [cv2.warpPerspective(part, matrix, (width_px, height_px)) for part in (dimmed, covered)]
    return np.asarray(laid[0], np.uint8), np.asarray(cv2.GaussianBlur(laid[1], (0, 0), blur_px), np.uint8)
