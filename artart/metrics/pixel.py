"""PSNR and SSIM: (x_hat, x), both (B, 3, H, W) in [-1, 1], to one number per image (B,).

x_hat is clamped, as in the image that would be saved.
"""

from typing import Final

from torch import Tensor

WINDOW: Final = 11  # side in pixels of SSIM's window
MAX_PSNR: Final = 100.0  # dB; a copy counts as this where means are to be finite


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB; infinite for a copy."""
    mse = (x_hat.float().clamp(-1, 1) - x.float()).square().mean(dim=(1, 2, 3))
    return 10 * (4 / mse).log10()  # the peak-to-peak range of [-1, 1] is 2, squared 4


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Structural similarity with the paper's Gaussian window (Wang et al. 2004), mean of the channels; 1 for a copy.

    The mean over the places where the window lies within the image; if none does, over all, with reflected edges.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

    _, values = structural_similarity_index_measure(
        x_hat.float().clamp(-1, 1), x.float(), data_range=2.0, reduction="none", return_full_image=True
    )
    margin = WINDOW // 2 if min(x.shape[-2:]) >= WINDOW else 0
    return values[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin].mean(dim=(1, 2, 3))
