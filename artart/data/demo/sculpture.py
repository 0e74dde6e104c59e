"""Sculptures on a plinth, lit from one side: a turned vase, a bust or an abstract form."""

import numpy as np

from artart.data.demo.canvas import Canvas, Field, box, ellipse, inside, smoothstep, turn


def sculpt(canvas: Canvas) -> None:
    ground = canvas.pick("1a1c24", "231a16", "16202a", "2a1f2a", "1c241f")
    light = np.array([canvas.rng.choice([-1, 1]) * canvas.uniform(0.5, 0.9), -canvas.uniform(0.4, 0.8), 0.55])
    spot = np.hypot(canvas.x - 0.5 + 0.3 * light[0], canvas.y - 0.35)
    canvas.lay(ground * (2.3 - 1.9 * np.clip(spot, 0, 1)[..., None]))
    canvas.rgb *= 1 + 0.06 * canvas.noise(5, 5, 2)[..., None]
    stone = canvas.pick("e9e4da", "e9e4da", "a8743f", "b5673f", "8fae98", "d8c7a4")
    base = canvas.uniform(0.76, 0.84)
    _plinth(canvas, base, light, canvas.pick("6a6460", "4a4038", "7a6a58"))
    form = (_vase, _bust, _abstract)[canvas.rng.integers(3)]
    _shade(canvas, form(canvas, base), light / np.linalg.norm(light), stone)


def _plinth(canvas: Canvas, base: float, light: Field, stone: Field) -> None:
    half = canvas.uniform(0.2, 0.3)
    x, y = canvas.x - 0.5, canvas.y - base
    front = np.maximum(np.abs(x) - half, -y)
    tone = 0.55 + 0.5 * light[0] * x + 0.08 * canvas.noise(6, 6, 2)
    canvas.lay(stone * tone[..., None], inside(front))
    canvas.lay(stone * 1.15, inside(box(x, y, half + 0.03, 0.02)))


def _vase(canvas: Canvas, base: float) -> Field:
    top, girth, neck = canvas.uniform(0.12, 0.26), canvas.uniform(0.17, 0.26), canvas.uniform(0.2, 0.6)
    t = np.clip((canvas.rows - top) / (base - top), 0, 1)
    knots = [canvas.uniform(0.25, 0.8), neck, *canvas.rng.uniform(0.7, 1.2, 2), 0.6, 0.3]
    radius = girth * _profile(t, knots, canvas.side)[:, None]
    x = canvas.x - 0.5
    flutes = np.cos(x / np.maximum(radius, 0.01) * 22) * smoothstep((t[:, None] - 0.3) / 0.05)
    depth = _root(radius**2 - x**2) * (1 + 0.05 * canvas.rng.integers(2) * flutes)
    if canvas.rng.random() < 0.5:
        handle = np.abs(x) - girth * neck - 0.05, canvas.y - top - 0.16 * (base - top) - 0.06
        depth = np.maximum(depth, _ring(*handle, 0.065, 0.1, 0.02))
    return np.where((canvas.y > top) & (canvas.y < base - 0.015), depth, 0)


