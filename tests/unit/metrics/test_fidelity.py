import pytest
import torch
from torch import Tensor

from artart.metrics.fidelity import MIN_IMAGES, fidelity

NUM, DIM, CLASSES = 400, 16, 4
NAMES = [f"class {k % CLASSES}" for k in torch.randperm(NUM, generator=torch.Generator().manual_seed(1)).tolist()]


def images_of(names: list[str], seed: int, noise: float = 0.5) -> Tensor:
    """Features around a centre for each class."""
    centres = 3 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0)).double()
    spread = torch.randn(len(names), DIM, generator=torch.Generator().manual_seed(seed)).double()
    return centres[[int(name[-1]) for name in names]] + noise * spread


HELD_OUT = images_of(NAMES, seed=2)


def test_samples_of_the_right_class_reach_the_ceiling():
    found = fidelity(images_of(NAMES, seed=3), HELD_OUT, NAMES)
    assert found["value"] > 0.97
    assert found["ceiling"] > 0.97
    assert found["floor"] == pytest.approx(1 / CLASSES, abs=0.05)
    assert found["of_ceiling"] == pytest.approx(1, abs=0.03)
    assert 0.95 < found["low"] < found["value"] <= found["high"]


def test_samples_of_shuffled_classes_are_at_the_floor():
    found = fidelity(images_of(NAMES[1:] + NAMES[:1], seed=3), HELD_OUT, NAMES)
    assert found["of_ceiling"] == pytest.approx(0, abs=0.12)


def test_the_ceiling_is_of_images_that_the_classifier_was_not_trained_on():
    """Of noise with more columns than a half has rows it knows each training image, and no other."""
    noise = torch.randn(2, NUM, 300, generator=torch.Generator().manual_seed(0)).double()
    assert fidelity(*noise, NAMES)["ceiling"] < 0.4


def test_the_floor_is_that_of_the_classes_that_are_found_and_wanted():
    """All samples look like the rare class, which a tenth of them should."""
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(1)).tolist()
    names = ["class 1" if k < NUM // 10 else "class 0" for k in order]
    found = fidelity(images_of(["class 1"] * NUM, seed=3), images_of(names, seed=2), names)
    assert found["floor"] == pytest.approx(0.1, abs=0.01)


def test_half_of_the_samples_right_is_half_way():
    mixed = [name if k % 4 < 2 else f"class {(int(name[-1]) + 1) % CLASSES}" for k, name in enumerate(NAMES)]
    found = fidelity(images_of(mixed, seed=3), HELD_OUT, NAMES)
    assert found["value"] == pytest.approx(0.5, abs=0.03)
    assert found["of_ceiling"] == pytest.approx(0.33, abs=0.05)


@pytest.mark.parametrize("num", [100, 1000])
def test_samples_go_through_the_held_out_images_in_turn(num):
    names = (NAMES * 3)[:num]
    assert fidelity(images_of(names, seed=3), HELD_OUT, NAMES)["value"] > 0.97


def test_it_is_not_measured_with_too_few_images_or_one_class():
    few = MIN_IMAGES - 1
    assert fidelity(HELD_OUT, HELD_OUT[:few], NAMES[:few]) is None
    assert fidelity(HELD_OUT, HELD_OUT, ["class 0"] * NUM) is None
