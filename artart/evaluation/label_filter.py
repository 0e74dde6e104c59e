"""A filter of samples by examples: a classifier decides which of a user's folders they look like."""

from functools import partial
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from artart import ArtError
from artart.config.build import did_you_mean
from artart.data.datamodule import ArtDataModule
from artart.features.alexnet import alexnet_for, features_of
from artart.metrics.fidelity import Classifier

SIDE = 128  # pixels at which examples are seen


class LabelFilter:
    """Refuses images whose most probable class is one of some; implements `generation.refusal.Filter`.

    It errs as any classifier does, and knows only the classes that it is shown: measure it on images of your own.
    """

    def __init__(self, root: str | Path, refused: list[str], weights: str = "auto") -> None:
        """Learn the classes, which are the sub-folders of root.

        Raises ArtError if a name in `refused` is no class, there is no other, or the weights are not available.
        """
        data = ArtDataModule(root, SIDE, val_fraction=0, exclude={"ai_made": False})
        known, refused = next(iter(data.label_names.values())), [normalize("NFC", name) for name in refused]
        if unknown := [name for name in refused if name not in known]:
            raise ArtError(f"filter.refused: {unknown[0]} is no sub-folder of {root}{did_you_mean(unknown[0], known)}")
        if not {*known} - {*refused}:
            raise ArtError(f"filter.refused: names all sub-folders of {root}; add one with images that are allowed")
        alexnet_for("filter.weights", weights, "filter=null")
        data.load()
        self.refused = {*refused}
        self.features = partial(features_of, weights=weights, device=torch.device("cpu"))
        names = [name for name, *_ in data.names_of(data.train_ids)]
        if unusable := [name for name in refused if name not in names]:
            raise ArtError(f"filter.refused: no image of {unusable[0]} below {root} can be used; add others")
        self.classify = Classifier(self.features(data.pixels_of(data.train_ids)), names)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Whether each image, uint8 (B, 3, S, S), is refused: (B,) bool."""
        return torch.tensor([name in self.refused for name in self.classify(self.features(pixels))])
