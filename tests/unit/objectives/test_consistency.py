"""Consistency distillation with teachers whose paths are known."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from artart.diffusion.schedule import Cosine, Flow, Schedule, per_image
from artart.io.images import Batch
from artart.objectives.base import Objective
from artart.objectives.consistency import Consistency
from artart.objectives.losses import MSE, WeightedSum

SCHEDULES = pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])
NUM_CLASSES, STD = 3, 0.5


class Net(nn.Module):
    """A network whose v means an x0_hat: of Gaussian data, or a point for each label."""

    num_classes = NUM_CLASSES

    def __init__(self, schedule: Schedule, kind: str) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        level = self.schedule.for_images(t, x_t)
        variance = (level.alpha * STD) ** 2 + level.sigma**2
        factor = {"mean": level.alpha * STD**2 / variance, "end": STD / variance.sqrt()}
        x0_hat = factor[self.kind] * x_t if self.kind in factor else per_image(y.flatten() / 4, x_t).expand_as(x_t)
        return (level.v_eps * x_t - self.scale * x0_hat) / level.sigma.clamp(min=1e-9)


def objective(schedule: Schedule, teacher: Net, num_steps: int = 32, **settings) -> Consistency:
    made = Consistency(WeightedSum({"mse": 1.0}, mse=MSE("model")), schedule, num_steps, num_steps, **settings)
    made.teach_by(teacher)
    return made


def batch(num: int = 64, seed: int = 0) -> Batch:
    normal = torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(STD * normal, torch.arange(num)[:, None] % NUM_CLASSES)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_an_objective():
    made = objective(Flow(), Net(Flow(), "mean"))
    assert isinstance(made, Objective)
    assert (made.inputs, made.output, made.distilled, made.one_step) == (("x_t", "t", "y"), "v_hat", True, False)
    assert made.metrics == ["train/loss", "train/mse", "val/swd"]


@SCHEDULES
@pytest.mark.parametrize("num_steps", [1, 3, 32])
def test_where_all_paths_end_at_one_point_the_teacher_is_consistent(schedule, num_steps):
    net = Net(schedule, "point")
    losses = objective(schedule, net, num_steps, class_dropout_prob=0.0)(net, batch(), drawing())
    assert losses["loss"].max() < 1e-12


@SCHEDULES
def test_for_gaussian_data_the_loss_is_zero_at_the_ends_of_the_paths_in_closed_form(schedule):
    """x_t is scaled along a path as its standard deviation is; the squared error of Heun's step, h^6, is left."""
    means, ends = Net(schedule, "mean"), Net(schedule, "end")
    coarse, fine = (objective(schedule, means, num)(ends, batch(), drawing())["loss"].mean() for num in (4, 16))
    untrained = objective(schedule, means, 32)(means, batch(), drawing())["loss"].mean()
    assert fine < coarse / 4**5
    assert objective(schedule, means, 32)(ends, batch(), drawing())["loss"].mean() < untrained / 1e5


@SCHEDULES
def test_no_gradient_flows_through_the_target_or_to_the_teacher(schedule):
    """The gradient is that to x0_hat at x_t alone: with a target of a copy of the network it is the same."""
    net, images = Net(schedule, "mean"), batch()
    made = objective(schedule, Net(schedule, "mean"))
    made(net, images, drawing())["loss"].mean().backward()
    _, noised, labels = made._noised(net, images, *made._draw(images, drawing(), 0, 1))
    s = schedule.time_at((noised.level.r.flatten() - 1 / 32).clamp(min=0))
    with torch.no_grad():
        target = made._estimate(copy.deepcopy(net), made._follow(noised.x_t, noised.t, s, labels), s, labels)
    wanted = copy.deepcopy(net)
    wanted.scale.grad = None
    error = made._estimate(wanted, noised.x_t, noised.t, labels) - target
    error.square().mean().backward()
    assert_close(net.scale.grad, wanted.scale.grad)
    assert abs(float(net.scale.grad)) > 1e-4
    assert made.teacher.scale.grad is None
    assert not made.teacher.scale.requires_grad
    with torch.no_grad():
        net.scale.fill_(2)
    assert made.teacher.scale == 1  # a copy


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_teacher_is_guided_away_from_none(guidance):
    """A step over the whole path ends at the teacher's guided x0_hat, of which the plain one differs as computed."""
    net, images = Net(Flow(), "point"), batch()
    made = objective(Flow(), net, num_steps=1, guidance=guidance, class_dropout_prob=0.0)
    to_none = (images.y.flatten() - NUM_CLASSES).double() / 4
    assert_close(made(net, images, drawing())["loss"], ((1 - guidance) * to_none).square(), rtol=1e-6, atol=1e-9)


def test_steps_shorten_over_the_run():
    """From one step of the teacher, to the end of the path, to many: the loss of its own x0_hat falls."""
    net = Net(Flow(), "mean")
    made = Consistency(WeightedSum({"mse": 1.0}, mse=MSE("model")), Flow(), num_steps=64, first_num_steps=1)
    made.teach_by(net)
    by_progress = [made(net, batch(), drawing(), progress=share)["loss"].mean() for share in (0.0, 0.5, 1.0)]
    assert_close(by_progress[1], objective(Flow(), net, 8)(net, batch(), drawing())["loss"].mean())
    assert by_progress[0] < 1e-12  # Euler's step to the end is x0_hat
    assert by_progress[1] > 10 * by_progress[2]


def test_the_draws_do_not_depend_on_the_number_of_processes():
    net, images = Net(Flow(), "mean"), batch(8)
    made = objective(Flow(), net)
    whole = made(net, images, drawing())["loss"]
    halves = [
        made(net, Batch(images.x0[part], images.y[part]), drawing(), rank, 2)["loss"]
        for rank, part in enumerate((slice(4), slice(4, 8)))
    ]
    assert_close(torch.cat(halves), whole)


def test_validation_compares_samples_of_one_step_and_does_not_change():
    images = batch()
    ends, means = (Net(Flow(), kind) for kind in ("end", "mean"))
    made = objective(Flow(), means)
    swd = made.measure(ends, images)["val/swd"]
    assert swd.shape == (64,)
    assert_close(made.measure(ends, images)["val/swd"], swd)
    assert (made.measure(means, images)["val/swd"] > 5 * swd).all()  # the mean of all images
