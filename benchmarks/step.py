"""Time of a training step: published code, peers, and artart's variants.

    python -m benchmarks step --image-size 128 --batch-size 32 --rounds 5
    python -m benchmarks step --of diffusion --image-size 64 --batch-size 256 --rounds 5

--of article: the article's network and VGG-16 as published. --of diffusion: denoising-diffusion-pytorch and a loop as
in diffusers' example, each with its own U-Net of about 27 million parameters, model=unet_tiny enlarged to that size,
and model=unet. The peers come from PyPI (peers.py).

Each variant runs once per round, in a process of its own, so that allocations of one do not affect the others. Prints
medians: milliseconds and CPU milliseconds of a step, images per second, TFLOP/s and their share of what a matrix
product reaches here in the same precision, and the peak of memory (of the GPU, else of the process). VGG-16 has random
filters, which take the same time.
"""

import resource
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from artart.io.allocator import keep_freed_memory
from artart.io.page import Table
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.models.unet import UNet
from benchmarks.article import LEARNING_RATE, PublishedModel, our_loss, published_loss
from benchmarks.contenders import CONTENDERS
from benchmarks.harness import in_own_process
from benchmarks.records import Record, Records, grouped, median, table


class Variant(NamedTuple):
    """A variant of the step."""

    contender: str = ""  # whose diffusion it is; empty: the article's step
    unet: bool = False  # model=unet instead of the contender's network
    published: bool = False
    keep_memory: bool = True
    channels_last: bool = True
    bf16: bool = False
    compile: bool = False
    cache_targets: bool = False
    crop: float = 1.0  # share of the side that VGG-16 sees


ARTICLE = {
    "as published": Variant(published=True, keep_memory=False, channels_last=False),
    "as published, freed memory kept": Variant(published=True, channels_last=False),
    "ours, contiguous": Variant(channels_last=False),
    "ours, freed memory not kept": Variant(keep_memory=False),
    "ours": Variant(),
    "ours, compiled": Variant(compile=True),
    "ours, targets cached": Variant(cache_targets=True),
    "ours, perceptual term of crops": Variant(crop=0.5),
    "ours, bf16": Variant(bf16=True),
    "ours, bf16, targets cached": Variant(bf16=True, cache_targets=True),
    "ours, bf16, targets cached, compiled": Variant(bf16=True, cache_targets=True, compile=True),
}
AS_THEY_DO = {"keep_memory": False, "channels_last": False}
DIFFUSION = {
    "diffusers": Variant("diffusers", **AS_THEY_DO),
    "diffusers, bf16": Variant("diffusers", bf16=True, **AS_THEY_DO),
    "denoising-diffusion-pytorch": Variant("denoising-diffusion-pytorch", **AS_THEY_DO),
    "denoising-diffusion-pytorch, bf16": Variant("denoising-diffusion-pytorch", bf16=True, **AS_THEY_DO),
    "ours": Variant("artart"),
    "ours, bf16": Variant("artart", bf16=True),
    "ours, bf16, contiguous": Variant("artart", bf16=True, channels_last=False),
    "ours, bf16, compiled": Variant("artart", bf16=True, compile=True),
    "model=unet": Variant("artart", unet=True),
    "model=unet, bf16": Variant("artart", unet=True, bf16=True),
    "model=unet, bf16, compiled": Variant("artart", unet=True, bf16=True, compile=True),
}
VARIANTS = ARTICLE | DIFFUSION
SCALE = 3  # of the contenders' networks: about 27 million parameters
COLUMNS = {
    "ms": "ms",
    "cpu_ms": "CPU ms",
    "per_second": "images/s",
    "gain": "x first",
    "tflops": "TFLOP/s",
    "of_matmul": "share of matmul",
    "gib": "GiB",
    "warm_up": "warm-up s",
}
VARIANT = "of"
FREE = ("variants",)
QUICK = {"image_size": 32, "batch_size": 2, "steps": 1, "rounds": 1, "variants": ["as published", "ours"]}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDE_OF_MATMUL = 8192 if DEVICE.type == "cuda" else 2048


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], num: int) -> tuple[float, float]:
    """Wall and CPU seconds of a call, mean of several."""
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num):
        work()
    synchronize()
    return (time.perf_counter() - wall) / num, (time.process_time() - cpu) / num


def parts(variant: Variant, size: int) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    """A network, and the loss of images (B, 3, S, S)."""
    if variant.contender:
        contender, generator = CONTENDERS[variant.contender](size), torch.Generator(DEVICE).manual_seed(0)
        net = UNet(size) if variant.unet else contender.network(SCALE)
        return net.to(DEVICE), lambda net, x0: contender.loss(net, x0, generator)
    net = (PublishedModel if variant.published else ConvDiffusionModel)(size).to(DEVICE)
    if variant.published:
        return net, partial(published_loss, weights="random")
    return net, our_loss("random", crop=variant.crop, cache_targets=variant.cache_targets)


def measure(variant: Variant, size: int, batch_size: int, num_steps: int) -> dict[str, float]:
    """Measure a variant in a process that does nothing else."""
    if variant.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    x0 = 2 * torch.rand(batch_size, 3, size, size, device=DEVICE) - 1
    net, loss = parts(variant, size)
    if variant.channels_last:
        net.to(memory_format=torch.channels_last)
        x0 = x0.contiguous(memory_format=torch.channels_last)
    fused = DEVICE.type == "cuda" and variant.channels_last  # as artart.train; not what is published
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16) if variant.bf16 else nullcontext():
            value = loss(net, x0)
        value.backward()
        optimizer.step()

    step()  # after which targets are known
    with FlopCounterMode(display=False) as counter:
        step()
    if variant.compile:
        loss = torch.compile(loss, dynamic=False)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step()
    step()
    synchronize()
    warm_up = time.perf_counter() - started
    wall, cpu = seconds_of(step, num_steps)
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _peak_of_process()
    ceiling = peak_of_matmul(torch.bfloat16 if variant.bf16 else torch.float32)
    flops = counter.get_total_flops()
    return {
        "ms": 1000 * wall,
        "cpu_ms": 1000 * cpu,
        "per_second": batch_size / wall,
        "tflops": flops / wall / 1e12,
        "of_matmul": flops / wall / ceiling,
        "gib": peak / 2**30,
        "warm_up": warm_up,
    }


def _peak_of_process() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_of_matmul(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, in the precision of convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    num = SIDE_OF_MATMUL
    a, b = (torch.randn(num, num, device=DEVICE, dtype=dtype) for _ in range(2))
    product = partial(torch.matmul, a, b)
    product()
    return 2 * num**3 / min(seconds_of(product, 3)[0] for _ in range(3))


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--of", choices=["article", "diffusion"], default="article")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, help="default: all of these")


def run(args: Namespace, records: Records) -> None:
    names = args.variants or list(ARTICLE if args.of == "article" else DIFFUSION)
    sizes = args.image_size, args.batch_size, args.steps
    records.rounds(names, args.rounds, lambda name: in_own_process(measure, VARIANTS[name], *sizes))


def tables(records: list[Record]) -> list[Table]:
    base = statistics.median(record["ms"] for record in next(iter(grouped(records, "row").values())))
    shown = ({**record, "gain": base / record["ms"]} for record in records)
    return [table("medians", shown, COLUMNS, middle=median)]
