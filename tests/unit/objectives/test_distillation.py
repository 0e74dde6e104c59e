"""Distillation with teachers and samples whose distributions are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from artart.diffusion.samplers import DDIM
from artart.diffusion.schedule import Cosine, Flow, Linear, Schedule, per_image
from artart.io.images import Batch
from artart.objectives.base import Objective
from artart.objectives.distillation import COMPARED, Distillation, DistributionMatching

SCHEDULES = pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])
NUM_CLASSES, STD = 3, 0.5


class Net(nn.Module):
    """A network whose v means an x0_hat: of images that are a "point" for each label, or Gaussian.

    Of the latter, with the deviation `std`: the "mean"; or a sample "at once", from any noise level of images with STD.
    For a number of steps: where the straight line to the end of each meets r = 0. Along a path x_t is scaled as its
    deviation is.
    """

    num_classes = NUM_CLASSES

    def __init__(self, schedule: Schedule, kind: str | int = "mean", std: float = STD) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        level = self.schedule.for_images(t, x_t)
        variance = (level.alpha * STD) ** 2 + level.sigma**2
        if self.kind == "point":
            x0_hat = per_image(y.flatten() / 4, x_t).expand_as(x_t)
        elif self.kind == "mean":
            x0_hat = level.alpha * self.std**2 / ((level.alpha * self.std) ** 2 + level.sigma**2) * x_t
        elif self.kind == "at once":
            x0_hat = self.std * x_t / variance.sqrt()
        else:
            r = level.r.flatten()
            end = self.schedule.for_images(
                self.schedule.time_at(((r * self.kind - 1e-9).ceil() - 1).clamp(min=0) / self.kind), x_t
            )
            y_now = x_t / (level.alpha + level.sigma)
            x_end = (((end.alpha * STD) ** 2 + end.sigma**2) / variance).sqrt() * x_t
            y_end = x_end / (end.alpha + end.sigma)
            x0_hat = y_end - (y_now - y_end) * end.r / (level.r - end.r)
        return (level.v_eps * x_t - x0_hat) / level.sigma.clamp(min=1e-9)


def objective(
    schedule: Schedule, net: nn.Module, num_steps: int = 1, teacher_steps: int = 8, regression: float = 1.0, **more
) -> Distillation:
    made = Distillation(DistributionMatching(regression), schedule, num_steps, teacher_steps, **more)
    made.loss.begin_with(net)
    return made


def batch(num: int = 64, seed: int = 0) -> Batch:
    normal = torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(STD * normal, torch.arange(num)[:, None] % NUM_CLASSES)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_an_objective():
    made = objective(Flow(), Net(Flow()), num_steps=3)
    assert isinstance(made, Objective)
    assert (made.inputs, made.output, made.num_steps, made.one_step) == (("x_t", "t", "y"), "v_hat", 3, False)
    assert made.metrics == [f"train/{name}" for name in ("loss", "denoising", "matching", "regression")] + ["val/swd"]
    losses = made(Net(Flow()), batch(), drawing(), progress=0.1)
    assert_close(losses["loss"], 0.8 * losses["regression"] + losses["denoising"])
    assert "regression" not in made(Net(Flow()), batch(), drawing(), progress=0.5)
    assert [f"train/{name}" for name in losses] == made.metrics[:-1]
    assert all(one.shape == (64,) for one in losses.values())


@SCHEDULES
@pytest.mark.parametrize("teacher_steps", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_where_all_paths_are_straight_the_teacher_needs_no_training(schedule, num_steps, teacher_steps):
    net = Net(schedule, "point")
    losses = objective(schedule, net, num_steps, teacher_steps, class_dropout_prob=0.0)(
        net, batch(), drawing(), progress=0.0
    )
    assert losses["regression"].max() < 1e-9
    assert losses["matching"].max() < 1e-9  # the discriminator is a copy of the teacher
    assert_close(losses["loss"], losses["regression"] + losses["denoising"])


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_for_gaussian_data_regression_is_zero_at_the_ends_of_the_steps_in_closed_form(schedule, num_steps):
    """The squared error of Heun's method, h^4 or smaller, is left."""
    means, ends = Net(schedule), Net(schedule, num_steps)
    coarse, fine, finest = (
        objective(schedule, means, num_steps, num)(ends, batch(), drawing(), progress=0.0)["regression"].mean()
        for num in (2, 8, 32)
    )
    untrained = objective(schedule, means, num_steps, 32)(means, batch(), drawing(), progress=0.0)["regression"].mean()
    assert finest < fine / 4**3 < coarse / 4**6
    assert finest < untrained / 1e4


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_a_network_that_samples_the_ends_of_paths_by_ddim_has_no_loss_to_learn_from(schedule, num_steps):
    """Its samples, which training draws in the same way, have the distribution that the discriminator knows."""
    net, (x0, y) = Net(schedule, num_steps), batch()
    made, times = objective(schedule, Net(schedule), num_steps), schedule.times(num_steps)
    noise = schedule.add_noise(torch.zeros_like(x0), x0 / STD, schedule.at(times[:1]).r.expand(len(x0)))
    *_, (wanted, _) = DDIM(num_steps)(
        lambda x_t, t: made._estimate(net, x_t, t, [y]), schedule, noise.x_t, times, torch.randn
    )
    assert_close(wanted, x0, rtol=1e-4, atol=1e-4)
    assert_close(made._sample(net, noise, [y]), wanted, rtol=1e-5, atol=1e-5)
    assert made(net, batch(), drawing())["matching"].max() < 1e-9


