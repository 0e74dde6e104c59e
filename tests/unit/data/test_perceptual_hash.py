import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from artart.data import demo
from artart.data.perceptual_hash import BLOCK, MAX_DISTANCE, ODD, groups, perceptual_hash

Edit = Callable[[Image.Image], Image.Image]


def encoded(**options: object) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, **options)  # type: ignore[arg-type]
        return Image.open(file).convert("RGB")

    return edit


def scaled(x: float, y: float | None = None) -> Edit:
    return lambda image: image.resize((round(image.width * x), round(image.height * (y or x))))


def cropped(share: float) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        x, y = round(image.width * share), round(image.height * share)
        return image.crop((x, y, image.width - x, image.height - y))

    return edit


def mapped(*curves: Callable[[float], float]) -> Edit:
    """One curve for all channels, or one for each."""
    table = [round(255 * min(1, curve(i / 255))) for curve in curves * (3 // len(curves)) for i in range(256)]
    return lambda image: image.point(table)


def noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


EDITS: dict[str, Edit] = {
    "PNG": encoded(format="PNG"),
    "JPEG 30": encoded(format="JPEG", quality=30),
    "JPEG 95": encoded(format="JPEG", quality=95),
    "half the size": scaled(0.5),
    "one and a half times the size": scaled(1.5),
    "longer side of 128": lambda image: ImageOps.contain(image, (128, 128)),
    "another aspect": scaled(1.02, 1),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "gamma 0.8": mapped(lambda value: value**0.8),
    "gamma 1.25": mapped(lambda value: value**1.25),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "tinted": mapped(lambda red: 1.06 * red, lambda green: green, lambda blue: 0.92 * blue),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "noisy": noisy,
    "cropped by 1 %": cropped(0.01),
    "cropped by 1.5 %": cropped(0.015),
    "mirrored": ImageOps.mirror,
    "all at once": lambda image: mapped(lambda value: value**0.9)(
        encoded(format="JPEG", quality=60)(ImageOps.mirror(scaled(0.6)(cropped(0.01)(image))))
    ),
}


def opened(*paths: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


@pytest.fixture(scope="module")
def art(art_files: list[Path]) -> list[Image.Image]:
    """All but the second impression of a print, large enough to cut off a hundredth."""
    works = opened(*(path for path in art_files if path.name != "hyde_The_Bamboo_Fence.jpg"))
    return [work.resize((2 * work.width, 2 * work.height), Image.Resampling.BICUBIC) for work in works]


@pytest.fixture(scope="module")
def demo_art() -> list[Image.Image]:
    """Five of each class; of 200 sculptures, 44 are near another one."""
    return [Image.fromarray(pixels) for pixels, _ in demo.make(25, 128)]


def hashes_of(images: list[Image.Image]) -> list[str]:
    return [perceptual_hash(image) for image in images]


def distance(one: str, other: str) -> int:
    """What `groups` promises to compare, in integers, of the other as it is and mirrored."""
    a, b = (np.array([int(digit, 16) - 8 for digit in text]) for text in (one, other))
    return int(min(np.sum((a - b) ** 2), np.sum((a - np.where(ODD, -b, b)) ** 2)))


# --- images


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_near_duplicates_of_art_are_found(edit: Edit, art: list[Image.Image]) -> None:
    hashes = hashes_of(art)
    assert groups(hashes + hashes_of([edit(image) for image in art])) == 2 * list(range(39))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_near_duplicates_of_demo_art_are_found_and_others_are_not_near_duplicates(
    edit: Edit, demo_art: list[Image.Image]
) -> None:
    assert groups(hashes_of(demo_art + [edit(image) for image in demo_art])) == 2 * list(range(25))


def test_different_works_of_art_are_not_near_duplicates(art: list[Image.Image]) -> None:
    assert groups(hashes_of(art)) == list(range(39))


def test_one_print_in_two_museums_is_found(art_files: list[Path]) -> None:
    names = "hyde_Bamboo_Gate.jpg", "hyde_The_Bamboo_Fence.jpg", "hyde_Her_Bit.jpg"
    files = {path.name: path for path in art_files}
    assert groups(hashes_of(opened(*(files[name] for name in names)))) == [0, 0, 2]


def test_a_reduced_image_has_nearly_the_same_hash(art: list[Image.Image]) -> None:
    """Of large images with the grain of paper."""
    for small in art[::6]:
        pixels = np.asarray(small.resize((5 * small.width, 5 * small.height), Image.Resampling.BICUBIC))
        grain = np.random.default_rng(0).normal(0, 10, pixels.shape)
        image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        factor = max(image.size) // 384
        assert factor > 1
        assert distance(perceptual_hash(image), perceptual_hash(image.reduce(factor))) < MAX_DISTANCE / 4


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5000), (5000, 1), (300, 200)])
def test_a_flat_image_has_no_frequencies(size: tuple[int, int]) -> None:
    assert perceptual_hash(Image.new("RGB", size, (200, 10, 77))) == "8" * len(ODD)


def test_an_empty_sheet_is_an_empty_sheet_and_no_copy_of_an_image(demo_art: list[Image.Image]) -> None:
    rng = np.random.default_rng(0)
    sheets = [Image.fromarray(rng.normal(230, 2, (384, 300, 3)).astype(np.uint8)) for _ in range(3)]
    assert groups(hashes_of([*sheets, Image.new("RGB", (9, 9)), *demo_art[:5]])) == [0, 0, 0, 0, 4, 5, 6, 7, 8]


