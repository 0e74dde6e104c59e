"""Learning-rate schedules: (optimizer, total_steps) to Lightning's dict, which sets the interval, step or epoch."""

import math
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, StepLR

from artart.io.ranges import Count, Fraction, NonNegative, Positive
from artart.objectives.gan import during_burn_in


def step(optimizer: Optimizer, total_steps: float, step_size: Count = 30, gamma: Positive = 0.1) -> dict[str, Any]:
    """The article's: times `gamma` every `step_size` epochs."""
    return {"scheduler": StepLR(optimizer, step_size, gamma), "interval": "epoch"}


def constant(optimizer: Optimizer, total_steps: float) -> dict[str, Any]:
    """The same learning rate throughout."""
    return {"scheduler": ConstantLR(optimizer, factor=1.0), "interval": "epoch"}


def cosine(
    optimizer: Optimizer,
    total_steps: float,
    warmup_steps: Annotated[int, Field(ge=0)] = 100,
    final_lr_fraction: NonNegative = 0.0,
) -> dict[str, Any]:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `final_lr_fraction`, reached after the last step.

    Source: SGDR without restarts (Loshchilov and Hutter 2017, arXiv 1608.03983, Eq. 5).
    """
    warmup_steps = min(warmup_steps, int(total_steps) // 10)  # so that a short run reaches the full rate

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_lr_fraction + (1 - final_lr_fraction) * (1 + math.cos(math.pi * progress)) / 2

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def burn_in(
    optimizer: Optimizer,
    total_steps: float,
    burn_in: Fraction = 0.5,
    final_lr_fraction: NonNegative = 0.25,
    final_beta2: Fraction = 0.99,
) -> dict[str, Any]:
    """For a GAN: learning rate and Adam's beta2 go to their last values in the first part of a run, and stay there.

    Source: Huang et al. 2024, arXiv 2501.05441, Appendix.
    """
    first_beta2 = optimizer.defaults["betas"][1]

    def factor(step: int) -> float:
        """Sets the betas too, as torch's OneCycleLR does."""
        for group in optimizer.param_groups:
            beta2 = during_burn_in(first_beta2, final_beta2, step, burn_in * total_steps)
            group["betas"] = (group["betas"][0], beta2)
        return during_burn_in(1.0, final_lr_fraction, step, burn_in * total_steps)

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
