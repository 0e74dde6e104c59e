"""Learning-rate schedules: (optimizer, total_steps) to Lightning's dict, which sets the interval, step or epoch."""

import math
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, StepLR

from artart.io.ranges import Count, NonNegative, Positive


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
    """Linear warm-up over `warmup_steps`, then half a cosine down to `final_lr_fraction` at the last step.

    Source: SGDR without restarts (Loshchilov and Hutter 2017, arXiv 1608.03983, Eq. 5).

    Raises ValueError if the run has no known end.
    """
    if not math.isfinite(total_steps):
        raise ValueError("scheduler=cosine: needs the end of the run; set trainer.max_epochs or trainer.max_steps")
    warmup_steps = min(warmup_steps, int(total_steps) // 10)  # so that a short run reaches the full rate

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_lr_fraction + (1 - final_lr_fraction) * (1 + math.cos(math.pi * progress)) / 2

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