def test_a_narrow_image_has_a_hash() -> None:
    column = np.zeros((5000, 1, 3), np.uint8)
    column[1000:2000] = 255
    narrow = Image.fromarray(column)
    assert groups(hashes_of([narrow, ImageOps.flip(narrow), narrow.resize((50, 100))])) == [0, 1, 0]


WRITTEN_DOWN = (
    "11abbff5ff55115511bbb3ff399dd5668877882255669b9aaaa99ff889dd9884aa556677889119337766b8aa888889977dd88bb7788977968668"
    "8877888448998866889988baa89988998888888dd7bb7aa88888885855899866887783388558888888668888baa88899888888888888cc8aa88"
)


def test_a_hash_can_be_compared_with_one_of_an_earlier_run() -> None:
    """To a digit or two: another machine or Pillow may round otherwise."""
    bands = np.indices((40, 40)).sum(0)[..., None] % 40 < 20
    image = Image.fromarray((bands * np.array([250, 120, 30])).astype(np.uint8))
    assert distance(perceptual_hash(image), WRITTEN_DOWN) <= 4
    assert perceptual_hash(image) == perceptual_hash(image.copy())


def test_the_light_processes_that_hash_need_no_torch() -> None:
    script = (
        "import sys, artart.data.perceptual_hash; sys.exit(any(name in sys.modules for name in ('torch', 'scipy')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- groups


def text(digits: np.ndarray) -> str:
    return "".join(f"{digit + 8:x}" for digit in digits)


def moved(digits: np.ndarray, squared_distance: int, rng: np.random.Generator) -> np.ndarray:
    """Another hash at exactly this distance: steps of 2, and as many of 1 as are left over."""
    twos, ones = divmod(squared_distance, 4)
    steps = rng.permutation(np.array([2] * twos + [1] * ones + [0] * (len(digits) - twos - ones)))
    return digits + steps * rng.choice([-1, 1], len(digits))


def drawn(number: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-5, 6, (number, len(ODD)))


def linked_one_by_one(hashes: list[str]) -> list[int]:
    digits = np.array([[int(digit, 16) - 8 for digit in text] for text in hashes], np.int32)
    found = [-1] * len(hashes)
    for start in range(len(hashes)):
        reached = [start] if found[start] < 0 else []
        while reached:
            i = reached.pop()
            if found[i] < 0:
                found[i] = start
                for other in (digits[i], np.where(ODD, -digits[i], digits[i])):
                    reached += np.flatnonzero(((digits - other) ** 2).sum(axis=1) <= MAX_DISTANCE).tolist()
    return found


def test_no_image_is_in_no_group() -> None:
    assert groups([]) == []


def test_the_threshold_is_exact() -> None:
    rng = np.random.default_rng(0)
    for digits in drawn(50, rng):
        mirror = np.where(ODD, -1, 1)
        for sign in (1, mirror):
            assert groups([text(digits), text(sign * moved(digits, MAX_DISTANCE, rng))]) == [0, 0]
            assert groups([text(digits), text(sign * moved(digits, MAX_DISTANCE + 1, rng))]) == [0, 1]


@pytest.mark.slow
def test_no_pair_is_missed_among_many() -> None:
    """1,500 hashes at both sides of the threshold from others, in chains, mirrored and equal, over several blocks."""
    rng = np.random.default_rng(1)
    rows = list(drawn(600, rng))
    for _ in range(900):
        digits = rows[rng.integers(len(rows))]
        near = moved(digits, MAX_DISTANCE + int(rng.integers(-1, 3)), rng) if rng.random() < 0.9 else digits
        near = near if abs(near).max() <= 7 else digits
        rows.append(near if rng.random() < 0.5 else np.where(ODD, -near, near))
    hashes = [text(rows[i]) for i in rng.permutation(len(rows))]
    found = groups(hashes)
    assert found == linked_one_by_one(hashes)
    assert 600 < len(set(found)) < 1200

    order = rng.permutation(len(hashes))
    again = groups([hashes[i] for i in order])
    assert {frozenset(order[np.array(again) == first].tolist()) for first in again} == {
        frozenset(np.flatnonzero(np.array(found) == first).tolist()) for first in found
    }
    assert all(first == again.index(first) for first in again)


def test_a_chain_is_one_group() -> None:
    rng = np.random.default_rng(2)
    a = drawn(1, rng)[0] // 2
    b = moved(a, MAX_DISTANCE, rng)
    c = moved(b, MAX_DISTANCE, rng)
    assert groups([text(a), text(c)]) == [0, 1]
    assert groups([text(a), text(c), text(b)]) == [0, 0, 0]
    assert groups([text(c), text(-a), text(b), text(a)]) == [0, 1, 0, 0]


def test_pairs_are_found_in_blocks_whose_ends_are_linked_already() -> None:
    rng = np.random.default_rng(3)
    rows = drawn(3 * BLOCK, rng)
    near_duplicates = {BLOCK: 0, 3 * BLOCK - 1: 0, 2 * BLOCK + 40: BLOCK + 40}
    for copy, of in near_duplicates.items():
        rows[copy] = moved(rows[of], 100, rng)
    assert groups([text(digits) for digits in rows]) == [near_duplicates.get(i, i) for i in range(3 * BLOCK)]


def test_equal_hashes_cost_nothing() -> None:
    """Their 45 billion pairs could not be compared."""
    assert groups(["8" * len(ODD)] * 300_000) == [0] * 300_000


@pytest.mark.slow
def test_thousands_of_near_hashes_are_one_group() -> None:
    ones = np.eye(len(ODD), dtype=int)
    hashes = [text(ones[i] - ones[j]) for i in range(100) for j in range(50)]
    assert groups(hashes) == [0] * 5000
