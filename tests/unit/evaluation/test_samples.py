from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from artart.diffusion.first_stage import NO_FIRST_STAGE
from artart.diffusion.parameterization import X0Prediction
from artart.diffusion.schedule import Flow
from artart.evaluation import samples
from artart.evaluation.samples import errors_by_level


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Seven images are denoised in parts of three, three and one."""
    monkeypatch.setattr(samples, "CHUNK", 3)


def loaded(net) -> SimpleNamespace:
    """A checkpoint of a network that predicts x0."""
    process = SimpleNamespace(first_stage=NO_FIRST_STAGE, schedule=Flow(), parameterization=X0Prediction())
    return SimpleNamespace(net=net, process=process, device=torch.device("cpu"))


def test_error_of_a_network_that_predicts_zero_is_the_mean_square_of_the_images():
    x0 = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = errors_by_level(loaded(lambda x_t, t, y: torch.zeros_like(x_t)), x0, torch.zeros(7, 1))
    assert_close(errors, [x0.square().mean().item()] * 10)


def test_errors_are_in_the_order_of_the_noise_level_and_of_each_image_with_its_label():
    """A network that is off by t: its label is its image."""
    x0 = (y := torch.arange(7.0).view(7, 1) / 7).view(7, 1, 1, 1).expand(7, 3, 4, 4)
    errors = errors_by_level(loaded(lambda x_t, t, y: (y + t[:, None])[..., None, None].expand_as(x_t)), x0, y)
    for k, error in enumerate(errors):
        assert k / 10 < error**0.5 < (k + 1) / 10
