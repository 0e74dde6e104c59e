"""The article's training loop as published, compared with artart's: same images, same batches, same seed.

    python -m benchmarks article --root ~/art --vgg vgg16.pth --weights ~/weights

Prints PSNR, SSIM and LPIPS of the images that each loop would save for held-out art, after equal steps and after equal
CPU seconds (those that the published loop takes for its steps), and PSNR with the bottleneck set to zero. Grids in
--out: inputs above, outputs below.
"""

import copy
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from artart.data.datamodule import ArtDataModule
from artart.features.alexnet import lpips_alex
from artart.features.pretrained import IMAGENET_MEAN, IMAGENET_STD, imagenet_units
from artart.features.vgg import vgg16
from artart.io.allocator import keep_freed_memory
from artart.io.images import Batch, grid, save
from artart.io.page import Table
from artart.io.provenance import ImageProvenance
from artart.metrics.pixel import psnr, ssim
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.objectives.losses import MSE, Perceptual, WeightedSum
from artart.objectives.reconstruction import Reconstruction
from benchmarks.records import Record, Records, grouped, slug, table

LEARNING_RATE = 1e-3
PUBLISHED = "as published"
FREE = ("seed", "variants")
QUICK = {"vgg": "random", "image_size": 64, "batch_size": 4, "steps": 1, "variants": ["perceptual weight 0"]}
COLUMNS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS-Alex",
    "zeroed": "PSNR, bottleneck zeroed",
    "steps": "steps",
    "seconds": "CPU s",
}

StepLoss = Callable[[nn.Module, Tensor], Tensor]


class PublishedModel(ConvDiffusionModel):
    """The network as published: its sigmoid ends in [0, 1]."""

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        return (super().forward(x) + 1) / 2


@cache
def published_vgg(weights: str, device: torch.device) -> nn.Module:
    """VGG-16 in the article's memory format (contiguous)."""
    return copy.deepcopy(vgg16(weights).net).to(device).to(memory_format=torch.contiguous_format)


def published_loss(net: nn.Module, x0: Tensor, weights: str) -> Tensor:
    """The loss as published: the target is normalized, the output is not, and VGG-16 gets both unchanged."""
    features, target = published_vgg(weights, x0.device), imagenet_units(x0)
    output = net(target)
    return F.mse_loss(output, target) + F.mse_loss(features(output), features(target))


def published_image(net: nn.Module, x0: Tensor) -> Tensor:
    """The published denormalization of an output that was never normalized; in [-1, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 2 * (net(imagenet_units(x0)) * std + mean).clamp(0, 1) - 1


def our_loss(weights: str, perceptual: float = 1.0, crop: float = 1.0, cache_targets: bool = False) -> StepLoss:
    """The repaired hybrid loss with a given weight of the perceptual term."""
    term = Perceptual(weights, crop, cache_targets)
    loss = WeightedSum({"mse": 1.0, "perceptual": perceptual}, mse=MSE("imagenet"), perceptual=term)
    objective = Reconstruction(loss)
    return lambda net, x0: objective(net, Batch(x0, torch.zeros(len(x0))), torch.default_generator)["loss"].mean()


def on_a_part(weights: str) -> StepLoss:
    """The perceptual term on a quarter of the batch."""
    term, mse = Perceptual(weights), MSE("imagenet")

    def loss(net: nn.Module, x0: Tensor) -> Tensor:
        x0_hat, few = net(x0), slice(max(1, len(x0) // 4))
        return mse(x0_hat, x0).mean() + term(x0_hat[few], x0[few]).mean()

    return loss


def our_image(net: nn.Module, x0: Tensor) -> Tensor:
    return net(x0)


class Variant(NamedTuple):
    """A training variant."""

    model: type[ConvDiffusionModel]
    loss: StepLoss
    image: Callable[[nn.Module, Tensor], Tensor]
    bottleneck: bool = True  # whether the deepest features are used at all


def variants(weights: str) -> dict[str, Variant]:
    def ours(loss: StepLoss, bottleneck: bool = True) -> Variant:
        return Variant(ConvDiffusionModel, loss, our_image, bottleneck)

    published = partial(published_loss, weights=weights)
    return {
        PUBLISHED: Variant(PublishedModel, published, published_image),
        "repaired": ours(our_loss(weights)),
        "perceptual weight 0": ours(our_loss(weights, 0.0)),
        "perceptual weight 0.1": ours(our_loss(weights, 0.1)),
        "perceptual term of a quarter of the batch": ours(on_a_part(weights)),
        "perceptual term of random crops": ours(our_loss(weights, crop=0.5)),
        "trained without the bottleneck": ours(our_loss(weights), bottleneck=False),
    }


def batches(data: ArtDataModule) -> Iterator[Tensor]:
    """Yield the same images in the same order for every variant, in [-1, 1]."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            yield batch.x0
        epoch += 1


