"""What a checkpoint holds of prompts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artart import ArtError
from artart.checkpoints.validate import printable
from artart.data.embeddings import Embeddings, EmbeddingTable
from artart.data.vocabulary import Prompts, Vocabulary
from artart.features.text_encoder import FrozenTextEncoder


def prompts_of(content: Mapping[str, Any], path: Path) -> Prompts | None:
    """From prompts to y, as a checkpoint has it; None if its network takes no prompts.

    Raises ArtError if it cannot be used, or is not that of the network.
    """
    if not (wanted := content["config"]["model"].get("text")):
        return None
    if "text" not in content:
        raise ArtError(f"{path}: its network takes prompts, but their vocabulary is missing")
    held = dict(content["text"])
    text: Prompts
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
