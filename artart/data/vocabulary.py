"""Prompts as numbers: by a tokenizer that is trained on the captions of a folder, and kept in checkpoints."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from artart import ArtError
from artart.data.captions import words_in, words_of

MAX_SIZE = 4096  # tokens
MIN_PAIRS = 2  # occurrences of what becomes a token
MAX_WORDS = 50_000  # that checkpoints list
PART = 10_000  # texts
MAX_PROMPTS = 20  # frequent captions that checkpoints list


class Prompts(ABC):
    """From texts to y, the numbers that condition a network; with the words and captions of the training."""

    def __init__(
        self, identity: Mapping[str, Any], network: Sequence[int], words: Mapping[str, int], prompts: Sequence[str]
    ) -> None:
        """
        Args:
            identity: what decides the numbers of a text, as plain data; `num_tokens`: L, further ones are cut off.
            network: the setting `model.text` that follows.
            words: those of training captions, and how often they occur there.
            prompts: frequent captions.
        """
        self.identity, self.network, self.words, self.prompts = dict(identity), [*network], dict(words), [*prompts]
        self.num_tokens: int = self.identity["num_tokens"]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """y (N, K) int32 of N texts."""

    @property
    def content(self) -> dict[str, Any]:
        """Plain data from which it can be made again."""
        return {**self.identity, "words": self.words, "prompts": self.prompts}

    def of_training(self, captions: Mapping[str, int]) -> Self:
        """The same numbers, with the words of these captions too, given with how often there are; the most frequent."""
        words = Counter(self.words)
        for text, number in captions.items():
            words.update({word: number * times for word, times in words_of([text]).items()})
        prompts = [text for text, _ in Counter(captions).most_common(MAX_PROMPTS)]
        other = copy(self)
        other.words, other.prompts = dict(words.most_common(MAX_WORDS)), prompts
        return other

    def unknown(self, text: str) -> list[str]:
        """The words of a text that no training caption has."""
        return [word for word in dict.fromkeys(words_in(text)) if word not in self.words]


class Vocabulary(Prompts):
    """Byte pair encoding on bytes (Sennrich et al. 2016, arXiv 1508.07909), so that there is no unknown word."""

    def __init__(self, tokenizer: str, num_tokens: int, words: Mapping[str, int], prompts: Sequence[str]) -> None:
        """`tokenizer` is JSON of the library `tokenizers`; tokens of a caption beyond `num_tokens`, L, are cut off.

        Raises ArtError if that library is not installed, or the JSON is none of its.
        """
        library = _library()
        try:
            self._tokenizer: Any = library.Tokenizer.from_str(tokenizer)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
            raise ArtError(f"the tokenizer cannot be read ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size: int = self._tokenizer.get_vocab_size()  # the number of tokens; this number itself means none
        super().__init__({"tokenizer": tokenizer, "num_tokens": num_tokens}, [self.size, num_tokens], words, prompts)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Tokens (N, L) int32 of N texts; an empty one has none."""
        rows = np.full((len(texts), self.num_tokens), self.size, np.int32)
        for row, ids in zip(rows, _ids(self._tokenizer, texts), strict=True):
            row[: len(ids)] = ids[: len(row)]
        return torch.from_numpy(rows)


class Tokens(NamedTuple):
    """The captions of M images as y: as many tokens, or rows of a table."""

    values: Tensor  # (N, K) int32, y of different captions; the first is empty
    rows: Tensor  # (R,) long: rows of `values`, those of each image one after the other; 0 for an image without any
    starts: Tensor  # (M,) long: where those of an image begin
    numbers: Tensor  # (M,) long: how many it has, at least one

    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """A caption of each image, (len(ids), K) int32."""
        drawn = torch.randint(2**62, ids.shape, generator=generator) % self.numbers[ids]
        return self.values[self.rows[self.starts[ids] + drawn]]

    def first(self, ids: Tensor) -> Tensor:
        """The first caption of each image, (len(ids), K) int32."""
        return self.values[self.rows[self.starts[ids]]]


def tokens_of(captions: Sequence[tuple[str, ...]], vocabulary: Prompts) -> Tokens:
    """The captions of images, of which some may have none, as tokens."""
    places = {text: row for row, text in enumerate(dict.fromkeys(["", *(text for one in captions for text in one)]))}
    numbers = torch.tensor([max(1, len(one)) for one in captions])
    rows = torch.tensor([places[text] for one in captions for text in one or ("",)])
    return Tokens(vocabulary.encode([*places]), rows, numbers.cumsum(0) - numbers, numbers)


def train(texts: Iterable[str], max_tokens: int) -> Vocabulary:
    """The vocabulary of captions, each given as often as it occurs; without words and prompts."""
    library, counted = _library(), Counter(texts)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.NFKC(), library.normalizers.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=MAX_SIZE,
        min_frequency=MIN_PAIRS,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(counted.elements()), trainer)
    longest = max(map(len, _ids(tokenizer, [*counted])))
    return Vocabulary(tokenizer.to_str(), min(longest, max_tokens), {}, [])


def _ids(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of each text; in parts, because the library's own results take kilobytes each."""
    for start in range(0, len(texts), PART):
        yield from (one.ids for one in tokenizer.encode_batch(texts[start : start + PART]))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ArtError("prompts need the library tokenizers; install it: pip install 'artart[text]'") from None
    return tokenizers
