"""Randomly damaged checkpoints, drawn from a seed: for fuzz_checkpoints.py and a test."""

import json
import pickle
import random
import reprlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from artart.io.weights import METADATA

Content = dict[Any, Any]
METHODS = (
    *("values", "items", "get", "keys", "copy", "update", "pop", "__iter__", "__class__", "__len__", "__contains__"),
)
BOMBS = (
    {"_target_": "canary.sing"},
    {"_target_": "canary.sing", "_partial_": True},
    {"_target_": "os.mkdir", "_args_": ["harm"]},
    {"_target_": "os.system", "command": "mkdir harm"},
    {"_target_": "artart.objectives.losses.torch.hub.load", "_recursive_": False},
    {"_target_": "hydra.utils.instantiate", "_convert_": "none", "_args_": [{"_target_": "canary.sing"}]},
)
TEXTS = (
    *("", "0", "a", "nan", "null", "???", "${oc.env:HOME}", "${oc.create:'{_target_: canary.sing}'}", "${", "_target_"),
    *("canary.sing", "os.system", "/etc/passwd", "../harm", "a\nb", "\x1b[2J\x1b[31m", "\0", "\ud800", "\u202e", "a.b"),
    *("é" * 300, "x" * 10**6, "9" * 5000, "artart.objectives.losses.MSE", "artart.models.vit.ViT", "auto"),
    *("cuda", "resume=auto"),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 64, 255, 2**16, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 10**9, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"), True, False, None),
)


class Disguised:
    """An OrderedDict in the file whose attributes hide its methods."""

    def __init__(self, items: Mapping[Any, Any], attributes: Mapping[str, Any]) -> None:
        self.contents, self.attributes = dict(items), dict(attributes)


class Named:
    """A pickle that names something to import, and perhaps to call."""

    def __init__(self, name: str, *arguments: Any, called: bool = True) -> None:
        self.name, self.arguments, self.called = name, arguments, called


class _Pickler(pickle._Pickler):  # Python's own: torch's subclass of C's takes no reducers
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Disguised):
            self.save_reduce(OrderedDict, (), dict(obj.attributes), None, iter(obj.contents.items()), obj=obj)  # type: ignore[attr-defined]
        elif isinstance(obj, Named):
            module, _, name = obj.name.rpartition(".")
            self.write(b"c" + f"{module}\n{name}\n".encode())  # type: ignore[attr-defined]
            if obj.called:
                self.save(obj.arguments)
                self.write(b"R")  # type: ignore[attr-defined]
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]


PICKLE = ModuleType("pickle")
PICKLE.Pickler, PICKLE.dump = _Pickler, pickle.dump  # type: ignore[attr-defined]


def tensors(rng: random.Random, like: Tensor | None = None) -> Iterator[Callable[[], Any]]:
    """Functions that return a tensor of each kind; some keep the shape of the original."""
    shape = list(like.shape) if isinstance(like, Tensor) else [rng.choice([1, 3, 64])]
    one, small = torch.ones(1), torch.ones(64)
    yield lambda: torch.tensor(rng.choice([0.0, 1.0, float("nan"), 1e30]))
    yield lambda: torch.tensor(rng.choice([0, -1, 2**62]))
    yield lambda: torch.ones(rng.choice([[0], [0, 3], [3, 0, 2**40]]))
    yield lambda: one.expand(rng.choice([2, 1000, 10**9, 10**15]))
    yield lambda: one.expand(shape or [1])
    yield lambda: torch.arange(200.0)[rng.randrange(100) :][:64]
    yield lambda: small.as_strided([60, 60], [0, 1])
    yield lambda: torch.ones(shape, device="meta")
    yield lambda: torch.eye(8).to_sparse()
    yield lambda: torch.eye(8).to_sparse_csr()
    yield lambda: torch.quantize_per_tensor(small, 0.1, 0, torch.qint8)
    kinds = [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.int8, torch.int64, torch.complex64]
    yield lambda: torch.zeros(shape, dtype=rng.choice([*kinds, torch.float8_e4m3fn, torch.uint16]))
    yield lambda: torch.full(shape, rng.choice([float("nan"), float("inf"), -1e38, 0.0]))
    yield lambda: torch.ones([*shape, 1])
    yield lambda: torch.ones(list(reversed(shape)))
    yield lambda: torch.ones(shape, requires_grad=True)
    yield lambda: nn.Parameter(torch.ones(shape))
    yield lambda: nn.Parameter(one.expand(10**9), requires_grad=False)
    yield lambda: torch.tensor([1.0 + 1j]).conj()
    yield lambda: torch.ones(4, dtype=torch.complex64).imag
    yield lambda: _with_attribute(torch.ones(shape))


def _with_attribute(tensor: Tensor) -> Tensor:
    tensor.shape_of = {"_target_": "canary.sing"}  # type: ignore[attr-defined]
    return tensor


