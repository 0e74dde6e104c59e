import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.models.embedding import AdaGroupNorm, Condition
from artart.models.unet import Block, UNet

B, S = 2, 16
SMALL = {"model_channels": 16, "channel_mult": (1, 2, 3), "num_res_blocks": 1, "attn_resolutions": range(1, 5)}


def filled(net: nn.Module) -> nn.Module:
    """With random numbers where training begins with zeros, so that everything has an influence."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def images(size: int = S, num: int = B) -> torch.Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (16, {"channel_mult": (1,)}),
        (16, {"channel_mult": (2, 1)}),
        (16, {"channel_mult": (3, 1, 2), "num_res_blocks": 2}),
        (24, {"channel_mult": (1, 2, 3, 4)}),
        (32, {"patch_size": 2}),
        (16, {"patch_size": 4}),
        (16, {"model_channels": 24, "attn_resolutions": range(1, 17)}),
        (8, {"attn_resolutions": []}),
    ],
)
def test_levels_blocks_and_patches_are_for_the_user_to_choose(size, options):
    net = filled(UNet(size, **SMALL | options))
    assert net(images(size)).shape == (B, 3, size, size)
    blocks = [part for part in [*net.down, *net.middle, *net.up] if isinstance(part, Block)]
    levels, num_res_blocks = len((SMALL | options)["channel_mult"]), (SMALL | options)["num_res_blocks"]
    assert len(blocks) == 2 * levels * num_res_blocks + 2


def test_its_output_is_that_of_its_formula():
    """Written out level by level, for two levels of two blocks: what was made last on the way down is seen first."""
    net = filled(UNet(S, model_channels=16, channel_mult=(1, 2), num_res_blocks=2, attn_resolutions=(), patch_size=2))
    p, x, t = net.state_dict(), images(), torch.tensor([0.3, 0.8])
    embedding = F.silu(net.condition(x, t, None).vector)

    def convolved(x, name, padding=1):
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding)

    def block(x, name):
        features = F.silu(F.group_norm(x, 8, p[f"{name}.norm1.weight"], p[f"{name}.norm1.bias"]))
        features = convolved(features, f"{name}.conv1")
        weights = p[f"{name}.norm2.scale_shift.weight"], p[f"{name}.norm2.scale_shift.bias"]
        scale, shift = F.linear(embedding, *weights)[:, :, None, None].chunk(2, 1)
        features = F.group_norm(features, 8, p[f"{name}.norm2.norm.weight"], p[f"{name}.norm2.norm.bias"])
        features = F.silu(features * (1 + scale) + shift)
        shortcut = convolved(x, f"{name}.shortcut", 0) if f"{name}.shortcut.weight" in p else x
        return shortcut + convolved(features, f"{name}.conv2")

    a1 = block(convolved(F.pixel_unshuffle(x, 2), "stem"), "down.1")
    a2 = block(a1, "down.2")
    b1 = block(F.avg_pool2d(a2, 2), "down.4")
    b2 = block(b1, "down.5")
    middle = block(block(b2, "middle.0"), "middle.1")
    up = block(torch.cat([block(torch.cat([middle, b2], 1), "up.0"), b1], 1), "up.1")
    up = up.repeat_interleave(2, 2).repeat_interleave(2, 3)
    up = block(torch.cat([block(torch.cat([up, a2], 1), "up.3"), a1], 1), "up.4")
    wanted = convolved(F.silu(F.group_norm(up, 8, p["norm.weight"], p["norm.bias"])), "out")
    assert_close(net(x, t), F.pixel_shuffle(wanted, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_skip_reaches_its_twin_on_the_way_up_first(level):
    """A change of what a level hands across shows first in the block of the same level on the way up."""
    net, seen = filled(UNet(S, **SMALL)), {}
    down = [part for part in net.down if isinstance(part, Block)]
    up = [part for part in net.up if isinstance(part, Block)]
    for k, part in enumerate(up):
        part.register_forward_hook(lambda _, inputs, __, k=k: seen.update({k: inputs[0]}))
    net(images())
    before = dict(seen)
    kept = []
    down[level].register_forward_hook(lambda _, __, output: kept.append(output))
    net(images())
    own = before[len(up) - 1 - level]
    assert_close(own[:, -kept[0].shape[1] :], kept[0], rtol=0, atol=0)
    assert own.shape[2] == S >> level


@pytest.mark.parametrize("resolutions", [(), (3,), (4,), (8, 4), (8,), (16, 8, 4), range(1, 17)])
def test_attention_sees_the_maps_of_attn_resolutions(resolutions):
    net, seen = UNet(S, **SMALL | {"attn_resolutions": resolutions}), []
    for part in net.modules():
        if isinstance(part, Block):
            part.register_forward_hook(lambda block, _, output: seen.append((output.shape[-1], block.attention)))
    net(images())
    assert [side for side, _ in seen] == [16, 8, 4, 4, 4, 4, 8, 16]
    assert [attention is not None for _, attention in seen] == [side in resolutions for side, _ in seen]


@pytest.mark.parametrize(("resolutions", "reaches"), [((), False), ((32,), True)])
def test_with_attention_a_corner_sees_the_opposite_one(resolutions, reaches):
    """At 64 px; normalisation, which mixes everything a little, is left out."""
    net = filled(UNet(64, model_channels=16, channel_mult=(1, 1), attn_resolutions=resolutions))
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    x = images(64, 1).requires_grad_()
    net(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0, :, 4:8, 4:8] != 0).any()
    assert bool((x.grad[0, :, -4:, -4:] != 0).any()) == reaches


@pytest.mark.parametrize(
    ("model_channels", "num_heads"), [(16, 1), (64, 1), (72, 1), (128, 2), (144, 2), (384, 6), (1024, 16)]
)
def test_a_head_of_attention_has_64_channels_or_somewhat_more(model_channels, num_heads):
    with torch.device("meta"):
        block = Block(model_channels, model_channels, 8, 0.0, attention=True)
    assert block.attention.num_heads == num_heads
    assert model_channels % num_heads == 0


def test_a_block_begins_as_its_shortcut():
    torch.manual_seed(0)
    x, condition = torch.randn(B, 16, 4, 4), Condition(torch.randn(B, 8), None)
    assert_close(Block(16, 16, 8, 0.0, attention=True)(x, condition), x, rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    net, x = filled(UNet(S, **SMALL, dropout=0.5)), images()
    plain = filled(UNet(S, **SMALL))
    plain.load_state_dict(net.state_dict())
    assert_close(net(x), plain(x), rtol=0, atol=0)
    assert_close(net(x), net(x), rtol=0, atol=0)
    net.train()
    assert (net(x) - net(x)).abs().max() > 1e-2
    assert_close(plain.train()(x), plain.eval()(x), rtol=0, atol=0)


def test_all_blocks_are_reported_the_condition():
    net = UNet(S, **SMALL)
    blocks = [part for part in net.modules() if isinstance(part, Block)]
    assert len([part for part in net.modules() if isinstance(part, AdaGroupNorm)]) == len(blocks) == 8
    for block in blocks:
        nn.init.normal_(block.conv2.weight)
    nn.init.normal_(net.out.weight)
    x, (early, late) = images(), (torch.zeros(B), torch.ones(B))
    assert_close(net(x, early), net(x, late), rtol=0, atol=0)  # scales and shifts begin with zero
    for block in blocks:
        nn.init.normal_(block.norm2.scale_shift.weight, std=0.1)
        assert (net(x, early) - net(x, late)).abs().max() > 1e-3
        nn.init.zeros_(block.norm2.scale_shift.weight)


@pytest.mark.parametrize(
    ("size", "options", "sentence", "remedies"),
    [
        (18, {}, r"^image_size=18: .* by 4, .*model.patch_size=1 and 3 levels need; try 16 or 20$", (16, 20)),
        (30, {"patch_size": 2}, r"^image_size=30: .* by 8, .*patch_size=2 and 3 levels .*; try 24 or 32$", (24, 32)),
        (9, {"channel_mult": (1, 1, 1, 1, 1)}, r"^image_size=9: not divisible by 16, .*; try 16 or 32$", (16, 32)),
    ],
)  # fmt: skip
def test_a_size_that_its_levels_do_not_divide_is_refused_with_sizes_that_they_do(size, options, sentence, remedies):
    with pytest.raises(ValueError, match=sentence):
        UNet(size, **SMALL | options)
    for remedy in remedies:
        assert UNet(remedy, **SMALL | options)(images(remedy)).shape[-1] == remedy


@pytest.mark.parametrize(("model_channels", "remedy"), [(20, 16), (9, 8), (63, 56), (63, 64)])
def test_a_number_of_channels_that_groups_do_not_divide_is_refused_with_one_that_they_do(model_channels, remedy):
    with pytest.raises(ValueError, match=f"^model.model_channels={model_channels}: not divisible by 8, .*{remedy}"):
        UNet(S, **SMALL | {"model_channels": model_channels})
    UNet(S, **SMALL | {"model_channels": remedy})


@pytest.mark.parametrize("channel_mult", [(), (0,), (1, -1)])
def test_levels_without_channels_are_refused(channel_mult):
    with pytest.raises(ValueError, match=r"^model.channel_mult=\[.*\]: needs a whole number above 0 for each level$"):
        UNet(S, channel_mult=channel_mult)
