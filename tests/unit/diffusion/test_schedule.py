import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.diffusion.schedule import Cosine, Flow, Linear, Table, per_image

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)
INSIDE = (TIMES[1:] + TIMES[:-1]) / 2  # on no entry of a table, where the slope jumps


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cosine_table(num: int) -> Table:
    """The angle is even in time, as Table's is between its entries, so even a short table is all of the cosine."""
    return Table([math.cos(math.pi / 2 * k / num) ** 2 for k in range(1, num + 1)])


# Levels


def test_time_0_is_the_image(schedule):
    level = schedule.at(number(0))
    assert (level.alpha, level.sigma, level.r) == (1, 0, 0)


@pytest.mark.parametrize("schedule", [Flow(), Cosine()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_1_is_pure_noise_to_the_last_digit(schedule, dtype):
    level = schedule.at(torch.ones((), dtype=dtype))
    assert (level.alpha, level.sigma, level.r) == (0, 1, 1)


def test_the_middle_of_flow_and_cosine_by_their_definitions():
    assert_close(Flow().at(TIMES)[:2], (1 - TIMES, TIMES))
    assert_close(Cosine().at(TIMES)[:2], (torch.cos(math.pi / 2 * TIMES), torch.sin(math.pi / 2 * TIMES)))


def test_linear_is_the_integral_of_ddpms_betas():
    grid = torch.linspace(0, 1, 101, dtype=torch.float64) * TIMES[:, None]
    integral = torch.trapezoid(0.1 + (20 - 0.1) * grid, grid)
    level = Linear().at(TIMES)
    assert_close(level.alpha, torch.exp(-integral / 2))
    assert_close(level.sigma, torch.sqrt(1 - torch.exp(-integral)))


def test_linear_is_ddpms_product_of_1000_betas_but_for_its_steps():
    products = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    wanted = Linear().at(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha
    assert_close(products.sqrt(), wanted, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), cosine_table(7), Table([0.9, 0.3, 0.01])])
def test_variance_is_preserved(schedule):
    level = schedule.at(TIMES)
    assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(TIMES))


def test_alpha_falls_and_sigma_rises(schedule):
    level = schedule.at(TIMES)
    assert (level.alpha.diff() < 0).all()
    assert (level.sigma.diff() > 0).all()


def test_little_noise_is_exact_in_single_precision(schedule):
    t = torch.logspace(-7, -2, 50)
    assert_close(schedule.at(t).sigma.double(), schedule.at(t.double()).sigma, rtol=1e-5, atol=0)


def test_r_is_the_share_of_noise(schedule):
    level = schedule.at(TIMES)
    assert_close(level.r, level.sigma / (level.alpha + level.sigma))


def test_v_is_the_derivative_over_the_determinant(schedule):
    t = INSIDE.clone().requires_grad_()
    level = schedule.at(t)
    (d_alpha,) = torch.autograd.grad(level.alpha.sum(), t, retain_graph=True)
    (d_sigma,) = torch.autograd.grad(level.sigma.sum(), t, retain_graph=True)
    determinant = level.alpha * d_sigma - level.sigma * d_alpha
    assert_close(level.v_x0, d_alpha / determinant)
    assert_close(level.v_eps, d_sigma / determinant)


# Times of noise levels


def test_a_noise_level_comes_back_through_its_time(schedule):
    r = torch.cat([torch.logspace(-8, -2, 20, dtype=torch.float64), torch.linspace(0, 0.99, 100, dtype=torch.float64)])
    assert_close(schedule.at(schedule.time_at(r)).r, r, rtol=1e-9, atol=0)


def test_time_rises_with_noise_from_0_to_1(schedule):
    t = schedule.time_at(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (t[0], t[-1]) == (0, 1)
    last = schedule.at(number(1)).r
    assert (t.diff()[: int(1000 * last)] > 0).all()
    assert (t.diff() >= 0).all()


@pytest.mark.parametrize("schedule", [Linear(), Table([0.9, 0.3, 0.01])])
def test_a_noise_level_that_is_not_reached_is_the_last_time(schedule):
    last = schedule.at(number(1)).r
    levels = torch.stack([last + 1e-6, (1 + last) / 2, number(1)])
    assert_close(schedule.time_at(levels), torch.ones_like(levels), rtol=0, atol=0)


def test_types_and_shapes_are_kept(schedule):
    t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    assert all(values.dtype == torch.float32 and values.shape == (2, 3) for values in schedule.at(t))
    assert schedule.time_at(t).dtype == torch.float32
    assert schedule.time_at(t).shape == (2, 3)


# Tables


def test_a_table_is_exact_at_its_entries():
    squares = torch.tensor([0.97, 0.5, 0.3, 0.299, 0.0], dtype=torch.float64)
    table, t = Table(squares.tolist()), torch.arange(1, 6, dtype=torch.float64) / 5
    assert_close(table.at(t).alpha ** 2, squares)
    assert_close(table.time_at(table.at(t).r), t)


@pytest.mark.parametrize("num", [1, 4, 1000])
def test_a_table_of_the_cosine_is_the_cosine(num):
    r = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert_close(cosine_table(num).at(TIMES), Cosine().at(TIMES))
    assert_close(cosine_table(num).time_at(r), Cosine().time_at(r))


@pytest.mark.parametrize(
    "alphas_cumprod", [[], [0.5, 0.5], [0.5, 0.6], [1.0, 0.5], [1.1, 0.5], [0.5, -0.1], [0.5, math.nan, 0.1]]
)
def test_a_table_that_does_not_fall_within_0_and_1_is_refused(alphas_cumprod):
    with pytest.raises(ValueError, match=r"schedule\.alphas_cumprod"):
        Table(alphas_cumprod)


# Numbers for images


def test_one_number_scales_one_image(schedule):
    t, images = torch.tensor([0.2, 0.9]), torch.ones(2, 3, 4, 4)
    for scaled, values in zip(schedule.for_images(t, images), schedule.at(t), strict=True):
        assert scaled.shape == (2, 1, 1, 1)
        assert_close((scaled * images)[:, 2, 3, 3], values)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_another_count_than_one_number_an_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"one value per image: got .* for a batch of 2"):
        per_image(torch.ones(shape), torch.ones(2, 3, 4, 4))


