"""The unit square the demo art is painted on, with signed distances, noise and hatching to paint with."""

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.floating[Any]]
Point = tuple[float, float]


class Canvas:
    """A square of RGB values in 0..1 that is painted over in place; lengths are fractions of its side."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.rng = rng
        self.side = side
        self.rows = self.columns = ((np.arange(side) + 0.5) / side).astype(np.float32)
        self.x, self.y = np.meshgrid(self.columns, self.rows)
        self.rgb: Field = np.zeros((side, side, 3), np.float32)

    def crop(self, centre: Point, radius: float) -> "Canvas":
        """A view of the square around a small motif: painting it costs time in proportion to its area."""
        part = copy.copy(self)
        across, down = (slice(*np.searchsorted(self.rows, (c - radius, c + radius))) for c in centre)
        part.rows, part.columns = self.rows[down], self.columns[across]
        part.x, part.y, part.rgb = self.x[down, across], self.y[down, across], self.rgb[down, across]
        return part

    def lay(self, colour: ArrayLike, cover: Field | float = 1.0) -> None:
        """Paint over with a colour (or an RGB field), as opaque as `cover` says."""
        opacity = np.asarray(cover, np.float32)
        shades = np.asarray(colour, np.float32)
        for c in range(3):
            self.rgb[..., c] += (shades[..., c] - self.rgb[..., c]) * opacity

    def noise(self, rows: int, columns: int, octaves: int = 1) -> Field:
        """Smooth value noise in about -1..1 from a lattice of rows x columns cells, doubled every octave."""
        total = np.zeros(self.x.shape, np.float32)
        for octave in range(octaves):
            height, width = rows << octave, columns << octave
            lattice = self.rng.uniform(-1, 1, (height + 1, width + 1)).astype(np.float32)
            total += 0.5**octave * (_weights(self.rows, height) @ lattice @ _weights(self.columns, width).T)
        return total

    def ridge(self, base: float, height: float, cells: int) -> Field:
        """Signed height of each pixel below a rolling skyline around y = base (positive is below)."""
        return self.y - (base + height * self.noise(1, cells, 2)[0])

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def pick(self, *choices: str) -> Field:
        """One of several hex colours, slightly varied so that no two images share a palette exactly."""
        variation = self.rng.normal(1, 0.05) + self.rng.normal(0, 0.018, 3)
        return hex_colour(choices[self.rng.integers(len(choices))]) * variation.astype(np.float32)


def hex_colour(code: str) -> Field:
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)


def smoothstep(value: Field) -> Field:
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


def _weights(positions: Field, cells: int) -> Field:
    return smoothstep(1 - np.abs(positions[:, None] * cells - np.arange(cells + 1, dtype=np.float32)))


def inside(distance: Field, softness: float = 0.01) -> Field:
    """Coverage 1 where a signed distance is negative, with an edge `softness` wide."""
    return smoothstep(0.5 - distance / softness)


def outline(distance: Field, half_width: float) -> Field:
    return inside(np.abs(distance) - half_width)


def box(x: Field, y: Field, half_width: Field | float, half_height: float) -> Field:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def ellipse(x: Field, y: Field, radius_x: float, radius_y: float) -> Field:
    """Approximate signed distance to an ellipse at the origin (exact for a circle)."""
    return (np.hypot(x / radius_x, y / radius_y) - 1) * min(radius_x, radius_y)


def turn(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def hatch(phase: Field, darkness: Field | float, softness: float = 0.25) -> Field:
    """Coverage of lines one unit of `phase` apart whose width is the fraction `darkness` of that unit."""
    return inside(np.abs(2 * (phase - np.floor(phase)) - 1) - darkness, softness)
