"""Noise becomes images: files, a grid, and the trajectory that led to them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded, check_numbers, load
from artart.checkpoints.validate import printable
from artart.config.build import did_you_mean, format_value, join_words, select_or_none
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler, Step
from artart.diffusion.sampling import sample_steps
from artart.io.files import sha256
from artart.io.images import grid, save_animation, save_new, to_pixels
from artart.io.provenance import ImageProvenance
from artart.io.terminal import progress_bar
from artart.objectives.diffusion import Diffusion

ALIKE = ("image_size", "objective.parameterization", "objective.schedule")  # in networks that guide each other
MAX_IN_GRID = 256  # images, at most
MAX_RECORDED = 16
MOMENTS = 8  # of a trajectory, on its strip


def sample(
    loaded: Loaded, sampler: Sampler, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> list[Path]:
    """Write 00000.png ... and grid.png, with `save_trajectory` also trajectory.png and trajectory.webp; return their
    paths, the grid's first.

    Image k has the seed `seed + k` in any batch size. No file that is there is replaced.

    Raises:
        ArtError: if the network knows no such label, or a setting makes no sense.
        FloatingPointError: if the network makes no numbers.
    """
    objective = loaded.objective
    assert isinstance(objective, Diffusion)
    labels = labels_for(config["label"], config["num_images"], loaded.label_names)
    guidance = guidance_of(config, loaded)
    settings = {**settings, **described(config)}
    device = next(loaded.net.parameters()).device
    shown: list[Tensor] = []  # in the grid
    trajectories: list[Tensor] = []  # of each batch, (num_steps, n, C, S, S)
    written: list[Path] = []

    def refined(numbers: list[int]) -> Iterator[Step]:
        y, seeds = torch.tensor(labels, device=device)[numbers], [config["seed"] + k for k in numbers]
        num_recorded = max(0, MAX_RECORDED - len(written)) if config["save_trajectory"] else 0
        frames = []
        for step in sample_steps(loaded.net, objective, sampler, y, seeds, guidance):
            frames.append(step.x_t[:num_recorded].cpu())
            yield step
        trajectories.append(torch.stack(frames))

    for numbers, x_t in in_batches(refined, len(labels), sampler.num_steps, config, "sampling"):
        shown += x_t[: max(0, MAX_IN_GRID - len(shown))].cpu()
        for k, pixels in zip(numbers, to_pixels(x_t).cpu(), strict=True):
            details = {**settings, "seed": config["seed"] + k, "label": in_words(labels[k], loaded)}
            written.append(save_new(pixels, out / f"{k:05}.png", ImageProvenance("trained", details)))
    provenance = ImageProvenance("trained", {**settings, "seed": config["seed"], "label": config["label"]})
    num_columns = len(set(labels)) if len(set(labels)) > 1 else math.ceil(math.sqrt(len(shown)))
    grid_path = save_new(grid(torch.stack(shown).split(num_columns)), out / "grid.png", provenance)
    trajectory = (
        write_trajectory(torch.cat(trajectories, dim=1), num_columns, out, provenance)
        if config["save_trajectory"]
        else []
    )
    return [grid_path, *trajectory, *written]


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


def write_trajectory(frames: Tensor, num_columns: int, out: Path, provenance: ImageProvenance) -> list[Path]:
    """The refinement (num_steps, n, C, S, S) as a strip, a row for each image, and as an animation of their grid."""
    moments = torch.linspace(0, len(frames) - 1, MOMENTS).round().int()
    strip = save_new(grid(frames[moments].transpose(0, 1).unbind()), out / "trajectory.png", provenance)
    animation = save_animation(
        [grid(frame.split(num_columns)) for frame in frames], out / "trajectory.webp", provenance
    )
    return [strip, animation]


def guidance_of(config: Mapping[str, Any], loaded: Loaded) -> Guidance:
    """What `guidance` asks for of the network that is loaded.

    Raises:
        ArtError: if the second network is of another kind or without effect.
    """
    weight, interval, source = (config["guidance"][key] for key in ("weight", "interval", "network"))
    if source is None:
        return Guidance(weight, tuple(interval))
    if weight == 1:
        raise ArtError(f"guidance.network={source}: has no effect with guidance.weight=1; set guidance.weight=1.5")
    other = load(Path(source), config["trusted_classes"], config["device"])
    for key in ALIKE:
        if (its := select_or_none(other.config, key)) != (ours := select_or_none(loaded.config, key)):
            raise ArtError(
                f"guidance.network={source}: was trained with {key}={printable(its)}, not {printable(ours)}; name an "
                "earlier checkpoint of the same run, or one of a run like it"
            )
    if list(other.label_names.items()) != list(loaded.label_names.items()):
        raise ArtError(f"guidance.network={source}: knows other labels; name an earlier checkpoint of the same run")
    return Guidance(weight, tuple(interval), other.net)


def described(config: Mapping[str, Any]) -> dict[str, object]:
    """The settings of guidance and sampler, for the provenance of an image."""
    guidance, sampler = config["guidance"], config["sampler"]
    details: dict[str, object] = {"guidance": guidance["weight"]}
    details |= {"guidance_interval": "-".join(map(str, guidance["interval"]))}
    if guidance["network"] is not None:
        details |= {"guidance_network_sha256": sha256(Path(guidance["network"]))}
    details |= {"sampler": sampler["_target_"].rpartition(".")[2]}
    return details | {key: value for key, value in sampler.items() if key != "_target_"}


def labels_for(label: object, num_images: int, label_names: Mapping[str, Sequence[str]]) -> list[tuple[int, ...]]:
    """K labels for each image: those of a name, of `all` names of the first column in turn, or `none`.

    {column: name, all or none} asks for several; columns that it does not name have none.

    Raises:
        ArtError: if there is no such name or column, or if several columns have the name.
    """
    asked = label if isinstance(label, Mapping) else {_column_of(label, label_names): label}
    wanted = {str(column): None if name is None else format_value(name) for column, name in asked.items()}
    for column, name in wanted.items():
        if column not in label_names:
            raise ArtError(f"label.{column}={name}: no such column{_choice(column, list(label_names))}")
        if name not in ("all", "none", None, *label_names[column]):
            raise ArtError(
                f"label.{column}={name}: no such {column}{_choice(str(name), label_names[column], 'all', 'none')}"
            )
    return list(
        zip(*(_turns(wanted.get(column), num_images, names) for column, names in label_names.items()), strict=True)
    )


def _column_of(name: object, label_names: Mapping[str, Sequence[str]]) -> str:
    """The column that has a name; the first for all and none."""
    having = [column for column, names in label_names.items() if name in names]
    if len(having) > 1:
        raise ArtError(f"label={name}: is of {join_words(having, 'and')}; say of which: label={{{having[0]}: ...}}")
    if not having and name not in ("all", "none", None):
        known = [name for names in label_names.values() for name in names]
        kind = join_words(list(label_names))
        raise ArtError(f"label={name}: no such {kind}{_choice(str(name), known, 'all', 'none')}")
    return next(iter(having or label_names))


def _turns(name: str | None, num_images: int, names: Sequence[str]) -> list[int]:
    """The labels of a column: also of a name that is "all" or "none"."""
    if name in names:
        return [names.index(name)] * num_images
    return [k % len(names) if name == "all" and names else len(names) for k in range(num_images)]


def _choice(name: str, known: Sequence[str], *words: str) -> str:
    return printable(did_you_mean(name, known) or f"; choose {join_words([*words, *known])}")


def in_words(labels: Sequence[int], loaded: Loaded) -> str:
    """The name of a label; of several also their columns."""
    names = [(*names, "none")[label] for names, label in zip(loaded.label_names.values(), labels, strict=True)]
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{column}: {name}" for column, name in zip(loaded.label_names, names, strict=True))
