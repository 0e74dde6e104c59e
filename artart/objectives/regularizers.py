"""Regularizers of an autoencoder's latents: they keep the latents smooth, so that a diffusion model can learn them.

Each maps mean and log variance of the latents, and standard normal noise, all (B, C, H, W), to the latents that are
decoded in training, (B, C, H, W), and a penalty (B,) that is added to the loss.
"""

from torch import Tensor

from artart.io.ranges import NonNegative, Positive


class LatentNoise:
    """Noise on the latents; its penalty keeps their scale, which would outgrow the noise, at 1 or below."""

    def __init__(self, std: Positive = 0.05, weight: NonNegative = 0.1) -> None:
        """
        Args:
            std: of the noise.
            weight: of the penalty, the square of what an image's mean square exceeds 1 by.
        """
        self.std = std
        self.weight = weight

    def __call__(self, mean: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        excess = (mean.square().mean(dim=(1, 2, 3)) - 1).clamp(min=0)
        return mean + self.std * eps, self.weight * excess.square()


class KL:
    """A variational autoencoder: latents are drawn from the posterior, which is pulled to the standard normal.

    Source: Kingma and Welling 2014, arXiv 1312.6114, Appendix B. The weight 1e-6 of Rombach et al. 2022, arXiv
    2112.10752, section G, is relative to the sum of squared errors, and so acts far less.
    """

    def __init__(self, weight: NonNegative = 1e-6) -> None:
        """`weight`: of the KL divergence, summed over an image's latents, where that of its mean squared error is 1."""
        self.weight = weight

    def __call__(self, mean: Tensor, log_var: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        log_var = log_var.clamp(-30, 20)  # of an untrained network the exponential may overflow
        divergence = (mean.square() + log_var.exp() - 1 - log_var).sum(dim=(1, 2, 3)) / 2
        return mean + (log_var / 2).exp() * eps, self.weight * divergence
