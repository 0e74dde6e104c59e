import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.testing import assert_close

from artart.io.images import to_model
from artart.metrics.pixel import psnr, ssim


@pytest.fixture(scope="module")
def art(art_files):
    """Real art at any size: (6, 3, H, W) in [-1, 1]."""
    opened = [Image.open(path).convert("RGB") for path in art_files[::7]]

    def art(height: int, width: int) -> torch.Tensor:
        pixels = np.stack([np.asarray(image.resize((width, height))) for image in opened])
        return to_model(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    return art


def noisy(x: torch.Tensor, deviation: float) -> torch.Tensor:
    return (x + deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


@pytest.mark.parametrize(("error", "decibels"), [(0.2, 20.0), (0.02, 40.0), (2.0, 0.0)])
def test_psnr_of_a_uniform_error_is_known(error, decibels):
    x = torch.full((2, 3, 4, 4), -1.0)
    assert_close(psnr(x + error, x), torch.full((2,), decibels))


def test_psnr_judges_the_image_that_would_be_saved():
    x = torch.ones(1, 3, 4, 4)
    assert psnr(x + 5, x).isinf().all()  # beyond white is white


def test_psnr_is_one_number_per_image():
    x = torch.zeros(3, 3, 4, 4)
    errors = torch.tensor([0.2, 0.02, 0.002])
    assert_close(psnr(x + errors.view(3, 1, 1, 1), x), torch.tensor([20.0, 40.0, 60.0]))


@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
@pytest.mark.parametrize("deviation", [0.02, 0.3])
def test_psnr_of_real_art_is_scikit_images(art, size, deviation):
    x = art(*size)
    x_hat = noisy(x, deviation)
    pairs = zip(x.double().numpy(), x_hat.double().numpy(), strict=True)
    wanted = [peak_signal_noise_ratio(a, b, data_range=2) for a, b in pairs]
    assert_close(psnr(x_hat, x), torch.tensor(wanted, dtype=torch.float32))


def by_scikit_image(x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(x_hat.double().numpy(), x.double().numpy(), strict=True)
    values = [structural_similarity(a, b, data_range=2, channel_axis=0, **options) for a, b in pairs]
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
def test_ssim_of_real_art_is_scikit_images(art, size):
    x = art(*size)
    for x_hat in (noisy(x, 0.02), noisy(x, 0.3), x / 2, x.roll(1, dims=0)):
        assert_close(ssim(x_hat, x), by_scikit_image(x_hat, x), rtol=1e-4, atol=1e-4)


def test_ssim_is_one_number_per_image_even_of_one(art):
    x = art(16, 16)
    x_hat = noisy(x, 0.1)
    assert ssim(x_hat, x).shape == (len(x),)
    assert_close(torch.cat([ssim(x_hat[k : k + 1], x[k : k + 1]) for k in range(len(x))]), ssim(x_hat, x))


def test_a_copy_has_ssim_1_and_psnr_without_end(art):
    x = art(32, 32)
    assert_close(ssim(x, x), torch.ones(len(x)))
    assert psnr(x, x).isposinf().all()


def test_ssim_judges_the_image_that_would_be_saved(art):
    x = art(16, 16)
    assert_close(ssim(3 * x, x), ssim((3 * x).clamp(-1, 1), x))
