import pytest
import torch
from torch.testing import assert_close

from artart.objectives.differentiable_augment import Operations, augment, draw

NAMES = ("brightness", "saturation", "contrast", "translation", "cutout")


def only(name: str, num: int, drawn: float = 0.9) -> Operations:
    """One operation on each image, as far as `drawn` says."""
    return Operations(torch.tensor([[one == name] * num for one in NAMES]), torch.full((7, num), drawn))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_augment_is_the_identity_where_nothing_happens(images):
    assert_close(augment(images, draw(3, 0.0, torch.Generator().manual_seed(0))), images, rtol=0, atol=0)
    some = only("contrast", 3)
    some.happens[:, 1] = False
    changed = augment(images, some)
    assert_close(changed[1], images[1], rtol=0, atol=0)
    assert (changed[[0, 2]] - images[[0, 2]]).abs().amin(dim=(1, 2, 3)).max() > 0


def test_operations_are_those_of_zhao(images):
    assert_close(augment(images, only("brightness", 3)), images + 0.4)
    grey, mean = images.mean(dim=1, keepdim=True), images.mean(dim=(1, 2, 3), keepdim=True)
    assert_close(augment(images, only("saturation", 3)), grey + 1.8 * (images - grey))
    assert_close(augment(images, only("contrast", 3)), mean + 1.4 * (images - mean))
    moved = augment(images, only("translation", 3, 0.999))  # an eighth of 16 pixels, right and down
    assert_close(moved[:, :, 2:, 2:], images[:, :, :-2, :-2])
    assert moved[:, :, :2].abs().max() == moved[:, :, :, :2].abs().max() == 0
    hole = augment(images, only("cutout", 3, 0.5)) == 0
    assert hole.sum(dim=(1, 2, 3)).tolist() == [3 * 8 * 8] * 3
    assert hole[:, :, 4:12, 4:12].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_augment_is_differentiable(images, name):
    x = images[:, :, :6, :6].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, only(name, 3)), x)


def test_each_operation_has_its_probability_alone():
    happens = draw(20_000, 0.3, torch.Generator().manual_seed(0)).happens.double()
    assert_close(happens.mean(dim=1), torch.full((5,), 0.3, dtype=torch.double), rtol=0, atol=0.015)
    assert torch.corrcoef(happens).fill_diagonal_(0).abs().max() < 0.03
