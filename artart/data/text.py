"""The captions of images in the place of their labels."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from artart import ArtError
from artart.data import demo
from artart.data.captions import Captions, captions_of
from artart.data.dataset import demo_captions
from artart.data.embeddings import Embeddings, EmbeddingTable, Encoder
from artart.data.folder import ArtFolder
from artart.data.labels import CLASS
from artart.data.vocabulary import Prompts, train

log = logging.getLogger(__name__)


@dataclass
class Text:
    """Which captions there are, and their words as numbers."""

    folder: ArtFolder | None  # of the images; None: demo art
    sources: Sequence[str]  # as for `captions_of`; ["none"]: no captions
    max_tokens: int  # of a caption; further ones are cut off
    encoder: Encoder | None = None  # frozen; None: one is trained along with the network

    @cached_property
    def captions(self) -> Captions:
        """The captions by file; found without decoding. Those of demo art are its classes.

        Raises ArtError as for `captions_of`, or for other sources than "auto" of demo art.
        """
        if self.sources == ["none"]:
            return Captions({}, "none", 0)
        if self.folder is None:
            if self.sources != ["auto"]:
                raise ArtError(f"data.captions={', '.join(self.sources)}: demo art has captions of its own; set auto")
            return Captions({Path(name): demo_captions(name) for name in demo.CLASS_NAMES}, CLASS, 0)
        return captions_of(self.folder, self.sources)

    @cached_property
    def vocabulary(self) -> Prompts | None:
        """Of the captions, or a checkpoint's, where that is set; None: there are no captions."""
        texts = [text for texts in self.captions.texts.values() for text in texts]
        if not texts or self.encoder is None:
            return train(texts, self.max_tokens) if texts else None
        longest = self.encoder.num_tokens([*dict.fromkeys(texts)])
        return Embeddings(EmbeddingTable(self.encoder, min(longest, self.max_tokens)), {}, [])

    @property
    def network(self) -> Mapping[str, list[int]]:
        """Settings of `model` that follow; none without captions."""
        return {} if self.vocabulary is None else {"text": self.vocabulary.network}

    def note(self, captions: Sequence[tuple[str, ...]]) -> None:
        """Let the vocabulary know the captions of the training images, some of which may have none."""
        if self.vocabulary is None:
            return
        known = Counter(text for texts in captions for text in texts)
        self.vocabulary = self.vocabulary.of_training(known)
        log.info(
            "captions (%s): %d of %d training images have some, with %d words; at most %d tokens in a caption",
            *(self.captions.source, sum(map(bool, captions)), len(captions), len(self.vocabulary.words)),
            self.vocabulary.num_tokens,
        )
        if isinstance(self.vocabulary, Embeddings):
            self.vocabulary.table.folder = self.folder
            self.vocabulary.encode([*dict.fromkeys(text for texts in self.captions.texts.values() for text in texts)])
