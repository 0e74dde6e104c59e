"""From a checkpoint file back to a network; nothing but artart's own classes is ever built from it.

python -m artart.checkpoint FILE    what is inside, as YAML
"""

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.filesize import decimal
from torch import Tensor, nn

from artart import ArtError, __version__, storage
from artart.config import build, found
from artart.module import FORMAT
from artart.objectives import Objective

CONTENT = {"config", "class_names", "state_dict", "epoch", "global_step"}
LARGEST = 8192  # pixels on a side, that no file makes us reserve more
MODULES = (
    "artart.models.conv_diffusion",
    "artart.objectives",
    "artart.losses",
    "artart.diffusion.schedule",
    "artart.diffusion.draws",
)


class Loaded(NamedTuple):
    """What a checkpoint holds, ready for use: in evaluation mode."""

    net: nn.Module
    objective: Objective
    config: dict[str, Any]
    class_names: list[str]
    facts: dict[str, Any]  # artart (format, version), data (sha256, num_train, num_val), epoch, global_step, ...


def read(path: Path) -> dict[str, Any]:
    """The plain content of a checkpoint, or of the weights that artart.export made of one.

    Raises:
        ArtError: if the file is missing, damaged, newer than this artart or none of its checkpoints; it names the
            newest good one beside it.
    """
    try:
        return _read(path)
    except ArtError as error:
        if (good := _newest_good(path)) is None:
            raise
        raise ArtError(f"{error}; the newest good one beside it is {good}") from None


def _read(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".safetensors":
        content = storage.load_shared(path)
        content["state_dict"] = {f"net.{name}": value for name, value in content["state_dict"].items()}
    else:
        content = storage.load(path)
    if isinstance(content, dict) and isinstance(number := found(content, "artart.format"), int) and number > FORMAT:
        version = found(content, "artart.version")
        raise ArtError(f"{path}: written by artart {version}, this is {__version__}; a newer artart can read it")
    if not isinstance(content, dict) or not content.keys() >= CONTENT or not _is_whole(content):
        raise ArtError(f"{path}: not a checkpoint of artart; name one that artart.train wrote, such as last.ckpt")
    return content


def _newest_good(path: Path) -> Path | None:
    """Another checkpoint in the folder of one that cannot be read."""
    others = [other for other in path.parent.glob("*.ckpt") if other != path and other.is_file()]
    for other in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            _read(other)
        except ArtError:
            continue
        return other
    return None


def _is_whole(content: Mapping[str, Any]) -> bool:
    """Whether settings and weights are what artart writes."""
    config, groups = content["config"], ("model", "objective", "loss", "data")
    return (
        isinstance(content.get("artart", {}), dict)
        and isinstance(content.get("data", {}), dict)
        and isinstance(content.get("metrics", {}), dict)
        and isinstance(content["state_dict"], dict)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content["state_dict"].items())
        and isinstance(content["class_names"], list)
        and all(isinstance(name, str) for name in content["class_names"])
        and isinstance(content["epoch"], int)
        and isinstance(content["global_step"], int)
        and isinstance(config, dict)
        and all(isinstance(config.get(group), dict) for group in groups)
        and isinstance(config.get("image_size"), int)
        and 0 < config["image_size"] <= LARGEST
        and config["model"].get("image_size") == config["image_size"]
    )


def finished_epochs(content: Mapping[str, Any]) -> int:
    """How many epochs a checkpoint's run had finished; one from within an epoch counts those before it."""
    processed = found(content, "loops.fit_loop.epoch_progress.current.processed")
    return content["epoch"] + 1 if processed is None else processed