# Times for samplers


@pytest.mark.parametrize("spacing", ["r", "t", "lambda", "karras"])
@pytest.mark.parametrize("start", [1.0, 0.99, 80 / 81, 0.98, 0.5, 0.01])
def test_times_fall_from_the_start_to_0(schedule, spacing, start):
    for num_steps in (1, 2, 3, 4, 30):
        times = schedule.times(num_steps, spacing, start)
        assert times.shape == (num_steps + 1,)
        assert times.dtype == torch.float64
        assert_close(schedule.at(times[0]).r, min(number(start), schedule.at(number(1)).r))
        assert (times.diff() < 0).all()
        assert times[-1] == 0


@pytest.mark.parametrize("spacing", ["r", "t", "lambda", "karras"])
def test_times_begin_at_the_end_of_a_schedule_that_leaves_much_of_the_image(spacing):
    table = Table([0.9, 0.5, 0.3])  # to r = 0.60
    for start in (1.0, 0.7, 0.6):
        times = table.times(10, spacing, start)
        assert_close(table.at(times[0]).r, min(number(start), table.at(number(1)).r))
        assert times.shape == (11,)
        assert (times.diff() < 0).all()


def test_times_are_even_in_r_unless_asked_otherwise(schedule):
    r = schedule.at(schedule.times(10)).r
    assert_close(r, torch.linspace(r[0], 0, 11, dtype=torch.float64))
    assert_close(schedule.times(10, "r"), schedule.times(10), rtol=0, atol=0)
    r = schedule.at(schedule.times(5, "r", start=0.5)).r
    assert_close(r, torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0], dtype=torch.float64))


def test_times_are_even_in_t(schedule):
    assert_close(schedule.times(4, "t"), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    times = schedule.times(4, "t", start=0.5)
    assert_close(times, schedule.time_at(number(0.5)) * torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))


def log_ratios(schedule, times: Tensor) -> Tensor:
    level = schedule.at(times)
    return (level.alpha / level.sigma).log()


def test_times_are_even_in_lambda_between_finite_ends(schedule):
    inner = log_ratios(schedule, schedule.times(10, "lambda")[1:-1])
    assert_close(inner, torch.linspace(-math.log(80), -math.log(0.002), 9, dtype=torch.float64))
    from_half = log_ratios(schedule, schedule.times(10, "lambda", start=0.5)[:-1])
    assert_close(from_half, torch.linspace(0, -math.log(0.002), 10, dtype=torch.float64))


def test_karras_times_are_edms(schedule):
    def edm(i: int, num: int, largest: float) -> float:  # Karras et al. 2022, Eq. 5
        return (largest ** (1 / 7) + i / (num - 1) * (0.002 ** (1 / 7) - largest ** (1 / 7))) ** 7

    inner = torch.exp(-log_ratios(schedule, schedule.times(10, "karras")[1:-1]))
    assert_close(inner, torch.tensor([edm(i, 9, 80) for i in range(9)], dtype=torch.float64))
    from_3_to_1 = torch.exp(-log_ratios(schedule, schedule.times(10, "karras", start=0.75)[:-1]))
    assert_close(from_3_to_1, torch.tensor([edm(i, 10, 3) for i in range(10)], dtype=torch.float64))


@pytest.mark.parametrize(
    ("spacing", "start"), [("r", 0.0), ("t", -0.1), ("lambda", 0.001), ("karras", 0.002), ("r", 1.5)]
)
def test_a_start_that_the_spacing_cannot_begin_at_is_refused(spacing, start):
    with pytest.raises(ValueError, match=f"start={start}"):
        Flow().times(5, spacing, start)
