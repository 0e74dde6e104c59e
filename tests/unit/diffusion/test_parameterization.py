import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.diffusion.parameterization import MIN_ALPHA, PARAMETERIZATIONS, X0Prediction
from artart.diffusion.schedule import Cosine, Flow, Level, Schedule

B = 41
GENERATOR = torch.Generator().manual_seed(0)
X0, EPS, ERROR = torch.randn(3, B, 3, 2, 2, dtype=torch.float64, generator=GENERATOR)

parameterizations = pytest.mark.parametrize("name", PARAMETERIZATIONS)


def noised(schedule: Schedule, t: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Level]:
    """x0, eps, x_t and the level, one image for each time."""
    x0, eps = X0[: len(t)].to(dtype), EPS[: len(t)].to(dtype)
    level = schedule.for_images(t.to(dtype), x0)
    return x0, eps, level.alpha * x0 + level.sigma * eps, level


def perfect(name: str, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """The output of a perfect network."""
    return {"x0": x0, "eps": eps, "v": level.v_x0 * x0 + level.v_eps * eps}[name]


def times(schedule: Schedule, lowest: float, highest: float) -> Tensor:
    """Between two noise levels."""
    return schedule.time_at(torch.linspace(lowest, highest, B, dtype=torch.float64))


@parameterizations
def test_a_perfect_network_recovers_the_image(name, schedule):
    lowest, highest = {"x0": (0.001, 1), "eps": (0, 0.97), "v": (0, 1)}[name]  # one end may be singular
    x0, eps, x_t, level = noised(schedule, times(schedule, lowest, highest))
    output = perfect(name, x0, eps, level)
    assert_close(PARAMETERIZATIONS[name].x0(output, x_t, level), x0)


def test_the_velocity_is_that_of_the_schedule():
    t = torch.linspace(0, 1, B, dtype=torch.float64)
    for schedule in (Flow(), Cosine()):
        x0, eps, _, level = noised(schedule, t)
        v = eps - x0 if isinstance(schedule, Flow) else level.alpha * eps - level.sigma * x0
        assert_close(perfect("v", x0, eps, level), v)


@parameterizations
def test_the_x0_error_is_that_of_the_estimate(name, schedule):
    x0, eps, x_t, level = noised(schedule, times(schedule, 0.001, 0.97))
    output = perfect(name, x0, eps, level) + ERROR
    wanted = PARAMETERIZATIONS[name].x0(output, x_t, level) - x0
    assert wanted.abs().min() > 0
    assert_close(PARAMETERIZATIONS[name].x0_error(output, x0, eps, level), wanted)


@parameterizations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_network_has_no_x0_error_at_any_level(name, schedule, dtype):
    x0, eps, _, level = noised(schedule, torch.tensor([0, 0.001, 0.3, 0.7, 0.999, 1]), dtype)
    error = PARAMETERIZATIONS[name].x0_error(perfect(name, x0, eps, level), x0, eps, level)
    assert_close(error, torch.zeros_like(x0), rtol=0, atol=0)


@pytest.mark.parametrize("schedule", [Flow(), Cosine()])
def test_eps_is_divided_by_no_less_than_the_floor(schedule):
    parameterization = PARAMETERIZATIONS["eps"]
    x0, eps, x_t, level = noised(schedule, torch.tensor([0.995, 1.0]))
    assert (level.alpha < 0.02).all()
    output = eps + ERROR[:2]
    assert_close(parameterization.x0(output, x_t, level), (x_t - level.sigma * output) / 0.02)
    assert_close(parameterization.x0_error(output, x0, eps, level), -level.sigma * ERROR[:2] / 0.02)


def test_sampling_begins_where_the_parameterization_says_something_of_the_image(schedule):
    assert [PARAMETERIZATIONS[name].start for name in ("x0", "eps", "v")] == [1, 0.98, 1]
    first = schedule.times(10, start=PARAMETERIZATIONS["eps"].start)[0]
    assert schedule.at(first).alpha >= MIN_ALPHA


def test_x0_needs_no_noise_level_to_be_an_image():
    x0, _, x_t, level = noised(Flow(), torch.zeros(1))
    assert X0Prediction().x0(x0, x_t, level) is x0