def odd(rng: random.Random, like: Any = None) -> Any:
    """A value that is in no good file, or not in this place."""
    nested: Any = rng.choice([[], {}, 1])
    match rng.choice("bbttnnncdlskrTTT"):
        case "b":
            return rng.choice([lambda bomb: bomb, lambda bomb: {"a": [bomb]}, lambda bomb: [bomb]])(rng.choice(BOMBS))
        case "t":
            return rng.choice(TEXTS)
        case "n":
            return rng.choice(NUMBERS)
        case "c":
            names = ("collections.OrderedDict", "collections.Counter", "torch._utils._rebuild_tensor_v2")
            more = ("torch.FloatStorage", "torch.float32", "torch.device", "builtins.set", "canary.sing", "os.system")
            return Named(rng.choice([*names, *more]), called=False)
        case "d":
            for _ in range(rng.choice([3, 48, 60, 300])):
                nested = rng.choice([[nested], {"a": nested}, (nested,)])
            return nested
        case "l":  # the same again and again
            nested = [rng.choice(["laugh" * 1000, 1, {}])] * 10
            for _ in range(rng.choice([2, 4, 40])):
                nested = [nested] * 10
            return nested
        case "s":
            many = ([0] * 10**5, dict.fromkeys(range(10**4)), {f"k{k}": k for k in range(10**4)}, ["x" * 10**5] * 300)
            return rng.choice([{1, 2}, b"bytes", bytearray(b"bytes"), 1j, (1,), [], {}, (), ["a", "a"], *many])
        case "k":
            return {odd_key(rng): rng.choice([1, "a", None, rng.choice(BOMBS)])}
        case "r":
            named = Named("canary.sing"), Named("os.system", "mkdir harm"), Named("builtins.bytearray", 10**9)
            allowed = Named("collections.Counter", {"a": 1}), Named("collections.OrderedDict", (("a", 1),))
            return rng.choice([*named, *allowed, Named("torch.Size", [2, 3]), Named("torch.Tensor", 10**5, 10**5)])
        case _:
            return rng.choice(list(tensors(rng, like)))()


def odd_key(rng: random.Random) -> Any:
    keys = [
        0,
        -1,
        2**70,
        1.5,
        float("nan"),
        None,
        (),
        (1, "a"),
        b"a",
        True,
        "a.b",
        "_target_",
        "_partial_",
        "a" * 10**5,
    ]
    return torch.ones(2) if rng.random() < 0.05 else rng.choice([*keys, *TEXTS])


def spoil(content: Content, rng: random.Random) -> str:
    """Change one thing in place; return a description."""
    node, key, path = _place(content, rng)
    value = node[key]
    how = rng.choice(["replace"] * 6 + ["retype"] * 3 + ["drop", "add", "rename", "move", "disguise", "disguise"])
    if how == "disguise":
        attribute: Any = rng.choice([Named("collections.OrderedDict", called=False), None, 0, {}, [], odd(rng)])
        inner = value if isinstance(value, dict) else {"a": value}
        inner = {**inner, "deep": rng.choice(BOMBS)} if rng.random() < 0.5 else inner
        names = rng.sample(METHODS, rng.choice([1, 2, len(METHODS)]))
        node[key] = Disguised(inner, dict.fromkeys(names, attribute))
    elif how == "replace":
        node[key] = odd(rng, value)
    elif how == "retype":
        node[key] = _retyped(value, rng)
    elif how == "drop":
        del node[key]
    elif how == "move":
        other, at, _ = _place(content, rng)
        node[key] = rng.choice([content, other, other[at]])  # a cycle, perhaps
    elif isinstance(value, dict):
        if how == "rename" and value:
            value[odd_key(rng)] = value.pop(rng.choice(list(value)))
        else:
            value[odd_key(rng)] = odd(rng)
    elif isinstance(value, list):
        value.insert(0, odd(rng))
    else:
        node[key] = odd(rng, value)
    new = node[key] if not isinstance(node, list) and key in node else None
    return f"{how} {'/'.join(map(str, path))} {type(new).__name__} {reprlib.repr(new)[:80]!r}"


def _place(content: Content, rng: random.Random) -> tuple[Any, Any, list[Any]]:
    """A dict or list, a key in it, and the path to it."""
    node: Any = content
    key: Any = rng.choice([key for key in content if key != "artart" or rng.random() < 0.5])
    path = [key]
    while isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
        node = node[key]
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path.append(key)
    return node, key, path


def _retyped(value: Any, rng: random.Random) -> Any:
    """A value of another type that is nearly equal."""
    if isinstance(value, Tensor):
        made = rng.choice(list(tensors(rng, value)))
        return rng.choice([made, made, lambda: value.double(), lambda: value.flatten(), value.tolist])()
    if isinstance(value, dict):
        return rng.choice(
            [list(value.items()), list(value.values()), reprlib.repr(value), {**value, 7: 7}, [value], None]
        )
    if isinstance(value, (list, tuple)):
        return rng.choice([tuple(value), dict(enumerate(value)), [*value, *value], value[:-1], [value], {"a": value}])
    if isinstance(value, bool) or value is None:
        return rng.choice([str(value), 2, -1, [], [value], "yes"])
    if isinstance(value, (int, float)):
        near = (value + 1, value - 1, -value, value * 10**6, value * 1000, value / 2, float(value))
        return rng.choice([*near, str(value), [value], torch.tensor(value), bool(value)])
    if isinstance(value, str):
        return rng.choice([[value], {value: value}, value + "\x1b[31m", value.upper(), value[:-1], len(value)])
    return odd(rng)  # it was changed before


