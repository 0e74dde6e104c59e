"""How good samples are, and whether they are copies."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import cycle, islice
from typing import Any, Final

import platformdirs
import safetensors.torch
import torch
from torch import Generator, Tensor

from artart import ArtError
from artart.checkpoint import Loaded
from artart.data.datamodule import ArtDataModule
from artart.diffusion.samplers import Sampler
from artart.images import grid, to_model, to_pixels
from artart.metrics import copies, inception
from artart.metrics.copies import CopyTest, Nearest
from artart.metrics.distances import LEAST_FOR_FRECHET, Estimate, frechet, kernel_distance
from artart.metrics.features import alexnet_features
from artart.metrics.spectrum import decibels, radial_power, spectral_distance
from artart.objectives import Diffusion
from artart.pretrained import alexnet_on
from artart.report import Evaluation, Picture, Table, curves, grid_picture, histograms, interval
from artart.sample import guidance_of
from artart.storage import atomic, load_weights
from artart.terminal import progress_bar

log = logging.getLogger(__name__)

LEAST: Final = 20  # samples, and held-out pictures, for a distance
CHUNK: Final = 64  # pictures that AlexNet sees at once
NUM_PAIRS: Final = 16
NUM_SHOWN: Final = 8
MAX_ROWS: Final = 20  # classes shown
MAX_DENOISED: Final = 1000  # held-out pictures whose error is measured by noise level
NUM_LEVELS: Final = 10
CRITERIA_IN_WORDS: Final = (
    "Distance: nearer to a training picture than 99 % of held-out pictures are. Ratio: the nearest stands out from the "
    "second nearest more than for 99 % of them. A third: that ratio is below 1/3. Finds: the share of planted copies "
    "of a kind that is found; below 90 % nothing is claimed"
)


def measure_samples(
    loaded: Loaded, sampler: Sampler, data: ArtDataModule, config: Mapping[str, Any], facts: Mapping[str, object]
) -> Evaluation:
    """Draw samples in the proportions of the held-out pictures' classes; hold them against these and the training's.

    Raises:
        ArtError: if there are too few samples or held-out pictures, or if weights cannot be had.
        FloatingPointError: if the network makes no numbers.
    """
    held_out, train = data.pixels_of(data.val_ids), data.pixels_of(data.train_ids)
    num = config["num_images"]
    for name, found in (("num_images", num), ("held-out pictures", len(held_out))):
        if found < LEAST:
            raise ArtError(f"{name}={found}: too few to measure anything; {LEAST} are the least")
    if (weights := config["metrics"]["weights"]) is not None:
        alexnet_on(weights, next(loaded.net.parameters()).device)
    of_held_out = data.names_of(data.val_ids)
    names = list(islice(cycle(of_held_out), num))
    samples = draw(loaded, sampler, names, config)
    generator = Generator().manual_seed(0)
    real = train[torch.randperm(len(train), generator=generator)[:num]]  # as many as samples, where there are
    metrics: dict[str, Any] = {}
    if weights is not None:
        seen = [features(pixels, loaded, data, weights) for pixels in (samples, held_out, real)]
        metrics |= distances(*seen)
        typical = torch.cdist(seen[0], seen[1]).amin(dim=1)
    powers = [torch.cat([radial_power(to_model(part)) for part in x.split(CHUNK)]) for x in (samples, held_out, real)]
    metrics["spectrum_db"] = beside(spectral_distance(powers[0], powers[1]), spectral_distance(powers[2], powers[1]))
    if config["metrics"]["inception"]:
        metrics |= inception.distances(samples, held_out, real)
    test = CopyTest(train, [data.pictures.groups[i] for i in data.train_ids], held_out)
    nearest = test.nearest(samples)
    metrics["copies"] = copies.report(test, nearest, names, generator)
    y = labels_of(of_held_out, loaded)
    errors = errors_by_level(loaded, to_model(held_out[:MAX_DENOISED]), y[:MAX_DENOISED])
    metrics |= {"error_by_noise_level": errors, "num_images": num, "num_held_out": len(held_out)}
    pictures = [
        grid_picture("Samples", by_class(samples, names), facts, "A row for each class."),
        *(typical_pictures(samples, typical, facts) if weights is not None else ()),
        closest_pairs(samples, nearest, test, facts),
        histograms(
            "Distance to the nearest training picture",
            "distance of thumbnails",
            {"samples": nearest.distance.tolist(), "held-out pictures": test.held_out.distance.tolist()},
            ("threshold", test.thresholds[0]),
            "Copies would stand left of the line, where 1 % of the held-out pictures are.",
        ),
        histograms(
            "Nearest against second nearest",
            "ratio of the distances",
            {"samples": nearest.ratio.tolist(), "held-out pictures": test.held_out.ratio.tolist()},
            ("threshold", test.thresholds[1]),
            "The same for how much the nearest stands out.",
        ),
        curves(
            "Power spectrum",
            ("periods over the picture", list(range(1, powers[0].shape[1] + 1))),
            "mean power (dB)",
            {
                name: decibels(power.mean(dim=0)).tolist()
                for name, power in zip(("samples", "held-out pictures", "training pictures"), powers, strict=True)
            },
            "Too little on the right is blur; a peak at the right end is a checkerboard.",
        ),
        curves(
            "Error by noise level",
            ("noise level r", [(k + 0.5) / NUM_LEVELS for k in range(NUM_LEVELS)]),
            "squared error of x0_hat",
            {"held-out pictures": errors},
        ),
    ]
    return Evaluation(metrics, tables(metrics), pictures)


def draw(loaded: Loaded, sampler: Sampler, names: Sequence[str], config: Mapping[str, Any]) -> Tensor:
    """A sample of each named class, uint8 (N, 3, S, S); sample k has the seed `seed + k`."""
    assert isinstance(loaded.objective, Diffusion)
    y = labels_of(names, loaded).to(next(loaded.net.parameters()).device)
    seeds = range(config["seed"], config["seed"] + len(names))
    batches = loaded.objective.pictures(loaded.net, sampler, y, seeds, guidance_of(config), config["batch_size"])
    made = []
    with progress_bar() as bar, torch.inference_mode():
        for x in bar.track(batches, total=-(-len(names) // config["batch_size"]), description="sampling"):
            if not x.isfinite().all():
                raise FloatingPointError(
                    f"checkpoint={config['checkpoint']}: its network makes no numbers; take an earlier checkpoint"
                )
            made.append(to_pixels(x).cpu())
    return torch.cat(made)


def labels_of(names: Sequence[str], loaded: Loaded) -> Tensor:
    """The network's labels (N,) of named classes; "no class" for those that it has not seen."""
    index = {name: label for label, name in enumerate(loaded.class_names)}
    return torch.tensor([index.get(name, len(index)) for name in names])


