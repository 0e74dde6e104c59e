"""Images between images: noise between the noise of seeds, and what lies between prompts."""

from collections.abc import Iterator, Sequence
from itertools import count, repeat
from pathlib import Path

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.diffusion.noise import Between
from artart.generation.conditions import Asked, conditions_for
from artart.generation.output import Output, shown
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.io.images import encode_animation
from artart.io.provenance import ImageProvenance

MAX_IN_STRIP = 16  # images
MAX_IN_ANIMATION = 300  # images


def plan_interpolation(loaded: Loaded, how: Sampling, asked: Asked, seeds: Sequence[int]) -> Plan:
    """Plan a sequence of images through two or more seeds, or prompts, or both; by default no label and no prompt.

    All noise, also that of single steps, lies on great circles from each seed to the next; without seeds it is that of
    `asked`. Between prompts x0_hat is mixed. The first image is that of `plan_samples` with the first seed and prompt,
    the last that with the last.

    Raises ArtError if the label is unknown or means several, if there are fewer images than seeds or prompts, or
    neither two of these nor of those.
    """
    num_images, num_prompts = asked.num_images, len(asked.prompts)
    if not seeds and num_prompts < 2:
        raise ArtError("seeds: give two or more, such as [1, 2], or two or more prompts")
    for num, what in ((len(seeds), "seeds"), (num_prompts, "prompts")):
        if num_images < num:
            raise ArtError(f"num_images={num_images}: fewer than the {num} {what}; ask for more")
    ends = asked._replace(num_images=max(2, num_prompts))
    ys = [condition.y for condition in conditions_for(loaded, ends, default="none")]
    if not num_prompts and len(set(ys)) > 1:
        raise ArtError(f"label={asked.label}: mode=interpolate keeps to one label; choose a class or none")
    details = {**details_of(loaded, "interpolate", how), "seeds": "-".join(map(str, seeds or [asked.seed]))}
    details |= asked.in_words(loaded, "none")
    noise = places(seeds, num_images) if seeds else repeat(asked.seed, num_images)
    between = places(range(num_prompts), num_images) if num_prompts > 1 else repeat(None, num_images)

    def item(k: int, own: int | Between, place: Between | None) -> Item:
        provenance = ImageProvenance("trained", {**details, "place": f"{k}/{num_images - 1}"})
        y, towards = ys[0], None
        if place is not None:
            y, towards = ys[place.first], (ys[place.second], place.share)
        return Item(Path(f"{k:05}.png"), provenance, y, own, towards)

    return Plan(map(item, count(), noise, between), num_images, how, details)


def write_interpolation(
    loaded: Loaded, how: Sampling, out: Output, asked: Asked, seeds: Sequence[int] | None
) -> tuple[Path, int]:
    """Write 00000.png ..., strip.png, the first, with up to 16 of them, and trajectory.webp with up to 300."""
    plan = plan_interpolation(loaded, how, asked, seeds or ())
    in_animation, in_strip = (_moments(asked.num_images, most) for most in (MAX_IN_ANIMATION, MAX_IN_STRIP))
    frames, strip = list[Tensor](), list[Tensor]()
    for k, (_, image, *_) in enumerate(out.save_items(make(loaded, plan), how.batch_size)):
        if k in in_animation:
            frames.append(shown([image[None]], out.resample))
        if k in in_strip:
            strip.append(image)
    provenance = ImageProvenance("trained", plan.details)
    first = out.save(shown([torch.stack(strip)], out.resample), "strip.png", provenance)
    out.write(encode_animation(frames, provenance), "trajectory.webp", provenance)
    return first, asked.num_images + 2


def _moments(num: int, most: int) -> set[int]:
    """At most `most` of the numbers below `num`, spread evenly, with the first and the last."""
    return {*torch.linspace(0, num - 1, min(num, most), dtype=torch.float64).round().long().tolist()}


def places(seeds: Sequence[int], num: int) -> Iterator[Between]:
    """Yield `num` evenly spaced places on the path through two or more seeds, from the first to the last."""
    for k in range(num):
        segment = min(k * (len(seeds) - 1) // (num - 1), len(seeds) - 2)
        share = (k * (len(seeds) - 1) - segment * (num - 1)) / (num - 1)  # 0 and 1 exactly at the ends
        yield Between(seeds[segment], seeds[segment + 1], share)
