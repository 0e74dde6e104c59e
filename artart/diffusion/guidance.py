"""From a network to `denoise`, the x0 predictor that samplers call, with or without guidance."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from artart.diffusion.parameterization import Parameterization
from artart.diffusion.samplers import Denoise
from artart.diffusion.schedule import Schedule, per_image
from artart.io.late import constant


class Guidance(NamedTuple):
    """Extrapolation away from a worse denoiser.

    Without `network` the worse denoiser is the same network without labels: classifier-free guidance, which
    strengthens the class (Ho and Salimans 2022, arXiv 2207.12598). Otherwise it is `network`, with less training or
    fewer weights: autoguidance, which improves quality and also works without labels (Karras et al. 2024, arXiv
    2406.02507). Source of the interval: Kynkäänniemi et al. 2024, arXiv 2404.07724.
    """

    weight: float = 1.5  # 1: no guidance; 0: the worse denoiser alone; above 1: away from it
    interval: tuple[float, float] = (0.1, 0.9)  # noise levels r between which it acts
    network: nn.Module | None = None  # of the same schedule, parameterization and labels
    network_sha256: str = ""  # of its checkpoint, for the provenance of images
    negative: tuple[int, ...] = ()  # tokens of a prompt in the place of none, away from which it leads; empty: none
    negative_prompt: str = ""  # the same in words, for the provenance of images


NO_GUIDANCE = Guidance(weight=1.0)


def denoiser(
    net: nn.Module,
    schedule: Schedule,
    parameterization: Parameterization,
    y: Tensor,
    none: Tensor,
    guidance: Guidance = NO_GUIDANCE,
    max_value: float = 1.0,
) -> Denoise:
    """(x_t (B, C, S, S), t (B,)) to x0_hat, for images with the labels y (B, K); `none` (K,) are the null labels.

    t may stay on the host, so that a GPU is not waited for to know whether guidance acts.

    Where guidance acts, x0_hat = x0_hat(worse) + weight * (x0_hat - x0_hat(worse)), clamped to [-max_value, max_value],
    which the extrapolation may leave. Classifier-free guidance does not act on images without labels.
    """
    is_guided = (y != none).reshape(len(y), -1).any(dim=1) | (guidance.network is not None)
    may_act = guidance.weight != 1 and bool(is_guided.any())

    def plain(net: nn.Module, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return parameterization.x0(net(x_t, t, y), x_t, schedule.for_images(t, x_t))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        r = schedule.at(t).r
        is_within = (guidance.interval[0] <= r) & (r <= guidance.interval[1])
        t = t.to(x_t.device, non_blocking=True)
        if not may_act or not is_within.any():
            return plain(net, x_t, t, y)
        acts = is_guided & is_within.to(x_t.device, non_blocking=True)
        if guidance.network is not None:
            x0_hat, worse = plain(net, x_t, t, y), plain(guidance.network, x_t, t, y)
        else:
            both = torch.cat([y, none.expand_as(y)])
            x0_hat, worse = plain(net, x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        guided = torch.lerp(worse, x0_hat, guidance.weight).clamp(-max_value, max_value)
        return torch.where(per_image(acts, x_t), guided, x0_hat)

    return denoise


def null_labels(net: nn.Module, device: torch.device) -> Tensor:
    """The labels that mean none, (K,)."""
    numbers: Any = net.num_classes
    return constant(numbers if isinstance(numbers, int) else tuple(numbers), device).reshape(-1)
