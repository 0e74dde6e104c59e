import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from artart.io.images import Batch
from artart.models.autoencoder import Autoencoder
from artart.objectives.losses import MSE, WeightedSum
from artart.objectives.reconstruction import Reconstruction
from artart.objectives.regularizers import KL, LatentNoise

B, C, S = 3, 4, 5
REGULARIZERS = [LatentNoise(std=0.5), KL(weight=0.1)]
every_regularizer = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=["noise", "kl"])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def mse() -> WeightedSum:
    return WeightedSum({"mse": 2.0}, mse=MSE("model"))


def net() -> Autoencoder:
    """Its latents have a scale above 1, so that the noise's penalty is not 0."""
    torch.manual_seed(0)
    net = Autoencoder(16, model_channels=8)
    with torch.no_grad():
        net.encoder[-1].conv.weight.mul_(10)
    return net


def test_noise_has_its_standard_deviation():
    mean, eps = normal(0, B, C, 50, 50), normal(1, B, C, 50, 50)
    latents, _ = LatentNoise(std=0.05)(mean, torch.zeros_like(mean), eps)
    assert (latents - mean).std().item() == pytest.approx(0.05, rel=0.02)  # of 30,000 values


@pytest.mark.parametrize(("scale", "penalty"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.2 * 9), (3.0, 0.2 * 64)])
def test_noise_penalises_latents_whose_mean_square_exceeds_1(scale, penalty):
    mean = torch.full((B, C, S, S), scale)
    mean[:, ::2] *= -1
    _, penalties = LatentNoise(weight=0.2)(mean, torch.zeros_like(mean), torch.zeros_like(mean))
    assert_close(penalties, torch.full((B,), penalty))


def test_the_penalty_of_an_image_is_its_own():
    mean = torch.ones(B, C, S, S) * torch.tensor([0.5, 1.0, 2.0]).view(B, 1, 1, 1)
    _, penalties = LatentNoise(weight=1.0)(mean, mean, mean)
    assert_close(penalties, torch.tensor([0.0, 0.0, 9.0]))


def test_kl_is_that_of_torch():
    mean, log_var = normal(0, B, C, S, S), normal(1, B, C, S, S)
    posterior = Normal(mean, (log_var / 2).exp())
    wanted = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    assert_close(KL(weight=0.3)(mean, log_var, torch.zeros_like(mean))[1], 0.3 * wanted)


def test_kl_draws_from_the_posterior():
    shape = (B, C, 50, 50)
    mean, log_var = torch.full(shape, 0.7), torch.full(shape, 2.0)
    latents, _ = KL()(mean, log_var, normal(0, *shape))
    assert latents.mean().item() == pytest.approx(0.7, abs=0.05)  # of 30,000 values
    assert latents.var().log().item() == pytest.approx(2.0, abs=0.05)


def test_kl_is_finite_for_any_variance():
    log_var = torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1)
    latents, penalty = KL(weight=1.0)(torch.zeros_like(log_var), log_var, torch.ones_like(log_var))
    assert latents.isfinite().all()
    assert penalty.isfinite().all()


# --- in Reconstruction


@every_regularizer
def test_the_loss_is_of_what_is_decoded_plus_the_penalty(regularizer):
    network, x0 = net(), normal(2, B, 3, 16, 16)
    objective = Reconstruction(mse(), regularizer)
    losses = objective(network, Batch(x0, torch.zeros(B, 1)), Generator().manual_seed(5))
    mean, log_var = network.posterior(x0)
    latents, penalty = regularizer(mean, log_var, normal(5, *mean.shape))
    error = (network.decode(latents) - x0).square().mean(dim=(1, 2, 3))
    assert_close(losses, {"loss": 2 * error + penalty, "mse": error, "regularizer": penalty})
    assert (penalty > 0).all()
    assert {f"train/{name}" for name in losses} < set(objective.metrics)


@every_regularizer
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_parts_of_a_batch_draw_what_the_whole_draws(regularizer, world_size):
    """So that several processes see the noise of one."""
    objective, network, x0 = Reconstruction(mse(), regularizer), net(), normal(3, 8, 3, 16, 16)
    y, generators = torch.zeros(8, 1), [Generator().manual_seed(5) for _ in range(world_size + 1)]
    wanted = objective(network, Batch(x0, y), generators[-1])
    parts = [
        objective(network, Batch(part, y), generators[rank], rank, world_size)
        for rank, part in enumerate(x0.chunk(world_size))
    ]
    assert_close({name: torch.cat([part[name] for part in parts]) for name in wanted}, wanted)
    assert all(torch.equal(one.get_state(), generators[-1].get_state()) for one in generators)


@every_regularizer
def test_measuring_is_of_the_mean_latents(regularizer):
    network, given = net(), Batch(normal(2, B, 3, 16, 16), torch.zeros(B, 1))
    assert_close(
        Reconstruction(mse(), regularizer).measure(network, given), Reconstruction(mse()).measure(network, given)
    )
