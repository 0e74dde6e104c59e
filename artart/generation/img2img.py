"""An image becomes others: noised and refined anew, or painted anew where a mask says so."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.decode import decode, resize
from artart.data.scan import FileInfo, examine
from artart.diffusion.samplers import Sampler, Step
from artart.diffusion.sampling import Given, sample_steps
from artart.generation.inputs import Input, provenance_of_inputs, read, reason, size_and_resize_mode
from artart.generation.sample import MAX_IN_GRID, described, guidance_of, in_batches, in_words, labels_for
from artart.io.images import grid, save_new, to_model, to_pixels
from artart.objectives.diffusion import Diffusion

STRENGTH = 0.5  # half image, half noise
ROUNDS = (1.0, 0.9, 0.7, 0.5)  # strengths at which what is painted anew comes to fit what stays
GREY = 128
BLACK = (0, 0, 0)  # of a mask: stays


def img2img(
    loaded: Loaded, sampler: Sampler, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> list[Path]:
    """Write `num_images` others of each input, NAME_00000.png ..., and grid.png; return their paths, the grid's first.

    Without `mask` the inputs are noised to the level `strength` and refined from there. With it they are painted anew
    where it is white, from noise, and noised and refined again, ever less; elsewhere the pixels are the input's.
    Image k of each input has the seed `seed + k` in any batch size. Sub-folders of the input are kept; no file that
    is there is replaced. The grid has a row for each input: it, with a mask also what is kept of it on grey, and what
    was made.

    Raises:
        ArtError: if no input can be used, the mask does not fit, the network knows no such label, or a setting makes
            no sense.
        FloatingPointError: if the network makes no numbers.
    """
    objective, num = loaded.objective, config["num_images"]
    assert isinstance(objective, Diffusion)
    labels = labels_for(config["label"], num, loaded.label_names)
    guidance, device = guidance_of(config, loaded), next(loaded.net.parameters()).device
    inputs = list(read(loaded, Path(config["input"]), out, "reading images"))
    given = (
        prepare_img2img(inputs, config)
        if config["mask"] is None
        else prepare_inpaint(inputs[0], config, loaded, device)
    )
    settings = {**settings, **described(config), "strength": ", ".join(map(str, given.strengths))}
    rows = [[to_model(one.pixels), *([] if given.repaint is None else given.x0)] for one in inputs[:MAX_IN_GRID]]
    num_shown = max(1, MAX_IN_GRID // (len(rows[0]) + num))
    num_steps, written = len(given.strengths) * sampler.num_steps, []

    def refined(numbers: list[int]) -> Iterator[Step]:
        which = [n % num for n in numbers]
        y, seeds = torch.tensor(labels, device=device)[which], [config["seed"] + k for k in which]
        part = given._replace(x0=given.x0[[n // num for n in numbers]].to(device))
        return sample_steps(loaded.net, objective, sampler, y, seeds, guidance, part)

    for numbers, x_t in in_batches(refined, len(inputs) * num, num_steps, config, "painting"):
        if given.repaint is not None:
            x_t = torch.where(given.repaint, x_t, given.x0.to(device))  # as samplers leave it, but for rounding
        for n, image in zip(numbers, x_t.cpu(), strict=True):
            one, k = inputs[n // num], n % num
            path = out / one.name.with_name(f"{one.name.stem}_{k:05}.png")
            provenance = provenance_of_inputs(
                [one], {**settings, "seed": config["seed"] + k, "label": in_words(labels[k], loaded)}
            )
            written.append(save_new(to_pixels(image), path, provenance))
            if n // num < num_shown:
                rows[n // num].append(image)
    provenance = provenance_of_inputs(
        inputs[:num_shown], {**settings, "seed": config["seed"], "label": config["label"]}
    )
    grid_path = save_new(grid([torch.stack(row) for row in rows[:num_shown]]), out / "grid.png", provenance)
    return [grid_path, *written]


def prepare_img2img(inputs: Sequence[Input], config: Mapping[str, Any]) -> Given:
    """The inputs, to be noised to `strength` once."""
    return Given(to_model(torch.stack([one.pixels for one in inputs])), (config["strength"] or STRENGTH,))


def prepare_inpaint(one: Input, config: Mapping[str, Any], loaded: Loaded, device: torch.device) -> Given:
    """The input without what the mask covers, which thus leaves no trace."""
    repaint = read_mask(Path(config["mask"]), one, loaded)
    return Given(to_model(torch.where(repaint, GREY, one.pixels))[None], ROUNDS, repaint.to(device))


def read_mask(path: Path, given: Input, loaded: Loaded) -> Tensor:
    """What is to be painted anew, (1, S, S) bool: where more than half of a pixel is white. What is transparent is.

    Raises:
        ArtError: if the file is no image, not of the input's size, or has nothing to paint.
    """
    mask = examine(path, *size_and_resize_mode(loaded))
    if mask.pixels is None:
        raise ArtError(f"mask={path}: cannot be used ({reason(mask.facts)})")
    if (its := _sides(mask.facts)) != (sides := _sides(given.facts)):
        wanted = "{} x {}".format(*sides)
        raise ArtError(f"mask={path}: has {its[0]} x {its[1]} pixels, the input {wanted}; they must lie on each other")
    white = decode(path).convert("L").point(lambda level: 255 * (level > 127))
    repaint = torch.tensor(resize(white, *size_and_resize_mode(loaded), paper=BLACK)).permute(2, 0, 1)[:1] > 127
    if not repaint.any():
        raise ArtError(f"mask={path}: leaves nothing to paint; white is what is painted anew")
    return repaint


def _sides(facts: FileInfo) -> tuple[int, int]:
    """Width and height of an upright image."""
    return (facts.width, facts.height) if facts.orientation < 5 else (facts.height, facts.width)