class Trainee:
    """A network in training."""

    def __init__(self, name: str, variant: Variant, data: ArtDataModule, args: Namespace) -> None:
        torch.manual_seed(args.seed)
        self.name, self.variant, self.data, self.weights = name, variant, data, args.weights
        self.net = variant.model(data.image_size)
        if variant.model is ConvDiffusionModel:
            self.net.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE)
        if not variant.bottleneck:
            zero_bottleneck(self.net)  # for good
        self.batches = batches(data)
        self.seed, self.steps, self.seconds = 1_000_003 * args.seed, 0, 0.0

    def step(self) -> None:
        x0, before = next(self.batches), time.process_time()
        torch.manual_seed(self.seed + self.steps)  # of the place of crops, as training sets it in each step
        self.optimizer.zero_grad()
        self.variant.loss(self.net, x0).backward()
        self.optimizer.step()
        self.steps += 1
        self.seconds += time.process_time() - before

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        self.net.eval()
        batches = list(self.data.val_dataloader())
        scores = [self._scores(batch.x0) for batch in batches]
        hook = zero_bottleneck(self.net)
        zeroed = torch.cat([psnr(self.variant.image(self.net, batch.x0), batch.x0) for batch in batches])
        hook.remove()
        self.net.train()
        means = (torch.cat(values).mean().item() for values in zip(*scores, strict=True))
        found = dict(zip(("psnr", "ssim", "lpips_alex"), means, strict=True))
        return {**found, "zeroed": zeroed.mean().item(), "steps": self.steps, "seconds": self.seconds}

    def _scores(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0_hat = self.variant.image(self.net, x0)
        return psnr(x0_hat, x0), ssim(x0_hat, x0), lpips_alex(x0_hat, x0, self.weights)

    @torch.no_grad()
    def draw(self, path: Path) -> None:
        self.net.eval()
        x0 = next(iter(self.data.val_dataloader())).x0[:8]
        save(grid([x0, self.variant.image(self.net, x0)]), path, ImageProvenance("composite", {"steps": self.steps}))
        self.net.train()


def zero_bottleneck(net: ConvDiffusionModel) -> RemovableHandle:
    """Set the features of the bottleneck to zero until the handle is removed."""
    # of the block's last layer: the network calls layers, not blocks
    return net.enc3[-1].register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output))


def out_of_reach(data: ArtDataModule) -> float:
    """Fraction of the published loop's target values that a sigmoid cannot reach."""
    target = imagenet_units(torch.cat([batch.x0 for batch in data.val_dataloader()]))
    return ((target < 0) | (target > 1)).float().mean().item()


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="a folder of images (default: demo art)")
    parser.add_argument("--vgg", default="auto", help="auto, imagenet, random or a file with VGG-16's weights")
    parser.add_argument("--weights", default="auto", help="of LPIPS: auto, or a folder")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="*", choices=variants("random"), help="after the published one; else all")
    parser.set_defaults(device="cpu")


def run(args: Namespace, records: Records) -> None:
    keep_freed_memory()
    published_vgg(args.vgg, torch.device("cpu"))  # reading it is no part of a step
    data = ArtDataModule(args.root, image_size=args.image_size, batch_size=args.batch_size, seed=args.seed)
    data.load()
    of_variants = variants(args.vgg)
    names = [name for name in of_variants if name == PUBLISHED or name in (args.variants or [name])]
    seconds = 0.0

    def after(trainee: Trainee, steps: int, seconds: float) -> dict[str, float]:
        print(f"{trainee.name}: {steps} steps, {seconds:.0f} s", flush=True)
        while trainee.steps < steps or trainee.seconds < seconds:
            trainee.step()
        return trainee.measure()

    for name in names:
        key, trainee = {"row": name, "seed": args.seed}, Trainee(name, of_variants[name], data, args)
        found = records.once({**key, "after": "steps"}, after, trainee, args.steps, 0)
        seconds = seconds or found["seconds"]
        records.once({**key, "after": "seconds"}, after, trainee, 0, seconds)
        if trainee.steps:
            trainee.draw(args.out / f"{slug(name)}.png")
    print(f"target values beyond the published sigmoid's reach: {out_of_reach(data):.0%}; {vgg16(args.vgg).origin}")


def tables(records: list[Record]) -> list[Table]:
    groups = grouped(records, "after")
    return [table(f"after equal {name}", own, COLUMNS) for name, own in groups.items()]
