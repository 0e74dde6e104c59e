"""Finds near-duplicates, so that a split never divides them, which would make validation look too good.

A hash holds an image's low frequencies in grey. It tolerates shifts of the content by about 2 % of a side. An image
that is cropped or rotated more is another image (3 % off each side: one copy in four). Colour and aspect ratio are
ignored.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from artart.data.decode import to_srgb

SIDE: Final = 64  # of the grey thumbnail
MAX_FREQUENCY: Final = 16.5  # half periods over the image's side
# Squared distance of digits; unrelated works have about 4,000. Measured on 400 works of art: changes of JPEG quality,
# size, light, colour, blur, noise and flips at most 210, crops of 2 % a side at most 300; the nearest two different
# works of 1,486 have 360. Of 7,580 watercolours of fruit on paper, 5 % have a near-duplicate (groups of at most 24).
MAX_DISTANCE: Final = 310
DIGITS: Final = np.frombuffer(b"0123456789abcdef", np.uint8)  # of the numbers from -8 to 7
NUM_LOW: Final = 96  # frequencies that are compared first
BLOCK: Final = 512  # images; the distances between two blocks fit into a processor's cache

# The DCT-II (Ahmed, Natarajan and Rao 1974) under a Hann window: without it, cropping a frame or a margin would change
# every frequency.
X: Final = (np.arange(SIDE) + 0.5) / SIDE
HANN: Final = np.sin(np.pi * X) ** 2
WAVES: Final = np.cos(np.pi * np.outer(np.arange(int(MAX_FREQUENCY) + 1), X)) * HANN / HANN.sum()


# Vertical and horizontal frequencies (K,) of a hash, lowest first, without the mean
V, U = np.indices((len(WAVES), len(WAVES))).reshape(2, -1)
ORDER: Final = np.argsort(np.hypot(U, V), kind="stable")[1 : np.count_nonzero(np.hypot(U, V) <= MAX_FREQUENCY)]
V, U = V[ORDER], U[ORDER]
ODD: Final = U % 2 == 1  # a flip negates these
LENGTH: Final = len(ODD)  # digits of a hash


def perceptual_hash(image: Image.Image) -> str:
    """A hexadecimal digit for each low frequency of the result of decode.upright; 8 is zero.

    The square root keeps a large shape on paper from outweighing all detail. The common scale makes the hash
    independent of brightness and contrast, but does not amplify what is fainter than in any work (0.25), such as a
    scan's grain.
    """
    grey = (to_srgb(image) if image.mode == "LAB" else image).convert("L")  # a profile changes less than is tolerated
    thumbnail = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2)
    spectrum = WAVES @ np.asarray(thumbnail, dtype=np.float64) @ WAVES.T  # in grey levels
    flat = WAVES.sum(axis=1)
    spectrum -= spectrum[0, 0] * np.outer(flat, flat)  # removes the mean under the window
    values = spectrum[V, U]
    scale = 3.2 / max(np.abs(values).mean(), 0.1) ** 0.5  # digits with a mean square of 3.2 ** 2
    digits = np.rint(np.sign(values) * np.abs(values) ** 0.5 * scale).clip(-7, 7).astype(int)
    return DIGITS[digits + 8].tobytes().decode()


def digits_of(hashes: Sequence[str]) -> np.ndarray:
    """The numbers of hashes, (N, K) float32."""
    values = np.zeros(128, np.float32)
    values[DIGITS] = np.arange(-8, 8)
    return values[np.frombuffer("".join(hashes).encode(), np.uint8)].reshape(len(hashes), len(ODD))


def distances(a: np.ndarray, b: np.ndarray, odd: np.ndarray = ODD) -> np.ndarray:
    """The squared distance of each of the digits a (N, K) to each b (M, K), as they are or flipped: (N, M).

    A flip negates the odd. All numbers are multiples of 1/2 far below 2 ** 23, so float32 is exact.
    """
    product = np.abs(a[:, odd] @ b[:, odd].T)
    product += a[:, ~odd] @ b[:, ~odd].T
    return (a**2).sum(axis=1, keepdims=True) + (b**2).sum(axis=1) - 2 * product


def groups(hashes: Sequence[str]) -> list[int]:
    """For each image the index of the first one of its group; its own index if it has no near-duplicate.

    A group is connected by near pairs (single linkage). Every pair is compared by the low frequencies first: pairs that
    are near in all frequencies are near in these, and few others are.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(hashes):
        first.setdefault(text, i)
    digits = digits_of([*first])
    low = np.ascontiguousarray(digits[:, :NUM_LOW])
    label = np.arange(len(first))
    for i in range(0, len(first), BLOCK):
        for j in range(i, len(first), BLOCK):
            both = np.append(label[i : i + BLOCK], label[j : j + BLOCK])
            if both.min() == both.max():
                continue  # one group already, such as thousands of nearly empty sheets
            maybe = distances(low[i : i + BLOCK], low[j : j + BLOCK], ODD[:NUM_LOW]) <= MAX_DISTANCE
            rows, columns = i + np.flatnonzero(maybe.any(axis=1)), j + np.flatnonzero(maybe.any(axis=0))
            a, b = np.nonzero(distances(digits[rows], digits[columns]) <= MAX_DISTANCE)
            _link(label, rows[a], columns[b])
    firsts = list(first.values())
    group = dict(zip(first, label.tolist(), strict=True))
    return [firsts[group[text]] for text in hashes]


def _link(label: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Merge the groups of each pair under the lower label."""
    apart = label[ones] != label[others]
    for one, other in zip(ones[apart].tolist(), others[apart].tolist(), strict=True):
        if label[one] != label[other]:
            lower, upper = sorted((label[one], label[other]))
            label[label == upper] = lower
