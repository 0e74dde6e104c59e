"""Which images to make, from which noise, and the one loop that makes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.device import check_numbers
from artart.checkpoints.load import Loaded, load
from artart.config.build import build, join_words, option, options, select_or_none
from artart.config.schema import wrong_arguments
from artart.data.embeddings import Embeddings
from artart.diffusion.first_stage import fingerprint
from artart.diffusion.guidance import NO_GUIDANCE, Guidance
from artart.diffusion.noise import Between
from artart.diffusion.samplers import DDIM, Sampler, Step
from artart.diffusion.sampling import Given, Towards, sample_images
from artart.generation.conditions import negative_for
from artart.generation.inputs import Input
from artart.io.images import to_pixels
from artart.io.provenance import ImageProvenance
from artart.io.terminal import printable, progress_bar
from artart.models.text import attach
from artart.objectives.base import Objective

MODES = {"reconstruct": ("reconstruct",), "sample": ("sample", "img2img", "inpaint", "interpolate")}
"""What a network can do, by the mode of its objective; the first is the default."""
OF_ONE_STEP = ("sample", "interpolate")  # those that need no noise levels
ONE_STEP = DDIM(num_steps=1)
ALIKE = ("image_size", "objective.parameterization", "objective.schedule", "objective.num_steps")
"""Settings that are the same in networks that guide each other."""


class Sampling(NamedTuple):
    """How noise becomes images."""

    sampler: Sampler
    guidance: Guidance
    batch_size: int
    limits: Mapping[str, object] = {}  # what restricts images, for their provenance

    @property
    def details(self) -> dict[str, object]:
        """Guidance, sampler and limits, for an image's provenance."""
        if self.sampler is ONE_STEP:
            return dict(self.limits)
        how = self.guidance
        own: dict[str, object] = {"guidance": how.weight, "guidance_interval": "-".join(map(str, how.interval))}
        own |= {} if how.network is None else {"guidance_network_sha256": how.network_sha256}
        own |= {"negative_prompt": how.negative_prompt} if how.negative_prompt else {}
        settings = {name: value for name, value in vars(self.sampler).items() if isinstance(value, int | float | str)}
        return {**own, "sampler": type(self.sampler).__name__, **settings, **self.limits}


class Item(NamedTuple):
    """An image to make."""

    name: Path  # of its file
    provenance: ImageProvenance
    y: tuple[int, ...] = ()  # K labels, or the tokens of a prompt
    seed: int | Between = 0
    towards: tuple[tuple[int, ...], float] | None = None  # another y, and its share
    source: Input | None = None  # the image that it is made from

    def finished(self, image: Tensor) -> Tensor:
        """The network's image, (3, S, S) in [-1, 1], as uint8 (3, H, W), pasted into its source if it has one."""
        pixels = to_pixels(image)
        original = self.source and self.source.original
        return original.paste(pixels) if original else pixels


class Plan(NamedTuple):
    """Images to make in the same way, named one by one, so that any number fits into memory."""

    items: Iterable[Item]
    num: int  # of them, at most
    how: Sampling
    details: Mapping[str, object]  # provenance of a grid of them
    strengths: tuple[float, ...] = ()  # as in `Given`, of items with a source; none: from noise
    repaint: Tensor | None = None  # as in `Given`


def modes_of(objective: Objective) -> tuple[str, ...]:
    """What a network can do that was trained for an objective; the first is the default."""
    modes = MODES[objective.mode]
    return tuple(mode for mode in modes if mode in OF_ONE_STEP) if objective.one_step else modes


def mode_of(loaded: Loaded, mode: str | None) -> str:
    """The mode, or the network's default for None. Raises ArtError if the network was not trained for it."""
    modes = modes_of(loaded.objective)
    if mode is not None and mode not in modes:
        raise ArtError(f"mode={mode}: {loaded.path} was not trained for that; it can do mode={join_words(modes)}")
    return mode or modes[0]


def details_of(loaded: Loaded, mode: str, how: Sampling | None = None) -> dict[str, object]:
    """Mode, network and sampling, for an image's provenance."""
    details: dict[str, object] = {"mode": mode, "checkpoint": loaded.path.name, "checkpoint_sha256": loaded.sha256}
    bf16 = {"precision": loaded.precision} if loaded.precision != "32-true" else {}
    return details if how is None else {**details, **how.details, **bf16}


def sampling_for(loaded: Loaded, sampler: Sampler, guidance: Guidance, batch_size: int) -> Sampling:
    """How a network samples: one of a single step and a distilled one in their own way, without guidance."""
    if loaded.objective.one_step:
        sampler, guidance = ONE_STEP, NO_GUIDANCE
    if (num_steps := loaded.objective.num_steps) is not None:
        sampler, guidance = DDIM(num_steps), NO_GUIDANCE
    return Sampling(sampler, guidance, batch_size)


