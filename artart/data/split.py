"""Which pictures are held out of training: a function of what they are."""

from collections.abc import Hashable, Sequence


def split(digests: Sequence[str], groups: Sequence[Hashable], val_fraction: float) -> list[int]:
    """Indices held out: the groups of near-duplicates whose highest content hash is in the lowest val_fraction of all.

    So a picture keeps its side when others are added, and near-duplicates share a side; large groups lean to training.
    Neither side is ever empty while there are two groups: the lowest is always held out, the highest never.
    """
    if val_fraction == 0 or not digests:
        return []
    limit = int(val_fraction * 2**64)
    highest_of: dict[Hashable, str] = {}
    for digest, group in zip(digests, groups, strict=True):
        highest_of[group] = max(digest, highest_of.get(group, ""))
    lowest, highest = min(highest_of.values()), max(highest_of.values())
    held_out = ({digest for digest in highest_of.values() if int(digest[:16], 16) < limit} | {lowest}) - {highest}
    return [i for i, group in enumerate(groups) if highest_of[group] in held_out]
