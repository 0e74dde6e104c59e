"""The article's training loop as published, beside ours: same pictures, same batches, same seed, same number of steps.

    python benchmarks/article.py --root ~/art --weights vgg16.pth

Prints the PSNR of the pictures that each would save for art left out of training, and what the network's bottleneck is
worth: PSNR once more with the deepest features set to zero.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from artart.data.datamodule import ArtDataModule
from artart.images import Batch
from artart.losses import IMAGENET_MEAN, IMAGENET_STD, MSE, Perceptual, WeightedSum, imagenet_units, vgg16
from artart.metrics.pixel import psnr
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.objectives import Reconstruction
from artart.terminal import progress_bar

LEARNING_RATE = 1e-3


class PublishedModel(ConvDiffusionModel):
    """The network as printed: its sigmoid ends in [0, 1]."""

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        return (super().forward(x) + 1) / 2


def published_loss(net: nn.Module, x0: Tensor, weights: str) -> Tensor:
    """As printed: the target is normalised, the output is not, and VGG sees both as they are."""
    features, target = vgg16(weights).net, imagenet_units(x0)
    output = net(target)
    return F.mse_loss(output, target) + F.mse_loss(features(output), features(target))


def published_picture(net: nn.Module, x0: Tensor) -> Tensor:
    """As printed: the normalisation is undone on an output that was never normalised; in [-1, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 2 * (net(imagenet_units(x0)) * std + mean).clamp(0, 1) - 1


def our_loss(net: nn.Module, x0: Tensor, weights: str) -> Tensor:
    loss = WeightedSum({"mse": 1.0, "perceptual": 1.0}, mse=MSE("imagenet"), perceptual=Perceptual(weights))
    return Reconstruction(loss)(net, Batch(x0, torch.zeros(len(x0))), torch.default_generator)["loss"].mean()


def our_picture(net: nn.Module, x0: Tensor) -> Tensor:
    return net(x0)


def batches(data: ArtDataModule, num_steps: int) -> Iterator[Tensor]:
    """The same pictures in the same order for everyone, in [-1, 1]."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            if num_steps == 0:
                return
            num_steps -= 1
            yield batch.x0
        epoch += 1


def train(net: nn.Module, loss: Callable[..., Tensor], data: ArtDataModule, num_steps: int, name: str) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    with progress_bar() as bar:
        for x0 in bar.track(batches(data, num_steps), total=num_steps, description=name):
            optimizer.zero_grad()
            loss(net, x0).backward()
            optimizer.step()


@torch.no_grad()
def held_out_psnr(net: nn.Module, picture: Callable[..., Tensor], data: ArtDataModule) -> float:
    """Mean PSNR in dB over the pictures left out of training."""
    net.eval()
    values = [psnr(picture(net, batch.x0), batch.x0) for batch in data.val_dataloader()]
    return torch.cat(values).mean().item()


def zeroed_psnr(net: ConvDiffusionModel, picture: Callable[..., Tensor], data: ArtDataModule) -> float:
    """The same with the 256 channels of the bottleneck set to zero."""
    hook = net.enc3.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    try:
        return held_out_psnr(net, picture, data)
    finally:
        hook.remove()


def out_of_reach(data: ArtDataModule) -> float:
    """Share of the published loop's target values that a sigmoid cannot give."""
    target = imagenet_units(torch.cat([batch.x0 for batch in data.val_dataloader()]))
    return ((target < 0) | (target > 1)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder of pictures (default: demo art)")
    parser.add_argument("--weights", default="auto", help="auto, imagenet, random or a file with VGG-16's weights")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    data = ArtDataModule(
        arguments.root, image_size=arguments.image_size, batch_size=arguments.batch_size, seed=arguments.seed
    )
    with TemporaryDirectory() as folder:
        data.load(Path(folder))
    table = Table("loop", "held-out PSNR (dB)", "bottleneck zeroed", title=f"after {arguments.steps} steps")
    variants = (
        ("as published", PublishedModel, published_loss, published_picture),
        ("repaired", ConvDiffusionModel, our_loss, our_picture),
    )
    for name, model, loss, picture in variants:
        torch.manual_seed(arguments.seed)
        net = model(arguments.image_size).to(memory_format=torch.channels_last)
        train(net, partial(loss, weights=arguments.weights), data, arguments.steps, name)
        table.add_row(name, f"{held_out_psnr(net, picture, data):.2f}", f"{zeroed_psnr(net, picture, data):.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"pictures: {len(data.train_ids)} for training, {len(data.val_ids)} held out; {vgg16(arguments.weights).origin}"
    )
    console.print(f"target values beyond the published sigmoid's reach: {100 * out_of_reach(data):.0f} %")


if __name__ == "__main__":
    main()
