import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from artart.models.conv_diffusion import ConvDiffusionModel

B, S = 2, 24


@pytest.fixture
def net() -> ConvDiffusionModel:
    torch.manual_seed(0)
    return ConvDiffusionModel(S)


def test_it_has_the_parameters_of_the_printed_network(net):
    assert sum(parameter.numel() for parameter in net.parameters()) == 742_659


def test_it_has_the_layers_of_the_printed_network(net):
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if name.endswith("0.weight")}
    assert shapes == {
        "enc1.0.weight": (64, 3, 3, 3),
        "enc2.0.weight": (128, 64, 3, 3),
        "enc3.0.weight": (256, 128, 3, 3),
        "dec1.0.weight": (256, 128, 3, 3),
        "dec2.0.weight": (128, 64, 3, 3),
        "dec3.0.weight": (64, 3, 3, 3),
    }


def test_its_output_is_that_of_the_printed_formula(net):
    """The forward pass written out by hand, block by block, from the article."""
    net.eval()
    p, x = net.state_dict(), torch.randn(B, 3, S, S).clamp(-1, 1)

    def norm(x, name):
        stats = (p[f"{name}.running_mean"], p[f"{name}.running_var"], p[f"{name}.weight"], p[f"{name}.bias"])
        return F.batch_norm(x, *stats)

    def down(x, name):
        x = F.conv2d(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"], padding=1)
        return F.max_pool2d(norm(F.relu(x), f"{name}.2"), 2)

    def up(x, name):
        weights = p[f"{name}.0.weight"], p[f"{name}.0.bias"]
        return F.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)

    enc1 = down(x, "enc1")
    enc2 = down(enc1, "enc2")
    dec1 = norm(F.relu(up(down(enc2, "enc3"), "dec1")), "dec1.2")
    dec2 = norm(F.relu(up(dec1 + enc2, "dec2")), "dec2.2")
    wanted = 2 * torch.sigmoid(up(dec2 + enc1, "dec3")) - 1
    assert_close(net(x), wanted)


def test_its_output_can_reach_both_ends_of_the_range(net):
    for level in (-20.0, 20.0):
        torch.nn.init.constant_(net.dec3[0].bias, level)
        torch.nn.init.zeros_(net.dec3[0].weight)
        assert_close(net(torch.zeros(B, 3, S, S)), torch.full((B, 3, S, S), level / 20))


@pytest.mark.parametrize(("size", "remedy"), [(100, "96 or 104"), (4, "8 or 16"), (0, "8 or 16"), (127, "120 or 128")])
def test_a_size_that_three_halvings_do_not_divide_is_refused(size, remedy):
    with pytest.raises(ValueError, match=f"image_size={size}: .*try {remedy}"):
        ConvDiffusionModel(size)
