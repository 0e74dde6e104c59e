import pytest
import torch
from torch.testing import assert_close

from artart.metrics.pixel import psnr


@pytest.mark.parametrize(("error", "decibels"), [(0.2, 20.0), (0.02, 40.0), (2.0, 0.0)])
def test_psnr_of_a_uniform_error_is_known(error, decibels):
    x = torch.full((2, 3, 4, 4), -1.0)
    assert_close(psnr(x + error, x), torch.full((2,), decibels))


def test_psnr_judges_the_picture_that_would_be_saved():
    x = torch.ones(1, 3, 4, 4)
    assert psnr(x + 5, x).isinf().all()  # beyond white is white


def test_psnr_is_one_number_per_picture():
    x = torch.zeros(3, 3, 4, 4)
    errors = torch.tensor([0.2, 0.02, 0.002])
    assert_close(psnr(x + errors.view(3, 1, 1, 1), x), torch.tensor([20.0, 40.0, 60.0]))
