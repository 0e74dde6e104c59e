import pytest
import torch
from torch import nn
from torch.testing import assert_close

from artart.models.gan import Block, Discriminator, Generator

B, S = 3, 16
SIZES = {"image_size": S, "model_channels": 8, "channel_mult": [1, 2, 4]}


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(B, 3, S, S, generator=torch.Generator().manual_seed(0))


def test_generator_reads_z_and_labels_alone(z):
    torch.manual_seed(0)
    net = Generator(**SIZES, num_classes=[2, 3], latent_dim=10)
    y = torch.tensor([[0, 1], [1, 2], [2, 3]])
    images = net(z, None, y)
    assert images.shape == z.shape
    other = z.flatten(1).clone()
    other[:, 10:] = 0
    assert_close(net(other.view_as(z), torch.ones(B), y), images, rtol=0, atol=0)
    other[:, 9] += 1
    assert (net(other.view_as(z), None, y) - images).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert (net(z, None, torch.flip(y, [0])) - images).abs().amax(dim=(1, 2, 3))[0] > 1e-3
    assert_close(net(z), net(z, None, torch.tensor([[2, 3]] * B)))


@pytest.mark.filterwarnings("error")
def test_in_bf16_generated_images_are_close_and_in_full_precision(z):
    torch.manual_seed(0)
    net = Generator(**SIZES).eval()
    wanted = net(z)
    with torch.autocast("cpu", torch.bfloat16):
        images = net(z)
    assert images.dtype == torch.float32
    assert (images - wanted).square().mean().sqrt() < 0.03 * wanted.std()
    steps = wanted.abs().log2().floor().sub(7).exp2()  # of bf16, which has 8 bits
    assert (images / steps % 1 != 0).float().mean() > 0.95


def test_projection_adds_the_product_of_label_and_features(z):
    judge = Discriminator(**SIZES, num_classes=2)
    nn.init.normal_(judge.label.weight)
    y = torch.tensor([[0], [1], [2]])
    features = judge.layers(z)
    wanted = judge.score(features).squeeze(1) + (judge.label.weight * features).sum(dim=1)
    assert_close(judge(z, y), wanted)
    assert Discriminator(**SIZES).label is None
    assert Discriminator(**SIZES)(z, None).shape == (B,)


def test_discriminator_is_the_same_each_time_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = Discriminator(**SIZES).state_dict(), Discriminator(**SIZES).state_dict()
    assert_close(torch.get_rng_state(), before)
    assert_close(one, other, rtol=0, atol=0)


def test_blocks_begin_as_the_identity_and_keep_the_scale():
    torch.manual_seed(0)
    x = torch.randn(4, 32, 16, 16)
    block = Block(32, num_blocks=1, group_size=16)
    assert_close(block(x), x, rtol=0, atol=0)
    assert 0.8 < block.layers[:4](x).square().mean() < 1.2  # as large as x, but for edges


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 18}, "image_size=18: not divisible by 4, which 3 levels"),
        ({"group_size": 5}, "model.group_size=5: does not divide 64"),
        ({"latent_dim": 769}, "model.latent_dim=769: an image has 768 values"),
    ],
)
def test_generator_rejects_sizes_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Generator(**{**SIZES, **settings})
