"""How good samples are, and whether they are memorized."""

import logging
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any, Final

import torch
from torch import Generator, Tensor

from artart import ArtError
from artart.checkpoints.device import check_numbers
from artart.checkpoints.load import Loaded
from artart.data.datamodule import ArtDataModule
from artart.data.labels import labels_of
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.diffusion.sampling import sample_images
from artart.evaluation.features import Extractor, features, known_features
from artart.evaluation.report import Evaluation
from artart.evaluation.sample_report import (
    SETS,
    Shown,
    by_class,
    closest_pairs,
    draw_curves,
    tables,
    typical_images,
    verdict,
)
from artart.features.alexnet import CHUNK
from artart.io.images import to_model, to_pixels
from artart.io.terminal import progress_bar
from artart.metrics import memorization
from artart.metrics.distances import MIN_IMAGES_FOR_FRECHET, Estimate, frechet_estimate, kernel_distance
from artart.metrics.diversity import MIN_IMAGES_FOR_NEIGHBOURS, neighbour_metrics, vendi_score
from artart.metrics.fidelity import fidelity
from artart.metrics.memorization import MIN_HELD_OUT, MemorizationTest
from artart.metrics.spectrum import radial_power, spectral_distance

log = logging.getLogger(__name__)

MAX_DENOISED: Final = 1000  # held-out images whose error is measured by noise level
NUM_LEVELS: Final = 10


def check(num_images: int) -> None:
    """Raise ArtError, before any work, if there are too few samples."""
    if num_images < MIN_HELD_OUT:
        raise ArtError(f"num_images={num_images}: too few to measure anything; {MIN_HELD_OUT} is the minimum")


def measure(
    loaded: Loaded,
    data: ArtDataModule,
    facts: Mapping[str, object],
    draw: Callable[[Tensor], Tensor],
    num_images: int,
    extractor: Extractor | None,
) -> Evaluation:
    """Compare samples, which `draw` makes with the held-out images' labels in turn, with held-out and training images.

    Raises ArtError if too few images are held out.
    """
    held_out, train = data.pixels_of(data.val_ids), data.pixels_of(data.train_ids)
    if len(held_out) < MIN_HELD_OUT:
        raise ArtError(
            f"{len(held_out)} held-out images are too few to measure anything, {MIN_HELD_OUT} is the minimum; "
            "train with more images or a larger data.val_fraction"
        )
    names = data.names_of(data.val_ids)
    y = labels_of(names, loaded.label_names) if loaded.text is None else data.y_of(data.val_ids)
    classes = [name for name, *_ in islice(cycle(names), num_images)]
    samples = draw(y[torch.arange(num_images) % len(y)])
    generator = Generator().manual_seed(0)
    real = train[torch.randperm(len(train), generator=generator)[:num_images]]  # as many as samples, where there are
    metrics, typical = dict[str, Any](), None
    if extractor is not None:
        metrics, typical = compare_features(samples, held_out, real, extractor, data)
    powers = [radial_power(to_model(x)) for x in (samples[: len(real)], held_out, real)]  # of as many samples
    metrics["spectrum_db"] = beside(spectral_distance(powers[0], powers[1]), spectral_distance(powers[2], powers[1]))
    test = MemorizationTest(train, [data.images.groups[i] for i in data.train_ids], held_out)
    nearest = test.nearest(samples)
    metrics["memorization"] = memorization.report(test, nearest, classes, generator)
    if not loaded.objective.one_step and loaded.objective.num_steps is None:
        metrics["error_by_noise_level"] = errors_by_level(loaded, to_model(held_out[:MAX_DENOISED]), y[:MAX_DENOISED])
    metrics |= {"num_images": num_images, "num_held_out": len(held_out)}
    shown = Shown(samples, classes, dict(zip(SETS, powers, strict=True)), test, nearest, typical)
    images = [by_class(shown, facts), *typical_images(shown, facts), closest_pairs(shown, facts)]
    return Evaluation(metrics, [*verdict(metrics)], images, [*tables(metrics)], draw_curves(metrics, shown))


