"""Noise becomes pictures: files, a grid, and a film of how it happens."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoint import Loaded
from artart.config import did_you_mean, listed
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.images import grid, save, save_film, to_pixels
from artart.marks import Marks
from artart.objectives import Diffusion
from artart.storage import free
from artart.terminal import progress_bar

IN_GRID = 256  # pictures, at most
IN_FILM = 16
MOMENTS = 8  # of a film, on its strip


def sample(
    loaded: Loaded, sampler: Sampler, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> list[Path]:
    """Write 00000.png ... and grid.png, with `film` also film.png and film.webp; return their paths, the grid's first.

    Picture k has the seed `seed + k` in any batch size. No file that is there is replaced.

    Raises:
        ArtError: if the network knows no such label.
        FloatingPointError: if it makes no numbers.
    """
    assert isinstance(loaded.objective, Diffusion)
    if config["input"] is not None:
        raise ArtError(f"input={config['input']}: mode=sample begins with noise; leave it out")
    labels = labels_for(config["label"], config["num_images"], loaded.class_names)
    names = [*loaded.class_names, "none"]
    guidance = Guidance(config["guidance"], **config["guidance_interval"])
    settings = {
        **settings,
        "guidance": config["guidance"],
        "sampler": config["sampler"]["_target_"].rpartition(".")[2],
        **{key: value for key, value in config["sampler"].items() if key != "_target_"},
    }
    num_images, batch_size, device = len(labels), config["batch_size"], next(loaded.net.parameters()).device
    kept: list[Tensor] = []  # for the grid
    frames: list[Tensor] = []  # of the film, each (n, C, S, S)
    written = []
    with progress_bar() as bar, torch.inference_mode():
        task = bar.add_task("sampling", total=-(-num_images // batch_size) * sampler.num_steps)
        for first in range(0, num_images, batch_size):
            y = torch.tensor(labels[first : first + batch_size], device=device)
            numbers = range(first, first + len(y))
            seeds = [config["seed"] + k for k in numbers]
            for x_t, _ in loaded.objective.sample(loaded.net, sampler, y, seeds, guidance):
                bar.advance(task)
                if config["film"] and first == 0:
                    frames.append(x_t[:IN_FILM].cpu())
            if not x_t.isfinite().all():
                raise FloatingPointError(
                    f"{config['checkpoint']}: its network makes no numbers; take an earlier checkpoint"
                )
            x0 = x_t.cpu()
            kept += x0[: max(0, IN_GRID - len(kept))]
            for k, seed, pixels in zip(numbers, seeds, to_pixels(x0), strict=True):
                path = free(out / f"{k:05}.png")
                save(pixels, path, Marks("trained", {**settings, "seed": seed, "label": names[labels[k]]}))
                written.append(path)
    marks = Marks("trained", {**settings, "seed": config["seed"], "label": config["label"]})
    num_columns = len(set(labels)) if len(set(labels)) > 1 else math.ceil(math.sqrt(len(kept)))
    save(grid(in_rows(kept, num_columns)), grid_path := free(out / "grid.png"), marks)
    if frames:
        moments = torch.linspace(0, len(frames) - 1, MOMENTS).round().int().tolist()
        strips = [torch.stack([frames[k][i] for k in moments]) for i in range(len(frames[0]))]
        save(grid(strips), strip := free(out / "film.png"), marks)
        save_film([grid(in_rows(list(frame), num_columns)) for frame in frames], film := free(out / "film.webp"), marks)
        return [grid_path, strip, film, *written]
    return [grid_path, *written]


def in_rows(pictures: Sequence[Tensor], num_columns: int) -> list[Tensor]:
    """Pictures (C, S, S) as rows of a grid."""
    return list(torch.stack(list(pictures)).split(num_columns))


def labels_for(label: object, num_images: int, class_names: Sequence[str]) -> list[int]:
    """A label for each picture: a class by its name, `all` classes in turn, or `none`.

    Raises:
        ArtError: if there is no such class.
    """
    none = len(class_names)
    if label in ("none", None) or (label == "all" and not class_names):
        return [none] * num_images
    if label == "all":
        return [k % none for k in range(num_images)]
    if label not in class_names:
        known = listed(["all", "none", *class_names])
        raise ArtError(f"label={label}: no such class{did_you_mean(str(label), class_names) or f'; choose {known}'}")
    return [class_names.index(str(label))] * num_images
