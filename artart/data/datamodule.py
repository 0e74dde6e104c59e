"""Lightning's source of training and validation images."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from artart import ArtError
from artart.data import demo
from artart.data.dataset import check_usable, images_of, paint_demo_art, place
from artart.data.folder import ArtFolder
from artart.data.index import Entry, write_unused
from artart.data.labels import CLASS, NO_CLASS, check_columns, pairs, untrained_labels
from artart.data.latents import Encoder, Latents, latents_of
from artart.data.loader import Loader
from artart.data.opt_out import REASON
from artart.data.settings import DataSettings
from artart.data.split import split
from artart.data.text import Text
from artart.data.vocabulary import tokens_of
from artart.io.terminal import printable

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class ArtDataModule(DataSettings, LightningDataModule):
    """Images of a folder, or demo art: decoded once, split by content, kept as uint8."""

    def __post_init__(self) -> None:
        LightningDataModule.__init__(self)
        super().__post_init__()
        for key, file in (("metadata", self.metadata), ("opt_out", self.opt_out)):
            if self.root is None and file is not None:
                raise ArtError(f"data.{key}={file}: describes a folder; name it by data.root=DIR")
        if self.licences is not None and (self.metadata is None or not self.licences):
            remedy = "licences are a column of a table; name it by data.metadata=FILE.csv"
            raise ArtError(f"data.licences={self.licences}: {'null allows all' if self.metadata else remedy}")
        self.labels = [" ".join(column.split()) for column in self.labels]  # as metadata names its columns
        check_columns(self.labels, self.metadata)
        self.folder = None if self.root is None else ArtFolder(self)
        sources = [self.captions] if isinstance(self.captions, str) else self.captions
        self.text = Text(self.folder, sources, self.max_tokens)
        self.latents: Latents | None = None  # of which batches consist, if `encode` was called
        self.entries: list[Entry] = []  # every file of the folder
        self.train_ids, self.val_ids = list[int](), list[int]()
        self.loader_state: dict[str, Any] = {}  # of a checkpoint, for the training loader

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the names of the labels 0, 1, ...; found without decoding."""
        return {CLASS: list(demo.CLASS_NAMES)} if self.folder is None else self.folder.label_names

    @property
    def num_found(self) -> int:
        """The number of images, before any is decoded: some may be unusable."""
        return self.num_demo_images if self.folder is None else len(self.folder.listed)

    @property
    def val_is_held_out(self) -> bool:
        """False if validation only shows images of the training set."""
        return self.val_fraction > 0

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the data; `sha256` is of the images' contents, labels and sides of the split."""
        sides = dict.fromkeys(self.train_ids, "train") | dict.fromkeys(self.val_ids, "val")
        lines = zip(self.images.digests, self.images.labels.tolist(), sorted(sides), strict=True)
        described = sorted(f"{digest} {' '.join(map(str, row))} {sides[i]}" for digest, row, i in lines)
        if self.text.vocabulary is not None:
            described += sorted(map(repr, zip(self.images.digests, self.images.captions, strict=True)))
        return {
            "sha256": sha256("\n".join(described).encode()).hexdigest(),
            "num_train": len(self.train_ids),
            "num_val": len(self.val_ids),
            "num_opted_out": sum(entry.kind == REASON for entry in self.entries),
            "untrained_labels": self._untrained_labels,
        }

    def load(self, loaded: "ArtDataModule | None" = None) -> None:
        """Read new files and split the images; or share those of `loaded`, whose settings differ in batches alone.

        Raises ArtError if too many files are unusable or too few images are left.
        """
        if loaded:
            self.__dict__ |= {name: vars(loaded)[name] for name in ("images", "entries", "train_ids", "val_ids")}
            return  # the first stage of two has no captions
        if self.folder is None:
            self.images = paint_demo_art(self.num_demo_images, self.image_size, self.seed)
        else:
            contents = self.folder.read()
            self.entries = contents.entries
            check_usable(contents.entries, self.folder, self.max_rejected_fraction)
            self.images = images_of(self.folder, contents, self.text.captions.texts)
        images, num_images = self.images, len(self.images.digests)
        self.val_ids = split(images.digests, images.groups, self.val_fraction, pairs(images.labels, self.label_names))
        if self.val_is_held_out and not self.val_ids:
            raise ArtError(
                f"data.val_fraction={self.val_fraction}: all {num_images} images are near-duplicates, "
                "so none can be held out; add others or set data.val_fraction=0"
            )
        self.train_ids = sorted(set(range(num_images)) - set(self.val_ids))
        num_train = len(self.train_ids)
        held_out = f"{len(self.val_ids)} held out for validation" if self.val_ids else "none held out"
        log.info("%d images: %d for training, %s", num_images, num_train, held_out)
        for column, names in self._untrained_labels.items():
            shown = ", ".join(map(printable, names[:10])) + ", ..." * (len(names) > 10)
            log.warning("%s: no training image has %s; label=all leaves that out", column, shown)
        self.text.note([images.captions[i] for i in self.train_ids])
        if num_train < self.batch_size:
            log.info("data.batch_size=%d: the training set has only %d, so it is the batch", self.batch_size, num_train)

    def encode(self, encoder: Encoder, device: torch.device) -> None:
        """Replace the images of batches by their latents. Raises ArtError as for `latents_of`."""
        self.latents = latents_of(self.images, encoder, self.folder, device, self.random_flip)

    def training_latents(self) -> Iterator[Tensor]:
        """The latents of training images, not normalised, in parts (n, C, H, W)."""
        assert self.latents
        for rows in self.latents.rows[self.train_ids].split(1024):
            yield self.latents.values[rows].float()

    def list_unused(self, folder: Path) -> None:
        """Write rejected.csv, excluded.csv and other.csv into a folder."""
        if self.folder:
            write_unused(self.entries, self.folder.root, folder)

    def setup(self, stage: str) -> None:
        """Load the images unless `load` has been called; of several processes one reads a folder and the others wait.

        artart.train calls `load` before it makes the Trainer. Lightning calls its hooks only within `fit`, when a run
        folder has been claimed, so errors in the data would come late.
        """
        if "images" not in vars(self):
            self.load()

    def train_dataloader(self) -> Loader:
        batch_size = min(self.batch_size, len(self.train_ids) // self._rank_and_world_size[1])
        options = {"random_flip": self.random_flip, "class_balanced": self.class_balanced}
        self.train_loader = self._loader(self.train_ids, batch_size, shuffle=True, **options)
        if self.loader_state:
            self.train_loader.load_state_dict(self.loader_state)
        return self.train_loader

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch."""
        return self.train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until there is a loader: Lightning loses it if the scheduler asks for the number of steps."""
        self.loader_state = state_dict

    def val_dataloader(self) -> Loader:
        shown = self.train_ids[: self.batch_size * self._rank_and_world_size[1]]
        return self._loader(self.val_ids or shown, self.batch_size)

    def y_of(self, ids: Sequence[int]) -> Tensor:
        """What conditions a network on images: their labels (N, K), or the tokens of their first captions (N, L)."""
        if self.text.vocabulary is None:
            return self.images.labels[list(ids)]
        return self.text.vocabulary.encode([next(iter(self.images.captions[i]), "") for i in ids])

    def pixels_of(self, ids: Sequence[int]) -> Tensor:
        """Some of the images, uint8 (N, 3, S, S) on the CPU."""
        pixels = self.images.pixels
        return pixels.index_select(0, self.images.rows[list(ids)].to(pixels.device)).cpu()

    def names_of(self, ids: Sequence[int]) -> list[tuple[str, ...]]:
        """The names of their labels, K each; NO_CLASS for "none"."""
        columns = zip(self.label_names.values(), self.images.labels[list(ids)].T.tolist(), strict=True)
        return list(zip(*([(*names, NO_CLASS)[label] for label in labels] for names, labels in columns), strict=True))

    def _loader(self, ids: Sequence[int], batch_size: int, **options: Any) -> Loader:
        rank, world_size = self._rank_and_world_size
        options = {**options, "seed": self.seed, "device": self._device, "rank": rank, "world_size": world_size}
        labels = self.images.labels[ids]
        if self.text.vocabulary is not None:
            options["captions"] = tokens_of([self.images.captions[i] for i in ids], self.text.vocabulary)
        if self.latents is not None:
            self.latents = self.latents._replace(values=place(self.latents.values, self.storage, self._device))
            values, rows, options["normalize"] = self.latents
        else:
            self.images = self.images._replace(pixels=place(self.images.pixels, self.storage, self._device))
            values, rows = self.images.pixels, self.images.rows
        return Loader(values, labels, rows[ids], batch_size, **options)

    @property
    def _untrained_labels(self) -> dict[str, list[str]]:
        return untrained_labels(self.images.labels[self.train_ids], self.label_names)

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
