"""Drawings in ink and wash on toned paper: fruit on a table, a sprig in flower, a bouquet in a pot."""

from typing import NamedTuple

import numpy as np

from artart.data.demo.canvas import Canvas, Field, Point, box, ellipse, hatch, inside, outline, smoothstep, turn


class Sheet(NamedTuple):
    paper: Field
    ink: Field


def draw(canvas: Canvas) -> None:
    paper = canvas.pick("efe0c2", "e9d3ab", "f2e6d0", "dcc6a0")
    sheet = Sheet(paper, canvas.pick("7d2c18", "8f3d22", "3d2616", "2b2d3f"))
    canvas.lay(paper)
    canvas.rgb += 0.025 * canvas.noise(5, 5, 4)[..., None]
    canvas.x = canvas.x + 0.012 * canvas.noise(5, 5)
    canvas.y = canvas.y + 0.012 * canvas.noise(5, 5)
    (_draw_sprig, _draw_fruit, _draw_bouquet)[canvas.rng.integers(3)](canvas, sheet)


def _draw_fruit(canvas: Canvas, sheet: Sheet) -> None:
    table, count = canvas.uniform(0.6, 0.74), int(canvas.rng.integers(1, 5))
    light = canvas.rng.choice([-1.0, 1.0])
    canvas.lay(sheet.ink, 0.7 * outline(canvas.y - table + 0.09, 0.005))
    centres = 0.5 + (np.arange(count) - (count - 1) / 2) * canvas.uniform(0.19, 0.23)
    for centre in canvas.rng.permutation(centres):
        radius = canvas.uniform(0.11, 0.15) * (1.6 - 0.16 * count)
        _draw_one_fruit(canvas, (centre, table - radius * 0.6 + canvas.uniform(0, 0.1)), radius, light, sheet)


def _draw_one_fruit(canvas: Canvas, centre: Point, radius: float, light: float, sheet: Sheet) -> None:
    whole, canvas = canvas, canvas.crop(centre, 2.2 * radius)
    x, y = turn(canvas.x - centre[0], canvas.y - centre[1], canvas.uniform(-0.3, 0.3))
    neck = canvas.rng.choice([0.0, 0.0, 0.55])
    up = np.clip(-y / radius, -1, 2)
    body = ellipse(x * (1 + neck * np.maximum(up, 0)), y + 0.2 * neck * radius, radius, radius * (1 + 0.35 * neck))
    shade = smoothstep(0.5 + (light * x + 0.7 * y) / radius / 1.6)
    ground = ellipse(x - light * radius * 0.6, y - radius * 0.85, radius * 1.3, radius * 0.22)
    canvas.lay(sheet.ink, 0.6 * inside(ground, 0.04) * hatch((x - y) / 0.05, 0.5))
    canvas.lay(sheet.paper, inside(body))
    wash = canvas.pick("c8643c", "d39a3c", "a9a552", "b8524a", "8a9a6a")
    canvas.lay(wash, (0.3 + 0.45 * shade) * inside(body + 0.02 * canvas.noise(6, 6) + 0.01, 0.03))
    canvas.lay(sheet.ink, 0.75 * inside(body) * hatch((x * light - y) / 0.045, 0.75 * (shade - 0.35)))
    canvas.lay(sheet.ink, 0.95 * inside(np.abs(body) - 0.004 - 0.009 * shade))
    _draw_leaf(whole, (centre[0], centre[1] - radius), 0.8 * radius + 0.03, canvas.uniform(-2.6, -0.5), sheet)


def _draw_leaf(canvas: Canvas, root: Point, length: float, angle: float, sheet: Sheet) -> None:
    canvas = canvas.crop(root, length + 0.04)
    x, y = turn(canvas.x - root[0], canvas.y - root[1], angle)
    along = np.clip(x / length, 0, 1)
    breadth = length * 1.1 * along * (1 - along) * (1.2 - 0.5 * along)
    blade = box(y, x - length / 2, breadth, length / 2)
    canvas.lay(sheet.paper, inside(blade))
    wash = canvas.pick("7f8f55", "96a06a", "b0803f", "6f8a78")
    canvas.lay(wash, np.where(y > 0, 0.75, 0.4) * inside(blade + 0.008, 0.02))
    canvas.lay(sheet.ink, 0.9 * outline(blade, 0.006))
    canvas.lay(sheet.ink, 0.8 * inside(box(y, x - length * 0.4, 0.004, length * 0.5)))


