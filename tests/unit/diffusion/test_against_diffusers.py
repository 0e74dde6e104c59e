"""Equality with Hugging Face's diffusers, through its own noise levels and times."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor
from torch.testing import assert_close

from artart.diffusion.parameterization import PARAMETERIZATIONS
from artart.diffusion.samplers import DDIM, Denoise, DPMpp2M, Heun, Sampler, UniPC
from artart.diffusion.schedule import Flow, Schedule, Table

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs

SHAPE = (2, 3, 4, 4)
NUM_TIMES = 1000
SEED = 7
THEIR_NAMES = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}
MIXING = torch.randn(48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 7


def net(x_t: Tensor, t: Tensor) -> Tensor:
    """Some network; its times are ours."""
    mixed = x_t.flatten(1).double() @ MIXING + t.double().view(-1, 1)
    return torch.tanh(mixed).view_as(x_t).to(x_t)


def normals(num: int, seed: int = SEED) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(num)]


START = normals(1, seed=2)[0]


def denoiser(schedule: Schedule, parameterization: str) -> Denoise:
    return lambda x_t, t: PARAMETERIZATIONS[parameterization].x0(net(x_t, t), x_t, schedule.for_images(t, x_t))


def ours(sampler: Sampler, schedule: Schedule, parameterization: str, times: Tensor) -> list[Tensor]:
    noise = normals(len(times))
    steps = sampler(denoiser(schedule, parameterization), schedule, START, times, lambda i: noise[i - 1])
    return [step.x_t for step in steps]


def theirs(scheduler, their_time=lambda k: (k + 1) / NUM_TIMES, **options) -> list[Tensor]:
    x, path = START, []
    for k in scheduler.timesteps:
        t = their_time(k).double().expand(len(x))
        more = {name: next(values) for name, values in options.items()}
        x = scheduler.step(net(x, t), k, x, **more).prev_sample
        path.append(x)
    return path


def table_and_times(scheduler) -> tuple[Table, Tensor]:
    """Its noise levels, and where in them it goes: its index k of n is our time (k + 1) / n."""
    times = (scheduler.timesteps.double() + 1) / NUM_TIMES
    return Table(scheduler.alphas_cumprod.tolist()), torch.cat([times, times.new_zeros(1)])


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert_close(ours, [x.double() for x in theirs], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parameterization", THEIR_NAMES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, parameterization):
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, prediction_type=THEIR_NAMES[parameterization])
    scheduler.set_timesteps(7)  # from time 852, where eps still tells something
    table, times = table_and_times(scheduler)
    options = {"eta": iter([eta] * 7), "variance_noise": iter(normals(7))}
    assert_same(ours(DDIM(eta=eta), table, parameterization, times), theirs(scheduler, **options))


@pytest.mark.parametrize("parameterization", ["x0", "v"])
def test_ddpm_is_ddim_with_eta_1(parameterization):
    scheduler = DDPMScheduler(
        variance_type="fixed_small", clip_sample=False, prediction_type=THEIR_NAMES[parameterization]
    )
    scheduler.set_timesteps(10)
    table, times = table_and_times(scheduler)
    same = torch.Generator().manual_seed(SEED)
    path = theirs(scheduler, generator=iter([same] * 10))
    assert_same(ours(DDIM(eta=1), table, parameterization, times), path)


def flow_times(scheduler) -> Tensor:
    """Those of `scheduler.sigmas`, where Heun's are there twice but for both ends."""
    return torch.unique(scheduler.sigmas.double()).flip(0)


def test_flow_matchings_euler_is_ddim_on_flow():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    path = theirs(scheduler, lambda k: k / NUM_TIMES)
    assert_same(ours(DDIM(), Flow(), "v", flow_times(scheduler)), path)


def test_flow_matchings_heun_is_heun_on_flow():
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(10)
    path = theirs(scheduler, lambda k: k / NUM_TIMES)
    assert_same(ours(Heun(), Flow(), "v", flow_times(scheduler)), [*path[1::2], path[-1]])


@pytest.mark.parametrize("parameterization", ["x0", "v"])
@pytest.mark.parametrize("num_steps", [10, 20])
def test_dpm_solver_multistep_is_dpmpp_2m(parameterization, num_steps):
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        prediction_type=THEIR_NAMES[parameterization],
    )
    scheduler.set_timesteps(num_steps)
    table, times = table_and_times(scheduler)
    assert_same(ours(DPMpp2M(), table, parameterization, times), theirs(scheduler))


@pytest.mark.parametrize("parameterization", ["x0", "v"])
@pytest.mark.parametrize("num_steps", [3, 10])
def test_unipc(parameterization, num_steps):
    scheduler = UniPCMultistepScheduler(final_sigmas_type="zero", prediction_type=THEIR_NAMES[parameterization])
    scheduler.set_timesteps(num_steps)
    table, times = table_and_times(scheduler)
    assert_same(ours(UniPC(), table, parameterization, times), theirs(scheduler))
