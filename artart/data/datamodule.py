"""Validated pictures for the trainer."""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from artart import ArtError
from artart.data import demo
from artart.data.files import Decoded, Rejected, class_of, find, read_all, write_rejected
from artart.images import Batch, to_model
from artart.terminal import near, progress_bar

log = logging.getLogger(__name__)

MIN_PICTURES = 4


class Pictures(NamedTuple):
    """Decoded pictures in memory."""

    pixels: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N,) long; the number of classes stands for "no class"
    digests: list[str]  # hexadecimal SHA-256 of each picture's content

    def take(self, ids: list[int]) -> "Pictures":
        return Pictures(self.pixels[ids], self.labels[ids], [self.digests[i] for i in ids])


class PictureSet(Dataset[Batch]):
    """Pictures that are fetched a whole batch at a time."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures.labels)

    def __getitem__(self, index: int) -> Batch:
        return Batch(self.pictures.pixels[index], self.pictures.labels[index])

    def __getitems__(self, ids: list[int]) -> Batch:
        rows = torch.tensor(ids)
        return Batch(self.pictures.pixels.index_select(0, rows), self.pictures.labels.index_select(0, rows))


class ArtDataModule(LightningDataModule):
    """A folder of pictures, or demo art: decoded once, split by content, served as bytes."""

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: int = 128,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        max_rejected_fraction: float = 0.5,
        num_workers: int | None = None,
        num_demo_pictures: int = 500,
        seed: int = 0,
    ) -> None:
        """
        Args:
            root: a folder; its sub-folders are classes. None: demo art.
            image_size: side of the square pictures in pixels.
            batch_size: pictures in a training step; the whole training set where that is smaller.
            val_fraction: share of the pictures held out for validation, 0 to less than 1.
            max_rejected_fraction: share of unusable files above which `load` refuses the folder.
            num_workers: threads that decode; None: one per core.
            num_demo_pictures: how much demo art to paint.
            seed: of demo art and of the order of training.
        """
        super().__init__()
        self.root = None if root is None else Path(root)
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.max_rejected_fraction = max_rejected_fraction
        self.num_workers = num_workers
        self.num_demo_pictures = num_demo_pictures
        self.seed = seed

    @cached_property
    def files(self) -> list[Path]:
        """The picture files below root.

        Raises:
            ArtError: if there are none.
        """
        assert self.root is not None
        if not (files := find(self.root)):
            raise ArtError(f"data.root={self.root}: no picture below this folder; name one that holds pictures")
        return files

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes 0, 1, ...; found without decoding."""
        if self.root is None:
            return list(demo.CLASS_NAMES)
        return sorted({name for path in self.files if (name := class_of(path, self.root))})

    @property
    def val_is_held_out(self) -> bool:
        """False where validation only previews pictures of the training set."""
        return self.val_fraction > 0

    @property
    def train_batch_size(self) -> int:
        """Pictures in a training step: the whole training set where that is smaller than batch_size."""
        return min(self.batch_size, len(self.train))

    def load(self, rejected_file: Path) -> None:
        """Decode everything and split it; unusable files are listed, with reasons, in rejected_file.

        Raises:
            ArtError: if too many files are unusable or too few pictures are left.
        """
        pictures = self._demo() if self.root is None else self._read(rejected_file)
        val_ids = split(pictures.digests, self.val_fraction)
        if self.val_is_held_out and not val_ids:
            raise ArtError(
                f"data.val_fraction={self.val_fraction}: all {len(pictures.digests)} pictures are copies of one, "
                "so none can be held out; add others or set data.val_fraction=0"
            )
        train_ids = sorted(set(range(len(pictures.digests))) - set(val_ids))
        self.train = PictureSet(pictures.take(train_ids))
        self.val = PictureSet(pictures.take(val_ids or train_ids[: self.batch_size]))
        held_out = f"{len(val_ids)} held out for validation" if val_ids else "none held out"
        log.info("%d pictures: %d for training, %s", len(pictures.digests), len(train_ids), held_out)
        if len(self.train) < self.batch_size:
            log.info(
                "data.batch_size=%d: the training set has only %d, so it is the batch", self.batch_size, len(self.train)
            )

    def _demo(self) -> Pictures:
        if self.num_demo_pictures < MIN_PICTURES:
            raise ArtError(f"data.num_demo_pictures={self.num_demo_pictures}: {MIN_PICTURES} are the least")
        log.info("data.root=null: painting %d pictures of demo art", self.num_demo_pictures)
        paintings = demo.make(self.num_demo_pictures, self.image_size, self.seed)
        with progress_bar() as bar:
            tracked = bar.track(paintings, total=self.num_demo_pictures, description="painting")
            pixels, labels = zip(*tracked, strict=True)
        digests = [sha256(picture.tobytes()).hexdigest() for picture in pixels]
        return Pictures(_channels_first(pixels), torch.tensor(labels), digests)

    def _read(self, rejected_file: Path) -> Pictures:
        verdicts = list(read_all(self.files, self.image_size, self.num_workers))
        decoded = [verdict for verdict in verdicts if isinstance(verdict, Decoded)]
        rejected = [verdict for verdict in verdicts if isinstance(verdict, Rejected)]
        write_rejected(rejected, rejected_file)
        self._judge(decoded, rejected, rejected_file)
        decoded.sort(key=lambda picture: picture.digest)  # an order that mixes the classes and does not hang on names
        pixels = [picture.pixels for picture in decoded]
        return Pictures(_channels_first(pixels), self._labels(decoded), [picture.digest for picture in decoded])

    def _judge(self, decoded: list[Decoded], rejected: list[Rejected], rejected_file: Path) -> None:
        """One line about the unusable files; an error if they are too many."""
        num_files = len(decoded) + len(rejected)
        reasons = Counter(verdict.reason.split(":")[0] for verdict in rejected).most_common(3)
        summary = ", ".join(f"{count} {reason}" for reason, count in reasons)
        if len(decoded) < MIN_PICTURES:
            raise ArtError(
                f"data.root={self.root}: {len(decoded)} of {num_files} files can be used, {MIN_PICTURES} are the least"
                + (f" ({summary}; see {near(rejected_file)})" if rejected else "; add pictures")
            )
        if len(rejected) > self.max_rejected_fraction * num_files:
            raise ArtError(
                f"data.root={self.root}: {len(rejected)} of {num_files} files are unusable, more than "
                f"data.max_rejected_fraction={self.max_rejected_fraction} ({summary}); see {near(rejected_file)}, mend "
                "the folder or raise the fraction"
            )
        if rejected:
            log.warning(
                "%d of %d files are unusable (%s): see %s", len(rejected), num_files, summary, near(rejected_file)
            )

    def _labels(self, decoded: list[Decoded]) -> Tensor:
        assert self.root is not None
        index = {name: i for i, name in enumerate(self.class_names)}
        names = [class_of(picture.path, self.root) for picture in decoded]
        return torch.tensor([len(index) if name is None else index[name] for name in names])

    def train_dataloader(self) -> DataLoader[Batch]:
        # One replica of torch's distributed sampler: its order is a function of seed and epoch alone.
        order: DistributedSampler[Batch] = DistributedSampler(
            self.train, num_replicas=1, rank=0, shuffle=True, seed=self.seed
        )
        return DataLoader(self.train, self.train_batch_size, sampler=order, drop_last=True, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.val, self.batch_size, collate_fn=_as_is)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes become [-1, 1] on the device: they are a quarter of the size of what the network sees."""
        return Batch(to_model(batch.x0).contiguous(memory_format=torch.channels_last), batch.y)


def split(digests: list[str], val_fraction: float) -> list[int]:
    """Indices held out: those whose content hash falls into the lowest val_fraction of all hashes.

    So a picture keeps its side when others are added, and copies of a picture share a side. Neither side is ever empty
    while the set holds two different pictures: the lowest hash is always held out, the highest never.
    """
    if val_fraction == 0:
        return []
    limit = int(val_fraction * 2**64)
    lowest, highest = min(digests), max(digests)
    held_out = ({digest for digest in digests if int(digest[:16], 16) < limit} | {lowest}) - {highest}
    return [i for i, digest in enumerate(digests) if digest in held_out]


def _channels_first(pixels: Sequence[np.ndarray]) -> Tensor:
    """N pictures (S, S, 3) to one tensor (N, 3, S, S)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def _as_is(batch: Any) -> Any:
    """The collate function of a PictureSet, whose batches are ready."""
    return batch
