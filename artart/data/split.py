"""Which images are held out of training: a function of their content."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence


def split(
    digests: Sequence[str], groups: Sequence[Hashable], val_fraction: float, labels: Sequence[Iterable[Hashable]] = ()
) -> list[int]:
    """Indices of held-out images: the groups of near-duplicates whose hash is in the lowest val_fraction of all.

    The hash of a group is the SHA-256 (hexadecimal) of the member whose second half is lowest, so it is as random as
    that of a single image. An image keeps its side when others are added, unless they are near-duplicates of it or
    change what follows. With two groups or more no side is empty: the lowest is always held out, the highest never. If
    all groups of a label would be held out, that of the highest hash is not, unless it is the only one. An image may
    have several labels.
    """
    if val_fraction == 0 or not digests:
        return []
    limit = int(val_fraction * 2**64)
    chosen: dict[Hashable, str] = {}
    for digest, group in zip(digests, groups, strict=True):
        chosen[group] = min(digest, chosen.get(group, digest), key=lambda text: text[32:])
    lowest, highest = min(chosen.values()), max(chosen.values())
    held_out = ({digest for digest in chosen.values() if int(digest[:16], 16) < limit} | {lowest}) - {highest}
    by_label = defaultdict[Hashable, set[str]](set)
    for group, own in zip(groups, labels, strict=False):
        for label in own:
            by_label[label].add(chosen[group])
    for last in sorted((max(of_label) for of_label in by_label.values() if of_label <= held_out), reverse=True):
        if len(held_out) > 1:
            held_out.discard(last)
    return [i for i, group in enumerate(groups) if chosen[group] in held_out]
