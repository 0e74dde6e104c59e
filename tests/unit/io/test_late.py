import math

import pytest
import torch

from artart.io.late import LateValue, constant

CPU = torch.device("cpu")


def test_a_constant_is_made_once_and_may_take_part_in_gradients():
    with torch.inference_mode():
        made = constant((1.5, 2.5), CPU)
    assert constant((1.5, 2.5), CPU) is made
    assert constant(7, CPU).tolist() == 7
    (made * (weight := torch.ones(2, requires_grad=True))).sum().backward()
    assert weight.grad.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_late_value_is_that_of_the_tensor(dtype):
    loss = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    assert LateValue(loss * 2).read() == 3.0
    assert math.isnan(LateValue(loss * torch.nan).read())


@pytest.mark.gpu
def test_a_late_value_of_a_gpu_is_copied_without_waiting():
    value = torch.full((), 2.5, device="cuda")
    constant((1, 2), value.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        late = LateValue(value)
        value.fill_(9)
        assert late.read() == 2.5
        assert constant((1, 2), value.device).device == value.device
    finally:
        torch.cuda.set_sync_debug_mode("default")
