"""Distillation with teachers whose paths are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from artart.diffusion.samplers import DDIM
from artart.diffusion.schedule import Cosine, Flow, Linear, Schedule, per_image
from artart.io.images import Batch
from artart.objectives.base import Objective
from artart.objectives.distillation import Distillation
from artart.objectives.losses import MSE, WeightedSum

SCHEDULES = pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])
NUM_CLASSES, STD = 3, 0.5


class Net(nn.Module):
    """A network whose v means an x0_hat: "mean", of Gaussian data; "point", one for each label; or a number of steps.

    Of these, the straight line to the end of each meets r = 0 at x0_hat. Along a path of Gaussian data x_t is scaled as
    its standard deviation is.
    """

    num_classes = NUM_CLASSES

    def __init__(self, schedule: Schedule, kind: str | int) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        level = self.schedule.for_images(t, x_t)
        variance = (level.alpha * STD) ** 2 + level.sigma**2
        if self.kind == "point":
            x0_hat = per_image(y.flatten() / 4, x_t).expand_as(x_t)
        elif self.kind == "mean":
            x0_hat = level.alpha * STD**2 / variance * x_t
        else:
            r = level.r.flatten()
            end = self.schedule.for_images(
                self.schedule.time_at(((r * self.kind - 1e-9).ceil() - 1).clamp(min=0) / self.kind), x_t
            )
            y_now = x_t / (level.alpha + level.sigma)
            x_end = (((end.alpha * STD) ** 2 + end.sigma**2) / variance).sqrt() * x_t
            y_end = x_end / (end.alpha + end.sigma)
            x0_hat = y_end - (y_now - y_end) * end.r / (level.r - end.r)
        return (level.v_eps * x_t - self.scale * x0_hat) / level.sigma.clamp(min=1e-9)


def objective(schedule: Schedule, teacher: Net, num_steps: int = 1, teacher_steps: int = 8, **more) -> Distillation:
    made = Distillation(WeightedSum({"mse": 1.0}, mse=MSE("model")), schedule, num_steps, teacher_steps, **more)
    made.teach_by(teacher)
    return made


def batch(num: int = 64, seed: int = 0) -> Batch:
    normal = torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(STD * normal, torch.arange(num)[:, None] % NUM_CLASSES)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_an_objective():
    made = objective(Flow(), Net(Flow(), "mean"), num_steps=3)
    assert isinstance(made, Objective)
    assert (made.inputs, made.output, made.num_steps, made.one_step) == (("x_t", "t", "y"), "v_hat", 3, False)
    assert made.metrics == ["train/loss", "train/mse", "val/swd"]


@SCHEDULES
@pytest.mark.parametrize("teacher_steps", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_where_all_paths_are_straight_the_teacher_needs_no_training(schedule, num_steps, teacher_steps):
    net = Net(schedule, "point")
    losses = objective(schedule, net, num_steps, teacher_steps, class_dropout_prob=0.0)(net, batch(), drawing())
    assert losses["loss"].max() < 1e-9


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_for_gaussian_data_the_loss_is_zero_at_the_ends_of_the_steps_in_closed_form(schedule, num_steps):
    """The squared error of Heun's method, h^4 or smaller, is left."""
    means, ends = Net(schedule, "mean"), Net(schedule, num_steps)
    coarse, fine, finest = (
        objective(schedule, means, num_steps, num)(ends, batch(), drawing())["loss"].mean() for num in (2, 8, 32)
    )
    untrained = objective(schedule, means, num_steps, 32)(means, batch(), drawing())["loss"].mean()
    assert finest < fine / 4**3 < coarse / 4**6
    assert finest < untrained / 1e4


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_a_network_with_no_loss_samples_the_ends_of_paths_by_ddim(schedule, num_steps):
    net, eps = Net(schedule, num_steps), batch().x0 / STD
    made, y = objective(schedule, net, num_steps), batch().y
    times = schedule.times(num_steps)
    x = schedule.at(times[:1]).sigma * eps
    for step in DDIM(num_steps)(lambda x_t, t: made._estimate(net, x_t, t, [y]), schedule, x, times, torch.randn):
        x = step.x_t
    assert_close(x, STD * eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", [Flow(), Linear()], ids=["flow", "linear"])  # which begins below pure noise
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_half_of_the_noise_levels_are_those_of_samples_and_each_lies_in_its_segment(schedule, num_steps, monkeypatch):
    drawn = {}
    made, images = objective(schedule, net := Net(schedule, "mean"), num_steps), batch(4000)
    monkeypatch.setattr(made, "_losses", lambda _, __, end, start, *rest: drawn.update(end=end, start=start))
    made(net, images, drawing())
    of_samples = schedule.at(schedule.times(num_steps)).r
    beginnings = drawn["start"][(drawn["start"] - of_samples[:-1, None]).abs().amin(dim=0) < 1e-5]
    assert len(beginnings) == pytest.approx(len(drawn["start"]) / 2, abs=120)
    drawn = {name: one / of_samples[0] for name, one in drawn.items()}
    part = (drawn["start"] - drawn["end"]) * num_steps
    assert ((part > 0) & (part <= 1 + 1e-5)).all()
    assert (part > 1 - 1e-5).float().mean() == pytest.approx(0.5, abs=0.03)
    assert (part[part < 1 - 1e-5]).mean() == pytest.approx(0.5, abs=0.03)
    segments = (drawn["end"] * num_steps).round()
    assert_close(segments / num_steps, drawn["end"])
    assert [(segments == k).float().mean().item() for k in range(num_steps)] == pytest.approx(
        [1 / num_steps] * num_steps, abs=0.03
    )


@SCHEDULES
def test_no_gradient_flows_to_the_teacher_which_is_a_copy(schedule):
    net = Net(schedule, "mean")
    made = objective(schedule, net, 2)
    made(net, batch(), drawing())["loss"].mean().backward()
    assert abs(float(net.scale.grad)) > 1e-4
    assert made.teacher.scale.grad is None
    assert not made.teacher.scale.requires_grad
    with torch.no_grad():
        net.scale.fill_(2)
    assert made.teacher.scale == 1


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_teacher_is_guided_away_from_none(guidance):
    """A step over the whole path ends at the teacher's guided x0_hat, of which the plain one differs as computed."""
    net, images = Net(Flow(), "point"), batch()
    made = objective(Flow(), net, 1, 1, guidance=guidance, class_dropout_prob=0.0)
    to_none = (images.y.flatten() - NUM_CLASSES).double() / 4
    assert_close(made(net, images, drawing())["loss"], ((1 - guidance) * to_none).square(), rtol=1e-6, atol=1e-9)


def test_the_draws_do_not_depend_on_the_number_of_processes():
    net, images = Net(Flow(), "mean"), batch(8)
    made = objective(Flow(), net)
    whole = made(net, images, drawing())["loss"]
    halves = [
        made(net, Batch(images.x0[part], images.y[part]), drawing(), rank, 2)["loss"]
        for rank, part in enumerate((slice(4), slice(4, 8)))
    ]
    assert_close(torch.cat(halves), whole)


@pytest.mark.gpu
def test_validation_works_on_a_gpu():
    x0, y = batch()
    made, net = objective(Flow(), Net(Flow(), "mean"), 2), Net(Flow(), 2)
    times = []
    net.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1].device.type))
    made.measure(net, Batch(x0.cuda(), y.cuda()))
    assert set(times) == {"cuda"}


@pytest.mark.parametrize("num_steps", [1, 3])
def test_validation_compares_samples_of_its_steps_and_does_not_change(num_steps):
    images = batch()
    ends, means = Net(Flow(), num_steps), Net(Flow(), "mean")
    made = objective(Flow(), means, num_steps)
    swd = made.measure(ends, images)["val/swd"]
    assert swd.shape == (64,)
    assert_close(made.measure(ends, images)["val/swd"], swd)
    assert (made.measure(means, images)["val/swd"] > 1.4 * swd).all()  # nearer to the mean of all images
