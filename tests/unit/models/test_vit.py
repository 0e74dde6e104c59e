import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.models.vit import Block, ViT, rotated, rotations

B, S = 2, 16
SMALL = {"patch_size": 4, "hidden_size": 48, "depth": 2, "num_heads": 3}
HEAD = 16


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
        (16, {"patch_size": 1}),
        (16, {"patch_size": 16}),
        (24, {}),
        (16, {"depth": 1, "num_heads": 12}),
        (40, {"hidden_size": 12}),
    ],
)
def test_patches_blocks_and_heads_are_for_the_user_to_choose(size, options):
    net = filled(ViT(size, **SMALL | options))
    assert net(images(size)).shape == (B, 3, size, size)
    assert len(net.blocks) == (SMALL | options)["depth"]


def test_its_output_is_that_of_its_formula():
    """Patch by patch, place by place, head by head."""
    net = filled(ViT(8, hidden_size=16, depth=2, num_heads=2, patch_size=4))
    p, x, t, head = net.state_dict(), images(8), torch.tensor([0.3, 0.8]), 8
    embedding = F.silu(net.condition(x, t, None).vector)

    def linear(x, name):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def rms(x, weight=1.0):
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight

    def turned(vector, place):
        """Of the pairs (i, i + 4) the first two are turned by the row, the others by the column."""
        out = vector.clone()
        for i in range(4):
            angle = place[i // 2] * 100 ** (-(i % 2) / 2)
            cos, sin = math.cos(angle), math.sin(angle)
            out[..., i] = vector[..., i] * cos - vector[..., i + 4] * sin
            out[..., i + 4] = vector[..., i] * sin + vector[..., i + 4] * cos
        return out

    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    patches = torch.stack([x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten(1) for i, j in places], dim=1)
    tokens = linear(patches, "embed")
    for k in range(2):
        name = f"blocks.{k}"
        scale1, shift1, gate1, scale2, shift2, gate2 = linear(embedding, f"{name}.modulation")[:, None].split(
            16, dim=-1
        )
        q, k_, v = linear(rms(tokens) * (1 + scale1) + shift1, f"{name}.qkv").split(16, dim=-1)
        heads = []
        for h in range(2):
            part = slice(head * h, head * h + head)
            one = [turned(rms(q[:, n, part], p[f"{name}.norm_q.weight"]), places[n]) for n in range(4)]
            other = [turned(rms(k_[:, n, part], p[f"{name}.norm_k.weight"]), places[n]) for n in range(4)]
            scores = torch.stack(one, 1) @ torch.stack(other, 1).mT / math.sqrt(head)
            heads.append(scores.softmax(-1) @ v[..., part])
        tokens = tokens + gate1 * linear(torch.cat(heads, -1), f"{name}.project")
        hidden = F.gelu(linear(rms(tokens) * (1 + scale2) + shift2, f"{name}.mlp.0"))
        tokens = tokens + gate2 * linear(hidden, f"{name}.mlp.2")
    scale, shift = linear(embedding, "modulation")[:, None].split(16, dim=-1)
    made = linear(rms(tokens) * (1 + scale) + shift, "out").unflatten(2, (3, 4, 4))
    wanted = torch.empty_like(x)
    for n, (i, j) in enumerate(places):
        wanted[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = made[:, n]
    assert_close(net(x, t), wanted, rtol=1e-4, atol=1e-5)


# --- places


def test_scores_depend_on_the_difference_of_places_alone():
    side = 6
    angles, (q, k) = rotations(side, HEAD), torch.randn(2, HEAD, generator=torch.Generator().manual_seed(0))
    num = side * side
    scores = rotated(q.expand(num, -1), angles) @ rotated(k.expand(num, -1), angles).mT
    known: dict[tuple[int, int], float] = {}
    for one in range(num):
        for other in range(num):
            apart = (other // side - one // side, other % side - one % side)
            score = scores[one, other].item()
            assert score == pytest.approx(known.setdefault(apart, score), abs=1e-4)
    values = torch.tensor(sorted(known.values()))
    assert len(known) == (2 * side - 1) ** 2
    assert (values.diff() > 1e-5).all()  # each difference is reported from every other


def test_turning_keeps_lengths_and_the_first_place_as_it_is():
    angles, x = rotations(4, HEAD), torch.randn(16, HEAD, generator=torch.Generator().manual_seed(0))
    assert_close(rotated(x, angles).norm(dim=-1), x.norm(dim=-1))
    assert_close(rotated(x, angles)[0], x[0], rtol=0, atol=0)
    assert (rotated(x, angles)[1:] - x[1:]).norm(dim=-1).min() > 0.1


@pytest.mark.parametrize("head", [4, 64])
def test_all_places_are_turned_differently(head):
    angles = rotations(64, head)
    assert angles.shape == (64 * 64, head // 2)
    turns = torch.cat([angles.cos(), angles.sin()], dim=1)
    distances = torch.cdist(turns[::7], turns) + 10 * torch.eye(64 * 64)[::7]
    assert distances.min() > 0.01


def test_rotations_are_in_no_checkpoint_and_not_trained():
    net = ViT(S, **SMALL)
    assert not [name for name in net.state_dict() if "rotation" in name or "angle" in name]
    assert not list(net.buffers())


def test_attention_sees_the_same_tokens_alike_wherever_they_lie_together():
    torch.manual_seed(0)
    block, angles = Block(48, 3, 0.0), rotations(8, HEAD).unflatten(0, (8, 8))
    tokens = torch.randn(B, 9, 48)
    here, there = angles[1:4, 0:3].flatten(0, 1), angles[4:7, 5:8].flatten(0, 1)
    assert_close(block.attend(tokens, here), block.attend(tokens, there), rtol=1e-4, atol=1e-5)
    turned = angles[1:4, 0:3].transpose(0, 1).flatten(0, 1)
    assert (block.attend(tokens, here) - block.attend(tokens, turned)).abs().max() > 1e-3


def test_but_for_attention_a_moved_image_is_moved_and_with_it_places_matter():
    net, x = filled(ViT(S, **SMALL)), images()
    moved = net(x.roll((4, 8), dims=(2, 3)))
    assert (moved - net(x).roll((4, 8), dims=(2, 3))).abs().max() > 1e-2
    for block in net.blocks:
        nn.init.zeros_(block.project.weight)
    assert_close(net(x.roll((4, 8), dims=(2, 3))), net(x).roll((4, 8), dims=(2, 3)), rtol=1e-4, atol=1e-5)


def test_every_patch_sees_every_other():
    net, x = filled(ViT(S, **SMALL | {"depth": 1})), images(num=1).requires_grad_()
    net(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.unflatten(2, (4, 4)).unflatten(4, (4, 4)).abs().amax(dim=(0, 1, 3, 5)) > 0).all()


# --- blocks


def test_a_block_begins_as_nothing():
    torch.manual_seed(0)
    tokens = torch.randn(B, 4, 48)
    assert_close(Block(48, 3, 0.0)(tokens, torch.randn(B, 48), rotations(2, HEAD)), tokens, rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    net, x = filled(ViT(S, **SMALL, dropout=0.5)), images()
    plain = filled(ViT(S, **SMALL))
    plain.load_state_dict(net.state_dict())
    assert_close(net(x), plain(x), rtol=0, atol=0)
    net.train()
    assert (net(x) - net(x)).abs().max() > 1e-2
    assert_close(plain.train()(x), plain.eval()(x), rtol=0, atol=0)


# --- mistakes


@pytest.mark.parametrize(("size", "patch_size", "remedy"), [(18, 4, 16), (31, 16, 16), (8, 16, 16)])
def test_a_size_that_patches_do_not_fill_is_refused_with_one_that_they_do(size, patch_size, remedy):
    sentence = f"^image_size={size}: not divisible by {patch_size}, which is model.patch_size; try .*{remedy}"
    with pytest.raises(ValueError, match=sentence):
        ViT(size, **SMALL | {"patch_size": patch_size})
    assert ViT(remedy, **SMALL | {"patch_size": patch_size})(images(remedy)).shape[-1] == remedy


@pytest.mark.parametrize(("hidden_size", "num_heads", "remedy"), [(50, 3, 60), (48, 5, 60), (384, 7, 392), (8, 6, 24)])
def test_a_number_of_channels_that_heads_do_not_fill_is_refused_with_one_that_they_do(hidden_size, num_heads, remedy):
    sentence = (
        f"^model.hidden_size={hidden_size}: not divisible by {4 * num_heads}, .*num_heads={num_heads}; try .*{remedy}"
    )
    with pytest.raises(ValueError, match=sentence):
        ViT(S, hidden_size=hidden_size, num_heads=num_heads, depth=1)
    ViT(S, hidden_size=remedy, num_heads=num_heads, depth=1)(images())


def test_it_takes_prompts_where_heads_of_the_encoder_do_not_divide_its_width():
    net = ViT(S, **SMALL | {"hidden_size": 100, "num_heads": 5}, text=[10, 3])
    prompts = torch.tensor([[1, 2, 3], [4, 0, 0]])
    assert net(torch.randn(B, 3, S, S), torch.rand(B), prompts).shape == (B, 3, S, S)
