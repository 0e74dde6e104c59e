"""Overfit the denoiser on eight images, each with its own label, and check that samples reproduce them.

    python -m benchmarks overfit --root ~/art

Trains on one image of each of eight classes, generates samples of each label with the raw weights and with the EMA,
and prints for both: how many samples are near-duplicates (nearest distance below a third of the second nearest), how
many images were found, how many samples are nearest to their label's image, and the energy at the Nyquist frequencies
relative to that of the images, which a checkerboard increases.
"""

from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from artart.data.find import find_all
from artart.data.scan import examine_all
from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.samplers import Heun
from artart.diffusion.sampling import sample_steps
from artart.diffusion.schedule import Flow
from artart.io.images import Batch, grid, save, to_model
from artart.io.page import Table
from artart.io.provenance import ImageProvenance
from artart.io.terminal import progress_bar
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum
from artart.training.callbacks.ema import EMA
from artart.training.lr_schedules import cosine
from benchmarks.records import Record, Records, table

NUM_IMAGES = 8
SIZE = 32
FREE = ("seed",)
QUICK = {"steps": 2}
COLUMNS = {
    "near_duplicates": "near-duplicates",
    "found": "images found",
    "right": "label right",
    "energy": "Nyquist energy, samples / images",
}


def images(root: Path) -> Tensor:
    """One image of each of the first eight sub-folders, (8, 3, S, S)."""
    folders = islice(sorted(folder for folder in root.iterdir() if folder.is_dir()), NUM_IMAGES)
    files = [find_all(folder).images[0] for folder in folders]
    pixels = [torch.tensor(one.pixels) for one in examine_all(files, SIZE, "stretch")]
    return to_model(torch.stack(pixels).permute(0, 3, 1, 2))


def nyquist_energy(images: Tensor) -> float:
    """Mean energy of (B, C, S, S) at the highest frequency of either axis."""
    spectrum = torch.fft.fft2(images).abs().square()
    half = images.shape[-1] // 2
    return ((spectrum[..., half, :].mean() + spectrum[..., :, half].mean()) / 2).item()


def train(x0: Tensor, steps: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """Train; return the network and its EMA."""
    torch.manual_seed(seed)
    net = ConvDiffusionModel(SIZE, num_classes=len(x0), conditioned=True).to(memory_format=torch.channels_last)
    ema, decay = EMA(), 0.0
    average = AveragedModel(net, multi_avg_fn=lambda *weights: get_ema_multi_avg_fn(decay)(*weights))
    objective, generator = make_objective(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = cosine(optimizer, steps)["scheduler"]
    y = torch.arange(len(x0)).repeat(8)
    with progress_bar() as bar:
        for step in bar.track(range(1, steps + 1), description="training"):
            loss = objective(net, Batch(x0[y], y[:, None]), generator)["loss"].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            decay = ema.decay_at(step * len(y), len(y))
            average.update_parameters(net)
    return net.eval(), average.module.eval()


def make_objective() -> Diffusion:
    return Diffusion(WeightedSum({"mse": 1.0}, mse=MSE("model")), Flow(), LogitNormal(SIZE), class_dropout_prob=0.0)


def measure(samples: Tensor, y: Tensor, x0: Tensor) -> dict[str, Any]:
    distances = torch.cdist(samples.flatten(1), x0.flatten(1))
    (nearest, second), found = distances.sort(dim=1).values[:, :2].T, distances.argmin(dim=1)
    return {
        "near_duplicates": (nearest / second < 1 / 3).double().mean().item(),
        "found": len(found.unique()),
        "right": (found == y).double().mean().item(),
        "energy": nyquist_energy(samples) / nyquist_energy(x0),
    }


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(threads=1)


def run(args: Namespace, records: Records) -> None:
    x0 = images(args.root)
    y = torch.arange(len(x0)).repeat_interleave(8)
    for name, net in zip(("raw", "EMA"), train(x0, args.steps, args.seed), strict=True):
        with torch.inference_mode():
            *_, last = sample_steps(net, make_objective(), Heun(2 if args.quick else 50), y, range(len(y)))
        records.once({"row": name, "seed": args.seed}, measure, last.x_t, y, x0)
        rows = [torch.cat([x0[k : k + 1], last.x_t[y == k]]) for k in range(len(x0))]
        save(grid(rows), args.out / f"{name}.png", ImageProvenance("composite", {"steps": args.steps}))


def tables(records: list[Record]) -> list[Table]:
    return [table("weights", records, COLUMNS)]
