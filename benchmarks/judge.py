"""Judge samples by held-out and training images; grids of samples."""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from artart.checkpoints.load import Loaded, load
from artart.data.datamodule import ArtDataModule
from artart.data.labels import labels_of
from artart.diffusion.guidance import NO_GUIDANCE, Guidance
from artart.diffusion.samplers import DDIM, Heun
from artart.evaluation.features import extractor_for, features, known_features
from artart.evaluation.samples import draw
from artart.io.images import enlarged, grid, save, to_model
from artart.io.provenance import ImageProvenance
from artart.metrics.distances import kernel_distance
from artart.metrics.diversity import MIN_IMAGES_FOR_NEIGHBOURS, neighbour_metrics, vendi_score
from artart.metrics.memorization import CRITERIA, MemorizationTest
from artart.metrics.spectrum import radial_power, spectral_distance
from benchmarks.records import Records
from benchmarks.training import QUICK_STEPS, Trainings, jobs

BATCH = 50  # samples that are drawn at once
IN_GRID, IN_ROW = 64, 8
NAMES = {"rate": "near-duplicates", "rate_ratio": "by ratio", "rate_third": "by a third"}
COLUMNS = {
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "vendi": "Vendi score",
    "spectrum_db": "spectrum (dB)",
    **{name: NAMES[name] for name in CRITERIA},
    "images": "images seen",
    "train_per_second": "training images/s",
    "sample_per_second": "samples/s",
    "evaluations": "evaluations",
    "parameters": "parameters",
}


class Judge:
    """Metrics against held-out images, whose features are computed once."""

    def __init__(
        self, data: ArtDataModule, weights: str, device: str, max_held_out: int | None = None, num_steps: int = 20
    ) -> None:
        """`weights` of AlexNet; at most `max_held_out` images are compared with samples of `num_steps`."""
        self.num_steps = num_steps
        self.data, self.alexnet = data, extractor_for("alexnet", weights, torch.device(device))
        self.val_ids = data.val_ids[:max_held_out]
        self.held_out, self.train = data.pixels_of(self.val_ids), data.pixels_of(data.train_ids)
        self.test = MemorizationTest(self.train, [data.images.groups[i] for i in data.train_ids], self.held_out)
        self.features = known_features(self.held_out, self.alexnet, data)
        self.power = radial_power(to_model(self.held_out))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Any]:
        """Of samples, uint8 (N, 3, S, S)."""
        found = features(pixels, self.alexnet)
        kid = kernel_distance(found, self.features)
        measured: dict[str, Any] = {"kid": kid.value, "kid_low": kid.low, "kid_high": kid.high}
        num = min(len(found), len(self.features), len(self.train))  # so that training images can be compared
        if num >= MIN_IMAGES_FOR_NEIGHBOURS:
            among = neighbour_metrics(found[:num], self.features[:num])
            measured |= {name: one.value for name, one in among.items()} | {"vendi": vendi_score(found[:num]).value}
        measured["spectrum_db"] = spectral_distance(radial_power(to_model(pixels)), self.power).value
        memorized = self.test.judge(self.test.nearest(pixels)).items()
        return measured | {name: one.double().mean().item() for name, one in memorized}

    def of_art(self, num: int) -> dict[str, Any]:
        """Of training images in the place of `num` samples; the rates of near-duplicates are held-out art's."""
        order = torch.randperm(len(self.train), generator=Generator().manual_seed(0))
        return self(self.train[order[:num]]) | self.test.false_alarms()

    def samples(self, loaded: Loaded, num: int, seed: int, guidance: Guidance = NO_GUIDANCE) -> Tensor:
        """Samples with the labels of held-out images, enlarged to the size of these; uint8 (num, 3, S, S)."""
        y = labels_of(self.data.names_of(self.val_ids), loaded.label_names)
        sampler = DDIM(1) if loaded.objective.one_step else Heun(self.num_steps)
        pixels = draw(loaded, sampler, guidance, BATCH, 1_000_000 * seed, y[torch.arange(num) % len(y)])
        return torch.stack([enlarged(one, self.data.image_size // pixels.shape[-1]) for one in pixels])

    def of_checkpoint(self, path: Path, seed: int, args: Namespace) -> dict[str, Any]:
        """Metrics of samples, and without a GPU their speed: that of one batch. A grid is saved beside the run."""
        guidance = NO_GUIDANCE if args.guidance == 1 else Guidance(args.guidance)
        loaded = load(path, device=args.device)
        samples = self.samples(loaded, args.num_samples, seed, guidance)
        save_grid(samples, path.parents[1].with_suffix(".png"), {"checkpoint_sha256": loaded.sha256, "seed": seed})
        return {**self(samples), **(self.speed(loaded, seed, args, guidance) if args.device == "cpu" else {})}

    def speed(self, loaded: Loaded, seed: int, args: Namespace, guidance: Guidance) -> dict[str, float]:
        """Samples per CPU second, and evaluations of the network for each."""
        calls = list[int]()
        hook = loaded.net.register_forward_hook(lambda *_: calls.append(1))
        started = time.process_time()
        self.samples(loaded, num := min(BATCH, args.num_samples), seed, guidance)
        hook.remove()
        return {"sample_per_second": num / (time.process_time() - started), "evaluations": len(calls)}


def judge_of(args: Namespace, size: int, **more: Any) -> Judge:
    """For the images and options of a benchmark."""
    data = ArtDataModule(args.root, size, val_fraction=args.val_fraction, **more)
    data.load()
    return Judge(data, args.weights, args.device, num_steps=QUICK_STEPS if args.quick else 20)


def run_and_judge(
    args: Namespace,
    records: Records,
    trainings: Trainings,
    make_judge: Callable[[], Judge],
    steps: int | None = None,
    also: Callable[[Path], Mapping[str, Any]] = lambda path: {},
) -> None:
    """Train all rows, then judge samples of each, and as many training images.

    `steps` as in `Trainings.run`; `also`: what else is measured of a checkpoint.
    """
    runs, judge = {job: trainings.run(*job, steps) for job in jobs(args)}, cache(make_judge)
    if args.only_train or not runs:
        return

    def measure(name: str, seed: int) -> dict[str, Any]:
        path = args.out / runs[name, seed]["checkpoint"]
        return {**runs[name, seed], **judge().of_checkpoint(path, seed, args), **also(path)}

    for name, seed in runs:
        records.once({"row": name, "seed": seed}, measure, name, seed)
    records.once({"row": "training images"}, lambda: judge().of_art(args.num_samples))


def save_grid(samples: Tensor, path: Path, details: Mapping[str, object]) -> None:
    """The first samples, uint8, in rows of eight."""
    save(grid([*to_model(samples[:IN_GRID]).split(IN_ROW)]), path, ImageProvenance("trained", details))


def contact_sheet(grids: Sequence[Path], path: Path, num_rows: int = 2) -> None:
    """The first rows of several grids of `save_grid`, one below the other."""
    images = [pil_to_tensor(Image.open(grid)) for grid in grids]
    height = num_rows * (images[0].shape[-1] // IN_ROW)
    sheet = torch.cat([image[:, : height + 2] for image in images], dim=1)
    save(sheet, path, ImageProvenance("trained", {"grids": ", ".join(grid.parent.name for grid in grids)}))
