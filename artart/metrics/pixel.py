"""Measures of pixels: (x_hat, x), both (B, C, H, W) in [-1, 1], to one number per picture (B,)."""

from torch import Tensor


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of the picture that would be saved, x_hat clamped; infinite for a copy."""
    mse = (x_hat.float().clamp(-1, 1) - x.float()).square().mean(dim=(1, 2, 3))
    return 10 * (4 / mse).log10()  # the peak-to-peak range of [-1, 1] is 2, squared 4
