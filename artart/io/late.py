"""Values between host and device without a wait: constants kept on the device, and results that are read later."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=Callable[..., Tensor])


def kept(make: T) -> T:
    """Call a function of hashable arguments, the device among them, once for each; nobody may write to its result.

    A compiled step has its own.
    """
    remembered: Any = functools.cache(torch.inference_mode(False)(make))  # such tensors could take part in no gradient

    @functools.wraps(make)
    def kept(*args: Any) -> Tensor:
        return make(*args) if torch.compiler.is_compiling() else remembered(*args)

    return kept  # type: ignore[return-value]


@kept
def constant(values: Any, device: torch.device) -> Tensor:
    """A tensor of a number, or of a tuple of them: a new one would be copied to a GPU, which waits for it."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and isinstance(values, tuple) and values:
        return torch.stack([torch.full((), value, device=device) for value in values])  # on the device in each step
    return torch.tensor(values, device=device)


class LateValue:
    """A number on a device, read on the host later: then without waiting for what the device was given since."""

    def __init__(self, value: Tensor) -> None:
        self.copy = value.detach().float().to("cpu", non_blocking=value.is_cuda)  # into pinned memory
        self.event = torch.cuda.Event() if value.is_cuda else None
        if self.event:
            self.event.record()

    def read(self) -> float:
        if self.event:
            self.event.synchronize()
        return float(self.copy.numpy())
