import math

import pytest
import torch
from torch.testing import assert_close

from artart.metrics import distances
from artart.metrics.diversity import AMONG, NEAR, neighbour_metrics, vendi_score

GENERATOR = torch.Generator().manual_seed(0)


def cloud(num: int, centre: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    return centre + spread * torch.randn(num, 4, generator=GENERATOR, dtype=torch.float64)


def values(samples: torch.Tensor, real: torch.Tensor) -> tuple[float, ...]:
    return tuple(one.value for one in neighbour_metrics(samples, real).values())


def test_a_set_covers_itself_and_nothing_that_is_far_away():
    x = cloud(50)
    assert_close(values(x, x), (1.0, 1.0, 1.0, 1.0))
    assert values(x, x + 100) == (0.0, 0.0, 0.0, 0.0)


def test_they_are_what_the_definitions_say_image_by_image():
    samples, real = cloud(30, 0.5), cloud(40)

    def balls(images: torch.Tensor, k: int) -> list[tuple[torch.Tensor, float]]:
        return [(one, sorted((one - other).norm().item() for other in images)[k]) for one in images]  # [0] is itself

    def among(one: torch.Tensor, many: list[tuple[torch.Tensor, float]]) -> int:
        return sum((one - centre).norm().item() <= radius for centre, radius in many)

    of_samples, of_real, near = balls(samples, AMONG), balls(real, AMONG), balls(real, NEAR)
    expected = (
        sum(among(one, of_real) > 0 for one in samples) / 30,
        sum(among(one, of_samples) > 0 for one in real) / 40,
        sum(among(one, near) for one in samples) / NEAR / 30,
        sum(any(among(one, [ball]) for one in samples) for ball in near) / 40,
    )
    assert_close(values(samples, real), expected)
    assert all(0.1 < value < 0.99 for value in expected)


def test_coverage_and_density_of_real_images_are_those_of_the_paper():
    """Naeem et al. 2020: of n samples and m real images of one distribution, whatever it is; density is about 1."""
    n, m = 60, 40
    found = torch.tensor([values(cloud(n), cloud(m))[2:] for _ in range(12)]).mean(dim=0)
    expected = 1 - math.prod((m - j) / (n + m - j) for j in range(1, NEAR + 1))
    assert_close(found, torch.tensor([1.0, expected]), rtol=0, atol=0.06)


def test_one_good_image_again_and_again_is_precise_and_covers_little():
    real = cloud(200)
    precision, recall, density, coverage = values(real[:1] + 0.01 * cloud(200), real)
    assert precision == 1.0
    assert density > 0.5
    assert max(recall, coverage) < 0.1


def test_one_outlier_gives_recall_and_no_coverage():
    """The reason for density and coverage: a far outlier has a huge ball, which inflates precision and recall."""
    samples = torch.cat([cloud(199, centre=20.0), cloud(1, centre=-200.0)])
    _, recall, _, coverage = values(samples, cloud(200))
    assert recall == 1.0
    assert coverage == 0.0


def test_a_wide_cloud_covers_all_and_is_not_precise():
    precision, recall, density, _ = values(cloud(200, spread=4.0), cloud(200))
    assert recall > 0.95
    assert max(precision, density) < 0.5


@pytest.mark.slow
def test_intervals_hold_what_other_draws_give_and_are_not_much_wider():
    GENERATOR.manual_seed(0)
    draws = [neighbour_metrics(cloud(80, spread=0.7), cloud(80)) for _ in range(20)]
    for name in draws[0]:
        found, low, high = torch.tensor([one[name] for one in draws]).T
        assert ((low <= found.mean()) & (found.mean() <= high)).sum() >= 16, name
        assert (high - low).mean() < 8 * found.std(), name  # 3.9 if they were normal, and known
        assert ((low >= 0) & (low <= found)).all(), name


def test_shares_of_none_and_of_all_have_intervals_with_a_width():
    found = neighbour_metrics(cloud(50, 100), cloud(50))
    assert found["recall"] == (0.0, 0.0, pytest.approx(0.0714, abs=1e-3))


# ---------------------------------------------------------------- Vendi score


def test_copies_count_once_and_orthogonal_images_each():
    assert_close(vendi_score(cloud(1).expand(20, 4)).value, 1.0)
    assert_close(vendi_score(torch.eye(20).double()).value, 20.0)
    assert_close(vendi_score(7 * torch.eye(20).double()[:, :12].T).value, 12.0)
    assert_close(vendi_score(torch.eye(3).double().repeat_interleave(5, dim=0)).value, 3.0)


@pytest.mark.parametrize("shape", [(30, 5), (12, 50)])
def test_the_vendi_score_is_the_entropy_of_the_kernel(shape):
    x = torch.randn(shape, generator=GENERATOR, dtype=torch.float64)
    kernel = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    shares = [value for value in torch.linalg.eigvalsh(kernel / len(x)).tolist() if value > 1e-12]
    assert_close(vendi_score(x).value, math.exp(-sum(value * math.log(value) for value in shares)))


def test_shares_of_images_decide_the_vendi_score():
    counts = (10, 30)  # the entropy of 1/4 and 3/4
    x = torch.eye(2).double().repeat_interleave(torch.tensor(counts), dim=0)
    found = vendi_score(x)
    assert_close(found.value, math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))
    assert found.low < found.value < found.high


def test_the_vendi_score_of_many_features_has_an_interval_from_few_halves(monkeypatch):
    value, low, high = vendi_score(x := cloud(40))
    monkeypatch.setattr(distances, "MAX_HALVED_FEATURES", 3)
    of_few = vendi_score(x)
    assert (of_few.value, of_few.low != low) == (value, True)
    assert_close(of_few.high - of_few.low, high - low, rtol=0.4, atol=0)
