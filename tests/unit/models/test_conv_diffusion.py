import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.models.conv_diffusion import ConvDiffusionModel, SelfAttention
from artart.models.embedding import AdaGroupNorm

B, S = 2, 24
NUM_CLASSES = 5


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


def test_it_has_the_names_of_the_printed_network(net):
    """Of which checkpoints are made."""
    convolution, norm = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"{block}.0.{name}" for block in ("enc1", "enc2", "enc3", "dec1", "dec2", "dec3") for name in convolution]
    names += [f"{block}.2.{name}" for block in ("enc1", "enc2", "enc3", "dec1", "dec2") for name in norm]
    assert sorted(net.state_dict()) == sorted(names)


@pytest.mark.parametrize("num_classes", [0, 5])
def test_as_printed_it_is_reported_nothing(num_classes):
    torch.manual_seed(0)
    net, x = ConvDiffusionModel(S, num_classes=num_classes).eval(), torch.randn(B, 3, S, S)
    assert net.num_classes == ()
    assert sum(parameter.numel() for parameter in net.parameters()) == 742_659
    assert_close(net(x, torch.ones(B), torch.ones(B, dtype=torch.long)), net(x), rtol=0, atol=0)


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


# --- conditioned: a denoiser


def conditioned(size: int = S, **options) -> ConvDiffusionModel:
    """With random numbers where training begins with zeros, so that everything has an influence."""
    torch.manual_seed(0)
    net = ConvDiffusionModel(size, num_classes=NUM_CLASSES, conditioned=True, **options)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def given(size: int = S, num: int = B):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(num, 3, size, size, generator=generator)
    return x_t, torch.linspace(0.2, 0.9, num), torch.arange(num) % (NUM_CLASSES + 1)


@pytest.mark.parametrize("num_classes", [0, 1, 5])
def test_the_denoisers_parameters_can_be_counted(num_classes):
    widths = (64, 128, 256, 128, 64)
    ends = ((3, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 64), (64 + 3, 3))
    convolutions = sum(9 * a * b + b for a, b in ends)
    norms = sum(2 * c + (256 + 1) * 2 * c for c in widths)
    time = (64 + 1) * 256 + (256 + 1) * 256
    labels = (num_classes + 1) * 256 if num_classes else 0
    net = ConvDiffusionModel(S, num_classes=num_classes, conditioned=True)
    assert sum(parameter.numel() for parameter in net.parameters()) == convolutions + norms + time + labels
    with_attention = ConvDiffusionModel(S, num_classes=num_classes, conditioned=True, attention=True)
    attention = 2 * 256 + (256 + 1) * 3 * 256 + (256 + 1) * 256
    assert sum(parameter.numel() for parameter in with_attention.parameters()) == (
        convolutions + norms + time + labels + attention
    )


