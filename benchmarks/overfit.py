"""Overfit the denoiser on eight images, each with its own label, and check that samples reproduce them.

    python benchmarks/overfit.py --root ~/art

Trains on one image of each of eight classes, generates samples of each label with the raw weights and with the EMA,
and prints for both: how many samples are near-duplicates (nearest distance below a third of the second nearest), how
many images were found, how many samples are nearest to their label's image, and the energy at the Nyquist frequencies
relative to that of the images, which a checkerboard increases.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from artart.data.find import find_all
from artart.data.scan import examine_all
from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.samplers import Heun
from artart.diffusion.sampling import sample_steps
from artart.diffusion.schedule import Flow
from artart.io.images import Batch, grid, save, to_model
from artart.io.provenance import ImageProvenance
from artart.io.terminal import progress_bar
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum
from artart.training.callbacks.ema import EMA
from artart.training.lr_schedules import cosine

NUM_IMAGES = 8
SIZE = 32


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
    net = ConvDiffusionModel(SIZE, num_classes=NUM_IMAGES, conditioned=True).to(memory_format=torch.channels_last)
    ema, decay = EMA(), 0.0
    average = AveragedModel(net, multi_avg_fn=lambda *weights: get_ema_multi_avg_fn(decay)(*weights))
    objective, generator = make_objective(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = cosine(optimizer, steps)["scheduler"]
    y = torch.arange(NUM_IMAGES).repeat(8)
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


def report(name: str, samples: Tensor, y: Tensor, x0: Tensor) -> list[str]:
    """A row of the table."""
    distances = torch.cdist(samples.flatten(1), x0.flatten(1))
    (nearest, second), found = distances.sort(dim=1).values[:, :2].T, distances.argmin(dim=1)
    ratio = nyquist_energy(samples) / nyquist_energy(x0)
    shares = (nearest / second < 1 / 3).float().mean(), (found == y).float().mean()
    return [name, f"{shares[0]:.1%}", f"{len(found.unique())} of {len(x0)}", f"{shares[1]:.1%}", f"{ratio:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/overfit"))
    args = parser.parse_args()
    x0 = images(args.root)
    y = torch.arange(NUM_IMAGES).repeat_interleave(8)
    table = Table("weights", "near-duplicates", "images found", "label right", "Nyquist energy, samples / images")
    for name, net in zip(("of training", "average"), train(x0, args.steps, args.seed), strict=True):
        with torch.inference_mode():
            *_, last = sample_steps(net, make_objective(), Heun(50), y, range(len(y)))
        table.add_row(*report(name, last.x_t, y, x0))
        rows = [torch.cat([x0[k : k + 1], last.x_t[y == k]]) for k in range(NUM_IMAGES)]
        save(
            grid(rows), args.out / f"{name.replace(' ', '_')}.png", ImageProvenance("composite", {"steps": args.steps})
        )
    Console().print(table)


if __name__ == "__main__":
    main()