def _draw_sprig(canvas: Canvas, sheet: Sheet) -> None:
    lean, bend, top = canvas.uniform(-0.22, 0.22), canvas.uniform(-0.4, 0.4), canvas.uniform(0.14, 0.24)
    t = (0.95 - canvas.y) / (0.95 - top)
    line = np.maximum(np.abs(canvas.x - _stem(t, lean, bend)) - 0.006, 0.8 * np.abs(t - 0.5) - 0.4)
    canvas.lay(sheet.ink, 0.95 * inside(line))
    for index, height in enumerate(np.linspace(0.18, 0.88, 2 * canvas.rng.integers(3, 6))):
        root = (float(_stem(height, lean, bend)), 0.95 - float(height) * (0.95 - top))
        angle = -np.pi / 2 + canvas.uniform(0.45, 0.95) * (-1) ** index
        _draw_leaf(canvas, root, canvas.uniform(0.2, 0.34) * (1.15 - 0.45 * height), angle, sheet)
    _draw_blossom(canvas, (0.5 + lean / 2, top), sheet)


def _stem(height: Field, lean: float, bend: float) -> Field:
    return 0.5 + lean * (height - 0.5) + 2 * bend * height * (1 - height)


def _draw_blossom(canvas: Canvas, centre: Point, sheet: Sheet) -> None:
    canvas = canvas.crop(centre, 0.2)
    x, y = canvas.x - centre[0], canvas.y - centre[1]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    size, petals = canvas.uniform(0.09, 0.14), canvas.rng.integers(4, 8)
    edge = radius - size * (0.72 + 0.28 * np.abs(np.cos(angle * petals / 2 + canvas.uniform(0, 3))))
    canvas.lay(sheet.paper, inside(edge))
    canvas.lay(canvas.pick("c4553f", "d08a8a", "d9a441", "7d86b0"), inside(edge + 0.006, 0.03) * (0.9 - 3 * radius))
    canvas.lay(sheet.ink, 0.9 * outline(edge, 0.006))
    canvas.lay(sheet.ink, 0.8 * inside(radius - size * 0.25, 0.02))


def _draw_bouquet(canvas: Canvas, sheet: Sheet) -> None:
    foot, rim, middle = canvas.uniform(0.86, 0.92), canvas.uniform(0.54, 0.62), canvas.uniform(0.44, 0.56)
    canvas.lay(sheet.ink, 0.7 * outline(canvas.y - foot + 0.08, 0.005))
    for angle in np.linspace(-2.7, -0.45, canvas.rng.integers(4, 7)):
        _draw_leaf(canvas, (middle, rim), canvas.uniform(0.24, 0.36), angle, sheet)
    _draw_pot(canvas, middle, rim, foot, sheet)
    for _ in range(canvas.rng.integers(3, 7)):
        angle, reach = canvas.uniform(-2.6, -0.5), canvas.uniform(0.12, 0.34)
        _draw_blossom(canvas, (middle + reach * float(np.cos(angle)), rim + reach * float(np.sin(angle))), sheet)


def _draw_pot(canvas: Canvas, middle: float, rim: float, foot: float, sheet: Sheet) -> None:
    x, t = canvas.x - middle, (canvas.y - rim) / (foot - rim)
    swell = canvas.uniform(0.09, 0.14) + canvas.uniform(-0.03, 0.07) * np.sin(np.clip(t, 0, 1) * np.pi) - 0.02 * t
    pot = np.maximum(np.abs(x) - swell, (np.abs(t - 0.5) - 0.5) * (foot - rim))
    shade = smoothstep(0.5 + x / 0.24)
    canvas.lay(sheet.paper, inside(pot))
    canvas.lay(canvas.pick("7d94a8", "b5764f", "a89a6a"), (0.25 + 0.5 * shade) * inside(pot + 0.01, 0.03))
    canvas.lay(sheet.ink, 0.75 * inside(pot) * hatch((x - canvas.y) / 0.045, 0.75 * (shade - 0.35)))
    canvas.lay(sheet.ink, 0.95 * outline(pot, 0.007))