def test_the_denoisers_output_is_that_of_its_formula():
    net = conditioned()
    p, (x_t, t, y) = net.state_dict(), given()
    angles = t[:, None] * 1000 * (0.1 / 1000) ** (torch.arange(32) / 31)
    hidden = F.silu(F.linear(torch.cat([angles.sin(), angles.cos()], 1), p["condition.time.0.weight"],
                             p["condition.time.0.bias"]))  # fmt: skip
    embedding = (
        F.linear(hidden, p["condition.time.2.weight"], p["condition.time.2.bias"]) + p["condition.label.weight"][y]
    )

    def norm(x, name):
        scale_shift = F.linear(F.silu(embedding), p[f"{name}.scale_shift.weight"], p[f"{name}.scale_shift.bias"])
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        return F.group_norm(x, 8, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"]) * (1 + scale) + shift

    def down(x, name):
        x = F.conv2d(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"], padding=1)
        return F.max_pool2d(norm(F.relu(x), f"{name}.2"), 2)

    def up(x, name):
        weights = p[f"{name}.0.weight"], p[f"{name}.0.bias"]
        return norm(F.relu(F.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)), f"{name}.2")

    enc1 = down(x_t, "enc1")
    enc2 = down(enc1, "enc2")
    features = up(up(down(enc2, "enc3"), "dec1") + enc2, "dec2") + enc1
    features = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    features = F.silu(F.conv2d(features, p["dec3.smooth.weight"], p["dec3.smooth.bias"], padding=1))
    wanted = F.conv2d(torch.cat([features, x_t], 1), p["dec3.out.weight"], p["dec3.out.bias"], padding=1)
    assert_close(net(x_t, t, y), wanted, rtol=1e-4, atol=1e-4)


def test_a_denoiser_without_classes_takes_no_notice_of_labels():
    torch.manual_seed(0)
    net = ConvDiffusionModel(S, conditioned=True)
    nn.init.normal_(net.dec3.out.weight)
    x_t, t, _ = given()
    assert net.num_classes == (0,)
    assert_close(net(x_t, t, torch.zeros(B, dtype=torch.long)), net(x_t, t), rtol=0, atol=0)


def test_images_of_the_printed_network_are_in_full_precision_under_autocast():
    net, (x, *_) = ConvDiffusionModel(S).eval(), given()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.float32


def test_the_last_layer_can_hand_x_t_on_unrounded_under_autocast():
    net, (x_t, t, y) = conditioned(), given()
    for parameter in net.dec3.out.parameters():
        nn.init.zeros_(parameter)
    for channel in range(3):
        net.dec3.out.weight.data[channel, 64 + channel, 1, 1] = 1
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(net(x_t, t, y), x_t, rtol=0, atol=1e-6)


# --- attention


def test_attention_begins_as_the_identity():
    plain, (x_t, t, y) = conditioned(), given()
    torch.manual_seed(1)
    attentive = ConvDiffusionModel(S, num_classes=NUM_CLASSES, conditioned=True, attention=True)
    missing = attentive.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"attention"}
    assert_close(attentive(x_t, t, y), plain(x_t, t, y), rtol=0, atol=0)


@pytest.mark.parametrize(("attention", "reaches"), [(False, False), (True, True)])
def test_with_attention_a_corner_sees_the_opposite_one(attention, reaches):
    """At 64 px convolutions alone do not get there; normalisation, which mixes everything a little, is left out."""
    net, (x_t, t, y) = conditioned(64, attention=attention), given(64, num=1)
    for module in net.modules():
        if isinstance(module, (AdaGroupNorm, SelfAttention)):
            module.norm = nn.Identity()
    x_t.requires_grad_()
    net(x_t, t, y)[0, :, 0, 0].sum().backward()
    assert (x_t.grad[0, :, :8, :8] != 0).any()
    assert bool((x_t.grad[0, :, -8:, -8:] != 0).any()) == reaches


def test_attention_is_that_of_its_formula():
    torch.manual_seed(0)
    channels, heads, height, width = 32, 4, 3, 5
    attention, x = SelfAttention(channels, heads), torch.randn(B, channels, height, width)
    nn.init.normal_(attention.out.weight, std=0.1)
    normed = F.group_norm(x, 8)
    qkv = torch.einsum("oc,bchw->bohw", attention.qkv.weight[:, :, 0, 0], normed) + attention.qkv.bias[:, None, None]
    q, k, v = qkv.reshape(B, 3, heads, channels // heads, height * width).unbind(1)
    weights = (torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(channels // heads)).softmax(-1)
    mixed = torch.einsum("bhij,bhcj->bhci", weights, v).reshape(B, channels, height, width)
    assert_close(attention(x), x + torch.einsum("oc,bchw->bohw", attention.out.weight[:, :, 0, 0], mixed))


def test_attention_is_refused_for_the_printed_network():
    with pytest.raises(ValueError, match=r"^model.attention=true: .*; add model.conditioned=true$"):
        ConvDiffusionModel(S, attention=True)
