"""Samples that are refused, and drawn again with other seeds."""

import logging
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from artart import ArtError
from artart.generation.plan import Item
from artart.io.images import to_pixels
from artart.io.terminal import printable

log = logging.getLogger(__name__)

MAX_DRAWS = 10  # of an image; then it is left out


Filter = Callable[[Tensor], Tensor]
"""Whether each of some samples, uint8 (B, 3, S, S), is refused: (B,) bool."""


def checked(refuses: Filter, name: str) -> Filter:
    """A filter of that name, whose errors are one line: it raises ArtError also if an answer is not (B,) bool."""

    def refuses_or_raises(pixels: Tensor) -> Tensor:
        try:
            answer = torch.as_tensor(refuses(pixels))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = printable(f"{type(error).__name__}: {error}")
            raise ArtError(f"filter={name}: raised {reason} ({Path(place.filename).name}:{place.lineno})") from error
        if answer.dtype != torch.bool or answer.shape != pixels.shape[:1]:
            given = f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"
            images = f"images {tuple(pixels.shape)}"
            raise ArtError(f"filter={name}: returned {given} for {images}; return (B,) bool, true: refused")
        return answer

    return refuses_or_raises


class Draws:
    """Items to make; each that a filter refuses is followed by another, of the next unused seed, in its place."""

    def __init__(self, items: Iterable[Item], filters: Mapping[str, Filter], next_seed: int) -> None:
        """`filters` by what they refuse, in words; `next_seed`: the first that no item has."""
        self.planned, self.again = iter(items), deque[Item]()
        self.filters, self.seeds = filters, count(next_seed)
        self.num_draws, self.refused, self.left_out = Counter[str](), Counter[str](), list[str]()
        self.num_accepted = 0

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """The next item; after the end there may be more again, once others are refused."""
        if item := next(self.planned, None):
            return item
        if not self.again:
            raise StopIteration
        return self.again.popleft()

    def accepts(self, item: Item, image: Tensor) -> bool:
        """Whether no filter refuses an item's image, (3, S, S) in [-1, 1]."""
        pixels = to_pixels(image)[None]
        reason = next((name for name, refuses in self.filters.items() if refuses(pixels)), None)
        if reason is None:
            self.num_accepted += 1
            return True
        self.refused[reason] += 1
        self.num_draws[item.name.name] += 1
        if self.num_draws[item.name.name] < MAX_DRAWS:
            details = {**item.provenance.details, "seed": (seed := next(self.seeds))}
            self.again.append(item._replace(seed=seed, provenance=item.provenance._replace(details=details)))
        else:
            self.left_out.append(item.name.name)
        return False

    def report(self) -> None:
        """Log what was refused."""
        if self.refused:
            reasons = ", ".join(f"{number} {reason}" for reason, number in self.refused.items())
            log.warning("refused and drawn again with other seeds: %s", reasons)
        if self.left_out:
            log.warning(
                "%d images were refused %d times each and are left out: %s",
                *(len(self.left_out), MAX_DRAWS, ", ".join(self.left_out[:3]) + " ..." * (len(self.left_out) > 3)),
            )
