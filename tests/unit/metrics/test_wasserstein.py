import torch
from torch.testing import assert_close

from artart.metrics.distances import sliced_wasserstein


def test_distance_is_zero_for_the_same_set_and_grows_with_the_difference():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, 3, 16, 16, generator=generator)
    assert_close(sliced_wasserstein(x, x[torch.randperm(16, generator=generator)]), torch.tensor(0.0))
    near, far = sliced_wasserstein(x, y), sliced_wasserstein(x, 2 * y)
    assert 0 < near < 0.1 < far
    assert_close(far, sliced_wasserstein(2 * y, x))


def test_distance_of_a_shift_is_that_of_its_projections():
    """Each projection of a constant shift is that shift times the sum of the direction."""
    x = torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(32, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    sums = torch.nn.functional.normalize(directions.flatten(1)).sum(dim=1)
    assert_close(sliced_wasserstein(x, x + 0.3), 0.3 * sums.abs().mean())
