"""What images are asked for: labels or prompts, as rows of numbers and in words."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.config.build import did_you_mean, join_words
from artart.data.captions import clean
from artart.data.vocabulary import Prompts
from artart.generation.labels import Label, hidden_from_all, label_in_name, label_in_words, labels_for, slug
from artart.io.files import read_text

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What the user asks for: images of a label, or of prompts in turn."""

    num_images: int
    seed: int = 0  # of the first; image k has `seed + k`
    label: Label = None  # None: the default of the mode
    prompts: Sequence[str] = ()  # none: the default of the mode
    allowed: Sequence[str] | None = None  # labels that may be asked for; None: all

    def in_words(self, loaded: Loaded, default: str) -> dict[str, object]:
        """For the provenance of a grid."""
        if loaded.text is None:
            return {"label": default if self.label is None else self.label}
        return {"prompts": " | ".join(self.prompts) or ("frequent captions" if default == "all" else "none")}


def prompts_of(loaded: Loaded, prompt: str | Sequence[str] | None, file: str | None = None) -> Sequence[str]:
    """A prompt or several, or those in the lines of a file; none: (). Warns of words that no training caption has.

    Raises ArtError if both are given, the file cannot be read or has no lines.
    """
    prompts = () if prompt is None else [prompt] if isinstance(prompt, str) else prompt
    if file is not None:
        if prompt is not None:
            raise ArtError(f"prompts={file}: takes the place of prompt={prompt}; leave one of them out")
        prompts = [line for line in map(clean, read_text(Path(file)).splitlines()) if line]
        if not prompts:
            raise ArtError(f"prompts={file}: is empty; write a prompt into each line")
    _warn_of_unknown(loaded.text, prompts)
    return prompts


class Condition(NamedTuple):
    """What one image is asked for."""

    y: tuple[int, ...]  # K labels, or L tokens
    in_words: dict[str, str]  # for its provenance
    in_name: str  # end of its file's name; "" for none


def conditions_for(loaded: Loaded, asked: Asked, default: str) -> Iterator[Condition]:
    """The condition of each image; by default `all` labels or frequent captions in turn, or `none`.

    Raises ArtError if the network was not trained with such labels, or takes labels and not prompts or the reverse.
    """
    if loaded.text is None:
        if asked.prompts:
            some = ", ".join(name for known in loaded.label_names.values() for name in known[:3])
            remedy = f"use label=, such as {some}" if some else "leave it out"
            raise ArtError(f"prompt: {loaded.path} was trained with labels and not captions; {remedy}")
        label = default if asked.label is None else asked.label
        hidden: Mapping[str, Collection[str]] = loaded.untrained_labels
        if asked.allowed is not None:
            hidden = hidden_from_all(label, asked.allowed, loaded.label_names, hidden)
        names = loaded.label_names
        rows = labels_for(label, asked.num_images, names, hidden)
        return (Condition(y, {"label": label_in_words(y, names)}, label_in_name(y, names)) for y in rows)
    if asked.label is not None:
        example = next(iter(loaded.text.prompts), "...")
        raise ArtError(f'label={asked.label}: {loaded.path} takes prompts in the place of labels: prompt="{example}"')
    if asked.allowed is not None:
        raise ArtError(f"allowed_labels: {loaded.path} takes prompts in the place of labels; leave it out")
    frequent = loaded.text.prompts if default == "all" else []
    prompts = [clean(prompt) for prompt in asked.prompts] or frequent or [""]
    tokens = loaded.text.encode(prompts).tolist()
    ends = (slug(prompt).strip("-") for prompt in prompts)
    known = [
        Condition(tuple(y), {"prompt": prompt or "none"}, f"_{end}" if end else "")
        for prompt, y, end in zip(prompts, tokens, ends, strict=True)
    ]
    return islice(cycle(known), asked.num_images)


def _warn_of_unknown(text: Prompts | None, prompts: Sequence[str]) -> None:
    """Log the words of prompts that no caption of the training has, with the nearest that some have."""
    if text and (unknown := list(dict.fromkeys(word for prompt in prompts for word in text.unknown(prompt)))):
        words = [f"{word}{did_you_mean(word, text.words).replace('; ', ' (').replace('?', '?)')}" for word in unknown]
        log.warning("prompt: no training caption has %s", join_words(words))


def negative_for(loaded: Loaded, prompt: str | None) -> tuple[int, ...]:
    """The tokens of a negative prompt; () for none. Raises ArtError if the network takes no prompts."""
    if prompt is None:
        return ()
    if loaded.text is None:
        raise ArtError(
            f"negative_prompt={prompt}: {loaded.path} was trained with labels and not captions; leave it out"
        )
    _warn_of_unknown(loaded.text, [prompt])
    return tuple(loaded.text.encode([clean(prompt)])[0].tolist())
