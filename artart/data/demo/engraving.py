"""Engravings in black line on white: hills with trees and towers, or water, under a hatched sky and a moon."""

import numpy as np

from artart.data.demo.canvas import Canvas, Field, Point, box, ellipse, hatch, hex_colour, inside, outline


def engrave(canvas: Canvas) -> None:
    period, horizon = canvas.uniform(0.066, 0.08), canvas.uniform(0.52, 0.66)
    moon = canvas.uniform(0.22, 0.78), canvas.uniform(0.2, 0.36)
    ink = _engrave_sky(canvas, moon, period)
    layers = int(canvas.rng.integers(2, 4))
    for layer in range(layers):
        base = horizon + 0.3 * layer / layers
        if layer == layers - 1 and canvas.rng.random() < 0.4:
            ink = _engrave_water(canvas, ink, base, moon[0], period)
        else:
            ink = _engrave_hill(canvas, ink, base, period)
    margin = box(canvas.x - 0.5, canvas.y - 0.5, 0.44, 0.44)
    ink = np.maximum(ink * inside(margin), outline(margin, 0.008))
    canvas.lay(hex_colour("f6f4ef") * canvas.uniform(0.94, 1))
    canvas.lay(hex_colour("141318"), 0.97 * ink)


def _engrave_sky(canvas: Canvas, moon: Point, period: float) -> Field:
    x, y = canvas.x - moon[0], canvas.y - moon[1]
    radius, size = np.hypot(x, y), canvas.uniform(0.07, 0.13)
    tone = np.clip(canvas.uniform(0.8, 1.6) * (radius - size), 0.1, canvas.uniform(0.3, 0.55))
    turns = np.arctan2(y, x) / (2 * np.pi) * canvas.rng.integers(16, 22)
    rays = np.where(radius > size + 0.2, hatch(2 * turns, tone), hatch(turns, tone))
    rings = hatch(radius / period, tone)
    level = hatch((canvas.y + 0.05 * canvas.noise(2, 3)) / period, tone + 0.2 * canvas.noise(3, 2))
    sky = (rays, rings, level)[canvas.rng.integers(3)]
    return np.maximum(sky * inside(size + 0.02 - radius), outline(radius - size, 0.007))


def _engrave_hill(canvas: Canvas, ink: Field, base: float, period: float) -> Field:
    below = canvas.ridge(base, canvas.uniform(0.05, 0.14), 3)
    for _ in range(canvas.rng.integers(0, 3)):
        ink = _engrave_tree(canvas, ink, base + 0.03)
    if canvas.rng.random() < 0.3:
        ink = _engrave_tower(canvas, ink, base + 0.05, period)
    tone = np.clip(canvas.uniform(0.5, 0.85) - 2.5 * below + 0.3 * canvas.noise(2, 3), 0.12, 0.85)
    bend = 0.12 * canvas.noise(2, 2) + canvas.uniform(-0.8, 0.8) * canvas.x
    lines = np.maximum(hatch((canvas.y + bend) / period, tone), outline(below, 0.009))
    return _over(ink, lines, inside(-below))


def _engrave_water(canvas: Canvas, ink: Field, base: float, moon: float, period: float) -> Field:
    glint = np.exp(-(((canvas.x - moon) / 0.1) ** 2)) * (0.8 + 0.6 * canvas.noise(14, 4))
    lines = hatch((canvas.y + 0.012 * canvas.noise(5, 9)) / period * 1.1, np.clip(0.62 - 0.7 * glint, 0, 1))
    return _over(ink, lines, inside(base - canvas.y))


def _engrave_tower(canvas: Canvas, ink: Field, base: float, period: float) -> Field:
    half, height = canvas.uniform(0.035, 0.07), canvas.uniform(0.12, 0.3)
    x, up = canvas.x - canvas.uniform(0.2, 0.8), base - canvas.y
    wall = np.maximum(np.abs(x) - half, np.maximum(-up, up - height))
    roof = np.maximum(np.abs(x) - 1.35 * half + 0.6 * (up - height), height - up)
    lines = np.maximum(hatch(canvas.y / period * 1.3, 0.75 * inside(-x)), outline(wall, 0.008))
    return np.maximum(_over(ink, lines, inside(wall)), inside(roof))


def _engrave_tree(canvas: Canvas, ink: Field, base: float) -> Field:
    height, slim, light = canvas.uniform(0.16, 0.34), canvas.uniform(0.16, 0.42), canvas.uniform(-1, 1)
    x, y = canvas.x - canvas.uniform(0.14, 0.86), canvas.y - (base - height * 0.6)
    crown = ellipse(x, y, height * slim, height * 0.5) + 0.018 * canvas.noise(14, 14)
    trunk = box(x, y - height * 0.4, 0.013, height * 0.4)
    leaves = hatch((canvas.y + 0.5 * canvas.x) / 0.045, np.clip(0.75 + (light * x + 0.3 * y) / height * 2.4, 0.3, 1.2))
    ink = np.maximum(ink * inside(-crown + 0.02), inside(trunk))
    return _over(ink, np.maximum(leaves, outline(crown, 0.007)), inside(crown))


def _over(ink: Field, lines: Field, cover: Field) -> Field:
    """Lines that hide the ink beneath them where they cover it."""
    return ink + (lines - ink) * cover
