"""CPU seconds and images until samples have a KID of 0.005 at 32 px, and of 0.02 at 128 px with a first stage.

    python -m benchmarks speedrun --root ~/art --weights ~/weights --vgg vgg16.pth
    python -m benchmarks speedrun --root ~/art --weights ~/weights --name mine --settings optimizer.lr=2e-3

Each recipe trains on one thread until samples of its averaged weights reach the KID, which is evaluated every --every
CPU seconds and at the end, or until its time is over. Startup and evaluation do not count; the first stage and encoding
do. Learning rates fall to the end of that time, so --minutes belongs to a recipe. --settings enters a recipe of
artart.train under a name: it starts from artart's.

artart trains with the classes of the folder; its networks, of pixels and of latents, have 1.3 million parameters. All
seeds of a recipe share a first stage. The recipe adamw at 128 px is that before commit 0166e2b, in both stages.

Other packages (peers.py) train on pixels without classes, with their own recipes and networks of about 3 million
parameters, at ten times their rates: of those that were tried at 32 px, the best and the highest.
"""

import json
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from artart.diffusion.samplers import Heun
from artart.diffusion.sampling import sample_images
from artart.evaluation.features import extractor_for, features, known_features
from artart.io.allocator import keep_freed_memory
from artart.io.images import to_pixels
from artart.io.page import Table
from artart.metrics.distances import kernel_distance
from artart.training.callbacks.ema import EMA
from benchmarks import training
from benchmarks.contender import Average
from benchmarks.contenders import CONTENDERS
from benchmarks.judge import BATCH, judge_of
from benchmarks.loop import Clock, draw, own_recipe, train
from benchmarks.records import Record, Records, cell, check_settings, grouped, kept, slug
from benchmarks.resolution import with_vgg
from benchmarks.training import Row, Trainings

ARTART = "artart"
BEST_RATES = {"denoising-diffusion-pytorch": 10.0, "diffusers": 10.0}  # times the default; docs/results/diffusion.md
ROWS = {32: Row(("experiment=diffusion_cpu",)), 128: Row(("experiment=latent",), ("experiment=autoencoder",))}
MINUTES, TARGETS = {32: 15.0, 128: 90.0}, {32: 0.005, 128: 0.02}
FIRST_STAGE_SHARE = 0.4  # of these
MACHINES = "mixed"
FREE = ("sizes", "minutes", "target", "precision", "settings", "name")
QUICK = {**training.QUICK, "sizes": [32], "only": [ARTART], "every": 0.0, "target": 100.0}


def options(parser: ArgumentParser) -> None:
    training.options(parser, [ARTART, *BEST_RATES], devices=["cpu"], num_samples=1000)
    parser.add_argument("--sizes", type=int, nargs="*", choices=ROWS, default=[*ROWS], help="pixels of a side")
    parser.add_argument("--minutes", type=float, help=f"CPU minutes of a recipe at most (default: {MINUTES})")
    parser.add_argument("--target", type=float, help=f"KID (default: {TARGETS})")
    parser.add_argument("--every", type=float, default=60.0, help="CPU seconds from one evaluation to the next")
    parser.add_argument("--name", default=ARTART, help="of artart's recipe with --settings")
    parser.add_argument("--settings", nargs="*", default=[], help="of artart.train, beside its recipe")
    parser.set_defaults(threads=1)


class Race:
    """Evaluates samples every few seconds, which do not count, until they reach the target."""

    def __init__(self, clock: Clock, every: float, target: float, kid_of: Callable[[Tensor], float]) -> None:
        self.clock, self.every, self.target, self.kid_of = clock, every, target, kid_of
        self.points: list[dict[str, float]] = []  # seconds, images and KID at each evaluation

    def is_over(self, images: int, samples: Callable[[], Tensor], is_last: bool = False) -> bool:
        """Whether samples reach the target; asked after each step, of which the last is evaluated in any case."""
        if self.clock.seconds < self.every * (len(self.points) + 1) and not is_last:
            return False
        with self.clock.paused(), torch.random.fork_rng():
            point = {"seconds": self.clock.seconds, "images": images, "kid": self.kid_of(samples())}
        self.points.append(point)
        print(point, flush=True)
        return self.is_won

    @property
    def is_won(self) -> bool:
        return bool(self.points) and self.points[-1]["kid"] <= self.target


class Racer(Callback):
    """The race of artart.train; writes its points into race.json of the run."""

    def __init__(self, folder: str, weights: str, every: float, target: float, num_samples: int) -> None:
        self.folder, self.num_samples = Path(folder), num_samples
        self.alexnet = extractor_for("alexnet", weights, torch.device("cpu"))
        self.race = Race(Clock(torch.device("cpu"), 1), every, target, self._kid)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        self.of_held_out = known_features(data.pixels_of(data.val_ids), self.alexnet, data)
        self.y = data.y_of(data.val_ids)[torch.arange(self.num_samples) % len(data.val_ids)]
        self.averages = [callback for callback in trainer.callbacks if isinstance(callback, EMA)]
        self.race.clock.started = self.race.clock.now()

    def _kid(self, samples: Tensor) -> float:
        return kernel_distance(features(samples, self.alexnet), self.of_held_out).value

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        def samples() -> Tensor:
            for average in self.averages:
                average.on_validation_epoch_start(trainer, pl_module)  # sets averaged weights
            how = (pl_module.net.eval(), pl_module.objective, Heun(20), self.y, range(self.num_samples))
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                made = torch.cat([to_pixels(x) for x in sample_images(*how, batch_size=BATCH)])
            for average in self.averages:
                average.on_validation_epoch_end(trainer, pl_module)
            pl_module.net.train()
            return made

        is_last = trainer.global_step >= pl_module.total_steps
        trainer.should_stop |= self.race.is_over(pl_module.images_seen, samples, is_last)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / "race.json").write_text(json.dumps(self.race.points))


