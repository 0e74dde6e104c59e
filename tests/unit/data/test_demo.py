import numpy as np
import pytest
from numpy.typing import NDArray

from artart.data import demo
from artart.data.demo import CLASS_NAMES, paint


def make(*arguments: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = zip(*demo.make(*arguments), strict=True)
    return np.stack(images), np.array(labels)


def _block_mean(image: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    factor = len(image) // size
    return image.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))


def _difference(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    return float(np.abs(first.astype(np.float64) - second.astype(np.float64)).mean())


@pytest.mark.parametrize("size", [32, 50, 64, 160])
def test_images_are_square_rgb_bytes_with_light_and_dark(size: int) -> None:
    for name in CLASS_NAMES:
        image = paint(name, 3, size)
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert image.max() - image.min() > 120


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_same_seed_gives_the_same_image_and_other_seeds_do_not(name: str) -> None:
    images = [paint(name, seed, 32) for seed in range(20)]
    again = [paint(name, seed, 32) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    closest = min(_difference(images[i], images[j]) for i in range(20) for j in range(i))
    assert closest > 5


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_size_changes_the_sampling_and_not_the_composition(name: str) -> None:
    for seed in range(6):
        small, large = paint(name, seed, 32), paint(name, seed, 128)
        assert _difference(small, _block_mean(large, 32)) < 4


@pytest.mark.slow
def test_classes_are_reported_apart_at_32_pixels_by_the_nearest_thumbnail() -> None:
    images, labels = make(100, 32, 1)
    others, truth = make(100, 32, 2)
    known = np.stack([_block_mean(image, 8).ravel() for image in images])
    asked = np.stack([_block_mean(image, 8).ravel() for image in others])
    nearest = np.abs(asked[:, None] - known).mean(axis=2).argmin(axis=1)
    assert (labels[nearest] == truth).mean() >= 0.95


def test_a_longer_set_starts_with_the_shorter_one_and_another_seed_shares_no_image() -> None:
    images, labels = make(12, 32)
    assert images.shape == (12, 32, 32, 3)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    longer, _ = make(17, 32)
    assert np.array_equal(longer[:12], images)
    elsewhere, _ = make(12, 32, 1)
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in elsewhere}
    assert np.array_equal(images[6], paint("engraving", 1, 32))