def _profile(t: Field, knots: list[float], side: int) -> Field:
    """Radius of a turned form from its rim (t = 0) to its foot (t = 1), smooth but for a lip at either end."""
    body = np.pad(np.interp(t, (0, 0.15, 0.4, 0.6, 0.85, 1), knots), side, mode="edge")
    kernel = np.hanning(side // 4)
    lips = 0.22 * np.exp(-((t / 0.04) ** 2)) + 0.3 * np.exp(-(((t - 1) / 0.06) ** 2))
    return np.convolve(body, kernel / kernel.sum(), "same")[side:-side] + lips


def _ring(x: Field, y: Field, radius_x: float, radius_y: float, thickness: float) -> Field:
    return _root(thickness**2 - ellipse(x, y, radius_x, radius_y) ** 2)


def _bust(canvas: Canvas, base: float) -> Field:
    facing, size = canvas.uniform(-0.7, 0.7), canvas.uniform(1.0, 1.18)
    x, y = (canvas.x - 0.5) / size, (canvas.y - base) / size
    face = x - 0.05 * facing
    hair = _dome(x + 0.035 * facing, y + 0.45 - canvas.uniform(0, 0.06), 0.14, canvas.uniform(0.13, 0.18), 0.13)
    hair *= 1 + 0.15 * canvas.noise(30, 24)
    hair *= 1 - 0.6 * inside(ellipse(face, y + 0.37, 0.085, 0.13), 0.03)
    parts = (
        _dome(x - 0.02 * facing, y + 0.4, 0.115, 0.16, 0.15),
        _dome(x, y + 0.22, 0.07, 0.15, 0.08),
        _dome(x, y - 0.02, canvas.uniform(0.22, 0.3), 0.21, 0.14) * (1 + 0.05 * np.sin(40 * (y + 1.2 * np.abs(x)))),
        _dome(face - 0.03 * facing, y + 0.385, 0.02, 0.055, 0.175),
        _dome(face, y + 0.275, 0.05, 0.04, 0.135),
    )
    height = np.maximum(sum(part**6 for part in parts) ** (1 / 6), hair)
    for eye in (-0.045, 0.045):
        height = height * (1 - 0.15 * np.exp(-(((face - eye) / 0.025) ** 2) - ((y + 0.41) / 0.016) ** 2))
    mouth = np.exp(-((face / 0.035) ** 2) - ((y + 0.305) / 0.01) ** 2)
    return np.where(y < -0.015, height * (1 - 0.1 * mouth), 0)


def _abstract(canvas: Canvas, base: float) -> Field:
    total = np.zeros_like(canvas.x)
    for level in range(canvas.rng.integers(3, 5)):
        x, y = canvas.x - 0.5 - canvas.uniform(-0.06, 0.06), canvas.y - base + 0.12 + 0.13 * level
        x, y = turn(x, y, canvas.uniform(-0.8, 0.8))
        if canvas.rng.random() < 0.5:
            total += _ring(x, y, canvas.uniform(0.08, 0.15), canvas.uniform(0.1, 0.16), canvas.uniform(0.04, 0.06)) ** 4
        else:
            total += _dome(x, y, canvas.uniform(0.07, 0.17), canvas.uniform(0.1, 0.19), canvas.uniform(0.1, 0.18)) ** 4
    return np.where(canvas.y < base - 0.015, total**0.25, 0)


def _dome(x: Field, y: Field, radius_x: float, radius_y: float, depth: float) -> Field:
    return depth * _root(1 - (x / radius_x) ** 2 - (y / radius_y) ** 2)


def _root(square: Field) -> Field:
    """Square root that is 0 outside the form, where the square is negative."""
    return np.sqrt(np.maximum(square, 0))


def _shade(canvas: Canvas, height: Field, light: Field, stone: Field) -> None:
    """Light a height field (in units of the side) by diffuse, mirror and rim terms."""
    down, right = np.gradient(height.astype(np.float32), 1 / canvas.side)
    normal = np.stack([-right, -down, np.ones_like(down)], -1) / np.sqrt(1 + right**2 + down**2)[..., None]
    diffuse = np.clip(normal @ light.astype(np.float32), 0, None)
    halfway = light + np.array([0, 0, 1])
    mirror = np.clip(normal @ (halfway / np.linalg.norm(halfway)).astype(np.float32), 0, None) ** 24
    rim = (1 - normal[..., 2]) ** 3 * 0.12
    veins = np.exp(-((canvas.noise(4, 4, 3) / 0.07) ** 2)) * canvas.uniform(0, 0.2)
    tone = (0.16 + 0.95 * diffuse + rim) * (1 - veins)
    canvas.lay(stone * tone[..., None] + 0.35 * mirror[..., None], (height > 0).astype(np.float32))
