from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from torch.testing import assert_close

from artart.metrics import distances
from artart.metrics.distances import (
    BLOCK,
    Estimate,
    frechet_distance,
    frechet_estimate,
    halves,
    kernel_distance,
    mean,
    paired_kernel_distance,
    share,
)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(num: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(num, dim, generator=generator, dtype=torch.float64)


def gaussian(num: int, mu: torch.Tensor, root: torch.Tensor, seed: int) -> torch.Tensor:
    """(num, d) whose mean and covariance are exactly `mu` and `root @ root.T`."""
    z = normal(num, len(mu), drawing(seed))
    z = z - z.mean(dim=0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    return white @ root.T + mu


# --- how sure a figure is


@pytest.mark.parametrize("num", [2, 7, 100])
def test_halves_are_halves(num):
    chosen = halves(num, drawing())
    assert chosen.shape == (200, num)
    assert ((chosen == 0) | (chosen == 1)).all()
    assert (chosen.sum(dim=1) == num // 2).all()


def test_every_image_is_in_half_of_the_halves():
    often = halves(50, drawing()).mean(dim=0)
    assert ((often > 0.3) & (often < 0.7)).all()  # binomial of 200: standard deviation 0.035


@pytest.mark.parametrize("num", [1000, 101])
def test_the_interval_of_a_mean_is_as_wide_as_the_textbooks(num):
    """Its standard deviation is s / sqrt(num)."""
    values = normal(num, 1, drawing())[:, 0]
    widths = []
    for seed in range(10):
        found = mean(values, drawing(seed))
        assert_close(found.value, values.mean().item())
        widths.append(found.high - found.low)
    wanted = 2 * 1.96 * values.std().item() / num**0.5
    assert 0.9 < np.mean(widths) / wanted < 1.1  # ten times 200 halves


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    generator, num = drawing(), 300
    found = [mean(3 + torch.randn(80, generator=generator), generator) for _ in range(num)]
    assert 0.9 < sum(one.low <= 3 <= one.high for one in found) / num < 0.99


def test_the_mean_of_equal_values_is_certain():
    assert_close(mean(torch.full((10,), 2.5), drawing()), Estimate(2.5, 2.5, 2.5))


@pytest.mark.parametrize("num", [1, 9])
def test_few_images_have_no_interval(num):
    assert mean(torch.full((num,), 0.25), drawing()) == Estimate(0.25, None, None)


@pytest.mark.parametrize(
    ("num_true", "num", "wanted"),
    [(0, 100, (0.0, 0.0, 0.0370)), (5, 100, (0.05, 0.0215, 0.1118)), (100, 100, (1.0, 0.9630, 1.0))],
)
def test_shares_have_wilsons_interval(num_true, num, wanted):
    assert_close(tuple(share(num_true, num)), wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("num_true", "num"), [(0, 1), (1, 1), (1, 3), (50, 100), (9999, 10000)])
def test_shares_are_scipys(num_true, num):
    wanted = binomtest(num_true, num).proportion_ci(method="wilson")
    assert_close(tuple(share(num_true, num)), (num_true / num, wanted.low, wanted.high), rtol=0, atol=1e-4)


# --- kernel distance


def cubic(a: torch.Tensor, b: torch.Tensor) -> float:
    return (float(a @ b) / len(a) + 1) ** 3


def by_loops(x: torch.Tensor, y: torch.Tensor) -> float:
    n, m = len(x), len(y)
    within_x = sum(cubic(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(cubic(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(cubic(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (9, 5), (5, 12)])
def test_kernel_distance_is_the_mean_over_pairs(n, m):
    generator = drawing()
    x, y = normal(n, 4, generator), normal(m, 4, generator) + 1
    assert_close(kernel_distance(x, y).value, by_loops(x, y))


def test_the_interval_of_the_kernel_distance_is_of_halves():
    generator = drawing()
    x, y = normal(14, 4, generator), normal(11, 4, generator) + 1
    again = drawing()
    pairs = zip(halves(14, again).bool(), halves(11, again).bool(), strict=True)
    values = np.array([by_loops(x[a], y[b]) for a, b in pairs])
    low, high = np.quantile((values - values.mean()) * (5 / 6) ** 0.5, [0.025, 0.975])  # 5 of 11, 6 left out
    value = by_loops(x, y)
    assert_close(tuple(kernel_distance(x, y)), (value, value + low, value + high))


def test_kernel_distance_is_unbiased_for_equal_distributions():
    generator = drawing()
    values = [kernel_distance(normal(30, 3, generator), normal(40, 3, generator)).value for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5
    assert min(values) < 0


@pytest.mark.slow
def test_kernel_distance_of_two_gaussians_is_known_and_its_interval_holds_it():
    """In one dimension (xy + 1)^3 compares the first three moments."""
    generator, mu = drawing(), 0.5
    wanted = 3 * mu**2 + 3 * mu**4 + (mu**3 + 3 * mu) ** 2
    pairs = [(normal(150, 1, generator) + mu, normal(150, 1, generator)) for _ in range(150)]
    found = [kernel_distance(x, y) for x, y in pairs]
    values = [one.value for one in found]
    assert abs(np.mean(values) - wanted) < 3 * np.std(values) / len(values) ** 0.5
    assert 0.85 < np.mean([one.low <= wanted <= one.high for one in found]) < 0.99


def test_kernel_distance_grows_with_a_shift():
    generator = drawing()
    x, y = normal(300, 8, generator), normal(300, 8, generator)
    values = [kernel_distance(x, y + shift).value for shift in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert kernel_distance(x, y + 0.2).low > 0
    assert_close(kernel_distance(x, y + 1.0).value, kernel_distance(y + 1.0, x).value)


@pytest.mark.parametrize(("n", "m"), [(11, 8), (8, 11), (4, 4)])
def test_blocks_change_nothing(monkeypatch, n, m):
    generator = drawing()
    x, y = normal(n, 4, generator), normal(m, 4, generator)
    wanted = kernel_distance(x, y)
    monkeypatch.setattr(distances, "BLOCK", 4)
    assert_close(tuple(kernel_distance(x, y)), tuple(wanted))


def test_more_images_than_a_block_holds():
    generator = drawing()
    n = BLOCK + 5
    x, y = normal(n, 6, generator), normal(n, 6, generator) + 0.1
    xx, yy, xy = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = [(k.sum() - k.diagonal().sum()) / (n * (n - 1)) for k in (xx, yy)]
    assert_close(kernel_distance(x, y).value, (sum(within) - 2 * xy.mean()).item())


# --- kernel distance of pairs


def by_pairs(x: torch.Tensor, y: torch.Tensor) -> float:
    """Gretton et al. 2012, Eq. 4."""
    n = len(x)
    h = [
        cubic(x[i], x[j]) + cubic(y[i], y[j]) - cubic(x[i], y[j]) - cubic(x[j], y[i])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return sum(h) / (n * (n - 1))


@pytest.mark.parametrize("n", [2, 9])
def test_paired_kernel_distance_is_the_mean_over_two_pairs(n):
    x = normal(n, 4, drawing())
    y = x + 0.5 * normal(n, 4, drawing(1))
    assert_close(paired_kernel_distance(x, y).value, by_pairs(x, y))


def test_equal_sets_have_no_paired_kernel_distance():
    x = normal(20, 4, drawing())
    assert_close(paired_kernel_distance(x, x.clone()), Estimate(0.0, 0.0, 0.0), rtol=0, atol=1e-12)
    assert kernel_distance(x, x).value < -1


def test_the_interval_of_the_paired_kernel_distance_is_of_halves_of_the_pairs():
    x = normal(13, 4, drawing())
    y = x + 0.5 * normal(13, 4, drawing(1))
    values = np.array([by_pairs(x[half], y[half]) for half in halves(13, drawing()).bool()])
    low, high = np.quantile((values - values.mean()) * (6 / 7) ** 0.5, [0.025, 0.975])  # 6 of 13, 7 left out
    value = by_pairs(x, y)
    assert_close(tuple(paired_kernel_distance(x, y)), (value, value + low, value + high))


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_paired_kernel_distance_is_unbiased_for_pairs_that_depend_on_each_other(mu):
    """Against the distance of the two Gaussians, as above; y is the mirrored x, moved by mu."""
    generator = drawing()
    wanted = 3 * mu**2 + 3 * mu**4 + (mu**3 + 3 * mu) ** 2
    draws = [normal(30, 1, generator) for _ in range(300)]
    for sign in (-1, 1):
        values = [paired_kernel_distance(x, sign * x + mu).value for x in draws]
        assert abs(np.mean(values) - wanted) <= 3 * np.std(values) / len(values) ** 0.5 + 1e-9
    unpaired = [kernel_distance(x, x + mu).value for x in draws]
    assert wanted - np.mean(unpaired) > 5 * np.std(unpaired) / len(unpaired) ** 0.5


# --- Frechet distance


def test_frechet_distance_of_round_gaussians_is_known():
    x = gaussian(50, torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 2.0, 3.0])).double(), 0)
    y = gaussian(70, torch.tensor([1.0, 2.0, 2.0]).double(), torch.diag(torch.tensor([2.0, 2.0, 0.5])).double(), 1)
    assert_close(frechet_distance(x, y), 9 + 1 + 0 + 2.5**2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frechet_distance_of_correlated_gaussians_is_the_closed_form(seed):
    generator = drawing(seed)
    roots, means = normal(10, 5, generator).split(5), normal(2, 5, generator)
    x, y = (gaussian(40 + 10 * k, means[k], roots[k], k) for k in range(2))
    of_x, of_y = (root.numpy() @ root.numpy().T for root in roots)
    wanted = np.square((means[0] - means[1]).numpy()).sum() + np.trace(of_x + of_y - 2 * sqrtm(of_x @ of_y).real)
    assert_close(frechet_distance(x, y), float(wanted))
    assert_close(frechet_distance(y, x), float(wanted))


@pytest.mark.parametrize("num", [200, 6])
def test_equal_sets_have_no_frechet_distance(num):
    """Not even where there are fewer images than features."""
    x = normal(num, 10, drawing())
    assert_close(frechet_distance(x, x), 0.0, rtol=0, atol=1e-6)
    assert_close(frechet_distance(x, x + 2), 40.0, rtol=0, atol=1e-6)


def test_the_interval_of_the_frechet_distance_is_of_halves():
    generator = drawing()
    x, y = normal(31, 3, generator), normal(24, 3, generator) + 1
    again = drawing()
    pairs = zip(halves(31, again).bool(), halves(24, again).bool(), strict=True)
    values = np.array([frechet_distance(x[a], y[b]) for a, b in pairs])
    low, high = np.quantile(values - values.mean(), [0.025, 0.975])
    value = frechet_distance(x, y)
    assert_close(tuple(frechet_estimate(x, y)), (value, value + low, value + high))


def test_few_halves_of_many_features_have_the_same_interval_within_their_error(monkeypatch):
    x, y = normal(80, 4, drawing()), normal(64, 4, drawing())
    value, low, high = frechet_estimate(x, y)
    monkeypatch.setattr(distances, "MAX_HALVED_FEATURES", 3)
    monkeypatch.setattr(distances, "frechet_distance", counted := Mock(wraps=frechet_distance))
    of_few = frechet_estimate(x, y)
    assert counted.call_count == 21
    assert of_few.value == value
    assert_close(of_few.high - of_few.low, high - low, rtol=0.4, atol=0)
    assert_close(of_few.high - value, value - of_few.low)


@pytest.mark.parametrize("num", [5, 12])
def test_a_frechet_distance_of_fewer_images_than_features_is_that_of_their_covariances(num):
    x, y = normal(num, 12, drawing()), normal(num + 2, 12, drawing()) + 0.5
    of_x, of_y = torch.cov(x.T), torch.cov(y.T)
    cross = torch.linalg.eigvals(of_x @ of_y).real.clamp(min=0).sqrt().sum()
    wanted = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + (of_x + of_y).trace() - 2 * cross
    assert_close(frechet_distance(x, y), wanted.item(), rtol=1e-5, atol=1e-5)
