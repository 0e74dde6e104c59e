"""Networks, objects that other settings describe, and vocabularies, rebuilt from a file that is not trusted."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from artart import ArtError
from artart.checkpoints import validate
from artart.config.schema import wrong_arguments
from artart.data.embeddings import Embeddings, EmbeddingTable
from artart.data.vocabulary import Prompts, Vocabulary
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.features.text_encoder import FrozenTextEncoder
from artart.io.terminal import printable
from artart.models.base import Network


def first_stage_of(held: Mapping[str, Any], path: Path, allowed: Collection[str] = ()) -> FrozenAutoencoder:
    """The first stage that a checkpoint holds; raises ArtError if it is no autoencoder or its weights do not fit."""
    with torch.device("meta"):
        net = network_of(held["model"], path, allowed)
    _check_latents(net, path)
    _check_shapes(net, held["state_dict"], path)
    net.to_empty(device="cpu").load_state_dict(held["state_dict"])
    return FrozenAutoencoder(net, held["model"], held["moments"])


def _check_latents(net: nn.Module, path: Path) -> None:
    if not hasattr(net, "latent_channels"):
        raise ArtError(f"{path}: is no autoencoder; train one with experiment=autoencoder")


def latent_sizes(held: Mapping[str, Any], wanted: Mapping[str, int], path: Path) -> Mapping[str, int]:
    """The sizes of a network that a first stage determines, none if its class is not artart's.

    Raises ArtError if it cannot be used, or does not have the sizes that are wanted.
    """
    if (net := on_meta(held["model"], len(held["state_dict"]), path)) is None:
        return {}
    _check_latents(net, path)
    check_fit(net, held["state_dict"], wanted, path, "first stage")
    first_stage = FrozenAutoencoder(net, held["model"])
    if held["moments"].shape[1] != first_stage.shape[0]:
        raise ArtError(f"{path}: moments and latents of its first stage do not fit")
    return first_stage.network


def on_meta(settings: Mapping[str, Any], num_weights: int, path: Path) -> nn.Module | None:
    """A network on the meta device, so that no file makes us reserve more memory than its weights fill.

    None if its class is not artart's: `load` knows whether the user trusts it.
    """
    try:
        validate.builder(settings, modules=validate.NETWORKS)
    except ArtError:
        return None
    if wrong := next(validate.wrong_model(settings, num_weights), None):
        raise ArtError(f"{path}: {printable(wrong)}")
    with torch.device("meta"):
        return network_of(settings, path)


def check_fit(net: nn.Module, state: Mapping[str, Any], wanted: Mapping[str, int], path: Path, what: str) -> None:
    """Raise ArtError unless a network has the sizes that are wanted, and a state dict fills it."""
    for name, value in wanted.items():
        if (its := getattr(net, name)) != value:
            raise ArtError(f"{path}: its {what} has {name}={its}, not {value}")
    _check_shapes(net, state, path)


def _check_shapes(net: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Raise ArtError unless a state dict fills a network."""
    assert {name for name, _ in net.named_buffers()} <= net.state_dict().keys(), "a buffer that no checkpoint fills"
    wanted, found = ({name: value.shape for name, value in one.items()} for one in (net.state_dict(), state))
    if misfits := [name for name in wanted.keys() | found if wanted.get(name) != found.get(name)]:
        raise ArtError(f"{path}: weights and network do not fit ({printable(min(misfits))})")


def network_of(settings: Mapping[str, Any], path: Path, allowed: Collection[str] = ()) -> nn.Module:
    net = build_part("model", settings, path, allowed)
    if not isinstance(net, nn.Module) or not isinstance(net, Network):
        raise ArtError(f"{path}: its model is no network; it needs image_size, channels, num_classes and forward")
    return net


def build_part(key: str, node: Mapping[str, Any], path: Path, allowed: Collection[str]) -> Any:
    """The object that the settings of a key describe, after a check of their arguments; ArtError if it has none."""
    try:
        build = validate.builder(node, allowed, validate.NETWORKS if key == "model" else validate.PARTS)
        if wrong := next(wrong_arguments(node, key, allowed), None):
            raise ArtError(wrong)
        return build()
    except ArtError as error:
        raise ArtError(f"{path}: {printable(error)}") from None
    except Exception as error:  # noqa: BLE001 - arguments from a file may raise anything
        raise ArtError(f"{path}: {key}: {printable(error)}") from None


def prompts_of(content: Mapping[str, Any], path: Path) -> Prompts | None:
    """From prompts to y, as a checkpoint has it; None if its network takes no prompts.

    Raises ArtError if it cannot be used, or is not that of the network.
    """
    if not (wanted := content["config"]["model"].get("text")):
        return None
    if "text" not in content:
        raise ArtError(f"{path}: its network takes prompts, but their vocabulary is missing")
    text: Prompts
    held = dict(content["text"])
    if "encoder" in held:
        known = held.pop("sha256"), held.pop("channels")
        encoder = FrozenTextEncoder(held.pop("encoder"), f"{path}: its text encoder", known)
        text = Embeddings(EmbeddingTable(encoder, held.pop("num_tokens")), **held)
    else:
        try:
            text = Vocabulary(**held)
        except ArtError as error:
            raise ArtError(f"{path}: {printable(error)}") from None
    if text.network != list(wanted):
        raise ArtError(f"{path}: its vocabulary is for a network of text={text.network}, not {wanted}")
    return text
