"""Noise becomes pictures: files, a grid, and a film of how it happens."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoint import Loaded, check_numbers, load
from artart.config import did_you_mean, found, listed
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler, Step
from artart.images import grid, save, save_film, to_pixels
from artart.marks import Marks
from artart.objectives import Diffusion
from artart.storage import free, sha256
from artart.terminal import progress_bar
from artart.trust import printable

ALIKE = ("image_size", "objective.prediction", "objective.schedule")  # in networks that guide each other
IN_GRID = 256  # pictures, at most
IN_FILM = 16
MOMENTS = 8  # of a film, on its strip


def sample(
    loaded: Loaded, sampler: Sampler, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> list[Path]:
    """Write 00000.png ... and grid.png, with `film` also film.png and film.webp; return their paths, the grid's first.

    Picture k has the seed `seed + k` in any batch size. No file that is there is replaced.

    Raises:
        ArtError: if the network knows no such label, or a setting makes no sense.
        FloatingPointError: if the network makes no numbers.
    """
    objective = loaded.objective
    assert isinstance(objective, Diffusion)
    labels = labels_for(config["label"], config["num_images"], loaded.class_names)
    names, guidance = [*loaded.class_names, "none"], guidance_of(config, loaded)
    settings = {**settings, **described(config)}
    device = next(loaded.net.parameters()).device
    shown: list[Tensor] = []  # in the grid
    films: list[Tensor] = []  # of each batch, (num_steps, n, C, S, S)
    written: list[Path] = []

    def refined(numbers: list[int]) -> Iterator[Step]:
        y, seeds = torch.tensor(labels, device=device)[numbers], [config["seed"] + k for k in numbers]
        num_filmed = max(0, IN_FILM - len(written)) if config["film"] else 0
        frames = []
        for step in objective.sample(loaded.net, sampler, y, seeds, guidance):
            frames.append(step.x_t[:num_filmed].cpu())
            yield step
        films.append(torch.stack(frames))

    for numbers, x_t in in_batches(refined, len(labels), sampler.num_steps, config, "sampling"):
        shown += x_t[: max(0, IN_GRID - len(shown))].cpu()
        for k, pixels in zip(numbers, to_pixels(x_t).cpu(), strict=True):
            path = free(out / f"{k:05}.png")
            save(pixels, path, Marks("trained", {**settings, "seed": config["seed"] + k, "label": names[labels[k]]}))
            written.append(path)
    marks = Marks("trained", {**settings, "seed": config["seed"], "label": config["label"]})
    num_columns = len(set(labels)) if len(set(labels)) > 1 else math.ceil(math.sqrt(len(shown)))
    save(grid(torch.stack(shown).split(num_columns)), grid_path := free(out / "grid.png"), marks)
    film = write_film(torch.cat(films, dim=1), num_columns, out, marks) if config["film"] else []
    return [grid_path, *film, *written]


@torch.inference_mode()
def in_batches(
    refined: Callable[[list[int]], Iterator[Step]],
    num: int,
    num_steps: int,
    config: Mapping[str, Any],
    description: str,
) -> Iterator[tuple[list[int], Tensor]]:
    """The numbers 0 .. num - 1 in batches, with what the last of num_steps steps of refined(numbers) has.

    Raises:
        FloatingPointError: if the network makes no numbers.
    """
    batches = torch.arange(num).split(config["batch_size"])
    with progress_bar() as bar:
        task = bar.add_task(description, total=len(batches) * num_steps)
        for numbers in map(Tensor.tolist, batches):
            for step in refined(numbers):
                bar.advance(task)
                x_t = step.x_t
            check_numbers(x_t, config["checkpoint"])
            yield numbers, x_t


def write_film(frames: Tensor, num_columns: int, out: Path, marks: Marks) -> list[Path]:
    """The refinement (num_steps, n, C, S, S) as a strip, a row for each picture, and as an animation of their grid."""
    moments = torch.linspace(0, len(frames) - 1, MOMENTS).round().int()
    save(grid(frames[moments].transpose(0, 1).unbind()), strip := free(out / "film.png"), marks)
    save_film([grid(frame.split(num_columns)) for frame in frames], film := free(out / "film.webp"), marks)
    return [strip, film]


def guidance_of(config: Mapping[str, Any], loaded: Loaded) -> Guidance:
    """What `guidance` asks for of the network that is loaded.

    Raises:
        ArtError: if the interval is empty or the second network is of another kind.
    """
    weight, lowest, highest, source = (config["guidance"][key] for key in ("weight", "lowest", "highest", "network"))
    if lowest > highest:
        raise ArtError(f"guidance.lowest={lowest}: is above guidance.highest={highest}, so guidance acts nowhere")
    if source is None:
        return Guidance(weight, lowest, highest)
    other = load(Path(source), config["allow"], config["device"])
    for key in ALIKE:
        if (its := found(other.config, key)) != (ours := found(loaded.config, key)):
            raise ArtError(
                f"guidance.network={source}: was trained with {key}={printable(its)}, not {printable(ours)}; name an "
                "earlier checkpoint of the same run, or one of a run like it"
            )
    if other.class_names != loaded.class_names:
        raise ArtError(f"guidance.network={source}: knows other classes; name an earlier checkpoint of the same run")
    return Guidance(weight, lowest, highest, other.net)


def described(config: Mapping[str, Any]) -> dict[str, object]:
    """The settings of guidance and sampler, for the marks of a picture."""
    guidance, sampler = config["guidance"], config["sampler"]
    told: dict[str, object] = {"guidance": guidance["weight"]}
    told |= {"guidance_interval": f"{guidance['lowest']}-{guidance['highest']}"}
    if guidance["network"] is not None:
        told |= {"guidance_network_sha256": sha256(Path(guidance["network"]))}
    told |= {"sampler": sampler["_target_"].rpartition(".")[2]}
    return told | {key: value for key, value in sampler.items() if key != "_target_"}


def labels_for(label: object, num_images: int, class_names: Sequence[str]) -> list[int]:
    """A label for each picture: a class by its name, `all` classes in turn, or `none`.

    Raises:
        ArtError: if there is no such class.
    """
    none = len(class_names)
    if label in class_names:  # also one whose name is "all" or "none"
        return [class_names.index(str(label))] * num_images
    if label in ("none", None) or (label == "all" and not class_names):
        return [none] * num_images
    if label == "all":
        return [k % none for k in range(num_images)]
    known = listed(["all", "none", *class_names])
    raise ArtError(f"label={label}: no such class{did_you_mean(str(label), class_names) or f'; choose {known}'}")
