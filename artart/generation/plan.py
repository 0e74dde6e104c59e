"""Which images to make, from which noise, and the one loop that makes them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from artart.checkpoints.load import check_numbers
from artart.diffusion.guidance import Guidance
from artart.diffusion.noise import Between
from artart.diffusion.samplers import Sampler, Step
from artart.diffusion.sampling import Given, NoiseProcess, sample_images
from artart.generation.source import Source
from artart.io.provenance import ImageProvenance
from artart.io.terminal import progress_bar


class Item(NamedTuple):
    """An image to make."""

    name: Path  # of its file
    labels: tuple[int, ...]  # K labels
    seed: int | Between
    provenance: ImageProvenance


class Plan(NamedTuple):
    """Images to make with the same settings."""

    items: list[Item]
    sampler: Sampler
    guidance: Guidance
    details: Mapping[str, object]  # provenance of a grid of them
    given: Given | None = None  # M images, each of which becomes len(items) / M consecutive items


@torch.inference_mode()
def make(
    source: Source, plan: Plan, batch_size: int, on_step: Callable[[Step], object] = lambda _: None
) -> Iterator[tuple[Item, Tensor]]:
    """Yield each item with its image (3, S, S) on the CPU, nearly in [-1, 1]; `on_step` sees each step of each batch.

    Raises:
        FloatingPointError: if the network outputs NaN or infinity.
    """
    items, process = plan.items, cast(NoiseProcess, source.loaded.objective)
    y, seeds = torch.tensor([item.labels for item in items], device=source.device), [item.seed for item in items]
    starts = range(0, len(items), batch_size)
    num_rounds = len(plan.given.strengths) if plan.given else 1
    with progress_bar() as bar:
        task = bar.add_task("sampling", total=len(starts) * num_rounds * plan.sampler.num_steps)

        def advance(step: Step) -> None:
            on_step(step)
            bar.advance(task)

        batches = sample_images(
            source.loaded.net, process, plan.sampler, y, seeds, plan.guidance, batch_size, plan.given, advance
        )
        for start, images in zip(starts, batches, strict=True):
            check_numbers(images, source.path)
            yield from zip(items[start : start + batch_size], images.cpu(), strict=True)


def describe_sampling(sampler: Sampler, guidance: Guidance) -> dict[str, object]:
    """The part of an image's provenance that names guidance and sampler."""
    details: dict[str, object] = {"guidance": guidance.weight}
    details["guidance_interval"] = "-".join(map(str, guidance.interval))
    if guidance.network is not None:
        details["guidance_network_sha256"] = guidance.network_sha256 or "unknown"
    details["sampler"] = type(sampler).__name__
    plain = {name: value for name, value in vars(sampler).items() if isinstance(value, bool | int | float | str)}
    return details | plain
