"""Validated images for the trainer."""

import logging
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from pydantic import Field
from rich.filesize import decimal
from torch import Tensor

from artart import ArtError
from artart.data import dataset, demo
from artart.data.dataset import ImageSet
from artart.data.decode import MAX_PIXELS, ResizeMode
from artart.data.folder import ArtFolder
from artart.data.index import Entry, Rules, write_unused
from artart.data.labels import CLASS, NO_CLASS, check_columns
from artart.data.loader import Loader
from artart.data.split import split
from artart.io.images import Batch, to_model
from artart.io.ranges import Count, Fraction, ImageSize, Seed

log = logging.getLogger(__name__)


class Exclude(TypedDict, total=False):
    """Which usable images are left out."""

    duplicate: bool  # all but the first of files with the same content
    opt_out: bool  # those that say that they must not be mined
    ai_made: bool  # those that say that a network made them


EXCLUDE = Exclude(duplicate=True, opt_out=True, ai_made=True)
LABELS = [CLASS]


class ArtDataModule(LightningDataModule):
    """A folder of images, or demo art: decoded once, split by content, served as bytes."""

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: ImageSize = 128,
        resize_mode: ResizeMode = "stretch",
        batch_size: Count = 32,
        val_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.1,
        random_flip: bool = False,
        class_balanced: bool = False,
        storage: Literal["auto", "memory", "device"] = "auto",
        metadata: str | Path | None = None,
        licences: list[str] | None = None,
        labels: list[str] = LABELS,
        min_per_label: Count = 50,
        exclude: Exclude = EXCLUDE,
        max_pixels: Count = MAX_PIXELS,
        min_size: Count = 8,
        max_rejected_fraction: Fraction = 0.5,
        cache_dir: str | Path | None = None,
        num_workers: Count | None = None,
        num_demo_images: Annotated[int, Field(ge=4)] = 500,
        seed: Seed = 0,
    ) -> None:
        """
        Args:
            root: a folder; its sub-folders are classes. None: demo art.
            image_size: side of the square images in pixels.
            resize_mode: how an image becomes square: stretch (as in the article), center_crop its middle, or pad with
                white.
            batch_size: images in a training step; the whole training set where that is smaller.
            val_fraction: share of the images held out for validation, 0 to 0.9.
            random_flip: half of the training images, drawn anew each epoch, are flipped left to right.
            class_balanced: draw training images so that every class, or label of the first column, is equally frequent.
            storage: where the pixels lie while training: memory (mapped from the cache), device, or auto: on the GPU
                if there is one and they take less than a quarter of what is free there.
            metadata: a CSV table with the column path, perhaps class and licence; what it does not name is excluded.
            licences: those allowed, as they stand in the table, or patterns such as "CC0*".
            labels: K columns of the table, each of which gives an image a label; `class` without such a column is the
                folder.
            min_per_label: values of columns other than `class` that fewer files have are no labels; these files
                have none there. Every class is a label.
            exclude: which usable images are left out.
            max_pixels: files of more pixels are not decoded.
            min_size: least length of an image's shorter side in pixels.
            max_rejected_fraction: share of unusable files above which `load` refuses the folder.
            cache_dir: where index and pixels of folders are kept; None: the user's cache.
            num_workers: processes that decode; None: one per core.
            num_demo_images: how much demo art to paint.
            seed: of demo art, of the order of training and of mirroring.
        """
        super().__init__()
        if root is None and metadata is not None:
            raise ArtError(f"data.metadata={metadata}: describes a folder; name it by data.root=DIR")
        if licences is not None and (metadata is None or not licences):
            raise ArtError(
                f"data.licences={licences}: "
                + ("null allows all" if metadata else "licences stand in a table; name it by data.metadata=FILE.csv")
            )
        labels = [" ".join(column.split()) for column in labels]  # as metadata names its columns
        check_columns(labels, metadata)
        rules = Rules(max_pixels, min_size, **(EXCLUDE | exclude))
        self.folder: ArtFolder | None = None
        self.unlisted: list[Entry] = []  # files that are not used and stand in no list yet
        if root is not None:
            self.folder = ArtFolder(
                Path(root),
                rules,
                image_size,
                resize_mode,
                None if metadata is None else Path(metadata),
                licences,
                labels,
                min_per_label,
                None if cache_dir is None else Path(cache_dir),
                num_workers,
            )
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.random_flip = random_flip
        self.class_balanced = class_balanced
        self.storage = storage
        self.max_rejected_fraction = max_rejected_fraction
        self.num_demo_images = num_demo_images
        self.seed = seed
        self.goes_on_at: dict[str, Any] = {}  # what a checkpoint says of the training's loader

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the names of the labels 0, 1, ...; found without decoding."""
        return {CLASS: list(demo.CLASS_NAMES)} if self.folder is None else self.folder.label_names

    @property
    def val_is_held_out(self) -> bool:
        """False where validation only previews images of the training set."""
        return self.val_fraction > 0

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint tells of the images; `sha256` is of their contents, labels and sides of the split."""
        sides = dict.fromkeys(self.train_ids, "train") | dict.fromkeys(self.val_ids, "val")
        lines = zip(self.images.digests, self.images.labels.tolist(), sorted(sides), strict=True)
        described = sorted(f"{digest} {' '.join(map(str, row))} {sides[i]}" for digest, row, i in lines)
        return {
            "sha256": sha256("\n".join(described).encode()).hexdigest(),
            "num_train": len(self.train_ids),
            "num_val": len(self.val_ids),
        }

    @property
    def train_batch_size(self) -> int:
        """Images in a process's training step: batch_size, or its share of a training set that is smaller."""
        return min(self.batch_size, len(self.train_ids) // self._place[1])

    def load(self, lists: Path | None) -> None:
        """Read what is not known yet and split it.

        Args:
            lists: the folder where rejected.csv and excluded.csv list what is not used; None: they are not written yet.

        Raises:
            ArtError: if too many files are unusable or too few images are left.
        """
        self.images = self._read_images(lists)
        num_images = len(self.images.digests)
        self.val_ids = split(self.images.digests, self.images.groups, self.val_fraction)
        if self.val_is_held_out and not self.val_ids:
            raise ArtError(
                f"data.val_fraction={self.val_fraction}: all {num_images} images look alike, "
                "so none can be held out; add others or set data.val_fraction=0"
            )
        self.train_ids = sorted(set(range(num_images)) - set(self.val_ids))
        held_out = f"{len(self.val_ids)} held out for validation" if self.val_ids else "none held out"
        log.info("%d images: %d for training, %s", num_images, len(self.train_ids), held_out)
        if len(self.train_ids) < self.batch_size:
            log.info(
                "data.batch_size=%d: the training set has only %d, so it is the batch",
                self.batch_size,
                len(self.train_ids),
            )

    def _read_images(self, lists: Path | None) -> ImageSet:
        if self.folder is None:
            return dataset.painted(self.num_demo_images, self.image_size, self.seed)
        contents = self.folder.read()
        self.unlisted = [entry for entry in contents.entries if entry.status != "ok"]
        if lists:
            self.list_unused(lists)
        dataset.judge(contents.entries, self.folder, self.max_rejected_fraction, lists)
        return dataset.usable(self.folder, contents)

    def list_unused(self, folder: Path) -> None:
        """Write rejected.csv and excluded.csv into a folder, once."""
        if self.folder:
            write_unused(self.unlisted, self.folder.root, folder)
            self.unlisted = []

    def train_dataloader(self) -> Loader:
        self.train_loader = self._loader(
            self.train_ids,
            self.train_batch_size,
            shuffle=True,
            random_flip=self.random_flip,
            class_balanced=self.class_balanced,
        )
        if self.goes_on_at:
            self.train_loader.load_state_dict(self.goes_on_at)
        return self.train_loader

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is."""
        return self.train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until there is a loader; Lightning alone loses it if the scheduler asks how long the run will be."""
        self.goes_on_at = state_dict

    def val_dataloader(self) -> Loader:
        return self._loader(self.val_ids or self.train_ids[: self.batch_size * self._place[1]], self.batch_size)

    def preview(self, per_row: int, min_rows: int = 4, max_rows: int = 20) -> Batch:
        """Real images on the CPU for rows of one class each, `per_row` a row, the most frequent classes.

        Classes are the labels of the first column. Held-out images come first; a class with too few begins again. Few
        classes get several rows each.
        """
        classes = self.images.labels[:, 0]
        labels, counts = classes.unique(return_counts=True)
        shown = sorted(labels[counts.argsort(descending=True, stable=True)[:max_rows]].tolist())
        num_rows = -(-min_rows // len(shown))
        ids: list[int] = []
        label_of = classes.tolist()
        for label in shown:
            own = [i for i in (*self.val_ids, *self.train_ids) if label_of[i] == label]
            ids += islice(cycle(own), num_rows * per_row)
        return Batch(to_model(self.pixels_of(ids)), self.images.labels[ids])

    def pixels_of(self, ids: Sequence[int]) -> Tensor:
        """Some of the images, uint8 (N, 3, S, S) on the CPU."""
        pixels = self.images.pixels
        return pixels.index_select(0, self.images.rows[list(ids)].to(pixels.device)).cpu()

    def names_of(self, ids: Sequence[int]) -> list[tuple[str, ...]]:
        """The names of their labels, K each; NO_CLASS for what has none."""
        columns = zip(self.label_names.values(), self.images.labels[list(ids)].T.tolist(), strict=True)
        return list(zip(*([(*names, NO_CLASS)[label] for label in labels] for names, labels in columns), strict=True))

    def _loader(self, ids: Sequence[int], batch_size: int, **options: bool) -> Loader:
        self.images = self.images._replace(pixels=self._placed())
        rank, world_size = self._place
        return Loader(
            self.images.pixels,
            self.images.labels[ids],
            self.images.rows[ids],
            batch_size,
            seed=self.seed,
            device=self._device,
            rank=rank,
            world_size=world_size,
            **options,
        )

    @property
    def _place(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _placed(self) -> Tensor:
        """All pixels where they are to lie while training.

        Raises:
            ArtError: if they do not fit there.
        """
        pixels, device = self.images.pixels, self._device
        here = self.storage == "memory" or (self.storage == "auto" and device.type != "cuda")
        if here or pixels.device == device:
            return pixels
        if device.type == "cuda":
            torch.cuda.empty_cache()  # of an earlier job of a sweep
            free = torch.cuda.mem_get_info(device)[0]
            if self.storage == "auto" and pixels.nbytes > free / 4:
                return pixels
            if pixels.nbytes > free:
                raise ArtError(
                    f"data.storage=device: the pixels take {decimal(pixels.nbytes)} and {decimal(free)} of the GPU "
                    "are free; data.storage=memory needs none of it"
                )
        return pixels.to(device)
