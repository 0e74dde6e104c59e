import pytest
import torch
from torch.testing import assert_close

from artart.objectives.adversarial import AdversarialSum, PatchDiscriminator, hinge
from artart.objectives.losses import MSE

B, S = 3, 16


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(B, 3, S, S, generator=generator) * 2 - 1
    scale = torch.tensor([0.9, 0.5, 0.1]).view(-1, 1, 1, 1)  # another error for each image
    return (scale * x).requires_grad_(), x


def adversarial_sum(weight: float = 0.5, **settings: float) -> AdversarialSum:
    weights = {"mse": 2.0, "adversarial": weight}
    return AdversarialSum(weights, PatchDiscriminator(16), **settings, mse=MSE("model"))


def test_hinge_is_that_of_two_patches_by_hand():
    of_art, of_network = torch.tensor([[[[2.0, 0.5]]]]), torch.tensor([[[[-3.0, 0.25]]]])
    assert_close(hinge(of_art, of_network), torch.tensor([(0.0 + 0.5 + 0.0 + 1.25) / 2 / 2]))


def test_discriminator_scores_patches_of_each_image_by_itself(images):
    scores = PatchDiscriminator()(images[1])
    assert scores.shape == (B, 1, S // 8, S // 8)
    assert_close(PatchDiscriminator()(images[1][1:2]), scores[1:2])


def test_discriminator_sees_patches_of_38_px():
    x = torch.zeros(1, 3, 128, 128, requires_grad=True)
    layers = [layer for layer in PatchDiscriminator() if not isinstance(layer, torch.nn.GroupNorm)]
    (gradient,) = torch.autograd.grad(torch.nn.Sequential(*layers)(x)[0, 0, 8, 8], x)
    assert (gradient[0, 0].abs().sum(dim=0) > 0).sum() == 38


def test_discriminator_is_the_same_each_time_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = PatchDiscriminator().state_dict(), PatchDiscriminator().state_dict()
    assert_close(torch.get_rng_state(), before)
    assert_close(one, other, rtol=0, atol=0)


def test_terms_begin_at_start_and_are_of_training_alone(images):
    loss = adversarial_sum(start=0.2)
    measured = loss(*images)
    assert list(measured) == ["loss", "mse"]
    assert_close(measured["loss"], 2 * measured["mse"])
    before, after = loss(*images, progress=0.19), loss(*images, progress=0.2)
    assert list(before) == ["loss", "mse", "discriminator"]
    assert_close(before["loss"], measured["loss"] + before["discriminator"])
    assert list(after) == ["loss", "mse", "discriminator", "adversarial"]
    assert_close(after["discriminator"], before["discriminator"])
    assert_close(after["adversarial"], -loss.discriminator(images[0]).mean(dim=(1, 2, 3)))


def test_adversarial_sum_without_weight_has_no_discriminator(images):
    loss = adversarial_sum(weight=0.0)
    assert loss.discriminator is None
    assert list(loss.param_groups(1e-3)) == []
    assert list(loss(*images, progress=1.0)) == ["loss", "mse"]


@pytest.mark.parametrize("autocast", [False, True])
def test_adversarial_gradient_of_each_image_has_the_norm_of_the_other_terms_times_the_weight(images, autocast):
    (x_hat, x), loss = images, adversarial_sum(weight=0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        of_others, of_all = (
            torch.autograd.grad(loss(x_hat, x, progress=progress)["loss"].sum(), x_hat)[0] for progress in (None, 0.5)
        )
    wanted = 0.5 * of_others.flatten(1).norm(dim=1)
    assert_close((of_all - of_others).flatten(1).norm(dim=1), wanted, rtol=0.02, atol=0)


def test_neither_network_gets_a_gradient_of_the_other_ones_loss(images):
    (x_hat, x), loss = images, adversarial_sum()
    parameters = [*loss.discriminator.parameters()]
    losses = loss(x_hat, x, progress=0.5)
    of_all = torch.autograd.grad(losses["loss"].sum(), parameters, retain_graph=True)
    of_own = torch.autograd.grad(losses["discriminator"].sum(), parameters, retain_graph=True)
    assert_close(of_all, of_own, rtol=0, atol=0)
    assert torch.autograd.grad(losses["discriminator"].sum(), x_hat, allow_unused=True, retain_graph=True) == (None,)
    assert of_own[0].abs().max() > 0
    assert torch.autograd.grad(losses["adversarial"].sum(), x_hat)[0].abs().max() > 0
