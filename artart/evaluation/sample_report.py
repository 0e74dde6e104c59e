"""The metrics of samples as tables, and images and curves of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from artart.evaluation.report import ReportImage, Table, curves, grid_image, histograms, interval
from artart.io.images import grid, to_model
from artart.metrics.memorization import MemorizationTest, Nearest
from artart.metrics.spectrum import decibels

NUM_PAIRS: Final = 16
NUM_SHOWN: Final = 8  # in a row
MAX_ROWS: Final = 20  # classes shown
SETS: Final = ("samples", "held-out images", "training images")
DISTANCES: Final = {
    "kid_alexnet": "KID, AlexNet",
    "fd_alexnet": "FD, AlexNet",
    "kid": "KID, Inception",
    "fid": "FID, Inception",
    "spectrum_db": "power spectrum (dB)",
}
TITLES: Final = {"rate": "distance", "rate_ratio": "ratio", "rate_third": "a third"}
CRITERIA_IN_WORDS: Final = (
    "Distance: nearer to a training image than 99 % of held-out images are. Ratio: the nearest stands out from the "
    "second nearest more than for 99 % of them. A third: that ratio is below 1/3. Finds: the detected share of a kind "
    "of near-duplicates; below 90 % the criterion cannot detect that kind"
)


class Shown(NamedTuple):
    """Data for the images and curves of the report."""

    samples: Tensor  # uint8 (N, 3, S, S)
    names: Sequence[str]  # the class of each
    powers: Mapping[str, Tensor]  # for each of SETS, (n, K) by spatial frequency
    test: MemorizationTest
    nearest: Nearest  # of the samples
    typical: Tensor | None  # (N,) distance of a sample's features to the nearest of held-out art; None: not measured


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Quality, coverage and memorization, overall and by label."""
    memorization = metrics["memorization"]
    return [_quality(metrics), *_coverage(metrics), _memorization(memorization), _by_label(memorization)]


def _quality(metrics: Mapping[str, Any]) -> Table:
    rows = [
        [name, f"{one['value']:.4g}", interval(one["low"], one["high"]), f"{one['real']['value']:.4g}"]
        for key, name in DISTANCES.items()
        if (one := metrics.get(key))
    ]
    return Table(
        f"{metrics['num_images']} samples against {metrics['num_held_out']} held-out images",
        ["distance", "samples", "95 % interval", "training images"],
        rows,
        "Lower is better; training images in place of samples show what perfect ones would have. KID decides.",
    )


def _coverage(metrics: Mapping[str, Any]) -> Iterator[Table]:
    if found := metrics.get("coverage"):
        rows = [[name, f"{found[name]:.1%}", f"{found['real'][name]:.1%}"] for name in ("precision", "recall")]
        note = (
            "Precision: samples that lie among held-out art. Recall: held-out art that lies among samples. Higher is "
            "better, and both count; features of AlexNet, three neighbours."
        )
        yield Table("Coverage", ["share", "samples", "training images"], rows, note)


def _memorization(memorization: Mapping[str, Any]) -> Table:
    criteria = [memorization[key] for key in TITLES]
    rows = [
        ["samples", *(f"{one['value']:.1%}" for one in criteria)],
        ["95 % interval", *(interval(one["low"], one["high"], ".1%") for one in criteria)],
        ["held-out art", *(f"{one['held_out']:.1%}" for one in criteria)],
    ]
    for kind in criteria[0]["detection_rate"]:
        rows.append([f"finds {kind}", *(f"{one['detection_rate'][kind]:.0%}" for one in criteria)])
    blind = zip(TITLES.values(), (one["blind_to"] for one in criteria), strict=True)
    notes = "".join(f"; {title} cannot detect {', '.join(kinds)}" for title, kinds in blind if kinds)
    title = f"Near-duplicates of {memorization['num_train']} training images"
    return Table(title, ["criterion", *TITLES.values()], rows, f"{CRITERIA_IN_WORDS}{notes}.")


def _by_label(memorization: Mapping[str, Any]) -> Table:
    rates = [memorization[key]["classes"] for key in TITLES]
    rows = [
        [name, str(row["num_images"]), *(f"{of_rate[name]['value']:.1%}" for of_rate in rates)]
        for name, row in rates[0].items()
    ]
    return Table("Memorization by label", ["label", "samples", *TITLES.values()], rows)


def draw_images(metrics: Mapping[str, Any], shown: Shown, facts: Mapping[str, object]) -> list[ReportImage]:
    """Grids of samples and of the closest pairs, and curves."""
    errors, nearest, test = metrics["error_by_noise_level"], shown.nearest, shown.test
    return [
        by_class(shown, facts),
        *typical_images(shown, facts),
        closest_pairs(shown, facts),
        histograms(
            "Distance to the nearest training image",
            "distance of thumbnails",
            {"samples": nearest.distance.tolist(), "held-out images": test.held_out.distance.tolist()},
            ("threshold", test.thresholds[0]),
            "Near-duplicates lie left of the line, as 1 % of the held-out images do.",
        ),
        histograms(
            "Nearest against second nearest",
            "ratio of the distances",
            {"samples": nearest.ratio.tolist(), "held-out images": test.held_out.ratio.tolist()},
            ("threshold", test.thresholds[1]),
            "The same for the ratio of the distances.",
        ),
        curves(
            "Power spectrum",
            ("periods over the image", list(range(1, shown.powers["samples"].shape[1] + 1))),
            "mean power (dB)",
            {name: decibels(power.mean(dim=0)).tolist() for name, power in shown.powers.items()},
            "Too little on the right is blur; a peak at the right end is a checkerboard.",
        ),
        curves(
            "Error by noise level",
            ("noise level r", [(k + 0.5) / len(errors) for k in range(len(errors))]),
            "squared error of x0_hat",
            {"held-out images": errors},
        ),
    ]


def by_class(shown: Shown, facts: Mapping[str, object]) -> ReportImage:
    """A row of samples for each of the most frequent classes; white where a class has too few."""
    most, images = sorted(name for name, _ in Counter(sorted(shown.names)).most_common(MAX_ROWS)), []
    for name in most:
        row = to_model(shown.samples[[own == name for own in shown.names]][:NUM_SHOWN])
        images.append(torch.cat([row, torch.ones(NUM_SHOWN - len(row), *row.shape[1:])]))
    return grid_image("Samples", grid(images), facts, f"From the top: {', '.join(most)}.")


def typical_images(shown: Shown, facts: Mapping[str, object]) -> Iterator[ReportImage]:
    """The samples whose features lie nearest to, and farthest from, those of a held-out image."""
    if shown.typical is None:
        return
    order, num = shown.typical.argsort(), min(2 * NUM_SHOWN, len(shown.typical) // 2)
    for title, ids, note in (
        ("The best", order[:num], "Their features lie nearest to those of a held-out image."),
        ("The worst", order[-num:].flip(0), "Their features lie farthest from those of any held-out image."),
    ):
        yield grid_image(title, grid(to_model(shown.samples[ids]).split(NUM_SHOWN)), facts, note)


def closest_pairs(shown: Shown, facts: Mapping[str, object]) -> ReportImage:
    """The samples that are nearest to a training image, each above that image."""
    order = shown.nearest.distance.argsort()[:NUM_PAIRS]
    above, below = to_model(shown.samples[order]), to_model(shown.test.train[shown.nearest.which[order]])
    rows = [row for pair in zip(above.split(NUM_SHOWN), below.split(NUM_SHOWN), strict=True) for row in pair]
    note = "Samples above, the nearest training image below; the closest pair first."
    return grid_image("Closest pairs", grid(rows), facts, note)
