"""Validation of a diffusion: its losses, and its errors by noise level."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from artart.diffusion.noise import own_generators
from artart.diffusion.schedule import Level
from artart.io.images import Batch

if TYPE_CHECKING:
    from artart.objectives.diffusion import Diffusion

NUM_BINS = 10  # of the noise level r
MAX_GRADIENT_IMAGES = 8  # images of a batch whose gradients are compared


def measure(objective: "Diffusion", net: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Losses at a noise level drawn as in training; and the squared error of x0_hat at levels drawn evenly.

    Noise and levels are a function of each image's pixels, so metrics are comparable across epochs and batch sizes;
    `val/mse`, at evenly drawn levels, also across runs that train at other levels.
    `noise/mse_r0.05` is for r in 0 .. 0.1. `noise/perceptual_gradient_r0.05` is the gradient of the perceptual term by
    that of the other terms, for a few images of the batch; it should stay below 1.
    """
    (x0, y), generators = batch, own_generators(batch.x0)
    as_trained = torch.cat([objective.noise_levels(1, generator) for generator in generators])
    evenly = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    eps = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
    noised = objective.schedule.add_noise(x0, eps, as_trained)
    losses = objective.loss(objective.x0_hat(net, x0, noised, y), x0, objective.factors(noised.level))
    noised = objective.schedule.add_noise(x0, eps, evenly)
    x0_hat = objective.x0_hat(net, x0, noised, y)
    by_level = {"mse": (x0_hat - x0).square().mean(dim=(1, 2, 3))}
    if "perceptual" in objective.loss.terms and len(objective.loss.terms) > 1:
        few = slice(MAX_GRADIENT_IMAGES)
        level = Level(*(values[few] for values in noised.level))
        by_level["perceptual_gradient"] = _perceptual_gradient(objective, x0_hat[few], x0[few], level)
    measured = {f"val/{name}": values for name, values in losses.items()} | {"val/mse": by_level["mse"]}
    for name, values in by_level.items():
        bins = (evenly[: len(values)] * NUM_BINS).long().to(values.device)
        for k in range(NUM_BINS):
            measured[f"noise/{name}_r{(k + 0.5) / NUM_BINS:.2f}"] = values[bins == k]
    return measured


def _perceptual_gradient(objective: "Diffusion", x0_hat: Tensor, x0: Tensor, level: Level) -> Tensor:
    """(B,) norm of the weighted perceptual term's gradient to x0_hat, over that of the other terms."""
    with torch.inference_mode(False), torch.enable_grad():
        x0_hat, x0 = x0_hat.clone().requires_grad_(), x0.clone()
        factors = objective.factors(Level(*(values.clone() for values in level)))
        losses = objective.loss(x0_hat, x0, factors)
        perceptual = objective.loss.weights["perceptual"] * losses["perceptual"] * factors["perceptual"]
        (of_perceptual,) = torch.autograd.grad(perceptual.sum(), x0_hat, retain_graph=True)
        (of_all,) = torch.autograd.grad(losses["loss"].sum(), x0_hat)
    return of_perceptual.flatten(1).norm(dim=1) / (of_all - of_perceptual).flatten(1).norm(dim=1)