def test_losses_and_their_gradients_are_those_by_hand():
    images = [torch.randn(2, 3, 4, 4, generator=drawing(k), dtype=torch.float64) for k in range(3)]
    x, of_teacher, of_samples = (one.requires_grad_() for one in images)
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64)
    losses = DistributionMatching()(x, of_teacher, of_samples, weight)
    denoising = weight * (of_samples - x).square().mean(dim=(1, 2, 3))
    assert_close(losses["loss"], denoising)
    assert_close(losses["denoising"], denoising.detach())
    scale = (x - of_teacher).abs().mean(dim=(1, 2, 3), keepdim=True)
    difference = ((of_samples - of_teacher) / scale).detach()
    assert_close(losses["matching"], difference.square().mean(dim=(1, 2, 3)).sqrt(), check_dtype=False)
    to_x, to_samples = torch.autograd.grad(losses["loss"].sum(), (x, of_samples))
    assert_close(to_x, difference / x[0].numel())
    assert_close(to_samples, per_image(weight, x) * 2 * (of_samples - x).detach() / x[0].numel())


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 2])
def test_samples_take_the_distribution_of_the_teacher(schedule, num_steps):
    """From half of its deviation, without regression; the discriminator learns that of the samples on the way."""
    net, generator, path = Net(schedule, "at once", STD / 2), drawing(), []
    made = objective(schedule, Net(schedule), num_steps, 1, regression=0.0)
    parameters = [net.std, made.loss.discriminator.std]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for seed in range(300):
        optimizer.zero_grad()
        made(net, batch(16, seed), generator)["loss"].mean().backward()
        optimizer.step()
        path.append([float(one.detach()) for one in parameters])
    assert path[-1][1] == pytest.approx(STD, rel=0.05)
    if num_steps == 1:
        assert path[-1][0] == pytest.approx(STD, rel=0.05)
    assert min(of_samples for _, of_samples in path) < 0.95 * STD


