"""What images are asked for: labels or prompts, as rows of numbers and in words."""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.config.build import did_you_mean, join_words
from artart.data.captions import clean
from artart.data.vocabulary import Prompts
from artart.generation.labels import MAX_IN_NAME, Label, hidden_from_all, label_in_name, label_in_words, labels_for
from artart.io.files import read_text

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What the user asks for: a label, or prompts for one image after the other."""

    label: Label = None  # None: the default of the mode
    prompts: Sequence[str] = ()  # none: the default of the mode
    allowed: Sequence[str] | None = None  # labels that may be asked for; None: all

    def in_words(self, loaded: Loaded, default: str) -> dict[str, object]:
        """For the provenance of a grid."""
        if loaded.text is None:
            return {"label": default if self.label is None else self.label}
        return {"prompts": " | ".join(self.prompts) or ("frequent captions" if default == "all" else "none")}


def prompts_of(prompt: str | Sequence[str] | None, file: str | None) -> Sequence[str]:
    """A prompt or several, or those in the lines of a file; none: ().

    Raises ArtError if both are given, the file cannot be read or has no lines.
    """
    if file is None:
        return () if prompt is None else [prompt] if isinstance(prompt, str) else prompt
    if prompt is not None:
        raise ArtError(f"prompts={file}: takes the place of prompt={prompt}; leave one of them out")
    lines = [line for line in map(clean, read_text(Path(file)).splitlines()) if line]
    if not lines:
        raise ArtError(f"prompts={file}: is empty; write a prompt into each line")
    return lines


class Condition(NamedTuple):
    """What one image is asked for."""

    y: tuple[int, ...]  # K labels, or L tokens
    in_words: dict[str, str]  # for its provenance
    in_name: str  # end of its file's name; "" for none


def conditions_for(loaded: Loaded, asked: Asked, num_images: int, default: str) -> Iterator[Condition]:
    """The condition of each image; by default `all` labels or frequent captions in turn, or `none`.

    Raises ArtError if the network was not trained with such labels, or takes labels and not prompts or the reverse.
    """
    if loaded.text is None:
        if asked.prompts:
            names = ", ".join(name for known in loaded.label_names.values() for name in known[:3])
            raise ArtError(
                f"prompt: {loaded.path} was trained with labels and not captions; use label=, such as {names}"
            )
        label = default if asked.label is None else asked.label
        hidden: Mapping[str, Collection[str]] = loaded.untrained_labels
        if asked.allowed is not None:
            hidden = hidden_from_all(label, asked.allowed, loaded.label_names, hidden)
        rows = labels_for(label, num_images, loaded.label_names, hidden)
        return (_of_label(y, loaded) for y in rows)
    if asked.label is not None:
        example = next(iter(loaded.text.prompts), "...")
        raise ArtError(f'label={asked.label}: {loaded.path} takes prompts in the place of labels: prompt="{example}"')
    if asked.allowed is not None:
        raise ArtError(f"allowed_labels: {loaded.path} takes prompts in the place of labels; leave it out")
    frequent = loaded.text.prompts if default == "all" else []
    prompts = [clean(prompt) for prompt in asked.prompts] or frequent or [""]
    tokens = loaded.text.encode(prompts).tolist()
    known = [_of_prompt(prompt, tuple(row)) for prompt, row in zip(prompts, tokens, strict=True)]
    return islice(cycle(known), num_images)


def warn_of_unknown(text: Prompts | None, prompts: Sequence[str]) -> None:
    """Log the words of prompts that no caption of the training has, with the nearest that some have."""
    if text is None:
        return
    if unknown := list(dict.fromkeys(word for prompt in prompts for word in text.unknown(prompt))):
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
    warn_of_unknown(loaded.text, [prompt])
    return tuple(loaded.text.encode([clean(prompt)])[0].tolist())


def _of_label(y: tuple[int, ...], loaded: Loaded) -> Condition:
    return Condition(y, {"label": label_in_words(y, loaded.label_names)}, label_in_name(y, loaded.label_names))


def _of_prompt(prompt: str, y: tuple[int, ...]) -> Condition:
    slug = re.sub(r"[^\w-]+", "-", prompt)[:MAX_IN_NAME].strip("-")
    return Condition(y, {"prompt": prompt or "none"}, f"_{slug}" if slug else "")
