"""Draw the figures of docs/diffusion.md and README.md from checkpoints.

    python -m benchmarks figures --checkpoint RUN/checkpoints/best.ckpt
    python -m benchmarks figures --watercolours RUNS/5000/checkpoints/last.ckpt

The first checkpoint is of experiment=quickstart_diffusion, the second of copying.py. They go to --out, with --write to
docs/images.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from artart.checkpoints.load import Loaded, load
from artart.data import demo
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import DDIM, Heun, Sampler
from artart.diffusion.sampling import Given, sample_steps
from artart.generation.interpolate import places
from artart.io.images import grid, save, to_model
from artart.io.page import Table
from artart.io.provenance import ImageProvenance
from benchmarks.records import Record, Records

ENLARGED = 2
ROWS = 5


def sample(loaded: Loaded, sampler: Sampler, y: Tensor, seed: int = 0, guidance: float = 1.5) -> list[Tensor]:
    """Yield x_t (B, 3, S, S) after each step; image k has the seed `seed + k`."""
    seeds = range(seed, seed + len(y))
    with torch.inference_mode():
        return [step.x_t for step in sample_steps(loaded.net, loaded.process, sampler, y, seeds, Guidance(guidance))]


def noising(loaded: Loaded) -> list[Tensor]:
    """Demo art of three classes at nine noise levels."""
    size = loaded.config["image_size"]
    rows = []
    for name in ("iconography", "painting", "sculpture"):
        x0 = to_model(torch.from_numpy(demo.paint(name, 1, size)).permute(2, 0, 1)).repeat(9, 1, 1, 1)
        eps = torch.randn(x0[0].shape, generator=torch.Generator().manual_seed(0)).expand_as(x0)
        rows.append(loaded.process.schedule.add_noise(x0, eps, torch.linspace(0, 1, 9)).x_t)
    return rows


def between(loaded: Loaded, names: Sequence[str], num: int = 16) -> list[Tensor]:
    """Interpolation between seeds, one row for each class."""
    rows = []
    for name in names:
        y = torch.full((num, 1), loaded.label_names["class"].index(name))
        with torch.inference_mode():
            *_, step = sample_steps(loaded.net, loaded.process, Heun(30), y, [*places([1, 2, 3], num)], Guidance(1.5))
        rows.append(step.x_t)
    return rows


def varied(loaded: Loaded, name: str, seed: int, num: int = 7) -> list[Tensor]:
    """A sample and variations of it, one row for each strength."""
    y, rows = torch.full((num, 1), loaded.label_names["class"].index(name)), []
    x0 = sample(loaded, Heun(30), y[:1], seed)[-1]
    for strength in (0.3, 0.5, 0.7, 0.9):
        given = Given(x0.expand(num, -1, -1, -1), (strength,))
        with torch.inference_mode():
            *_, step = sample_steps(loaded.net, loaded.process, Heun(30), y, range(num), Guidance(1.5), given)
        rows.append(torch.cat([x0, step.x_t]))
    return rows


def options(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path)
    which.add_argument("--watercolours", type=Path)


def tables(records: list[Record]) -> list[Table]:
    return []


def run(args: Namespace, records: Records) -> None:
    loaded, out = load(args.checkpoint or args.watercolours), args.figures[-1]
    classes = torch.arange(len(loaded.label_names["class"]))

    def write(rows: Sequence[Tensor], name: str) -> None:
        large = grid(rows).repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)
        experiment = "quickstart_diffusion" if args.checkpoint else "denoise"
        save(large, out / f"{name}.png", ImageProvenance("trained", {"experiment": experiment}))

    if args.watercolours:
        write([sample(loaded, Heun(30), classes, seed=len(classes) * k)[-1] for k in range(ROWS)], "watercolours")
        write(between(loaded, ("malus", "prunus", "citrus")), "between")
        write(varied(loaded, "malus", seed=9), "varied")
        return
    write(noising(loaded), "noising")
    write(
        [sample(loaded, Heun(30), classes[k].repeat(10), 10 * k)[-1] for k in classes.tolist()], "quickstart_diffusion"
    )
    steps = sample(loaded, Heun(30), classes, seed=3)
    moments = [0, 6, 10, 14, 17, 20, 23, 26, 29]
    write([torch.stack([steps[m][k] for m in moments]) for k in classes.tolist()], "trajectory")
    y = classes.repeat_interleave(2)
    write([sample(loaded, DDIM(num), y, seed=20)[-1] for num in (2, 5, 10, 20, 50)], "steps")
    write(
        [sample(loaded, Heun(30), y, seed=20, guidance=weight)[-1] for weight in (0.0, 1.0, 1.5, 3.0, 6.0)], "guidance"
    )
