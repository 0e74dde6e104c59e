"""Rebuild what was read from a file as exact built-in types, so that no object can spoof a later check.

`torch.load(weights_only=True)` restores attributes of an OrderedDict, among them methods that checks would call. Here
every object is identified by its exact type and read by the methods of that type alone.
"""

import math
from collections import Counter, OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn

MAX_DEPTH = 50  # containers inside each other
MAX_VALUES = 1_000_000
MAX_CHARACTERS = 5_000_000  # of all strings


def rebuild(value: object, num_bytes: float = math.inf) -> Any:
    """A copy of exact dict, list, tuple, str, int, float, bool, None and Tensor; tensors share their memory with it.

    Containers and strings count once per reference, since readers walk the copy as a tree.

    Raises ValueError if there is anything else, too much of it, or a tensor of more bytes than the file's, `num_bytes`.
    """
    return _Rebuild(num_bytes).value(value, MAX_DEPTH)


class _Rebuild:
    """One call of `rebuild`: its counts, and the tensors that it has met."""

    def __init__(self, num_bytes: float) -> None:
        self.num_bytes = num_bytes
        self.num_values = 0
        self.num_characters = 0
        self.tensors: dict[int, Tensor] = {}  # by the id of the original
        self.held: dict[int, int] = {}  # bytes by address of the memory
        self.num_held = 0  # their sum
        self.used = 0  # bytes of all tensors

    def value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        if kind in (bool, float, type(None)):
            return value
        if kind in (str, int):
            return self._scalar(value)
        if kind in (Tensor, nn.Parameter):
            return self._tensor(value)
        if depth == 0:
            raise ValueError(f"more than {MAX_DEPTH} levels, or a cycle")
        if kind in (dict, OrderedDict, Counter):
            items = dict[Any, Any].items(cast(dict[Any, Any], value))
            return {self._scalar(key): self.value(one, depth - 1) for key, one in items}
        if kind in (list, tuple):
            return kind([self.value(one, depth - 1) for one in value])
        raise ValueError(f"a {kind.__name__}")

    def _scalar(self, value: Any) -> Any:
        """A string or an int; the only types of keys."""
        if type(value) not in (str, int):
            raise ValueError(f"a {type(value).__name__} as a key")
        if type(value) is int and abs(value) >= 2**63:
            raise ValueError("a whole number of more than 64 bits")
        if type(value) is str:
            self.num_characters += len(value)
        if self.num_characters > MAX_CHARACTERS:
            raise ValueError(f"more than {MAX_CHARACTERS:,} characters")
        return value

    def _tensor(self, value: Any) -> Tensor:
        """The tensor without hooks, gradient and attributes.

        Views may share memory, as tied weights do; all together they are at most twice as large as what they share.
        """
        if id(value) not in self.tensors:
            tensor = self.tensors[id(value)] = torch.Tensor.detach(value)
            if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
                raise ValueError("a tensor that is not dense")
            if tensor.is_complex():
                raise ValueError("a tensor of complex numbers")
            memory, num_bytes = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
            self.num_held += memory.nbytes() - self.held.get(memory.data_ptr(), 0)
            self.held[memory.data_ptr()] = memory.nbytes()
            self.used += num_bytes
            if num_bytes > memory.nbytes() or self.used > 2 * self.num_held or self.num_held > self.num_bytes:
                raise ValueError("a tensor of more numbers than the file holds")
        return self.tensors[id(value)]