def of_artart(size: int, seed: int, args: Namespace) -> list[dict[str, float]]:
    """The points of a run of artart.train; their seconds include the first stage and encoding."""
    row, callback = ROWS[size], f"{__name__}.Racer"
    trainings = Trainings(args, {args.name: Row((*row.settings, *args.settings), with_vgg(row.first_stage, args))})
    _, before = trainings.settings(args.name)
    race = {"weights": args.weights, "every": args.every, "target": args.target, "num_samples": args.num_samples}
    race |= {"_target_": callback, "folder": trainings.run_dir(args.name, seed, trainings.steps(args.name))}
    words = [f"+callbacks.race.{key}={value}" for key, value in race.items()]
    found = trainings.run(args.name, seed, None, *words, f"trusted_classes=[{callback}]")
    points = json.loads((args.out / found["checkpoint"]).parents[1].joinpath("race.json").read_text())
    return [{**point, "seconds": before + point["seconds"]} for point in points]


def of_package(name: str, size: int, seed: int, args: Namespace) -> list[dict[str, float]]:
    """The points of another package's loop."""
    keep_freed_memory()
    own = Namespace(**{**vars(args), "image_size": size, "evaluations": 40, "device": torch.device("cpu")})
    own.precision = args.precision.partition("-")[0]
    contender, judge = CONTENDERS[name](size), judge_of(args, size)
    torch.manual_seed(seed)
    clock = Clock(own.device, None, 60 * args.minutes)
    recipe = own_recipe(contender, clock, own, BEST_RATES[name])
    race = Race(clock, args.every, args.target, lambda samples: judge(samples)["kid"])

    def is_done(average: Average) -> bool:
        def samples() -> Tensor:
            return draw(contender, average.net.eval(), seed, own)[0]

        return race.is_over(clock.step * recipe.batch_size, samples)

    net, found = train(contender, recipe, clock, judge.train, seed, own, is_done)
    if not race.is_won:
        race.is_over(int(found["images"]), lambda: draw(contender, net, seed, own)[0], is_last=True)
    return race.points


def run(args: Namespace, records: Records) -> None:
    if args.settings and args.name == ARTART:
        raise SystemExit(f"--settings: give the recipe a name of its own by --name, other than {ARTART}")
    for size, seed, name in product(args.sizes, args.seeds, args.only):
        row = args.name if name == ARTART else name
        rules = {"minutes": args.minutes or MINUTES[size], "target": args.target or TARGETS[size]}
        rules["precision"] = args.precision
        own = {**rules, "settings": args.settings if name == ARTART else []}
        check_settings(kept(args.out / f"{slug(row)}_{size}.json", partial(dict, own)), own, args.out)
        records.once({"row": row, "size": size, "seed": seed}, measure, name, size, seed, rules, args)


def measure(name: str, size: int, seed: int, rules: dict[str, Any], args: Namespace) -> dict[str, Any]:
    """The last point of a race, and all of them."""
    stage = FIRST_STAGE_SHARE * rules["minutes"]
    own = Namespace(**{**vars(args), **rules, "out": args.out / f"{size}_px", "first_stage_minutes": stage})
    points = of_artart(size, seed, own) if name == ARTART else of_package(name, size, seed, own)
    return {**points[-1], **rules, "reached": points[-1]["kid"] <= own.target, "points": points}


def tables(records: list[Record]) -> list[Table]:
    made = []
    races = grouped(({**one, "race": (one["size"], one["target"], one["precision"])} for one in records), "race")
    for (size, target, precision), own in races.items():
        recipes = grouped(({**one, "all": (one["row"], one["commit"], one["machine"])} for one in own), "all")
        rows = sorted(recipes.items(), key=lambda item: rank(item[1]))
        body = [[row, *entry(runs), commit, machine] for (row, commit, machine), runs in rows]
        header = ["recipe", "minutes", "CPU seconds", "images", "KID", "runs that reached it", "commit", "machine"]
        title = f"{size} px, to a KID of {target:g}, {precision}"
        note = "A run that did not reach it counts with its last evaluation."
        made.append(Table(title, header, body, note))
    return made


def rank(runs: list[Record]) -> tuple[bool, float]:
    """Recipes whose runs all reached the target come first, then the fewest seconds."""
    return not all(run["reached"] for run in runs), statistics.mean(run["seconds"] for run in runs)


def entry(runs: list[Record]) -> list[str]:
    reached = sum(run["reached"] for run in runs)
    minutes = f"{runs[0]['minutes']:g}"
    return [minutes, *(cell(runs, key) for key in ("seconds", "images", "kid")), f"{reached} of {len(runs)}"]
