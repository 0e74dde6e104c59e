"""Attribution: the training images that are nearest to samples, with their artists and licences.

Distances and the threshold are those of the memorization test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.datamodule import ArtDataModule
from artart.data.dataset import used
from artart.evaluation.held_out import load_images, training_data
from artart.io.contact_sheet import ContactSheet
from artart.io.files import as_csv, as_json, write_new
from artart.io.images import Resample
from artart.io.provenance import ImageProvenance, joint_opt_out
from artart.io.terminal import relative_to_cwd
from artart.metrics.memorization import MIN_HELD_OUT, MemorizationTest

COLUMNS: Final = ("artist", "licence")  # of the user's table
MAX_ROWS: Final = 64  # samples in the sheet


class Source(NamedTuple):
    """A training image."""

    path: str  # of its file, below the folder of the images
    columns: dict[str, str]  # its cells in those of COLUMNS that the table has
    group: str  # near-duplicates have the same
    opt_out: str  # of data mining; "": none


@dataclass(frozen=True)
class TrainingSet:
    """The images of a training; all are uint8."""

    images: Tensor  # (N, 3, S, S)
    sources: Sequence[Source]  # N
    held_out: Tensor  # (M, 3, S, S), perhaps none
    facts: Mapping[str, object] = field(default_factory=dict)  # of network and data

    @cached_property
    def test(self) -> MemorizationTest:
        """The test whether images are near-duplicates of these."""
        return MemorizationTest(self.images, [one.group for one in self.sources], self.held_out)

    @cached_property
    def threshold(self) -> float | None:
        """1 % of held-out images are nearer than this to a training image; None: too few are held out."""
        return self.test.thresholds[0] if len(self.held_out) >= MIN_HELD_OUT else None

    def num_closer(self, distances: Tensor) -> int | None:
        """How many samples, with these distances to the nearest training image, are nearer than the threshold."""
        return None if self.threshold is None else int((distances < self.threshold).sum())

    def describe(self, which: int, distance: float) -> dict[str, Any]:
        """A training image in this distance of a sample, as plain data."""
        closer = None if self.threshold is None else distance < self.threshold
        measured = {"distance": round(distance, 6), "closer_than_held_out": closer}
        return {"path": self.sources[which].path, **self.sources[which].columns, **measured}


def is_memorized(training: TrainingSet) -> Callable[[Tensor], Tensor]:
    """A filter of samples: whether each, uint8 (B, 3, S, S), is a near-duplicate by any criterion of the test.

    Raises ArtError if too few images are held out.
    """
    if (num := len(training.held_out)) < MIN_HELD_OUT:
        raise ArtError(
            f"refuse_memorized=true: compares samples with held-out art, and {num} images were held out; "
            f"{MIN_HELD_OUT} are the minimum"
        )

    def judge(pixels: Tensor) -> Tensor:
        return torch.stack([*training.test.judge(training.test.nearest(pixels)).values()]).any(dim=0)

    return judge


class Attribution:
    """Collects samples with `add`; `write` lists the training images that are nearest to each."""

    def __init__(self, training: TrainingSet, k: int, resample: Resample = "lanczos") -> None:
        """`k`: training images for a sample."""
        self.training, self.k, self.resample = training, k, resample
        self.samples = list[tuple[Path, Tensor, str]]()  # file, pixels, opt-out of the image that it was made from

    def add(self, path: Path, pixels: Tensor, provenance: ImageProvenance) -> None:
        """Keep a sample, uint8 (3, S, S), as the network made it."""
        self.samples.append((path, pixels, provenance.opt_out))

    def write(self, folder: Path, save: Callable[[Tensor, str, ImageProvenance], object]) -> str:
        """Write attribution.csv, attribution.json and attribution.png into the samples' folder; no file is replaced.

        `save` writes the last, uint8 (3, H, W), under its name.

        Returns a sentence: how many samples are closer to a training image than held-out art usually is, which is the
        criterion `rate` of the memorization test. Raises OSError if a file cannot be written.
        """
        training, pixels = self.training, torch.stack([pixels for _, pixels, _ in self.samples])
        distances, which = training.test.k_nearest(pixels, self.k)  # (B, k) each
        found = [[*zip(*one, strict=True)] for one in zip(which.tolist(), distances.tolist(), strict=True)]
        names = [path.relative_to(folder).as_posix() for path, *_ in self.samples]
        listed = {name: [training.describe(*one) for one in near] for name, near in zip(names, found, strict=True)}
        rows = [[name, k, *one.values()] for name, near in listed.items() for k, one in enumerate(near, start=1)]
        table = write_new(folder / "attribution.csv", as_csv(["sample", "rank", *listed[names[0]][0]], rows))
        numbers: dict[str, Any] = {
            "num_train": len(training.images),
            "num_held_out": len(training.held_out),
            "threshold": training.threshold,
            "num_samples": len(names),
            "num_closer": training.num_closer(distances[:, 0]),
            "samples": [{"sample": name, "nearest": near} for name, near in listed.items()],
        }
        write_new(folder / "attribution.json", as_json({**training.facts, **numbers}))
        save(*self._sheet(found))
        return f"attribution: {_verdict(**numbers)}: see {relative_to_cwd(table)}"

    def _sheet(self, found: Sequence[Sequence[tuple[int, float]]]) -> tuple[Tensor, str, ImageProvenance]:
        """A row for each sample: the sample, then its nearest training images with distance and artist."""
        num_columns, opt_outs = 1 + len(found[0]), set[str]()
        sheet = ContactSheet(self.training.images.shape[-1], self.resample)
        for (path, pixels, opt_out), near in zip(self.samples[:MAX_ROWS], found, strict=False):
            if not sheet.has_room(num_columns):
                break
            sheet.add(pixels, path.stem)
            opt_outs.add(opt_out)
            for k, distance in near:
                source = self.training.sources[k]
                name = source.columns.get("artist") or Path(source.path).name
                sheet.add(self.training.images[k], f"{distance:.3f} {name}")
                opt_outs.add(source.opt_out)
        provenance = ImageProvenance("composite", self.training.facts, joint_opt_out(opt_outs))
        return sheet.draw(num_columns), "attribution.png", provenance


def _verdict(num_closer: int | None, num_samples: int, num_held_out: int, **_: object) -> str:
    if num_closer is None:
        few = f" ({num_held_out} images were held out, and {MIN_HELD_OUT} are the minimum)" if num_held_out else ""
        return f"no held-out art to compare with{few}"
    if num_closer == 0:
        return "samples are no closer to training images than held-out art"
    number = f"{num_closer} of {num_samples} samples {'is' if num_closer == 1 else 'are'}"
    return f"{number} closer to a training image than held-out art usually is"


def training_set_for(loaded: Loaded, **places: Any) -> TrainingSet:
    """Read the training images of a network, with the arguments and the errors of `training_data`."""
    data = training_data(loaded, **places)
    facts = load_images(data, loaded, "training")
    return training_set(data, {"checkpoint": loaded.path.name, "checkpoint_sha256": loaded.sha256, **facts})


def training_set(data: ArtDataModule, facts: Mapping[str, object] = MappingProxyType({})) -> TrainingSet:
    """The training and held-out images of data that are loaded, with what the table says of the former."""
    groups = data.images.groups
    if (folder := data.folder) is None:
        sources = [Source(f"demo art, image {i}", {}, groups[i], "") for i in data.train_ids]
    else:
        entries, table = used(data.entries), folder.metadata
        columns = [column for column in COLUMNS if table and column in table.columns]
        sources = []
        for i in data.train_ids:
            path = entries[i].path  # in data.root
            cells: dict[str, str] = {column: folder.name_of(folder.root / path, column) for column in columns}
            sources.append(Source(str(path), cells, groups[i], entries[i].facts.opt_out))
    return TrainingSet(data.pixels_of(data.train_ids), sources, data.pixels_of(data.val_ids), facts)