def features(pixels: Tensor, loaded: Loaded, data: ArtDataModule, weights: str) -> Tensor:
    """AlexNet's features (N, 256) of uint8 pictures; kept in the user's cache under the hash of their content."""
    device = next(loaded.net.parameters()).device
    net, origin = alexnet_on(weights, device)
    key = sha256(pixels.contiguous().numpy().data)
    key.update(origin.encode())
    key.update(next(net.parameters()).detach().cpu().numpy().tobytes())
    folder = data.folder.cache.parent if data.folder else platformdirs.user_cache_path("artart")
    path = folder / "features" / f"{key.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return load_weights(path)["alexnet"]
        except (ArtError, KeyError):
            log.warning("%s: damaged; made anew", path)
    with progress_bar() as bar, torch.inference_mode():
        parts = [
            alexnet_features(to_model(part).to(device), weights).cpu()
            for part in bar.track(pixels.split(CHUNK), description="features")
        ]
    found = torch.cat(parts)
    with atomic(path) as file:
        file.write(safetensors.torch.save({"alexnet": found}))
    return found


def distances(samples: Tensor, held_out: Tensor, real: Tensor) -> dict[str, Any]:
    """KD, and FD if there are pictures enough, of samples against held-out art, each beside real against real."""
    found: dict[str, Any] = {"kd_alexnet": beside(kernel_distance(samples, held_out), kernel_distance(real, held_out))}
    if min(map(len, (samples, held_out, real))) >= LEAST_FOR_FRECHET:
        found["fd_alexnet"] = beside(frechet(samples, held_out), frechet(real, held_out))
    else:
        log.info(
            "fd_alexnet: left out: needs %d samples, held-out and training pictures each; here %d, %d and %d",
            *(LEAST_FOR_FRECHET, len(samples), len(held_out), len(real)),
        )
    return found


def beside(of_samples: Estimate, real: Estimate) -> dict[str, Any]:
    """A figure of samples, and the same of as many training pictures: what perfect samples would have."""
    return {**of_samples._asdict(), "real": real._asdict()}


