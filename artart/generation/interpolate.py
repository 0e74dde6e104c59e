"""From seed to seed: the images on the way between images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.diffusion.noise import Between
from artart.diffusion.samplers import Sampler, Step
from artart.diffusion.sampling import sample_steps
from artart.generation.sample import described, guidance_of, in_batches, labels_for
from artart.io.images import grid, save_animation, save_new, to_model, to_pixels
from artart.io.provenance import ImageProvenance
from artart.objectives.diffusion import Diffusion

MAX_IN_STRIP = 16  # images, at most


def interpolate(
    loaded: Loaded, sampler: Sampler, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> list[Path]:
    """Write 00000.png ..., strip.png with up to 16 of them, and trajectory.webp; return their paths, the strip's first.

    All noise, also that of single steps, lies on great circles from each of `seeds` to the next. The first image is
    that of mode=sample with the first seed, the last that with the last. No file that is there is replaced.

    Raises:
        ArtError: if the network knows no such label, the label is not one, or a setting makes no sense.
        FloatingPointError: if the network makes no numbers.
    """
    objective, num, seeds = loaded.objective, config["num_images"], config["seeds"]
    assert isinstance(objective, Diffusion)
    if num < len(seeds):
        raise ArtError(f"num_images={num}: are fewer than the {len(seeds)} seeds; ask for more, to see the way")
    labels, guidance = labels_for(config["label"], num, loaded.label_names), guidance_of(config, loaded)
    if any(label != labels[0] for label in labels):
        raise ArtError(f"label={config['label']}: mode=interpolate keeps to one label; choose a class or none")
    way, device = places(seeds, num), next(loaded.net.parameters()).device
    settings = {**settings, **described(config), "seeds": "-".join(map(str, seeds)), "label": config["label"]}
    frames, written = [], []

    def refined(numbers: list[int]) -> Iterator[Step]:
        y = torch.tensor(labels, device=device)[numbers]
        return sample_steps(loaded.net, objective, sampler, y, [way[k] for k in numbers], guidance)

    for numbers, x_t in in_batches(refined, num, sampler.num_steps, config, "sampling"):
        for k, pixels in zip(numbers, to_pixels(x_t).cpu(), strict=True):
            provenance = ImageProvenance("trained", {**settings, "place": f"{k}/{num - 1}"})
            written.append(save_new(pixels, out / f"{k:05}.png", provenance))
            frames.append(pixels)
    moments = torch.linspace(0, num - 1, min(num, MAX_IN_STRIP)).round().int()
    provenance = ImageProvenance("trained", settings)
    strip = save_new(grid([to_model(torch.stack(frames)[moments])]), out / "strip.png", provenance)
    trajectory = save_animation(frames, out / "trajectory.webp", provenance)
    return [strip, trajectory, *written]


def places(seeds: Sequence[int], num: int) -> list[Between]:
    """`num` places at even distances on the way through two or more seeds, from the first to the last."""
    way = []
    for k in range(num):
        stretch = min(k * (len(seeds) - 1) // (num - 1), len(seeds) - 2)
        share = (k * (len(seeds) - 1) - stretch * (num - 1)) / (num - 1)  # 0 and 1 exactly at the ends
        way.append(Between(seeds[stretch], seeds[stretch + 1], share))
    return way
