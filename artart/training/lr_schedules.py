"""Learning-rate schedules: (optimizer, total_steps) to Lightning's dict, which sets the interval, step or epoch."""

import math
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, StepLR

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


def burn_in(
    optimizer: Optimizer,
    total_steps: float,
    burn_in: Fraction = 0.5,
    final_lr_fraction: NonNegative = 0.25,
    final_beta2: Fraction = 0.99,
) -> dict[str, Any]:
    """For a GAN: learning rate and Adam's beta2 go to their last values in the first part of a run, and stay there.

    Source: Huang et al. 2024, arXiv 2501.05441, Appendix.

    Raises ValueError if the run has no known end.
    """
    if not math.isfinite(total_steps):
        raise ValueError("scheduler=burn_in: needs the end of the run; set trainer.max_epochs or trainer.max_steps")
    return {"scheduler": BurnIn(optimizer, burn_in * total_steps, final_lr_fraction, final_beta2), "interval": "step"}


class BurnIn(LRScheduler):
    """See `burn_in`; as torch's OneCycleLR it also sets the betas."""

    def __init__(self, optimizer: Optimizer, num_steps: float, final_lr_fraction: float, final_beta2: float) -> None:
        self.num_steps, self.final_lr_fraction, self.final_beta2 = num_steps, final_lr_fraction, final_beta2
        super().__init__(optimizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position of a run, which may have had another length."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "num_steps"})

    def get_lr(self) -> list[float | Tensor]:
        def now(first: float, last: float) -> float:
            return during_burn_in(first, last, self.last_epoch, self.num_steps)

        for group in self.optimizer.param_groups:
            group["betas"] = (group["betas"][0], now(self.optimizer.defaults["betas"][1], self.final_beta2))
        return [lr * now(1.0, self.final_lr_fraction) for lr in self.base_lrs]
