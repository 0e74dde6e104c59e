"""Load a checkpoint; only artart's own classes and trusted ones are built from it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast
from unicodedata import normalize

import torch
from torch import nn

from artart import ArtError, __version__
from artart.checkpoints import rebuild, validate
from artart.checkpoints.device import Precision, best_device, evaluate_in_bf16, precision_for
from artart.checkpoints.format import FORMAT, join_first_stage, upgrade
from artart.config.build import select_or_none
from artart.data.decode import Colour, ResizeMode, colour_of
from artart.data.embeddings import Embeddings
from artart.data.vocabulary import Prompts
from artart.diffusion.first_stage import NO_FIRST_STAGE, FrozenAutoencoder
from artart.diffusion.sampling import NoiseProcess
from artart.io import files, plain, weights
from artart.io.terminal import printable
from artart.models.text import attach
from artart.objectives.base import Objective

PREFIX = "net."  # of the network's weights in a state dict
DISCRIMINATOR = "discriminator."  # of those of a loss, which only resuming needs


class Loaded(NamedTuple):
    """The content of a checkpoint, ready for use: the network is in evaluation mode."""

    net: nn.Module
    objective: Objective
    config: dict[str, Any]
    label_names: dict[str, list[str]]  # by column of labels
    facts: dict[str, Any]  # artart (format, version), data (sha256, num_train, num_val), epoch, global_step, ...
    path: Path
    sha256: str  # of the file
    text: Prompts | None = None  # of prompts, which the network takes in the place of labels
    precision: Precision = "32-true"  # of evaluations of the network
    trusted_classes: Collection[str] = ()  # that the file might name

    @property
    def process(self) -> NoiseProcess:
        """The objective of a network that was trained to sample."""
        return cast(NoiseProcess, self.objective)

    @property
    def untrained_labels(self) -> dict[str, list[str]]:
        """By column, the labels that no training image has."""
        return self.facts["data"].get("untrained_labels", {})

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def preprocessing(self) -> tuple[int, ResizeMode, Colour]:
        """Side in pixels, resize mode and background of the training images."""
        data = self.config["data"]
        background = colour_of(data.get("background", "white"))
        return self.config["image_size"], data.get("resize_mode", "stretch"), background


def load(
    path: Path, trusted_classes: Collection[str] = (), device: str = "cpu", precision: Precision | None = None
) -> Loaded:
    """Rebuild network and objective.

    Args:
        path: a file that artart.train or artart.export wrote.
        trusted_classes: full names of further classes that may be built; a string is one name.
        device: of the network, as for `best_device`.
        precision: in which a network that samples is evaluated; None: bf16-mixed on a GPU that computes in bf16, unless
            it was trained in 32-true.

    Raises ArtError if the file cannot be used or asks for a class that is neither artart's nor trusted.
    """
    place = best_device(device)
    content, net = _open(path)
    config, allowed = content["config"], {trusted_classes} if isinstance(trusted_classes, str) else set(trusted_classes)
    try:
        if wrong := next(validate.wrong_data(config["data"], allowed), None):
            raise ArtError(printable(wrong))
    except ArtError as error:
        raise ArtError(f"{path}: {error}") from None
    net = rebuild.network_of(config["model"], path, allowed).to(place) if net is None else net.to_empty(device=place)
    objective = rebuild.build_part("objective", {**config["objective"], "loss": config["loss"]}, path, allowed)
    try:
        net.load_state_dict(weights_in(content))
    except RuntimeError as error:
        raise ArtError(f"{path}: weights and network do not fit ({printable(str(error).splitlines()[-1])})") from None
    if not validate.is_usable(objective):
        raise ArtError(f"{path}: the checkpoint's objective, loss or schedule is missing or of another kind")
    if (held := content.get("first_stage")) and objective.mode != "sample":
        raise ArtError(f"{path}: its objective takes no first stage")
    if objective.mode == "sample":
        objective.first_stage = rebuild.first_stage_of(held, path, allowed) if held else NO_FIRST_STAGE
    facts = {key: content.get(key, {}) for key in ("artart", "data", "metrics")}
    facts |= {key: content.get(key) for key in ("global_step", "images_seen")}
    facts["epoch"] = validate.finished_epochs(content) - 1
    text = rebuild.prompts_of(content, path)
    if isinstance(text, Embeddings):
        attach(net, text.table)
    net = net.eval().to(memory_format=torch.channels_last)  # convolutions are faster so
    precision = precision_for(place, config, objective.mode == "sample", precision)
    if precision == "bf16-mixed":
        evaluate_in_bf16(net, place)
    digest = files.sha256(path)
    return Loaded(net, objective, config, content["labels"], facts, path, digest, text, precision, allowed)


def weights_in(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of the network alone."""
    state = content["state_dict"].items()
    return {name.removeprefix(PREFIX): value for name, value in state if name.startswith(PREFIX)}


