"""From a checkpoint file back to a network; nothing but artart's own classes is ever built from it."""

from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from artart import ArtError, __version__
from artart.checkpoints.format import FORMAT, upgrade
from artart.checkpoints.validate import (
    CONTENT,
    NETWORKS,
    builder,
    finished_epochs,
    is_usable,
    is_whole,
    printable,
    targets,
    wrong_data,
    wrong_model,
)
from artart.config.build import select_or_none
from artart.config.schema import wrong_arguments
from artart.io import weights
from artart.io.plain import rebuild
from artart.objectives.base import Objective


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
        return read_alone(path)
    except ArtError as error:
        if (good := _newest_good(path)) is None:
            raise
        raise ArtError(f"{error}; the newest good one beside it is {good}") from None


def read_alone(path: Path, mapped: bool = False) -> dict[str, Any]:
    """As `read`, without a look at the files beside it; `mapped` as in `storage.load`."""
    if path.suffix.lower() == ".safetensors":
        content = weights.load_shared(path)
        content["state_dict"] = {f"net.{name}": value for name, value in content["state_dict"].items()}
        content.pop("optimizer_states", None)  # no run goes on from such a file
    else:
        content = weights.load(path, mapped)
    if isinstance(content, dict):
        number, version = select_or_none(content, "artart.format"), select_or_none(content, "artart.version")
        if isinstance(number, int) and number > FORMAT and isinstance(version, str):
            by = f"written by artart {printable(version)}, this is {__version__}"
            raise ArtError(f"{path}: {by}; a newer artart can read it")
        upgrade(content)
    if not isinstance(content, dict):
        content = {}
    check(content, path)
    return content


def check(content: Mapping[str, Any], path: Path) -> None:
    """Whether what a checkpoint holds, or is to hold, can be used.

    Raises:
        ArtError: if not; the line begins with the path.
    """
    if not content.keys() >= CONTENT or not is_whole(content):
        raise ArtError(f"{path}: not a checkpoint of artart; name one that artart.train wrote, such as last.ckpt")
    if misfit := _misfit(content, path):
        raise ArtError(f"{path}: weights and network do not fit ({printable(misfit)})")


def _newest_good(path: Path) -> Path | None:
    """Another checkpoint in the folder of one that cannot be read."""
    others = [other for other in path.parent.glob("*.ckpt") if other != path and other.is_file()]
    for other in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            read_alone(other, mapped=True)
        except ArtError:
            continue
        return other
    return None


def _misfit(content: Mapping[str, Any], path: Path) -> str | None:
    """The first weight of a network of ours that is not of its shape; so no file asks for more memory than it fills."""
    settings = content["config"]["model"]
    try:
        builder(settings, modules=NETWORKS)
    except ArtError:
        return None  # whether the user allows this class is only known where it is built
    if wrong := next(wrong_model(settings, len(content["state_dict"])), None):
        raise ArtError(f"{path}: {printable(wrong)}")
    with torch.device("meta"):
        net = _built({"model": settings}, path)["model"]
    if not isinstance(net, nn.Module):
        raise ArtError(f"{path}: its model is no network")
    if getattr(net, "channels", 3) != 3:
        raise ArtError(f"{path}: its images have {net.channels} channels, not 3")
    wanted = {f"net.{name}": value.shape for name, value in net.state_dict().items()}
    weights = {name: value.shape for name, value in content["state_dict"].items()}
    return min((name for name in wanted.keys() | weights if wanted.get(name) != weights.get(name)), default=None)


def _built(nodes: Mapping[str, Any], path: Path, allowed: Container[str] = ()) -> dict[str, Any]:
    """What settings by name describe, once their arguments are those that their classes take.

    Raises:
        ArtError: if it cannot be made; the line names the file.
    """
    try:
        build = builder(nodes, allowed)
        for key, node in nodes.items():
            if wrong := next(wrong_arguments(node, key), None):
                raise ArtError(wrong)
        return build()
    except ArtError as error:
        raise ArtError(f"{path}: {printable(error)}") from None
    except Exception as error:  # noqa: BLE001 - whatever arguments from a file lead to
        raise ArtError(f"{path}: {' or '.join(nodes)}: {printable(error)}") from None


def check_writable(config: Mapping[str, Any], labels: Mapping[str, Sequence[str]], net: nn.Module) -> None:
    """Whether what a run is going to save can be read, before it trains.

    Raises:
        ArtError: if not.
    """
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    path = Path("last.ckpt")
    try:
        content = rebuild({"config": config, "labels": labels, "epoch": 0, "global_step": 0})
    except ValueError as error:
        raise ArtError(f"{path}: settings and names of labels could not be kept in it ({error})") from None
    check({**content, "state_dict": weights}, path)


def read_back(path: Path, config: Mapping[str, Any]) -> None:
    """Whether a checkpoint that a run with these settings has written can be used.

    Raises:
        ArtError: if not.
    """
    load(path, trusted_classes=list(targets(config)))


def load(path: Path, trusted_classes: Collection[str] = (), device: str = "cpu") -> Loaded:
    """Rebuild network and objective.

    Args:
        path: a file that artart.train or artart.export wrote.
        trusted_classes: full names of further classes that may be built; a single text is one name.
        device: where the network goes, as for `best_device`.

    Raises:
        ArtError: if the file cannot be used or asks for a class that is neither artart's nor trusted.
    """
    place = best_device(device)
    content = read(path)
    config, allowed = content["config"], {trusted_classes} if isinstance(trusted_classes, str) else set(trusted_classes)
    try:
        wrong = next(wrong_data(config["data"], allowed), None)
    except ArtError as error:
        raise ArtError(f"{path}: {error}") from None
    objective = {**config["objective"], "loss": config["loss"]}
    net, objective = _built({"model": config["model"], "objective": objective}, path, allowed).values()
    try:
        net.load_state_dict({name[4:]: value for name, value in content["state_dict"].items() if name[:4] == "net."})
    except RuntimeError as error:
        raise ArtError(f"{path}: weights and network do not fit ({printable(str(error).splitlines()[1])})") from None
    if not is_usable(objective):
        raise ArtError(f"{path}: its objective, loss or schedule is none")
    if wrong:
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