def load(path: Path, allow: Collection[str] = (), device: str = "cpu") -> Loaded:
    """Rebuild network and objective.

    Args:
        path: a file that artart.train or artart.export wrote.
        allow: full names of further classes that may be built.
        device: where the network goes, as for `best_device`.

    Raises:
        ArtError: if the file cannot be used or asks for a class that is neither artart's nor allowed.
    """
    place = best_device(device)
    content = read(path)
    config = content["config"]
    for key in ("model", "objective", "loss"):
        if "${" in str(config.get(key)):
            raise ArtError(f"{path}: its {key} holds an interpolation (${{...}}), which no checkpoint of artart does")
        for target in _targets(config.get(key)):
            if target not in allow and not _is_ours(target):
                raise ArtError(
                    f"{path}: wants to build {target}, not a class of artart; if you trust it: allow=[{target}]"
                )
    weights = {
        name.removeprefix("net."): value for name, value in content["state_dict"].items() if name.startswith("net.")
    }
    net = _network(config, weights, path)
    objective = build(config, "objective", loss=build(config, "loss"))
    facts = {
        "artart": content.get("artart", {}),
        "data": content.get("data", {}),
        "epoch": finished_epochs(content) - 1,
        "global_step": content["global_step"],
        "images_seen": content.get("images_seen"),
        "metrics": content.get("metrics", {}),
    }
    return Loaded(net.eval().to(place), objective, config, content["class_names"], facts)


def _network(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network with its weights; it is only built if they fit, so no file can ask for more memory than it fills."""
    if _is_ours(config["model"].get("_target_")):
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in build(config, "model").state_dict().items()}
        if misfits := sorted(name for name in wanted.keys() | weights if not _is_same(wanted, weights, name)):
            raise ArtError(f"{path}: weights and network do not fit ({misfits[0]})")
    net = build(config, "model")
    try:
        net.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ArtError(f"{path}: weights and network do not fit ({str(error).splitlines()[1].strip()})") from None
    return net


def _is_same(wanted: Mapping[str, torch.Size], weights: Mapping[str, Tensor], name: str) -> bool:
    return name in wanted and name in weights and wanted[name] == weights[name].shape


def best_device(name: str) -> torch.device:
    """The device cpu, cuda or mps; for `auto` the fastest here.

    Raises:
        ArtError: if it is not here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if not available[name]:
        raise ArtError(f"device={name}: not here; device=cpu works everywhere")
    return torch.device(name)


def check_numbers(x: torch.Tensor, source: object) -> None:
    """Raises FloatingPointError if a network, loaded from `source`, made something else than numbers."""
    if not x.isfinite().all():
        raise FloatingPointError(f"checkpoint={source}: its network makes no numbers; take an earlier checkpoint")


def _targets(node: Any) -> Iterator[Any]:
    """Every `_target_` in nested plain data."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _is_ours(target: Any) -> bool:
    """Whether a name is exactly that of a class defined in one of our modules; attribute paths are not followed."""
    module, _, name = str(target).rpartition(".")
    if module not in MODULES:
        return False
    found = vars(import_module(module)).get(name)
    return inspect.isclass(found) and found.__module__ == module


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, in plain data for people.

    Raises:
        ArtError: if the file cannot be used.
    """
    content = read(path)
    weights = [value for name, value in content["state_dict"].items() if name.startswith("net.")]
    return {
        "file": str(path),
        "size": decimal(path.stat().st_size),
        "sha256": storage.sha256(path),
        "written by": f"artart {found(content, 'artart.version')}",
        "epochs": finished_epochs(content),
        "steps": content["global_step"],
        "images seen": content.get("images_seen"),
        "metrics": content.get("metrics"),
        "numbers in the network": sum(value.numel() for value in weights),
        "averaged": "current_model_state" in content,
        "classes": content["class_names"],
        "data": content.get("data"),
        "config": content["config"],
    }


def run() -> None:
    """`python -m artart.checkpoint FILE`."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.stdout.write("python -m artart.checkpoint FILE: print what is in a checkpoint, as YAML\n")
        sys.exit(0 if "-h" in sys.argv[1:] or "--help" in sys.argv[1:] else 2)
    try:
        described = describe(Path(sys.argv[1]))
    except ArtError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run()
