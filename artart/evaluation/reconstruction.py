"""How well a network reproduces held-out images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Generator, Tensor

from artart.checkpoints.device import check_numbers
from artart.checkpoints.load import Loaded
from artart.data.datamodule import ArtDataModule
from artart.evaluation.features import Extractor, features, known_features
from artart.evaluation.report import IN_ROW, Evaluation, interval, rows_of_images, spectra
from artart.features.alexnet import lpips_alex
from artart.io.images import to_model, to_pixels
from artart.io.page import Figure, Table, histograms
from artart.io.terminal import progress_bar
from artart.metrics.distances import by_label, mean, paired_kernel_distance
from artart.metrics.pixel import MAX_PSNR, psnr, ssim
from artart.metrics.spectrum import radial_power

MAX_SHOWN: Final = 3 * IN_ROW  # held-out images
MEASURES: Final = {  # and which values are better
    "psnr": ("PSNR (dB)", "higher"),
    "ssim": ("SSIM", "higher, at most 1"),
    "lpips_alex": ("LPIPS-Alex", "lower, at least 0"),
    "kid_alexnet": ("KID, AlexNet", "lower, 0 is perfect"),
}


def measure(
    loaded: Loaded, data: ArtDataModule, facts: Mapping[str, object], batch_size: int, extractor: Extractor | None
) -> Evaluation:
    """PSNR, SSIM and, with AlexNet, LPIPS and KID of the held-out images, also by class, and images to look at.

    Raises FloatingPointError if the network outputs NaN or infinity.
    """
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}
    if extractor is not None:
        measures["lpips_alex"] = partial(lpips_alex, weights=extractor.weights)
    x0 = data.pixels_of(data.val_ids)
    parts: list[Tensor] = []
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    with progress_bar() as bar, torch.inference_mode():
        for pixels in bar.track(x0.split(batch_size), description="reconstructing"):
            x = to_model(pixels).to(loaded.device)
            x_hat = loaded.net(x)
            check_numbers(x_hat, loaded.path)
            parts.append(to_pixels(x_hat).cpu())
            saved = to_model(parts[-1]).to(loaded.device)
            for name, measure in measures.items():
                values[name].append(measure(saved, x).cpu())
    scores = {name: torch.cat(of_batches) for name, of_batches in values.items()}
    scores["psnr"] = scores["psnr"].clamp(max=MAX_PSNR)
    metrics, x0_hat = _summary(scores), torch.cat(parts)
    metrics["classes"] = {
        label: _summary({name: values[rows] for name, values in scores.items()})
        for label, rows in by_label([names[0] for names in data.names_of(data.val_ids)]).items()
    }
    if extractor is not None and len(x0) > 1:  # it compares pairs of images
        of_images, of_reconstructions = known_features(x0, extractor, data), features(x0_hat, extractor)
        metrics["kid_alexnet"] = paired_kernel_distance(of_reconstructions, of_images)._asdict()
    means = ", ".join(f"{MEASURES[name][0]} {metrics[name]['mean']:.3g}" for name in measures)
    verdict = f"{metrics['num_images']} held-out images are reproduced with {means}."
    powers = {"images": radial_power(to_model(x0)), "reconstructions": radial_power(to_model(x0_hat))}
    drawn = [
        histograms("PSNR", "PSNR (dB)", {"held-out images": scores["psnr"].tolist()}),
        spectra(powers, "Reconstructions that fall below the images on the right are blurred."),
    ]
    images = _draw_images(x0, x0_hat, scores["psnr"], facts)
    return Evaluation(metrics, [verdict], images, _tables(metrics, [*measures]), drawn)


def _summary(scores: Mapping[str, Tensor]) -> dict[str, Any]:
    generator, summary = Generator().manual_seed(0), {}
    for name, values in scores.items():
        value, low, high = mean(values, generator)
        summary[name] = {"mean": value, "low": low, "high": high}
    return {**summary, "num_images": len(scores["psnr"])}


def _tables(metrics: Mapping[str, Any], of_images: Sequence[str]) -> list[Table]:
    overall, by_class = list[list[str]](), list[list[str]]()
    for name, (title, better) in MEASURES.items():
        if name in metrics:
            value, low, high = metrics[name].values()
            overall.append([title, f"{value:.4g}", interval(low, high, ".4g"), better])
    for name, one in metrics["classes"].items():
        by_class.append([name, str(one["num_images"]), *(f"{one[key]['mean']:.4g}" for key in of_images)])
    return [
        Table(f"{metrics['num_images']} held-out images", ["measure", "value", "95 % interval", "better"], overall),
        Table("By class", ["class", "images", *(MEASURES[name][0] for name in of_images)], by_class),
    ]


def _draw_images(x0: Tensor, x0_hat: Tensor, scores: Tensor, facts: Mapping[str, object]) -> list[Figure]:
    """Images above their reconstructions: all of few, else the best, the worst and some between; none twice."""
    order = scores.argsort(descending=True)
    if len(order) <= MAX_SHOWN:
        return [_pairs("From the best to the worst", x0, x0_hat, order, facts, "By PSNR.")]
    between = order[torch.linspace(IN_ROW, len(order) - IN_ROW - 1, IN_ROW).round().long()]
    return [
        _pairs("The best", x0, x0_hat, order[:IN_ROW], facts, "By PSNR."),
        _pairs("In between", x0, x0_hat, between, facts, "From the better to the worse."),
        _pairs("The worst", x0, x0_hat, order[-IN_ROW:], facts, "The worst last."),
    ]


def _pairs(title: str, x0: Tensor, x0_hat: Tensor, ids: Tensor, facts: Mapping[str, object], note: str) -> Figure:
    rows = [(name, of[part]) for part in ids.split(IN_ROW) for name, of in (("image", x0), ("output", x0_hat))]
    return rows_of_images(title, rows, facts, note)