def compare_features(
    samples: Tensor, held_out: Tensor, real: Tensor, extractor: Extractor, data: ArtDataModule
) -> tuple[dict[str, Any], Tensor]:
    """Distances, diversity and fidelity by features; each sample's distance to the nearest held-out image."""
    of_samples, name = features(samples, extractor), extractor.name
    of_held_out, of_real = (known_features(x, extractor, data) for x in (held_out, real))
    frechet = "fid" if name == "inception" else f"fd_{name}"
    metrics = {"features": name, **distances(f"kid_{name}", frechet, of_samples, of_held_out, of_real)}
    num_alike = min(map(len, (of_samples, of_held_out, of_real)))
    if num_alike >= MIN_IMAGES_FOR_NEIGHBOURS:
        made, held, art = (one[:num_alike] for one in (of_samples, of_held_out, of_real))
        ours, theirs = (neighbour_metrics(one, held) | {"vendi": vendi_score(one)} for one in (made, art))
        metrics |= {name: beside(value, theirs[name]) for name, value in ours.items()}
    columns = zip(data.label_names, zip(*data.names_of(data.val_ids), strict=True), strict=True)
    found = {column: fidelity(of_samples, of_held_out, names) for column, names in columns}
    metrics["fidelity"] = {column: one for column, one in found.items() if one}
    return metrics, torch.cdist(of_samples, of_held_out).amin(dim=1)


def draw(loaded: Loaded, sampler: Sampler, guidance: Guidance, batch_size: int, seed: int, y: Tensor) -> Tensor:
    """Samples, uint8 (N, 3, S, S), with the labels y (N, K); sample k has the seed `seed + k`.

    Raises FloatingPointError if the network outputs NaN or infinity.
    """
    y, seeds = y.to(loaded.device), range(seed, seed + len(y))
    batches = sample_images(loaded.net, loaded.process, sampler, y, seeds, guidance, batch_size)
    made = []
    with progress_bar() as bar, torch.inference_mode():
        for x in bar.track(batches, total=-(-len(y) // batch_size), description="sampling"):
            check_numbers(x, loaded.path)
            made.append(to_pixels(x).cpu())
    return torch.cat(made)


def distances(kernel: str, frechet: str, samples: Tensor, held_out: Tensor, real: Tensor) -> dict[str, Any]:
    """KID, and FD if there are enough images, of samples against held-out art, each with that of real images.

    `kernel` and `frechet` are their names. FD depends on the number of images, so it takes as many samples as there
    are real images.
    """
    found = {kernel: beside(kernel_distance(samples, held_out), kernel_distance(real, held_out))}
    if min(map(len, (samples, held_out, real))) >= MIN_IMAGES_FOR_FRECHET:
        found[frechet] = beside(frechet_estimate(samples[: len(real)], held_out), frechet_estimate(real, held_out))
    else:
        log.info(
            "%s: left out: needs %d samples, held-out and training images each; here %d, %d and %d",
            *(frechet, MIN_IMAGES_FOR_FRECHET, len(samples), len(held_out), len(real)),
        )
    return found


def beside(of_samples: Estimate, real: Estimate) -> dict[str, Any]:
    """A metric of samples, and that of as many training images, which perfect samples would have."""
    return {**of_samples._asdict(), "real": real._asdict()}


def errors_by_level(loaded: Loaded, x0: Tensor, y: Tensor) -> list[float]:
    """Mean squared error of x0_hat in each tenth of the noise level; noise and levels are the same each time.

    With a first stage it is that of latents, whose variance is 1.
    """
    device, process, generator, errors = loaded.device, loaded.process, Generator().manual_seed(0), []
    with progress_bar() as bar, torch.inference_mode():
        for k in bar.track(range(NUM_LEVELS), description="denoising"):
            total = 0.0
            for images, labels in zip(x0.split(CHUNK), y.split(CHUNK), strict=True):
                r = ((k + torch.rand(len(images), generator=generator)) / NUM_LEVELS).clamp(0.001, 0.999)
                x = process.first_stage.encode(images.to(device))
                eps = torch.randn(x.shape, generator=generator)
                noised = process.schedule.add_noise(x, eps.to(device), r.to(device))
                output = loaded.net(noised.x_t, noised.t, labels.to(device))
                x0_hat = process.parameterization.x0(output, noised.x_t, noised.level)
                total += (x0_hat - x).square().mean(dim=(1, 2, 3)).sum().item()
            errors.append(total / len(x0))
    return errors
