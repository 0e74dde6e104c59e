import os
from pathlib import Path

import pytest
import torch

from artart.data.labels import class_of, describe_folders, untrained_labels

ROOT = Path("/art")


@pytest.mark.parametrize(
    ("path", "level", "name"),
    [
        ("a.png", 1, None),
        ("cubism/a.png", 1, "cubism"),
        ("cubism/1910/paris/a.png", 1, "cubism"),
        ("train/cubism/1910/a.png", 2, "cubism"),
        ("train/a.png", 2, None),
        (os.fsdecode(b"caf\xe9/a.png"), 1, "caf\\xe9"),
        ("北斎/a.png", 1, "北斎"),
    ],
)
def test_class_of_is_the_folder_at_the_level(path: str, level: int, name: str | None) -> None:
    assert class_of((ROOT / path).parent, ROOT, level) == name


PARTS, ONE = "seem to be parts of a data set", "holds all images"
FOLDERS = {
    "parts": (["train/a", "train/b", "test/a"], PARTS, 2, "train"),
    "parts without classes": (["train", "test"], PARTS, 2, "train"),
    "parts in other case": (["Training", "Validation"], PARTS, 2, "Training"),
    "parts and others": (["train/a", "val/b", "extra"], PARTS, 2, "train"),
    "one part": (["test/a", "test/b"], ONE, 2, "test"),
    "one part without classes": (["", "test"], PARTS, 2, "test"),
    "one around": (["all/a", "all/b"], ONE, 2, "all"),
    "one around, with images": (["all", "all/b"], ONE, 2, "all"),
    "two around": (["x/y/a", "x/y/b/c"], ONE, 3, "x/y"),
    "parts in one": (["set/train/a", "set/test/a"], PARTS, 3, "set/train"),
}
FINE = [["a", "b"], ["a"], [""], ["a/b/c"], ["train", "boats"], ["monet/sea", "manet/sea"], ["", "train/a", "tests"]]


@pytest.mark.parametrize(("folders", "problem", "level", "root"), FOLDERS.values(), ids=FOLDERS)
def test_describe_folders_names_what_are_no_classes(folders: list[str], problem: str, level: int, root: str) -> None:
    text = describe_folders([ROOT / folder / f"{i}.png" for folder in folders for i in range(2)], ROOT)
    assert problem in text
    assert text.endswith(f"data.class_level={level}, or data.root=/art/{root}")


@pytest.mark.parametrize("folders", FINE)
def test_describe_folders_says_nothing_of_classes(folders: list[str]) -> None:
    assert describe_folders([ROOT / folder / f"{i}.png" for folder in folders for i in range(2)], ROOT) == ""


def test_untrained_labels_are_named_by_column() -> None:
    names = {"class": ["a", "b", "c"], "artist": ["d", "e"]}
    labels = torch.tensor([[0, 1], [2, 0], [3, 2]])  # the last row has none
    assert untrained_labels(labels, names) == {"class": ["b"]}
    assert untrained_labels(labels[2:], names) == names
