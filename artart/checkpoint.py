"""From a checkpoint file back to a network; nothing but artart's own classes is ever built from it.

python -m artart.checkpoint FILE    what is inside, as YAML
"""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.filesize import decimal
from torch import nn

from artart import ArtError, __version__, storage
from artart.config import build, found
from artart.diffusion.augment import Augment
from artart.module import FORMAT
from artart.objectives import Objective
from artart.signatures import wrong_arguments
from artart.trust import (
    CONTENT,
    DATA,
    GROUPS,
    finished_epochs,
    is_ours,
    is_usable,
    is_whole,
    printable,
    targets,
    wrong_data,
    wrong_model,
)


class Loaded(NamedTuple):
    """What a checkpoint holds, ready for use: in evaluation mode."""

    net: nn.Module
    objective: Objective
    config: dict[str, Any]
    label_names: dict[str, list[str]]  # by column of labels
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
        content.pop("optimizer_states", None)  # no run goes on from such a file
    else:
        content = storage.load(path)
    if isinstance(content, dict):
        number, version = found(content, "artart.format"), found(content, "artart.version")
        if isinstance(number, int) and number > FORMAT and isinstance(version, str):
            by = f"written by artart {printable(version)}, this is {__version__}"
            raise ArtError(f"{path}: {by}; a newer artart can read it")
        if "class_names" in content:
            _from_format_1(content)
    if not isinstance(content, dict) or not content.keys() >= CONTENT or not is_whole(content):
        raise ArtError(f"{path}: not a checkpoint of artart; name one that artart.train wrote, such as last.ckpt")
    for group in GROUPS:
        if "${" in str(content["config"][group]):
            raise ArtError(f"{path}: its {group} holds an interpolation (${{...}}), which no checkpoint of artart does")
    if misfit := _misfit(content, path):
        raise ArtError(f"{path}: weights and network do not fit ({printable(misfit)})")
    return content


def _from_format_1(content: dict[str, Any]) -> None:
    """Labels had one column, and no network was told of augmentation."""
    content["labels"] = {"class": content.pop("class_names")}
    nothing = {"_target_": f"{Augment.__module__}.{Augment.__name__}", "probability": 0.0}
    nothing["flips"] = found(content, "config.data.mirror")
    for key, sign, unsaid in (
        ("model", "conditioned", {"augmented": False}),
        ("objective", "schedule", {"augment": nothing}),
    ):
        settings = found(content, f"config.{key}")
        if isinstance(settings, dict) and sign in settings:
            content["config"][key] = {**unsaid, **settings}


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


def _misfit(content: Mapping[str, Any], path: Path) -> str | None:
    """The first weight of a network of ours that is not of its shape; so no file asks for more memory than it fills."""
    config = content["config"]
    if not all(map(is_ours, targets(config["model"]))):
        return None
    if wrong := next(wrong_model(config["model"], len(content["state_dict"])), None):
        raise ArtError(f"{path}: {printable(wrong)}")
    with torch.device("meta"):
        net = _built(config, "model", path)
    if not isinstance(net, nn.Module):
        raise ArtError(f"{path}: its model is no network")
    if getattr(net, "channels", 3) != 3:
        raise ArtError(f"{path}: its pictures have {net.channels} channels, not 3")
    wanted = {f"net.{name}": value.shape for name, value in net.state_dict().items()}
    weights = {name: value.shape for name, value in content["state_dict"].items()}
    return min((name for name in wanted.keys() | weights if wanted.get(name) != weights.get(name)), default=None)


def _built(config: Mapping[str, Any], key: str, path: Path, **more: Any) -> Any:
    """What config[key] describes, once its arguments are those that its classes take.

    Raises:
        ArtError: if it cannot be made; the line names the file.
    """
    try:
        if wrong := next(wrong_arguments(config[key], key), None):
            raise ArtError(wrong)
        return build(config, key, **more)
    except Exception as error:  # noqa: BLE001 - whatever arguments from a file lead to
        raise ArtError(f"{path}: {printable(error)}") from None


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
    for target in targets([config[group] for group in GROUPS]):
        if target not in allow and not is_ours(target) and target != DATA:
            name = printable(target)
            raise ArtError(f"{path}: wants to build {name}, not a class of artart; if you trust it: allow=[{name}]")
    net = _built(config, "model", path)
    try:
        net.load_state_dict({name[4:]: value for name, value in content["state_dict"].items() if name[:4] == "net."})
    except RuntimeError as error:
        raise ArtError(f"{path}: weights and network do not fit ({printable(str(error).splitlines()[1])})") from None
    objective = _built(config, "objective", path, loss=_built(config, "loss", path))
    if not is_usable(objective):
        raise ArtError(f"{path}: its objective, loss or schedule is none")
    if wrong := next(wrong_data(config["data"]), None):
        raise ArtError(f"{path}: {printable(wrong)}")
    facts = {
        "artart": content.get("artart", {}),
        "data": content.get("data", {}),
        "epoch": finished_epochs(content) - 1,
        "global_step": content["global_step"],
        "images_seen": content.get("images_seen"),
        "metrics": content.get("metrics", {}),
    }
    return Loaded(net.eval().to(place), objective, config, content["labels"], facts)


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
        "labels": content["labels"],
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
