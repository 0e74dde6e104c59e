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


class Sampling(NamedTuple):
    """How noise becomes images."""

    sampler: Sampler
    guidance: Guidance
    batch_size: int

    @property
    def details(self) -> dict[str, object]:
        """The part of an image's provenance that names guidance and sampler."""
        weight, interval, network, sha256 = self.guidance
        details = {"guidance": weight, "guidance_interval": "-".join(map(str, interval))}
        details |= {} if network is None else {"guidance_network_sha256": sha256 or "unknown"}
        settings = {name: value for name, value in vars(self.sampler).items() if isinstance(value, int | float | str)}
        return {**details, "sampler": type(self.sampler).__name__, **settings}


class Item(NamedTuple):
    """An image to make."""

    name: Path  # of its file
    labels: tuple[int, ...]  # K labels
    seed: int | Between
    provenance: ImageProvenance


class Plan(NamedTuple):
    """Images to make in the same way."""

    items: list[Item]
    how: Sampling
    details: Mapping[str, object]  # provenance of a grid of them
    given: Given | None = None  # M images, each of which becomes len(items) / M consecutive items


@torch.inference_mode()
def make(
    source: Source, plan: Plan, on_step: Callable[[Step], object] = lambda _: None
) -> Iterator[tuple[Item, Tensor]]:
    """Yield each item with its image (3, S, S) on the CPU, about [-1, 1]; `on_step` sees each step of each batch.

    Raises:
        FloatingPointError: if the network outputs NaN or infinity.
    """
    (items, (sampler, guidance, batch_size), _, given), net = plan, source.loaded.net
    y, seeds = torch.tensor([item.labels for item in items], device=source.device), [item.seed for item in items]
    starts = range(0, len(items), batch_size)
    num_steps = len(starts) * sampler.num_steps * (len(given.strengths) if given else 1)
    with progress_bar() as bar:
        task = bar.add_task("sampling", total=num_steps)

        def advance(step: Step) -> None:
            on_step(step)
            bar.advance(task)

        process = cast(NoiseProcess, source.loaded.objective)
        batches = sample_images(net, process, sampler, y, seeds, guidance, batch_size, given, advance)
        for start, images in zip(starts, batches, strict=True):
            check_numbers(images, source.path)
            yield from zip(items[start : start + batch_size], images.cpu(), strict=True)
