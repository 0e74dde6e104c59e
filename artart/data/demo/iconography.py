"""Icons on gold ground: one haloed figure, a figure with a child, or a pair, in a painted frame."""

import numpy as np

from artart.data.demo.canvas import Canvas, Field, Point, box, ellipse, hatch, hex_colour, inside, outline, turn


def iconise(canvas: Canvas) -> None:
    gold = canvas.pick("d9a93a", "e0b548", "cf9c35", "e3be62")
    canvas.lay(gold * (1 + 0.08 * canvas.noise(4, 4, 3)[..., None]))
    canvas.lay(hex_colour("fff0b0"), 0.35 * inside(np.hypot(canvas.x - 0.5, canvas.y - 0.3) - 0.2, 0.5))
    (_icon_single, _icon_single, _icon_child, _icon_pair)[canvas.rng.integers(4)](canvas)
    border = canvas.pick("4a1512", "3a1a10", "1d2b3d", "24341f")
    half = canvas.uniform(0.42, 0.45)
    frame = box(canvas.x - 0.5, canvas.y - 0.5, half, half)
    canvas.lay(border, inside(-frame))
    canvas.lay(hex_colour("f0d27a"), 0.9 * outline(frame - 0.012, 0.005))


def _icon_single(canvas: Canvas) -> None:
    head, scale = (0.5 + canvas.uniform(-0.04, 0.04), canvas.uniform(0.34, 0.42)), canvas.uniform(0.92, 1.15)
    if canvas.rng.random() < 0.35:
        _icon_wings(canvas, head)
    _icon_figure(canvas, head, scale, canvas.uniform(-0.2, 0.2))
    if canvas.rng.random() < 0.5:
        _icon_book(canvas, (head[0] + canvas.uniform(-0.14, 0.14), canvas.uniform(0.72, 0.8)))


def _icon_book(canvas: Canvas, centre: Point) -> None:
    x, y = canvas.x - centre[0], canvas.y - centre[1]
    canvas.lay(hex_colour("f2d98a"), inside(box(x, y, 0.075, 0.095)))
    canvas.lay(canvas.pick("7a1a18", "27406b", "5a3418"), inside(box(x, y, 0.055, 0.075)))
    cross = np.minimum(box(x, y, 0.01, 0.06), box(x, y + 0.015, 0.035, 0.01))
    canvas.lay(hex_colour("f6e3a0"), inside(cross))


def _icon_child(canvas: Canvas) -> None:
    side = float(canvas.rng.choice([-1.0, 1.0]))
    _icon_figure(canvas, (0.5 - 0.06 * side, canvas.uniform(0.35, 0.4)), canvas.uniform(0.95, 1.08), -0.2 * side)
    _icon_figure(canvas, (0.5 + 0.17 * side, canvas.uniform(0.6, 0.66)), 0.56, 0.2 * side)


def _icon_pair(canvas: Canvas) -> None:
    level = canvas.uniform(0.38, 0.46)
    for middle in canvas.rng.permutation([0.31, 0.69]):
        _icon_figure(canvas, (float(middle), level + canvas.uniform(-0.02, 0.02)), 0.74, canvas.uniform(-0.2, 0.2))


def _icon_wings(canvas: Canvas, head: Point) -> None:
    x, y = turn(np.abs(canvas.x - head[0]) - 0.27, canvas.y - head[1] - 0.25, -0.25)
    wing = ellipse(x, y, 0.11, 0.33)
    feathers = 0.7 + 0.4 * hatch((y - 0.6 * x) / 0.07, 0.5)
    canvas.lay(canvas.pick("9a5a2a", "7a3a24", "8a7346") * feathers[..., None], inside(wing))
    canvas.lay(hex_colour("f3d987"), 0.9 * outline(wing, 0.007))


def _icon_figure(canvas: Canvas, head: Point, scale: float, tilt: float) -> None:
    x, y = (canvas.x - head[0]) / scale, (canvas.y - head[1]) / scale
    robe = canvas.pick("a3231c", "8c1f2b", "1f3f7a", "23507a", "3b5a34")
    under = canvas.pick("1f3a73", "a8281d", "274d3a", "5b2a55")
    halo = np.hypot(x, y) - canvas.uniform(0.22, 0.26)
    canvas.lay(canvas.pick("f6dd86", "f9e7a8", "eec95a"), inside(halo))
    canvas.lay(canvas.pick("8c1c14", "6b3410"), outline(halo, 0.009))
    _icon_robe(canvas, x, y, robe, under)
    _icon_head(canvas.crop(head, 0.3 * scale), head, scale, tilt, robe)


def _icon_robe(canvas: Canvas, x: Field, y: Field, robe: Field, under: Field) -> None:
    body = np.maximum(np.abs(x) - 0.3 * np.sqrt(np.clip((y - 0.12) / 0.3, 0, 1.3)), 0.13 - y)
    canvas.lay(under, inside(body))
    mantle = np.maximum(body, canvas.uniform(0.12, 0.3) * (y - 0.05) - np.abs(x + canvas.uniform(-0.03, 0.03)))
    fold = np.sin((np.abs(x) * 30 - y * 24) + 2 * canvas.noise(3, 3))
    canvas.lay(robe * (1 + 0.28 * fold[..., None]), inside(mantle))
    canvas.lay(hex_colour("f0cf70"), 0.8 * outline(mantle, 0.006))


def _icon_head(canvas: Canvas, head: Point, scale: float, tilt: float, robe: Field) -> None:
    x, y = turn((canvas.x - head[0]) / scale, (canvas.y - head[1]) / scale, tilt)
    veiled, bearded = canvas.rng.random() < 0.45, canvas.rng.random() < 0.6 and scale > 0.6
    hair = canvas.pick("3a2113", "52301a", "8a7f74")
    cloth = robe * 0.85 if veiled else hair
    canvas.lay(cloth, inside(ellipse(x, y - (0.04 if veiled else -0.01), 0.15, 0.2 if veiled else 0.16)))
    skin = canvas.pick("c98d56", "d49a63", "b67b48")
    canvas.lay(skin * 0.7, inside(box(x, y - 0.13, 0.045, 0.07)))
    face = ellipse(x, y - 0.02, 0.095, 0.13)
    canvas.lay(skin * 0.75, inside(face))
    canvas.lay(skin * 1.12, 0.9 * inside(face + 0.03, 0.06))
    if bearded and not veiled:
        canvas.lay(hair, inside(np.maximum(ellipse(x, y - 0.07, 0.1, 0.13), 0.075 - y - 0.4 * np.abs(x)), 0.02))
    for eye in (-0.042, 0.042):
        canvas.lay(hex_colour("24130c"), inside(ellipse(x - eye, y + 0.005, 0.024, 0.013)))
        canvas.lay(hex_colour("4a2a18"), 0.8 * inside(ellipse(x - eye, y + 0.04, 0.034, 0.008)))
    canvas.lay(hex_colour("5a3018"), 0.7 * inside(ellipse(x - 0.008, y - 0.03, 0.009, 0.035)))
    canvas.lay(hex_colour("8c2f20"), 0.9 * inside(ellipse(x, y - 0.09, 0.026, 0.01)))
