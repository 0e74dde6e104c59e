"""Landscapes in oil: hills under a coloured sky, then a sea with boats or a meadow, all in brush dabs."""

from typing import Final

import numpy as np

from artart.data.demo.canvas import Canvas, Field, ellipse, hex_colour, inside, smoothstep, turn

HOURS: Final = (  # sky, horizon, sun, land, water
    ("2f6fb5", "cfe3e8", "fff6c8", "3f6b3a", "2f6f8f"),
    ("3a2f6b", "f08a4b", "ffe27a", "3b2a4f", "7a3f5f"),
    ("7fa8c9", "f6c9b0", "fff0d8", "6a7f6a", "7fa0a8"),
    ("0f1f4a", "2f5a8a", "f7e9a0", "14283a", "1a3f6a"),
    ("d9773a", "f9d27a", "fff4c0", "8a4a24", "b5683a"),
    ("4fa3a8", "f4e7b0", "fff8d8", "4a7f4f", "2f8f8a"),
)


def landscape(canvas: Canvas) -> None:
    top, low, sun, land, water = HOURS[canvas.rng.integers(len(HOURS))]
    horizon = canvas.uniform(0.42, 0.66)
    _paint_sky(canvas, horizon, top, low, sun)
    layers = int(canvas.rng.integers(1, 4))
    for layer in range(layers):
        below = canvas.ridge(horizon - 0.12 + 0.1 * layer, 0.13, 3 + layer)
        near = (layer + 1) / layers
        colour = canvas.pick(land) * (0.55 + 0.45 * near) + canvas.pick(low) * 0.45 * (1 - near)
        canvas.lay(colour, inside(-below, 0.015))
    _brush(canvas, 0.16, 0.035)
    at_sea = canvas.rng.random() < 0.5
    if at_sea:
        _paint_sea(canvas, horizon, hex_colour(water), hex_colour(sun))
    else:
        _paint_meadow(canvas, horizon)
    _brush(canvas, 0.08, 0.022)
    if at_sea:
        _paint_boats(canvas, horizon)


def _paint_sky(canvas: Canvas, horizon: float, top: str, low: str, sun: str) -> None:
    canvas.lay(canvas.pick(top))
    canvas.lay(canvas.pick(low), smoothstep(canvas.y / horizon))
    distance = np.hypot(canvas.x - canvas.uniform(0.15, 0.85), canvas.y - canvas.uniform(0.12, horizon - 0.08))
    radius = canvas.uniform(0.045, 0.09)
    canvas.lay(hex_colour(sun), 0.6 * np.exp(-((distance / radius / 2.5) ** 2)))
    clouds = smoothstep(canvas.noise(6, 2, 3) * 1.6 - canvas.uniform(-0.2, 0.6))
    canvas.lay(hex_colour(sun) * 0.95, 0.6 * clouds)
    canvas.lay(hex_colour(sun), inside(distance - radius, 0.02))


def _paint_sea(canvas: Canvas, horizon: float, water: Field, sun: Field) -> None:
    shore = canvas.y - horizon - 0.06
    canvas.lay(water * (1.15 - 0.5 * np.clip(shore, 0, 1)[..., None]), inside(-shore))
    path = np.exp(-(((canvas.x - canvas.uniform(0.2, 0.8)) / 0.18) ** 2))
    glitter = smoothstep(canvas.noise(22, 5) * 1.4 - 0.35) * path
    canvas.lay(sun, 0.9 * glitter * inside(-shore))


def _paint_boats(canvas: Canvas, horizon: float) -> None:
    for _ in range(canvas.rng.integers(0, 4)):
        centre, drop = canvas.uniform(0.15, 0.85), canvas.uniform(0.1, 0.24)
        size = (0.3 + drop) * canvas.uniform(0.22, 0.36)
        x = (canvas.x - centre + 0.01 * canvas.noise(9, 9)) / size
        up = (horizon + drop - canvas.y) / size
        sail = np.maximum(np.abs(x - 0.1) - 0.6 * (1.9 - up) / 1.9, 0.3 - up)
        hull = np.maximum(np.abs(x) - 0.7 - 0.5 * up, np.abs(up) - 0.2)
        tone = 1 - 0.25 * smoothstep((x - 0.05) / 0.2)[..., None]
        canvas.lay(canvas.pick("f7efdc", "d9542f", "f2c24f", "e8d8c0") * tone, 0.95 * inside(sail, 0.15))
        canvas.lay(canvas.pick("3a2118", "5a2a20"), inside(hull, 0.15))


def _paint_meadow(canvas: Canvas, horizon: float) -> None:
    below = canvas.ridge(horizon + 0.1, 0.1, 2)
    field = canvas.pick("6f8f3a", "b59a3a", "c9a545", "4f7a4a", "8a7a9f")
    canvas.lay(field * (1.1 - 0.8 * np.clip(below, 0, 1)[..., None]), inside(-below, 0.015))
    dots = smoothstep(canvas.noise(14, 14) * 3 - 1.2) * inside(0.03 - below)
    canvas.lay(canvas.pick("d9341f", "f2d24a", "f4f0ea", "b55a9f"), 0.95 * dots)
    for _ in range(canvas.rng.integers(0, 4)):
        x, height = canvas.x - canvas.uniform(0.05, 0.95), canvas.uniform(0.2, 0.45)
        y = canvas.y - horizon - canvas.uniform(0.12, 0.25) + height / 2
        tree = ellipse(x, y, height * canvas.uniform(0.14, 0.3), height / 2)
        canvas.lay(canvas.pick("1f3a24", "2f4a2a", "3a3a1f"), inside(tree + 0.02 * canvas.noise(12, 12)))


def _brush(canvas: Canvas, length: float, width: float) -> None:
    """Replace the image by dabs length x width, each of the colour found under its own middle."""
    angle = canvas.uniform(-0.5, 0.5)
    table = canvas.rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    along, across = turn(canvas.x + 0.03 * canvas.noise(4, 4), canvas.y + 0.09 * canvas.noise(3, 3), angle)
    row = np.floor(across / width)
    shift = table[row.astype(int) % 64, 0]
    column = np.floor(along / length + shift)
    dx, dy = turn((column + 0.5 - shift) * length - along, (row + 0.5) * width - across, -angle)
    source = tuple(np.clip((p * canvas.side).astype(int), 0, canvas.side - 1) for p in (canvas.y + dy, canvas.x + dx))
    tone = 0.07 * table[row.astype(int) % 64, column.astype(int) % 64] + 0.07 * (0.5 - (across / width - row))
    canvas.rgb = 0.75 * canvas.rgb[source] + 0.25 * canvas.rgb + tone[..., None]
