import pytest
import torch
from torch.testing import assert_close

from artart.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 6, 6)])
def test_orthogonal_keeps_singular_vectors_and_makes_singular_values_alike(shape):
    matrices = torch.randn(shape, generator=torch.manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ orthogonal(1e3 * matrices) @ v.mT  # of any scale
    singular = inner.diagonal(dim1=1, dim2=2)
    assert_close(inner, torch.diag_embed(singular), atol=1e-4, rtol=0)
    assert ((singular > 0.6) & (singular < 1.3)).all()


def test_no_gradient_gives_no_step():
    assert_close(orthogonal(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_filters_take_steps_of_torch_muon_and_the_rest_those_of_adamw():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(6, 6, 3), torch.nn.Conv2d(6, 6, 3))
    net = net.to(memory_format=torch.channels_last)
    matrices = [torch.nn.Parameter(conv.weight.detach().flatten(1).clone()) for conv in net]
    biases = [torch.nn.Parameter(conv.bias.detach().clone()) for conv in net]
    ours = Muon(net.parameters(), lr=0.1, weight_decay=2.0)
    muon = torch.optim.Muon(matrices, lr=0.05, weight_decay=2.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(biases, lr=0.05, weight_decay=2.0)
    for group in ours.param_groups:
        group["lr"] = 0.05  # as a scheduler does
    for _ in range(3):
        ours.zero_grad()
        net(torch.randn(2, 4, 9, 9)).square().sum().backward()
        for conv, matrix, bias in zip(net, matrices, biases, strict=True):
            matrix.grad, bias.grad = conv.weight.grad.flatten(1), conv.bias.grad.clone()
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    for conv, matrix, bias in zip(net, matrices, biases, strict=True):
        assert_close(conv.weight.detach().flatten(1), matrix.detach(), atol=4e-3, rtol=2e-2)  # torch's is in bfloat16
        assert_close(conv.bias.detach(), bias.detach())


def test_a_state_that_is_loaded_continues_to_the_bit():
    def net():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 5, 3)

    def step(conv, optimizer, seed):
        optimizer.zero_grad()
        conv(torch.randn(2, 3, 6, 6, generator=torch.manual_seed(seed))).square().sum().backward()
        optimizer.step()

    whole, half = net(), net()
    straight, first = Muon(whole.parameters()), Muon(half.parameters())
    for seed in range(4):
        step(whole, straight, seed)
    for seed in range(2):
        step(half, first, seed)
    second = Muon(half.parameters())
    second.load_state_dict(first.state_dict())
    for seed in (2, 3):
        step(half, second, seed)
    assert_close(half.state_dict(), whole.state_dict(), atol=0, rtol=0)
