"""Settings of a folder of images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import Field

from artart.data.decode import MAX_PIXELS, ResizeMode, colour_of
from artart.data.labels import CLASS
from artart.io.ranges import Count, Fraction, ImageSize, Rule, Seed

Storage = Literal["auto", "memory", "device"]

ColourName = Annotated[str, Rule(lambda name: bool(colour_of(name)), "a colour such as white or #808080")]


class Exclude(TypedDict, total=False):
    """Which usable images are left out."""

    duplicate: bool  # all but the first of files with the same content
    opt_out: bool  # those that opt out of data mining
    ai_made: bool  # those marked as AI-made


EXCLUDE = Exclude(duplicate=True, opt_out=True, ai_made=True)


@dataclass(eq=False, repr=False)
class DataSettings:
    """Which images are used, how they become pixels and labels, how they are split and become batches."""

    root: str | Path | None = None  # a folder; its sub-folders are classes. None: demo art
    image_size: ImageSize = 128  # side of the square images in pixels
    resize_mode: ResizeMode = "stretch"  # how an image becomes square: stretch, center_crop, or pad with the background
    background: ColourName = "white"  # of transparent images
    metadata: str | Path | None = None  # a CSV table with a column path; files that it does not name are excluded
    opt_out: str | Path | None = None  # a list of images that are excluded, as for `opt_out.read_list`
    licences: list[str] | None = None  # allowed ones, or patterns such as "CC0*"; None: all
    labels: list[str] = field(default_factory=lambda: [CLASS])  # K columns of the table, or class: the folder
    class_level: Count = 1  # of the folders that are classes: 1 are those in root, 2 those in these
    min_per_label: Count = 50  # values of other columns than class that fewer files have are no labels
    exclude: Exclude = field(default_factory=EXCLUDE.copy)
    max_pixels: Count = MAX_PIXELS  # larger images are not decoded
    min_size: Count = 8  # pixels of an image's shorter side
    cache_dir: str | Path | None = None  # where index and pixels of folders are kept; None: the user's cache
    num_workers: Count | None = None  # processes that decode; None: one per core
    batch_size: Count = 32  # images per process and step; fewer if the training set is smaller
    val_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.1  # share of the images held out for validation
    random_flip: bool = False  # flip training images left to right with probability 1/2
    class_balanced: bool = False  # draw every label of the first column equally often
    storage: Storage = "auto"  # of the pixels while training; memory: a map of the cached file; see `dataset.place`
    captions: str | list[str] = "none"  # sources of prompts, which replace labels; see `captions.captions_of`
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 64  # of a caption; further ones are cut off
    text_encoder: str | None = None  # frozen: a folder of transformers, a model in its cache, clip, or t5
    prompts: list[str] = field(default_factory=list)  # that grids show; none: the most frequent captions
    max_rejected_fraction: Fraction = 0.5  # share of unusable files above which `load` raises an error
    num_demo_images: Annotated[int, Field(ge=4)] = 500
    seed: Seed = 0  # of demo art and of the order and the flips of training

    def __post_init__(self) -> None:
        self.exclude = EXCLUDE | self.exclude
