import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.io.images import Batch
from artart.models.gan import Discriminator, Generator
from artart.objectives.gan import GAN, RelativisticLoss, during_burn_in, pairing_loss

B, S = 4, 8


class Linear(nn.Module):
    """D(x) = w . x"""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return (x * self.w).flatten(1).sum(dim=1)


class Smooth(nn.Module):
    """A discriminator with a second derivative, whose gradient differs from image to image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.layers(x).squeeze(1)


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real and generated images, and labels."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, B, 3, 2, 2, generator=generator, dtype=torch.float64)
    return real, fake.requires_grad_(), torch.zeros(B, 1, dtype=torch.long)


def test_losses_and_penalties_of_a_linear_discriminator_are_those_by_hand(pairs):
    real, fake, y = pairs
    w = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 2, 2)
    loss = RelativisticLoss(Linear(w), gamma=0.6, final_gamma=0.2, burn_in=0.5)
    losses, half_way = (loss(real, fake, y, progress) for progress in (0.5, 0.25))
    gap, norm = ((real - fake) * w).flatten(1).sum(dim=1), w.square().sum().expand(B)
    assert_close(losses["r1"], norm, check_dtype=False)
    assert_close(losses["r2"], norm, check_dtype=False)
    assert_close(losses["discriminator"], (1 + (-gap).exp()).log(), check_dtype=False)
    assert_close(losses["generator"], (1 + gap.exp()).log(), check_dtype=False)
    whole = losses["discriminator"] + losses["generator"] + 0.2 * norm
    assert_close(losses["loss"], whole, check_dtype=False)
    assert_close(half_way["loss"] - losses["loss"], (0.4 / 2 - 0.2 / 2) * 2 * norm, check_dtype=False)
    (gradient,) = torch.autograd.grad(losses["loss"].sum(), fake)
    assert_close(gradient, -torch.sigmoid(gap).view(B, 1, 1, 1) * w, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences(pairs):
    """Of each network's own loss to its own weights, while the other stands still."""
    real, fake, y = pairs
    torch.manual_seed(0)
    net, judge = nn.Conv2d(3, 3, 1).double(), Smooth().double()
    loss, z = RelativisticLoss(judge, gamma=0.7, burn_in=0), fake.detach()
    loss.final_gamma = 0.7
    loss(real, net(z), y)["loss"].sum().backward()

    def own(part: nn.Module) -> float:
        losses = loss(real, net(z), y)
        if part is net:
            return losses["generator"].sum().item()
        return (losses["discriminator"] + 0.35 * (losses["r1"] + losses["r2"])).sum().item()

    step = 1e-5
    for part in (net, judge):
        for parameter in part.parameters():
            for k in range(0, parameter.numel(), 3):
                values = []
                for sign in (1, -1):
                    parameter.data.view(-1)[k] += sign * step
                    values.append(own(part))
                    parameter.data.view(-1)[k] -= sign * step
                assert_close(
                    parameter.grad.view(-1)[k].item(), (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-6
                )


def test_gamma_falls_along_a_cosine_and_stays():
    found = [during_burn_in(2.0, 0.2, progress, burn_in=0.4) for progress in (0.0, 0.2, 0.4, 1.0)]
    assert found == pytest.approx([2.0, 1.1, 0.2, 0.2])
    assert during_burn_in(1.0, 3.0, progress=0.0, burn_in=0.0) == 3.0


def gan(**settings: float) -> tuple[Generator, GAN]:
    torch.manual_seed(0)
    size = {"image_size": S, "num_classes": 2, "model_channels": 8, "channel_mult": [1, 2], "group_size": 8}
    return Generator(**size), GAN(RelativisticLoss(Discriminator(**size)), **settings)


def test_parts_of_several_processes_have_the_draws_of_one():
    net, objective = gan()
    batch = Batch(torch.rand(B, 3, S, S) * 2 - 1, torch.arange(B).view(-1, 1) % 2)
    whole = objective(net, batch, torch.Generator().manual_seed(3), progress=0.7)
    for rank in (0, 1):
        part = Batch(*(values.chunk(2)[rank] for values in batch))
        losses = objective(net, part, torch.Generator().manual_seed(3), rank, 2, 0.7)
        for name, values in losses.items():
            assert_close(values, whole[name].chunk(2)[rank], rtol=1e-4, atol=1e-5)


def test_one_backward_pass_trains_both_networks():
    net, objective = gan(class_dropout_prob=0.5)
    for block in (*net.modules(), *objective.loss.discriminator.modules()):
        if isinstance(block, nn.Conv2d | nn.Embedding):
            nn.init.normal_(block.weight, std=0.1)  # zeros block gradients
    batch = Batch(torch.rand(16, 3, S, S) * 2 - 1, torch.arange(16).view(-1, 1) % 2)
    objective(net, batch, torch.Generator().manual_seed(0))["loss"].mean().backward()
    for name, parameter in (*net.named_parameters(), *objective.loss.discriminator.named_parameters()):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_measure_is_a_function_of_the_images_and_zero_for_equal_sets():
    net, objective = gan()
    batch = Batch(torch.rand(B, 3, S, S) * 2 - 1, torch.zeros(B, 1, dtype=torch.long))
    assert_close(objective.measure(net, batch), objective.measure(net, batch))
    same = objective.measure(lambda z, t, y: batch.x0, batch)
    assert_close(same["val/swd"], torch.zeros(B))
    assert_close(same["val/discriminator"], torch.full((B,), math.log(2)))


def test_measure_is_the_discriminators_loss_of_art_and_samples():
    judge = Linear(torch.linspace(-0.02, 0.05, 3 * S * S).view(3, S, S))
    batch = Batch(torch.rand(B, 3, S, S), torch.zeros(B, 1, dtype=torch.long))
    fake = torch.full((B, 3, S, S), 0.3)
    found = GAN(RelativisticLoss(judge)).measure(lambda z, t, y: fake, batch)
    assert_close(found["val/discriminator"], F.softplus(judge(fake) - judge(batch.x0)))


class Spy(nn.Module):
    """A network that makes given images, or else what it is given times a half; it notes labels and images."""

    num_classes = 2

    def __init__(self, made: torch.Tensor | None = None) -> None:
        super().__init__()
        self.made = made

    def forward(self, z: torch.Tensor, t: None, y: torch.Tensor) -> torch.Tensor:
        self.y, self.fake = y, z / 2 if self.made is None else self.made
        return self.fake


def judged(net: Spy, x0: torch.Tensor, progress: float, **settings: float) -> tuple[torch.Tensor, ...]:
    """What the loss is given: real and generated images, and labels."""
    objective = GAN(lambda real, fake, y, progress: (real, fake, y), **settings)
    y = torch.arange(len(x0)).view(-1, 1) % 2
    return objective(net, Batch(x0, y), torch.Generator().manual_seed(0), progress=progress)


def test_augmentation_rises_from_none_to_all_images_real_and_generated_apart():
    x0 = torch.rand(B, 3, S, S, generator=torch.Generator().manual_seed(0)) * 2 - 1
    net = Spy()
    real, fake, _ = judged(net, x0, progress=0.0, augment_prob=1.0)
    assert torch.equal(real, x0)
    assert torch.equal(fake, net.fake)
    for progress in (0.5, 1.0):  # the end of burn-in, and of the run
        real, fake, _ = judged(Spy(x0), x0, progress, augment_prob=1.0, burn_in=0.5)
        for one, other in ((real, x0), (fake, x0), (real, fake)):
            assert (one != other).flatten(1).any(dim=1).all()
    real, fake, _ = judged(Spy(x0), x0, progress=1.0, augment_prob=0.0)
    assert torch.equal(real, x0)
    assert torch.equal(fake, x0)


@pytest.mark.parametrize(("probability", "wanted"), [(0.0, [0, 1, 0, 1]), (1.0, [2, 2, 2, 2])])
def test_network_and_discriminator_see_the_same_dropped_labels(probability, wanted):
    net = Spy()
    *_, y = judged(net, torch.zeros(B, 3, S, S), progress=1.0, class_dropout_prob=probability)
    assert y.flatten().tolist() == net.y.flatten().tolist() == wanted


@pytest.mark.slow
def test_all_of_eight_gaussians_in_a_ring_are_found():
    """Points in the plane: a generator that drops modes misses some of the eight."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
    layers = [
        nn.Linear(2, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 1),
        nn.Flatten(0),
    ]
    judge = nn.Sequential(nn.Flatten(), *layers)
    loss = RelativisticLoss(Unconditional(judge), gamma=0.1, final_gamma=0.02)
    groups = [{"params": net.parameters()}, *loss.param_groups(1e-3)]
    optimizer = torch.optim.Adam(groups, lr=1e-3, betas=(0.0, 0.9))
    angles = torch.arange(8) * math.pi / 4
    centres = torch.stack([angles.cos(), angles.sin()], dim=1)
    steps = 1500
    for step in range(steps):
        real = centres[torch.randint(8, (128,))] + 0.05 * torch.randn(128, 2)
        fake = net(torch.randn(128, 4))
        shaped = (points.view(-1, 2, 1, 1) for points in (real, fake))
        optimizer.zero_grad()
        loss(*shaped, torch.zeros(128, 1), step / steps)["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        distance, nearest = torch.cdist(net(torch.randn(2000, 4)), centres).min(dim=1)
    shares = F.one_hot(nearest[distance < 0.2], 8).sum(dim=0) / 2000
    assert shares.min() > 0.06, shares
    assert shares.sum() > 0.6, shares


class Unconditional(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_pairing_loss_falls_with_the_gap():
    assert_close(pairing_loss(torch.tensor(3.0), torch.tensor(1.0)), torch.tensor(math.log1p(math.exp(-2))))