def load_first_stage(path: Path, image_size: int) -> FrozenAutoencoder:
    """The autoencoder of a checkpoint, or the first stage of a latent diffusion model, with its normalisation.

    Raises ArtError if the file cannot be used, holds neither, or is for images of another size.
    """
    content = read(path)
    held = {"model": content["config"]["model"], "state_dict": weights_in(content), "moments": None}
    try:
        first_stage = rebuild.first_stage_of(content.get("first_stage", held), Path(f"first_stage={path}"))
    except ArtError as error:
        raise ArtError(str(error).partition("; if you trust it")[0]) from None  # artart.train trusts no class
    if (its := first_stage.image_size) != image_size:
        raise ArtError(f"image_size={image_size}: first_stage={path} is for image_size={its}; ask for that")
    return first_stage


def read(path: Path) -> dict[str, Any]:
    """The plain content of a checkpoint, or of a file of artart.export, whose weights fit its network.

    Raises ArtError if the file is missing, damaged, newer than this artart or no checkpoint of it; the error names the
    newest good one beside it.
    """
    return _open(path)[0]


def _open(path: Path) -> tuple[dict[str, Any], nn.Module | None]:
    """As `read`; also the network on the meta device, None if its class is not artart's."""
    try:
        return _open_alone(path)
    except ArtError as error:
        if (good := _newest_good(path)) is None:
            raise
        raise ArtError(f"{error}; the newest good one beside it is {good}") from None


def _newest_good(path: Path) -> Path | None:
    """Another checkpoint in the folder of one that cannot be read."""
    others = [other for other in path.parent.glob("*.ckpt") if other != path and other.is_file()]
    for other in sorted(others, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            _open_alone(other, mapped=True)
        except ArtError:
            continue
        return other
    return None


def _open_alone(path: Path, mapped: bool = False) -> tuple[dict[str, Any], nn.Module | None]:
    """As `_open`, without naming another file; `mapped` as in `io.weights.load`."""
    if weights.is_safetensors(path):
        content = weights.load_shared(path)
        join_first_stage(content)
        content["state_dict"] = {f"{PREFIX}{name}": value for name, value in content["state_dict"].items()}
        content.pop("optimizer_states", None)  # no run resumes from such a file
    else:
        content = weights.load(path, mapped)
    if not isinstance(content, dict):
        content = {}
    number, version = select_or_none(content, "artart.format"), select_or_none(content, "artart.version")
    if isinstance(number, int) and number > FORMAT and isinstance(version, str):
        by = f"written by artart {printable(version)}, this is {__version__}"
        raise ArtError(f"{path}: {by}; a newer artart can read it")
    upgrade(content)
    net = _check(content, path)
    for names_of in (content["labels"], content.get("data", {}).get("untrained_labels", {})):
        names_of.update({column: [normalize("NFC", name) for name in names] for column, names in names_of.items()})
    return content, net


def _check(content: Mapping[str, Any], path: Path) -> nn.Module | None:
    """Raise ArtError unless the content of a checkpoint can be used; returns its network as `_open` does."""
    if not content.keys() >= validate.CONTENT or not validate.is_whole(content):
        raise ArtError(f"{path}: not a checkpoint of artart; name one that artart.train wrote, such as last.ckpt")
    config, held = content["config"], content.get("first_stage")
    state = {
        name.removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if not name.startswith(DISCRIMINATOR)
    }
    wanted: Mapping[str, int] = {"image_size": config["image_size"], "channels": 3}
    if held:
        wanted = rebuild.latent_sizes(held, wanted, path)
    if (net := rebuild.on_meta(config["model"], len(state), path)) is not None:
        rebuild.check_fit(net, state, wanted, path, "network")
    return net


def check_writable(
    config: Mapping[str, Any], labels: Mapping[str, Sequence[str]], net: nn.Module, first_stage: Any = None
) -> None:
    """Raise ArtError unless the checkpoints of a run with these settings will be readable; called before it trains."""
    state = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    path = Path("last.ckpt")
    try:
        content = plain.rebuild({"config": config, "labels": labels, "epoch": 0, "global_step": 0})
    except ValueError as error:
        raise ArtError(f"{path}: settings and names of labels could not be kept in it ({error})") from None
    if first_stage:
        content["first_stage"] = {**first_stage, "moments": torch.ones(2, config["model"]["channels"])}
    _check({**content, "state_dict": state}, path)
