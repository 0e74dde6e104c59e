import torch
from torch.testing import assert_close

from artart.metrics.distances import coverage

GENERATOR = torch.Generator().manual_seed(0)


def cloud(num: int, centre: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    return centre + spread * torch.randn(num, 4, generator=GENERATOR, dtype=torch.float64)


def test_a_set_covers_itself_and_nothing_that_is_far_away():
    x = cloud(50)
    assert coverage(x, x) == (1.0, 1.0)
    assert coverage(x, x + 100) == (0.0, 0.0)


def test_it_is_what_the_definition_says_image_by_image():
    samples, real, k = cloud(30, 0.5), cloud(40), 3

    def lies_among(one: torch.Tensor, many: torch.Tensor) -> bool:
        for member in many:
            own = sorted((member - other).norm().item() for other in many)
            if (member - one).norm().item() <= own[k]:  # own[0] is its distance from itself
                return True
        return False

    wanted = [sum(lies_among(one, b) for one in a) / len(a) for a, b in ((samples, real), (real, samples))]
    assert_close(torch.tensor(coverage(samples, real, k)), torch.tensor(wanted))
    assert 0 < wanted[0] < 1
    assert 0 < wanted[1] < 1


def test_one_good_image_again_and_again_is_precise_and_covers_little():
    real = cloud(200)
    near_one = real[:1] + 0.01 * cloud(200)
    precision, recall = coverage(near_one, real)
    assert precision == 1.0
    assert recall < 0.05


def test_a_wide_cloud_covers_all_and_is_not_precise():
    real = cloud(200)
    precision, recall = coverage(cloud(200, spread=4.0), real)
    assert recall > 0.95
    assert precision < 0.5