def errors_by_level(loaded: Loaded, x0: Tensor, y: Tensor) -> list[float]:
    """Mean squared error of x0_hat in each tenth of the noise level; noise and levels are the same each time."""
    objective, generator = loaded.objective, Generator().manual_seed(0)
    assert isinstance(objective, Diffusion)
    device, errors = next(loaded.net.parameters()).device, []
    with progress_bar() as bar, torch.inference_mode():
        for k in bar.track(range(NUM_LEVELS), description="denoising"):
            total = 0.0
            for images, labels in zip(x0.split(CHUNK), y.split(CHUNK), strict=True):
                r = ((k + torch.rand(len(images), generator=generator)) / NUM_LEVELS).clamp(0.001, 0.999)
                eps = torch.randn(images.shape, generator=generator)
                x = images.to(device)
                noised = objective.add_noise(x, eps.to(device), r.to(device))
                output = loaded.net(noised.x_t, noised.t, labels.to(device))
                x0_hat = objective.prediction.x0(output, noised.x_t, noised.level)
                total += (x0_hat - x).square().mean(dim=(1, 2, 3)).sum().item()
            errors.append(total / len(x0))
    return errors


def by_class(samples: Tensor, names: Sequence[str]) -> Tensor:
    """A grid with a row of samples for each class, the most frequent ones."""
    rows = {name: [k for k, own in enumerate(names) if own == name] for name in sorted(set(names))}
    most = sorted(rows, key=lambda name: len(rows[name]), reverse=True)[:MAX_ROWS]
    ids = [list(islice(cycle(rows[name]), NUM_SHOWN)) for name in sorted(most)]
    return grid([to_model(samples[row]) for row in ids])


def typical_pictures(samples: Tensor, distance: Tensor, facts: Mapping[str, object]) -> Iterator[Picture]:
    """The samples whose features lie nearest to, and farthest from, those of a held-out picture."""
    order, num = distance.argsort(), min(2 * NUM_SHOWN, len(distance) // 2)
    for title, ids, note in (
        ("The best", order[:num], "Their features lie nearest to those of a held-out picture."),
        ("The worst", order[-num:].flip(0), "Their features lie farthest from those of any held-out picture."),
    ):
        yield grid_picture(title, grid(to_model(samples[ids]).split(NUM_SHOWN)), facts, note)


def closest_pairs(samples: Tensor, nearest: Nearest, test: CopyTest, facts: Mapping[str, object]) -> Picture:
    """The samples that are nearest to a training picture, each above that picture."""
    order = nearest.distance.argsort()[:NUM_PAIRS]
    above, below = to_model(samples[order]), to_model(test.train[nearest.which[order]])
    rows = [row for pair in zip(above.split(NUM_SHOWN), below.split(NUM_SHOWN), strict=True) for row in pair]
    note = "Samples above, the nearest training picture below; the closest pair first."
    return grid_picture("Closest pairs", grid(rows), facts, note)


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Quality, copies, and copies by label, in words."""
    names = {
        "kd_alexnet": "KD, AlexNet",
        "fd_alexnet": "FD, AlexNet",
        "kid": "KID, Inception",
        "fid": "FID, Inception",
        "spectrum_db": "power spectrum (dB)",
    }
    quality = [
        [names[key], f"{one['value']:.4g}", interval(one["low"], one["high"]), f"{one['real']['value']:.4g}"]
        for key in names
        if (one := metrics.get(key))
    ]
    copied = metrics["copies"]
    titles = {"copy_rate": "distance", "copy_rate_ratio": "ratio", "copy_rate_third": "a third"}
    rows = [
        ("samples", lambda one: f"{one['value']:.1%}"),
        ("95 % interval", lambda one: interval(one["low"], one["high"], ".1%")),
        ("held-out art", lambda one: f"{one['held_out']:.1%}"),
    ]
    of_copies = [[name, *(row(copied[key]) for key in titles)] for name, row in rows]
    for kind in copied["copy_rate"]["power"]:
        of_copies.append([f"finds {kind}", *(f"{copied[key]['power'][kind]:.0%}" for key in titles)])
    blind = {titles[key]: copied[key]["blind_to"] for key in titles}
    notes = [f"{title} says nothing of {', '.join(kinds)}" for title, kinds in blind.items() if kinds]
    rates = [copied[key]["classes"] for key in titles]
    of_labels = [
        [name, str(row["num_images"]), *(f"{of_rate[name]['value']:.1%}" for of_rate in rates)]
        for name, row in rates[0].items()
    ]
    num, num_held_out = metrics["num_images"], metrics["num_held_out"]
    return [
        Table(
            f"{num} samples against {num_held_out} held-out pictures",
            ["distance", "samples", "95 % interval", "training pictures"],
            quality,
            "Lower is better; training pictures in place of samples show what perfect ones would have. KD decides.",
        ),
        Table(
            f"Copies of {copied['num_train']} training pictures",
            ["criterion", *titles.values()],
            of_copies,
            f"{CRITERIA_IN_WORDS}{''.join(f'; {note}' for note in notes)}.",
        ),
        Table("Copies by label", ["label", "samples", *titles.values()], of_labels),
    ]
