"""From a network to `denoise`, the x0 predictor that samplers ask, with or without guidance."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from artart.diffusion.prediction import Prediction
from artart.diffusion.samplers import Denoise
from artart.diffusion.schedule import Schedule, per_image


class Guidance(NamedTuple):
    """How strongly a class is asked for, and where.

    Source: Ho and Salimans 2022, arXiv 2207.12598; the interval: Kynkäänniemi et al. 2024, arXiv 2404.07724.
    """

    weight: float = 1.5  # 1: the class as it was learnt; 0: none; above 1: more of it than there is
    lowest: float = 0.1  # noise levels r between which it acts
    highest: float = 0.9


NO_GUIDANCE = Guidance(weight=1.0)


def denoiser(
    net: nn.Module, schedule: Schedule, prediction: Prediction, y: Tensor, none: int, guidance: Guidance = NO_GUIDANCE
) -> Denoise:
    """(x_t (B, C, S, S), t (B,)) to x0_hat, for pictures of the classes y (B,); `none` is the label of no class.

    Where guidance acts, x0_hat = x0_hat(none) + weight * (x0_hat(y) - x0_hat(none)), clamped to [-1, 1], which the
    step away from the pictures would else leave. Pictures of no class are left alone.
    """

    def plain(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return prediction.x0(net(x_t, t, y), x_t, schedule.for_images(t, x_t))

    without = torch.full_like(y, none)
    has_class = y != none
    may_act = guidance.weight != 1 and bool(has_class.any())

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        r = schedule.at(t).r
        acts = has_class & (guidance.lowest <= r) & (r <= guidance.highest)
        if not may_act or not acts.any():
            return plain(x_t, t, y)
        x0_hat, x0_hat_none = plain(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y, without])).chunk(2)
        guided = torch.lerp(x0_hat_none, x0_hat, guidance.weight).clamp(-1, 1)
        return torch.where(per_image(acts, x_t), guided, x0_hat)

    return denoise
