"""The metrics of samples as tables, and images and curves of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from torch import Tensor

from artart.evaluation.report import IN_ROW, interval, rows_of_images, spectra
from artart.io.page import Figure, Table, curves, histograms
from artart.metrics.memorization import MemorizationTest, Nearest

NUM_PAIRS: Final = 16
MAX_ROWS: Final = 20  # classes shown
SETS: Final = ("samples", "held-out images", "training images")
NETWORKS: Final = {"alexnet": "AlexNet", "inception": "Inception", "dinov2": "DINOv2"}
DISTANCES: Final = {
    **{f"kid_{key}": f"KID, {name}" for key, name in NETWORKS.items()},
    "fid": "FID, Inception",
    **{f"fd_{key}": f"FD, {name}" for key, name in NETWORKS.items()},
    "spectrum_db": "power spectrum (dB)",
}
DIVERSITY: Final = {  # and how each is written
    "precision": ("precision", ".1%"),
    "recall": ("recall", ".1%"),
    "density": ("density", ".2f"),
    "coverage": ("coverage", ".1%"),
    "vendi": ("Vendi score", ".1f"),
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


def tables(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """Quality, diversity and fidelity, as far as they are measured, and memorization, overall and by label."""

    def row(title: str, metric: Mapping[str, Any], form: str, of_interval: str) -> list[str]:
        own, real = (f"{one['value']:{form}}" for one in (metric, metric["real"]))
        return [title, own, interval(metric["low"], metric["high"], of_interval), real]

    header = ["samples", "95 % interval", "training images"]
    yield Table(
        f"{metrics['num_images']} samples against {metrics['num_held_out']} held-out images",
        ["distance", *header],
        [row(title, metrics[key], ".4g", ".3g") for key, title in DISTANCES.items() if key in metrics],
        "Lower is better; training images in place of samples show what perfect ones would have. KID decides. "
        "Intervals are of other images from the same network: training with another seed changes the values too.",
    )
    if rows := [row(title, metrics[key], form, form) for key, (title, form) in DIVERSITY.items() if key in metrics]:
        network = NETWORKS[metrics["features"]]
        note = (
            "Precision: samples that lie among held-out art. Recall: held-out art that lies among samples. Density: "
            "how close samples lie to held-out art, 1 for art. Coverage: held-out art with a sample near it. Vendi "
            "score: the effective number of different samples. Higher is better, up to the values of training images. "
            f"Features of {network}, equal numbers of images."
        )
        yield Table("Precision and diversity", ["metric", *header], rows, note)
    yield from _fidelity(metrics)
    yield from _memorization(metrics["memorization"])


def _fidelity(metrics: Mapping[str, Any]) -> Iterator[Table]:
    if found := metrics.get("fidelity"):
        rows = [
            [
                column,
                f"{one['value']:.1%}",
                interval(one["low"], one["high"], ".1%"),
                *(f"{one[key]:.1%}" for key in ("floor", "ceiling", "of_ceiling")),
            ]
            for column, one in found.items()
        ]
        note = (
            "The share of samples in which a linear classifier of the same features finds the class of the image whose "
            "label or caption they were drawn with. Floor: with shuffled classes. Ceiling: of held-out art. "
            "Reached: 0 is the floor and 100 % the ceiling."
        )
        header = ["column", "samples", "95 % interval", "floor", "ceiling", "reached"]
        yield Table("Fidelity to labels or captions", header, rows, note)


def _memorization(memorization: Mapping[str, Any]) -> Iterator[Table]:
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
    yield Table(title, ["criterion", *TITLES.values()], rows, f"{CRITERIA_IN_WORDS}{notes}.")
    rows = [
        [name, str(row["num_images"]), *(f"{one['classes'][name]['value']:.1%}" for one in criteria)]
        for name, row in criteria[0]["classes"].items()
    ]
    yield Table("Memorization by label", ["label", "samples", *TITLES.values()], rows)


def verdict(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Quality and memorization in a sentence each."""
    if kid := next((one for name, one in metrics.items() if name.startswith("kid_")), None):
        of_art = kid["real"]
        alike = kid["low"] is not None and of_art["high"] is not None and kid["low"] <= of_art["high"]
        words = "cannot be told from" if alike else "differ from"
        yield (
            f"Samples {words} held-out art: their KID is {kid['value']:.3g}; training images in their place have "
            f"{of_art['value']:.3g}."
        )
    criteria = [metrics["memorization"][key] for key in TITLES]
    most = max(criteria, key=lambda one: one["value"] - one["held_out"])
    if not any(one["value"] for one in criteria):
        yield f"No near-duplicates of training images among {metrics['num_images']} samples."
        return
    has_memorized = metrics["memorization"]["has_memorized"]
    yield (
        f"{'The network has memorized training images' if has_memorized else 'No sign of memorization'}: "
        f"{most['value']:.1%} of the samples are near-duplicates of one, and {most['held_out']:.1%} of art that copies "
        "none."
    )


def draw_curves(metrics: Mapping[str, Any], shown: Shown) -> list[Figure]:
    """Distances, spectra, and errors if there are any."""
    errors, nearest, test = metrics.get("error_by_noise_level", []), shown.nearest, shown.test
    figures = [
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
        spectra(shown.powers, "Too little on the right is blur; a peak at the right end is a checkerboard."),
    ]
    if errors:
        levels = [(k + 0.5) / len(errors) for k in range(len(errors))]
        axes = "noise level r", "squared error of x0_hat"
        figures.append(curves("Error by noise level", *axes, {"held-out images": (levels, errors)}))
    return figures


def by_class(shown: Shown, facts: Mapping[str, object]) -> Figure:
    """A row of samples for each of the most frequent classes; white where a class has too few."""
    most = sorted(name for name, _ in Counter(sorted(shown.names)).most_common(MAX_ROWS))
    rows = [(name, shown.samples[[own == name for own in shown.names]][:IN_ROW]) for name in most]
    return rows_of_images("Samples", rows, facts)


def typical_images(shown: Shown, facts: Mapping[str, object]) -> Iterator[Figure]:
    """The samples whose features lie nearest to, and farthest from, those of a held-out image."""
    if shown.typical is None:
        return
    order, num = shown.typical.argsort(), min(2 * IN_ROW, len(shown.typical) // 2)
    for title, ids, note in (
        ("The best", order[:num], "Their features lie nearest to those of a held-out image."),
        ("The worst", order[-num:].flip(0), "Their features lie farthest from those of any held-out image."),
    ):
        yield rows_of_images(title, [("", shown.samples[part]) for part in ids.split(IN_ROW)], facts, note)


def closest_pairs(shown: Shown, facts: Mapping[str, object]) -> Figure:
    """The samples that are nearest to a training image, each above that image."""
    rows = []
    for part in shown.nearest.distance.argsort()[:NUM_PAIRS].split(IN_ROW):
        rows += [("sample", shown.samples[part]), ("training image", shown.test.train[shown.nearest.which[part]])]
    note = "Samples above, the nearest training image below; the closest pair first."
    return rows_of_images("Closest pairs", rows, facts, note)