def sampler_for(sampler: str | Sampler, num_steps: int | None) -> Sampler:
    """The sampler of a name in conf/sampler.

    Raises ArtError if there is none of that name, or num_steps is not a whole number, at least 1.
    """
    if not isinstance(sampler, str):
        if num_steps is not None:
            raise ArtError(f"num_steps={num_steps}: goes with a sampler's name; a Sampler has its own")
        return sampler
    if sampler not in (names := options("sampler")):
        raise ArtError(f"sampler={sampler}: no such option; choose {join_words(names)}")
    node = option("sampler", sampler) | ({} if num_steps is None else {"num_steps": num_steps})
    if wrong := next(wrong_arguments(node, "sampler"), None):
        raise ArtError(wrong)
    built: Sampler = build({"sampler": node}, "sampler")
    return built


def guidance_for(
    loaded: Loaded,
    weight: float,
    interval: Sequence[float] = Guidance().interval,
    network: str | Path | None = None,
    negative_prompt: str | None = None,
) -> Guidance:
    """Guidance of a loaded network; `network` is the checkpoint of a weaker one (autoguidance), loaded alike.

    Raises ArtError if that checkpoint cannot be used, differs in schedule, size or labels, or has no effect; or if a
    negative prompt has none.
    """
    low, high = interval
    if network is None:
        if negative_prompt and weight == 1:
            raise ArtError(f"negative_prompt={negative_prompt}: has no effect with guidance.weight=1; set 1.5")
        return Guidance(weight, (low, high), None, "", negative_for(loaded, negative_prompt), negative_prompt or "")
    if negative_prompt:
        raise ArtError(f"negative_prompt={negative_prompt}: has no effect with guidance.network; leave one of them out")
    if weight == 1:
        raise ArtError(f"guidance.network={network}: has no effect with guidance.weight=1; set guidance.weight=1.5")
    try:
        weaker = load(Path(network), loaded.trusted_classes, loaded.device.type, loaded.precision)
    except ArtError as error:
        raise ArtError(f"guidance.network: {error}") from None
    ours, its = _must_match(loaded), _must_match(weaker)
    if name := next((name for name in ours if its[name] != ours[name]), ""):
        settings = f"was trained with {name}={printable(its[name])}, not {printable(ours[name])}"
        raise ArtError(
            f"guidance.network={network}: {settings if name in ALIKE else f'has {name}'}; name an earlier checkpoint "
            "of the same run, or one of a run like it"
        )
    if isinstance(loaded.text, Embeddings):
        attach(weaker.net, loaded.text.table)
    return Guidance(weight, (low, high), weaker.net, weaker.sha256)


def _must_match(loaded: Loaded) -> dict[str, object]:
    """What must be equal in networks that guide each other: settings, and what one that differs has."""
    first_stage = loaded.process.first_stage.content
    return {
        **{key: select_or_none(loaded.config, key) for key in ALIKE},
        "another first stage": first_stage
        and (fingerprint(first_stage["model"], first_stage["state_dict"]), first_stage["moments"].tolist()),
        "other labels": [*loaded.label_names.items(), loaded.text and loaded.text.identity],
    }


@torch.inference_mode()
def make(
    loaded: Loaded, plan: Plan, on_step: Callable[[Step], object] = lambda _: None
) -> Iterator[tuple[Item, Tensor]]:
    """Yield each item with its image (3, S, S) on the CPU, about [-1, 1]; `on_step` sees each step of each batch.

    Raises FloatingPointError if the network outputs NaN or infinity.
    """
    how, remaining = plan.how, iter(plan.items)
    num_steps = how.sampler.num_steps * max(1, len(plan.strengths))  # of a batch
    with progress_bar() as bar:
        task = bar.add_task("sampling", total=-(-plan.num // how.batch_size) * num_steps)

        def advance(step: Step) -> None:
            on_step(step)
            bar.advance(task)

        while batch := list(islice(remaining, how.batch_size)):
            if bar.tasks[task].remaining == 0:  # some are drawn again
                bar.update(task, total=bar.tasks[task].completed + num_steps)
            y, seeds = torch.tensor([item.y for item in batch], device=loaded.device), [item.seed for item in batch]
            sources = [item.source.x0 for item in batch if item.source]
            given = Given(torch.stack(sources), plan.strengths, plan.repaint) if plan.strengths else None
            second = zip(*(item.towards for item in batch if item.towards), strict=True)
            towards = [torch.tensor(values, device=loaded.device) for values in second]
            between = Towards(*towards) if towards else None
            common = loaded.net, loaded.process, how.sampler
            (images,) = sample_images(*common, y, seeds, how.guidance, len(batch), given, advance, between)
            check_numbers(images, loaded.path)
            yield from zip(batch, images.cpu(), strict=True)
