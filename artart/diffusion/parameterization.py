"""The outputs that a network may have for x_t, and x0_hat computed from them.

`level` holds the schedule at the times of x_t, each (B, 1, 1, 1). Everything else is (B, C, H, W).
"""

from typing import Literal, Protocol

from torch import Tensor

from artart.diffusion.schedule import Level

Name = Literal["x0", "eps", "v"]

MIN_ALPHA = 0.02  # below it, eps does not determine x0


class Parameterization(Protocol):
    start: float = 1.0  # the noise level r at which sampling begins

    def x0(self, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """x0_hat from an output."""

    def x0_error(self, output: Tensor, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """x0_hat - x0, computed from the error of the output."""


class X0Prediction(Parameterization):
    """The network outputs the clean image."""

    def x0(self, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        return output

    def x0_error(self, output: Tensor, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return output - x0


class EpsPrediction(Parameterization):
    """The network outputs the noise (Ho et al. 2020, arXiv 2006.11239); near t = 1 that does not determine x0."""

    start = 0.98

    def x0(self, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        return (x_t - level.sigma * output) / level.alpha.clamp(min=MIN_ALPHA)

    def x0_error(self, output: Tensor, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return level.sigma / level.alpha.clamp(min=MIN_ALPHA) * (eps - output)


class VPrediction(Parameterization):
    """The network outputs the velocity v = (alpha' x0 + sigma' eps) / (alpha sigma' - alpha' sigma): finite everywhere.

    Source: Salimans and Ho 2022, arXiv 2202.00512, Appendix D; on the flow schedule it is eps - x0.
    """

    def x0(self, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        return level.v_eps * x_t - level.sigma * output

    def x0_error(self, output: Tensor, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return level.sigma * (level.v_x0 * x0 + level.v_eps * eps - output)


PARAMETERIZATIONS: dict[Name, Parameterization] = {"x0": X0Prediction(), "eps": EpsPrediction(), "v": VPrediction()}