def _copied(node: Any) -> Any:
    """A copy with new containers and the same leaves."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


def mutated(goods: Sequence[Content], rng: random.Random, stem: Path) -> tuple[Path, int, str]:
    """Write a damaged file: return its path, which good file it was, and a description."""
    which = rng.randrange(len(goods))
    content, done = _copied(goods[which]), []
    kind = rng.choices(["zip", "old", "safetensors", "bytes"], [65, 8, 10, 17])[0]
    for _ in range(0 if kind == "bytes" else rng.choice([1, 1, 1, 2, 4])):
        done.append(spoil(content, rng))
    path = stem.with_suffix(
        ".safetensors" if kind == "safetensors" or rng.random() < 0.15 * (kind == "bytes") else ".ckpt"
    )
    if path.suffix == ".safetensors":
        done += _write_shared(content, path)
    else:
        try:
            torch.save(content, path, PICKLE, _use_new_zipfile_serialization=kind != "old")
        except (
            TypeError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            RecursionError,
            pickle.PicklingError,
        ) as error:
            path.write_bytes(pickle.dumps(str(error)))
            done.append("which torch cannot save")
    if kind == "bytes":
        done.append(_damage(path, rng))
    return path, which, f"{kind}: {'; '.join(done)}"


def _write_shared(content: Content, path: Path) -> Iterator[str]:
    """Write a .safetensors file: tensors as weights, the rest as JSON where possible."""
    weights = content.pop("state_dict", {})
    weights = weights if isinstance(weights, dict) else {}
    left = {str(name).removeprefix("net."): one for name, one in weights.items() if type(one) is Tensor and one.is_cpu}
    facts = {name: value for name, value in content.items() if name in KEPT or not isinstance(value, (dict, list))}
    encoder = json.JSONEncoder(default=lambda value: getattr(value, "contents", "?"), skipkeys=True)
    text = ""
    try:
        for piece in encoder.iterencode(facts):
            text += piece
            if len(text) > 10**6:
                break
    except (ValueError, RecursionError) as error:
        yield f"cut ({type(error).__name__})"
    body = {name: one.contiguous() for name, one in left.items() if one.layout is torch.strided and one.numel() < 10**7}
    try:
        path.write_bytes(safetensors.torch.save(body, {METADATA: text}))
    except Exception as error:  # noqa: BLE001
        path.write_bytes(safetensors.torch.save({}, {METADATA: "{}"}))
        yield f"which safetensors cannot save ({type(error).__name__})"


KEPT = ("config", "labels", "epoch", "global_step", "images_seen", "data", "metrics", "artart", "curves", "points")


def _damage(path: Path, rng: random.Random) -> str:
    """Change bytes of a good file."""
    how = rng.choice(["flip", "cut", "insert", "zero", "pickle", "pickle", "record", "double", "more"])
    if path.suffix == ".ckpt" and how in ("pickle", "record", "double", "more"):
        return f"{how} {_rewritten(path, how, rng)}"
    whole = bytearray(path.read_bytes())
    ends = (range(min(20_000, len(whole))), range(max(0, len(whole) - 20_000), len(whole)), range(len(whole)))
    where = rng.choice(rng.choice(ends))
    if how == "cut":
        del whole[where:]
    elif how == "insert":
        whole[where:where] = rng.randbytes(rng.choice([1, 8, 1000]))
    elif how == "zero":
        whole[where : where + 100] = bytes(len(whole[where : where + 100]))
    else:
        for _ in range(rng.choice([1, 4, 50])):
            whole[rng.choice(rng.choice(ends))] ^= rng.randrange(1, 256)
    path.write_bytes(whole)
    return f"{how} at {where}"


def _rewritten(path: Path, how: str, rng: random.Random) -> str:
    """Rewrite the archive with correct checksums and one changed record."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    folder = records[0][0].partition("/")[0]
    at = 0 if how == "pickle" else rng.randrange(len(records))
    name, body = records[at]
    words = name
    if how == "pickle":
        changed = bytearray(body)
        for _ in range(rng.choice([1, 1, 3, 10])):
            changed[rng.randrange(len(changed))] = rng.choice([rng.randrange(256), *b"cRbo}]).Q\x81tNhqX"])
        records[at] = (name, bytes(changed))
    elif how == "record":
        records[at] = (name, rng.choice([b"", body[: len(body) // 2], body + body, rng.randbytes(len(body))]))
    elif how == "double":
        records.append(rng.choice(records))
    else:
        words = rng.choice(
            [f"{folder}/../../harm", "/harm", "harm", f"{folder}/data/9999", f"{folder}/.data/x", "\x1b[31m"]
        )
        records.append((words, rng.choice([b"", b"harm", bytes(10**6)])))
    kind = rng.choice([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, body in records:
            archive.writestr(name, body)
    return words
