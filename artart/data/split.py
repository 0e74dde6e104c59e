"""Which images are held out of training: a function of what they are."""

from collections.abc import Hashable, Sequence


def split(digests: Sequence[str], groups: Sequence[Hashable], val_fraction: float) -> list[int]:
    """Indices held out: the groups of look-alikes whose hash is in the lowest val_fraction of all.

    A group's hash, a SHA-256 of content in hexadecimal, is that of the member whose second half is lowest: so it is as
    random as that of an image alone. An image keeps its side when others are added, unless they resemble it. Neither
    side is ever empty while there are two groups: the lowest is always held out, the highest never.
    """
    if val_fraction == 0 or not digests:
        return []
    limit = int(val_fraction * 2**64)
    chosen: dict[Hashable, str] = {}
    for digest, group in zip(digests, groups, strict=True):
        chosen[group] = min(digest, chosen.get(group, digest), key=lambda text: text[32:])
    lowest, highest = min(chosen.values()), max(chosen.values())
    held_out = ({digest for digest in chosen.values() if int(digest[:16], 16) < limit} | {lowest}) - {highest}
    return [i for i, group in enumerate(groups) if chosen[group] in held_out]
