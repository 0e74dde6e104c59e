import pytest
import torch
from torch.testing import assert_close

from artart.metrics.distances import distance_of_patches, sliced_wasserstein


def test_distance_is_zero_for_the_same_set_and_grows_with_the_difference():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, 3, 16, 16, generator=generator)
    assert_close(sliced_wasserstein(x, x[torch.randperm(16, generator=generator)]), torch.tensor(0.0))
    near, far = sliced_wasserstein(x, y), sliced_wasserstein(x, 2 * y)
    assert 0 < near < 0.1 < far
    assert_close(far, sliced_wasserstein(2 * y, x))


def test_distance_of_images_does_not_depend_on_the_number_beside_them():
    x, y = torch.randn(2, 64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, parts = (
        distance_of_patches(x, y),
        [distance_of_patches(x[k : k + 16], y[k : k + 16]) for k in (0, 16, 32, 48)],
    )
    assert_close(whole, torch.cat(parts))
    assert sliced_wasserstein(x, y) < 0.7 * whole.mean(), "of more images it is smaller"


def directions() -> torch.Tensor:
    drawn = torch.randn(32, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(drawn.flatten(1)).view_as(drawn)


@pytest.mark.parametrize("size", [7, 16])
def test_distance_of_a_shift_is_that_of_its_projections(size):
    """Each projection of a constant shift is that shift times the sum of the direction; at 16 px also of halves."""
    x = torch.randn(8, 1, size, size, generator=torch.Generator().manual_seed(0))
    sums = directions().sum(dim=(1, 2, 3))
    assert_close(sliced_wasserstein(x, x + 0.3), 0.3 * sums.abs().mean())


def test_distance_is_the_mean_over_sizes():
    """Of a checkerboard, whose projections at 16 px differ in sign only, nothing is left at 8 px."""
    x, places = torch.zeros(8, 1, 16, 16), torch.arange(16)
    board = 1.0 - 2 * ((places + places[:, None]) % 2)
    sums = (directions() * board[:7, :7]).sum(dim=(1, 2, 3))
    assert_close(sliced_wasserstein(x, x + 0.3 * board), 0.3 * sums.abs().mean() / 2)
