"""Prompts that a frozen encoder has encoded, once, into a table; y is a row of it."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from artart.data.dataset import place
from artart.data.folder import ArtFolder
from artart.data.store import Kind
from artart.data.vocabulary import Prompts
from artart.io.terminal import progress_bar


class Encoder(Protocol):
    """Texts to embeddings of their tokens, such as features.text_encoder.FrozenTextEncoder."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def channels(self) -> int: ...

    def num_tokens(self, texts: Sequence[str]) -> int: ...

    def encode(self, texts: Sequence[str], num_tokens: int) -> Iterator[Tensor]: ...


class EmbeddingTable:
    """Embeddings of texts, each computed once. Rows 1, 2, ... are of texts, row 0 stands for none."""

    def __init__(self, encoder: Encoder, num_tokens: int) -> None:
        """Texts are cut off after `num_tokens`, T."""
        self.encoder, self.num_tokens = encoder, num_tokens
        self.folder: ArtFolder | None = None  # in whose cache the table is kept; None: in memory
        self.rows: dict[str, int] = {}  # of `values`, by a text's digest
        self.values = torch.empty(0, num_tokens, encoder.channels, dtype=torch.float16)
        self._is_placed = False  # on the device of y, if it fits there

    def __deepcopy__(self, memo: object) -> "EmbeddingTable":
        """Copies of a network, such as its average, share the table and what it refers to."""
        return self

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Rows (N, 1) int32 of N texts, that of an empty one is 0. Encodes those that are new.

        Raises ArtError if the encoder is not here, or the cache cannot be written or has too little space.
        """
        digests = [sha256(text.encode()).hexdigest() if text else "" for text in texts]
        new = {digest: text for digest, text in zip(digests, texts, strict=True) if digest and digest not in self.rows}
        if new:
            self._add(new)
        return torch.tensor([self.rows[digest] + 1 if digest else 0 for digest in digests], dtype=torch.int32)[:, None]

    @torch.compiler.disable
    def __call__(self, y: Tensor) -> Tensor:
        """Embeddings (B, T, D) of rows y (B, 1); NaN beyond the end of a text, and in all of row 0."""
        if not len(self.values):
            return torch.full((len(y), *self.values.shape[1:]), torch.nan, device=y.device)
        if not self._is_placed:
            self.values, self._is_placed = place(self.values, "auto", y.device), True
        rows = y.flatten().to(self.values.device)
        found = self.values[(rows - 1).clamp(min=0)].to(y.device)
        return found.masked_fill((y == 0)[..., None], torch.nan)

    def _add(self, texts: Mapping[str, str]) -> None:
        self._is_placed = False
        if self.folder is None:
            own = torch.from_numpy(np.stack([*self._encoded([*texts.values()])]))
            self.rows |= {digest: len(self.values) + k for k, digest in enumerate(texts)}
            self.values = torch.cat([self.values.cpu(), own])
            return
        kind = Kind(f"prompts-{self.encoder.sha256[:16]}-{self.num_tokens}", self.values.shape[1:], np.float16)
        known = self.folder.complete(
            kind, "embeddings", [*texts], lambda new: self._encoded([texts[digest] for digest in new])
        )
        self.rows, self.values = known.rows, torch.from_numpy(known.values)

    def _encoded(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """The embeddings of each text, (T, D) float16."""
        with progress_bar() as bar:
            found = self.encoder.encode(texts, self.num_tokens)
            for values in bar.track(found, total=len(texts), description="encoding captions"):
                yield values.half().numpy()


class Embeddings(Prompts):
    """Prompts by the rows of a table."""

    def __init__(self, table: EmbeddingTable, words: Mapping[str, int], prompts: Sequence[str]) -> None:
        """`table` is that of their embeddings, to which new ones are added; the others are those of `Prompts`."""
        encoder, num_tokens = table.encoder, table.num_tokens
        identity = {"sha256": encoder.sha256, "channels": encoder.channels, "num_tokens": num_tokens}
        super().__init__(identity, [0, num_tokens, encoder.channels], words, prompts)
        self.table = table

    @property
    def content(self) -> dict[str, Any]:
        return {"encoder": self.table.encoder.name, **super().content}

    def encode(self, texts: Sequence[str]) -> Tensor:
        return self.table.encode(texts)
