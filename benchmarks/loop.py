"""A plain training loop for contenders, each with the same recipe or its own, that ends after steps or seconds."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from artart.data.loader import Loader
from artart.io.images import Batch, to_pixels
from artart.io.terminal import progress_bar
from artart.training.lr_schedules import cosine
from benchmarks.contender import Average, Contender
from benchmarks.contender_artart import ArtartAverage, tiny

EQUAL_LR, EQUAL_BATCH_SIZE = 1e-3, 16
SAMPLED_AT_ONCE = 64


class Clock:
    """Progress of a run that ends after a number of steps or of seconds: of the CPU, with a GPU of wall time."""

    def __init__(self, device: torch.device, steps: int | None = None, seconds: float | None = None) -> None:
        self.device, self.steps, self.allowed = device, steps, seconds
        self.step, self.started = 0, self.now()

    def now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a block."""
        before = self.now()
        yield
        self.started += self.now() - before

    @property
    def seconds(self) -> float:
        return self.now() - self.started

    def share(self) -> float:
        """Elapsed fraction, 0 to 1."""
        if self.steps is not None:
            return self.step / self.steps
        assert self.allowed is not None
        return self.seconds / self.allowed


class Recipe(NamedTuple):
    """Optimizer, schedule, batch size, flips and EMA around an objective."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: Any
    batch_size: int
    random_flip: bool


def equal_recipe(contender: Contender, clock: Clock, args: Namespace) -> Recipe:
    """The same recipe for all contenders."""
    assert clock.steps is not None
    net = contender.stand_in(tiny(args.image_size)).to(args.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=EQUAL_LR, betas=(0.9, 0.999), weight_decay=0.01)
    schedule = cosine(optimizer, clock.steps)["scheduler"]
    return Recipe(net, optimizer, schedule, ArtartAverage(net), EQUAL_BATCH_SIZE, random_flip=False)


def own_recipe(contender: Contender, clock: Clock, args: Namespace, rate: float) -> Recipe:
    """A contender's own, with `rate` times its learning rate."""
    net = contender.network().to(args.device).to(memory_format=torch.channels_last)
    optimizer = contender.optimizer(net.parameters(), rate * contender.lr)
    schedule = contender.schedule(optimizer, clock.share)
    return Recipe(net, optimizer, schedule, contender.average(net), contender.batch_size, contender.random_flip)


def batches(pixels: Tensor, recipe: Recipe, seed: int, device: torch.device) -> Iterator[Batch]:
    """Endless batches; with fewer images than a batch, images repeat within it."""
    ids = torch.arange(len(pixels)).repeat(max(1, recipe.batch_size // len(pixels)))
    labels, flip = torch.zeros_like(ids), recipe.random_flip
    loader = Loader(pixels, labels, ids, recipe.batch_size, seed=seed, device=device, shuffle=True, random_flip=flip)
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def autocast(args: Namespace) -> torch.autocast:
    return torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16")


def train(
    contender: Contender,
    recipe: Recipe,
    clock: Clock,
    pixels: Tensor,
    seed: int,
    args: Namespace,
    is_done: Callable[[Average], bool] = lambda average: False,
) -> tuple[nn.Module, dict[str, float]]:
    """Train; return the averaged network and a record. `is_done` is asked after each step."""
    generator = Generator(args.device).manual_seed(seed)
    stream, losses = batches(pixels, recipe, seed, args.device), torch.zeros((), device=args.device)
    clock.started = clock.now()
    with progress_bar() as bar:
        task = bar.add_task(f"{contender.package}, seed {seed}", total=1.0)
        while clock.share() < 1:
            with autocast(args):
                loss = contender.loss(recipe.net, next(stream).x0, generator)
            recipe.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(recipe.net.parameters(), 1.0)
            recipe.optimizer.step()
            recipe.schedule.step()
            clock.step += 1
            recipe.average.update(clock.step * recipe.batch_size, recipe.batch_size)
            losses = torch.lerp(losses, loss.detach().float(), max(0.01, 1 / clock.step))
            bar.update(task, completed=clock.share())
            if is_done(recipe.average):
                break
    seen, seconds = clock.step * recipe.batch_size, clock.seconds
    facts = {"images": seen, "train_seconds": seconds, "train_per_second": seen / seconds, "loss": losses.item()}
    return recipe.average.net.eval(), facts | {"parameters": sum(p.numel() for p in recipe.net.parameters())}


@torch.inference_mode()
def draw(contender: Contender, net: nn.Module, seed: int, args: Namespace) -> tuple[Tensor, dict[str, float]]:
    """Generate samples, uint8 (N, 3, S, S), and a record of it."""
    calls, made, clock = list[int](), list[Tensor](), Clock(args.device, 1)
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    for start in range(0, args.num_samples, SAMPLED_AT_ONCE):
        num = min(SAMPLED_AT_ONCE, args.num_samples - start)
        with autocast(args):
            made.append(contender.sample(net, num, 1_000_000 * (seed + 1) + start, args.evaluations, args.device))
    hook.remove()
    x = torch.cat(made).float()
    broken = int((~x.isfinite()).flatten(1).any(dim=1).sum())  # shown grey
    speed, evaluations = args.num_samples / clock.seconds, len(calls) // len(made)
    facts = {"sample_per_second": speed, "evaluations": evaluations, "broken": broken}
    return to_pixels(x.nan_to_num(0.0)).cpu(), facts