@pytest.mark.parametrize("schedule", [Flow(), Linear()], ids=["flow", "linear"])  # which begins below pure noise
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_half_of_the_noise_levels_are_those_of_samples_and_each_lies_in_its_segment(schedule, num_steps, monkeypatch):
    ends, levels, add_noise = [], [], schedule.add_noise
    made, net = objective(schedule, net := Net(schedule), num_steps), net
    monkeypatch.setattr(made, "_target", lambda noised, end, _: [ends.append(end), noised.x_t][1])
    monkeypatch.setattr(schedule, "add_noise", lambda x0, eps, r: [levels.append(r), add_noise(x0, eps, r)][1])
    made(net, batch(4000), drawing(), progress=0.0)
    (start, begin, compared), (end,) = levels, ends
    of_samples = schedule.at(schedule.times(num_steps)).r
    assert_close(begin, of_samples[0].to(begin).expand_as(begin))
    assert (compared.min().item(), compared.max().item()) == pytest.approx(COMPARED, abs=1e-3)
    assert compared.mean() == pytest.approx(0.5, abs=0.03)
    beginnings = start[(start - of_samples[:-1, None]).abs().amin(dim=0) < 1e-5]
    assert len(beginnings) == pytest.approx(len(start) / 2, abs=120)
    start, end = start / of_samples[0], end / of_samples[0]
    part = (start - end) * num_steps
    assert ((part > 0) & (part <= 1 + 1e-5)).all()
    assert (part > 1 - 1e-5).float().mean() == pytest.approx(0.5, abs=0.03)
    assert (part[part < 1 - 1e-5]).mean() == pytest.approx(0.5, abs=0.03)
    segments = (end * num_steps).round()
    assert_close(segments / num_steps, end)
    assert [(segments == k).float().mean().item() for k in range(num_steps)] == pytest.approx(
        [1 / num_steps] * num_steps, abs=0.03
    )


@SCHEDULES
def test_teacher_and_discriminator_are_copies_and_the_teacher_stays(schedule):
    made = objective(schedule, net := Net(schedule), 2)
    made(net, batch(), drawing(), progress=0.25)["loss"].mean().backward()
    assert made.loss.teacher.std.grad is None
    assert not made.loss.teacher.std.requires_grad
    assert min(abs(float(one.std.grad)) for one in (net, made.loss.discriminator)) > 1e-6
    with torch.no_grad():
        net.std.fill_(2)
    assert made.loss.teacher.std == made.loss.discriminator.std == STD
    assert [group["lr"] for group in made.loss.param_groups(0.1)] == [0.5]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_teacher_is_guided_away_from_none(guidance):
    """A step over the whole path ends at the teacher's guided x0_hat, of which the plain one differs as computed."""
    net, images = Net(Flow(), "point"), batch()
    made = objective(Flow(), net, 1, 1, guidance=guidance, class_dropout_prob=0.0)
    to_none = (images.y.flatten() - NUM_CLASSES).double() / 4
    losses = made(net, images, drawing(), progress=0.0)
    assert_close(losses["regression"], ((1 - guidance) * to_none).square(), rtol=1e-6, atol=1e-9)
    assert_close(losses["matching"] > 0.1, (abs(1 - guidance) * to_none).abs() > 0.1)


def test_the_draws_do_not_depend_on_the_number_of_processes():
    net, images = Net(Flow(), "point"), batch(8)
    made = objective(Flow(), net)
    whole = made(net, images, drawing(), progress=0.0)["loss"]
    halves = [
        made(net, Batch(images.x0[part], images.y[part]), drawing(), rank, 2, 0.0)["loss"]
        for rank, part in enumerate((slice(4), slice(4, 8)))
    ]
    assert_close(torch.cat(halves), whole)


@pytest.mark.gpu
def test_validation_works_on_a_gpu():
    x0, y = batch()
    made, net = objective(Flow(), Net(Flow()), 2), Net(Flow(), 2)
    times = []
    net.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1].device.type))
    made.measure(net.cuda(), Batch(x0.cuda(), y.cuda()))
    assert set(times) == {"cuda"}


@pytest.mark.parametrize("num_steps", [1, 3])
def test_validation_compares_samples_of_its_steps_and_does_not_change(num_steps):
    images = batch()
    ends, means = Net(Flow(), num_steps), Net(Flow())
    made = objective(Flow(), means, num_steps)
    swd = made.measure(ends, images)["val/swd"]
    assert swd.shape == (64,)
    assert_close(made.measure(ends, images)["val/swd"], swd)
    assert (made.measure(means, images)["val/swd"] > 1.4 * swd).all()  # nearer to the mean of all images
