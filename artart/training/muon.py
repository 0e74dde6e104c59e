"""Muon: filters take steps whose singular values are equal; AdamW of all other parameters."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from artart.io.ranges import NonNegative, Positive

Decay = Annotated[float, Field(ge=0, lt=1)]

NS_COEFFICIENTS, NS_STEPS = (3.4445, -4.775, 2.0315), 5  # of Jordan et al.
RMS_OF_ADAMW = 0.2  # of its steps in units of the learning rate, by Liu et al.


class Muon(Optimizer):
    """Muon of the filters of convolutions, each flattened to a matrix (O, I H W), and AdamW of all other parameters.

    A filter's step is the nearest orthogonal matrix to its momentum, as large as a step of AdamW, so that both have one
    learning rate. `torch.optim.Muon` takes matrices alone.

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the size of steps: Liu et al. 2025,
    arXiv 2502.16982, Eq. 4.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Positive = 1e-3,
        momentum: Decay = 0.95,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        weight_decay: NonNegative = 0.01,
    ) -> None:
        """`momentum`: Nesterov's, of filters; `betas`: of AdamW; `weight_decay`: of both, decoupled."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in trained:
                if parameter.ndim == 4:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for filters in by_shape.values():
                self._step_filters(filters, group)
            self._step_rest([parameter for parameter in trained if parameter.ndim != 4], group)
        return loss

    def _step_filters(self, filters: Any, group: dict[str, Any]) -> None:
        """Of one shape, in one batch."""
        grads = [parameter.grad for parameter in filters]
        momenta = self._states(filters, "momentum_buffer")
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        steps = torch._foreach_lerp(grads, momenta, group["momentum"])
        matrices = orthogonal(torch.stack([step.flatten(1) for step in steps])).to(filters[0].dtype)
        size = group["lr"] * RMS_OF_ADAMW * math.sqrt(max(matrices.shape[1:]))
        torch._foreach_mul_(filters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(filters, [one.view_as(filters[0]) for one in matrices], alpha=-size)

    def _step_rest(self, rest: Any, group: dict[str, Any]) -> None:
        for parameter in rest:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros(())
        adamw(
            rest,
            [parameter.grad for parameter in rest],
            self._states(rest, "exp_avg"),
            self._states(rest, "exp_avg_sq"),
            [],
            [self.state[parameter]["step"] for parameter in rest],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _states(self, parameters: Iterable[nn.Parameter], name: str) -> list[Tensor]:
        """Zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximately U V^T for each matrix U S V^T of a batch (N, A, B): singular values of about 0.7 to 1.2.

    By Newton and Schulz's iteration with coefficients that reach there in five steps; in bfloat16 on a GPU.
    """
    (a, b, c), is_tall = NS_COEFFICIENTS, matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(torch.bfloat16 if x.is_cuda else torch.float32)
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
