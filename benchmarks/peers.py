"""Compare artart's diffusion with denoising-diffusion-pytorch and a loop as in diffusers' example, on the same images.

    python benchmarks/peers.py --comparison equal --root ~/art --weights ~/weights --precision bf16
    python benchmarks/peers.py --comparison own --root ~/art --weights ~/weights --minutes 10

equal: one network, the same initial weights, order of images, optimizer, learning rates, EMA and number of images; only
objective and sampler are those of each package, with its defaults.
own: each with its own network of about 3 million parameters, optimizer, learning-rate schedule, batch size, flips and
EMA, for equal seconds, at a third, once and three times its default learning rate; the rate with the lowest mean KID
counts.

No classes. Samples are generated with EMA weights and about equal numbers of network evaluations. Prints images per
second, KID to held-out art (AlexNet relu5), the distance of power spectra and three memorization rates: means and
standard deviations over seeds. Seconds are CPU seconds of the process (one thread), on a GPU wall time.

Each run leaves a JSON file and a grid under --out, and existing ones are not computed again: several processes can
share the work by --only, --seed and --rates. The table is made of the runs that are there. The peers are not
dependencies of artart:

    pip install denoising-diffusion-pytorch diffusers
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from contenders import CONTENDERS, ArtartAverage, Contender, tiny
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor, nn

from artart.data.datamodule import ArtDataModule
from artart.data.loader import Loader
from artart.evaluation.samples import features, known_features
from artart.io.allocator import keep_freed_memory
from artart.io.files import write_json
from artart.io.images import Batch, grid, save, to_model, to_pixels
from artart.io.provenance import ImageProvenance
from artart.io.terminal import progress_bar
from artart.metrics.distances import kernel_distance
from artart.metrics.memorization import CRITERIA, MemorizationTest
from artart.metrics.spectrum import radial_power, spectral_distance
from artart.training.lr_schedules import cosine

RATES = (1 / 3, 1.0, 3.0)  # times the default learning rate
EQUAL_LR, EQUAL_BATCH_SIZE = 1e-3, 16
SAMPLED_AT_ONCE = 64
COLUMNS = {
    "train_per_second": "training images/s",
    "sample_per_second": "samples/s",
    "images_seen": "images seen",
    "kid_alexnet": "KID",
    "spectrum_db": "spectrum dB",
    **{name: name.replace("_", " ") for name in CRITERIA},
}


class Job(NamedTuple):
    """One run."""

    name: str
    seed: int
    rate: float  # times the default learning rate

    @property
    def file(self) -> str:
        return f"{self.name}_seed_{self.seed}_rate_{self.rate:.2f}.json"


class Clock:
    """Progress of a run that ends after a number of steps or of seconds."""

    def __init__(self, device: torch.device, steps: int | None = None, seconds: float | None = None) -> None:
        self.device, self.steps, self.allowed = device, steps, seconds
        self.step, self.started = 0, self.now()

    def now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

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


def equal_recipe(contender: Contender, clock: Clock, args: argparse.Namespace) -> Recipe:
    """The same recipe for all contenders."""
    assert clock.steps is not None
    net = contender.stand_in(tiny(args.image_size)).to(args.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=EQUAL_LR, betas=(0.9, 0.999), weight_decay=0.01)
    schedule = cosine(optimizer, clock.steps)["scheduler"]
    return Recipe(net, optimizer, schedule, ArtartAverage(net), EQUAL_BATCH_SIZE, args.random_flip)


def own_recipe(contender: Contender, clock: Clock, args: argparse.Namespace, rate: float) -> Recipe:
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


def autocast(args: argparse.Namespace) -> torch.autocast:
    return torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16")


def train(
    contender: Contender, job: Job, pixels: Tensor, args: argparse.Namespace
) -> tuple[nn.Module, dict[str, float]]:
    """Train; return the averaged network and a record of the training."""
    torch.manual_seed(job.seed)
    generator = Generator(args.device).manual_seed(job.seed)
    is_equal = args.comparison == "equal"
    clock = Clock(args.device, args.images // EQUAL_BATCH_SIZE) if is_equal else Clock(args.device, None, args.seconds)
    recipe = equal_recipe(contender, clock, args) if is_equal else own_recipe(contender, clock, args, job.rate)
    stream, losses = batches(pixels, recipe, job.seed, args.device), torch.zeros((), device=args.device)
    clock.started = clock.now()
    with progress_bar() as bar:
        task = bar.add_task(f"{job.name}, seed {job.seed}", total=1.0)
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
    seen, seconds = clock.step * recipe.batch_size, clock.seconds
    facts = {"images_seen": seen, "train_seconds": seconds, "train_per_second": seen / seconds, "loss": losses.item()}
    return recipe.average.net.eval(), facts | {"parameters": sum(p.numel() for p in recipe.net.parameters())}


@torch.inference_mode()
def draw(contender: Contender, net: nn.Module, seed: int, args: argparse.Namespace) -> tuple[Tensor, dict[str, float]]:
    """Generate samples, uint8 (N, 3, S, S), and a record of it."""
    calls = []
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    with autocast(args):
        contender.sample(net, 2, seed, args.evaluations, args.device)
    per_sample = len(calls)
    hook.remove()
    made, clock = [], Clock(args.device, 1)
    for start in range(0, args.num_samples, SAMPLED_AT_ONCE):
        num = min(SAMPLED_AT_ONCE, args.num_samples - start)
        with autocast(args):
            made.append(contender.sample(net, num, 1_000_000 * (seed + 1) + start, args.evaluations, args.device))
    seconds = clock.seconds
    x = torch.cat(made).float()
    broken = int((~x.isfinite()).flatten(1).any(dim=1).sum())  # shown grey
    facts = {"sample_per_second": args.num_samples / seconds, "evaluations": per_sample, "broken": broken}
    return to_pixels(x.nan_to_num(0.0)).cpu(), facts


class Judge:
    """Metrics against training and held-out images."""

    def __init__(self, data: ArtDataModule, args: argparse.Namespace) -> None:
        self.args = args
        train, held_out = data.pixels_of(data.train_ids), data.pixels_of(data.val_ids)
        real = train[torch.randperm(len(train), generator=Generator().manual_seed(0))[: args.num_samples]]
        self.memorization = MemorizationTest(train, [data.images.groups[i] for i in data.train_ids], held_out)
        self.of_held_out, of_real = (known_features(x, args.weights, args.device, data) for x in (held_out, real))
        self.power = radial_power(to_model(held_out))
        self.art = self._distances(of_real, real) | self.memorization.false_alarms()
        """What as many training images would have; the copy rates are those of held-out art."""

    def _distances(self, seen: Tensor, pixels: Tensor) -> dict[str, float]:
        spectrum = spectral_distance(radial_power(to_model(pixels)), self.power)
        return {"kid_alexnet": kernel_distance(seen, self.of_held_out).value, "spectrum_db": spectrum.value}

    def __call__(self, samples: Tensor) -> dict[str, float]:
        found = self.memorization.judge(self.memorization.nearest(samples))
        rates = {name: is_copy.double().mean().item() for name, is_copy in found.items()}
        return self._distances(features(samples, self.args.weights, self.args.device), samples) | rates


def run(job: Job, data: ArtDataModule, judge: Judge, args: argparse.Namespace) -> dict[str, Any]:
    contender = CONTENDERS[job.name](args.image_size)
    pixels = data.pixels_of(data.train_ids[: args.few]).to(args.device)
    net, of_training = train(contender, job, pixels, args)
    samples, of_sampling = draw(contender, net, job.seed, args)
    details = {**job._asdict(), "comparison": args.comparison, "images_seen": of_training["images_seen"]}
    rows = [*to_model(samples[:64]).split(8)]
    save(grid(rows), args.out / job.file.replace(".json", ".png"), ImageProvenance("trained", details))
    measured = {**of_training, **of_sampling, **judge(samples)}
    return {"job": job._asdict(), "version": version(contender.package), "measured": measured, "art": judge.art}


def settings(data: ArtDataModule, args: argparse.Namespace) -> dict[str, Any]:
    """Settings that all runs of a table must share."""
    names = ["comparison", "image_size", "num_samples", "evaluations", "precision", "few"]
    names += ["images", "random_flip"] if args.comparison == "equal" else ["minutes"]
    facts = {name: getattr(args, name) for name in names}
    return facts | {"device": args.device.type, "torch": torch.__version__, "data": data.facts["sha256"]}


def known(path: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Result of an earlier run.

    Raises:
        SystemExit: if that run had other settings.
    """
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    other = {name: found["settings"].get(name) for name in expected if found["settings"].get(name) != expected[name]}
    if other:
        raise SystemExit(f"{path}: of other settings ({other}); name another folder by --out")
    return found


def jobs(args: argparse.Namespace, names: list[str], seeds: list[int], rates: list[float]) -> list[Job]:
    return [Job(name, seed, rate) for seed, name, rate in product(seeds, names, rates)]


def chosen(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Runs of a contender at the learning rate with the lowest mean KID."""
    of_rates: dict[float, list[dict[str, Any]]] = {}
    for one in runs:
        if one["job"]["name"] == name:
            of_rates.setdefault(one["job"]["rate"], []).append(one)
    means = {rate: statistics.mean(one["measured"]["kid_alexnet"] for one in own) for rate, own in of_rates.items()}
    return of_rates[min(means, key=lambda rate: means[rate])] if means else []


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{deviation}"


def report(runs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the table; write results.json."""
    table, summary = Table("", "runs", "x lr", *COLUMNS.values()), {}
    for name in CONTENDERS:
        if own := chosen(runs, name):
            columns = {key: [one["measured"][key] for one in own] for key in COLUMNS}
            table.add_row(name, str(len(own)), f"{own[0]['job']['rate']:.2f}", *map(spread, columns.values()))
            summary[name] = {"rate": own[0]["job"]["rate"], "runs": len(own), "columns": columns}
    art = runs[0]["art"]
    table.add_row("art itself", "", "", *(f"{art[key]:.4g}" if key in art else "" for key in COLUMNS))
    Console(width=max(180, Console().width)).print(table)
    content = {"settings": runs[0]["settings"], "art": art, "chosen": summary, "runs": runs}
    write_json(args.out / "results.json", content)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparison", choices=["equal", "own"], default="equal")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--val-fraction", type=float, default=0.34)
    parser.add_argument("--images", type=int, default=40000, help="to train on, with --comparison equal")
    parser.add_argument("--minutes", type=float, default=10.0, help="to train for, with --comparison own")
    parser.add_argument("--random-flip", action="store_true", help="with --comparison equal: flip half of the images")
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--evaluations", type=int, default=40, help="of the network, for a sample")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES), help="times lr, with --comparison own")
    parser.add_argument("--few", type=int, help="train on this number of images only, to test memorization")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/peers"))
    args = parser.parse_args()
    args.device = torch.device(args.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu"))
    args.seconds, args.out = 60 * args.minutes, args.out / args.comparison
    if args.comparison == "equal":
        args.rates = [1.0]
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    data = ArtDataModule(args.root, args.image_size, val_fraction=args.val_fraction)
    data.load()
    expected, judge = settings(data, args), None
    for job in jobs(args, args.only, list(range(args.seeds)) if args.seed is None else [args.seed], args.rates):
        if known(args.out / job.file, expected) is None:
            judge = judge or Judge(data, args)
            write_json(args.out / job.file, {"settings": expected, **run(job, data, judge, args)})
    there = (known(path, expected) for path in sorted(args.out.glob("*_seed_*.json")))
    report([one for one in there if one is not None], args)


if __name__ == "__main__":
    main()
