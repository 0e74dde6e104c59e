"""Settings of a folder of images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypedDict

from artart.data.decode import MAX_PIXELS, ResizeMode, colour_of
from artart.data.labels import CLASS
from artart.io.ranges import Count, ImageSize, Rule

ColourName = Annotated[str, Rule(lambda name: bool(colour_of(name)), "a colour such as white or #808080")]


class Exclude(TypedDict, total=False):
    """Which usable images are left out."""

    duplicate: bool  # all but the first of files with the same content
    opt_out: bool  # those that opt out of data mining
    ai_made: bool  # those marked as AI-made


EXCLUDE = Exclude(duplicate=True, opt_out=True, ai_made=True)


@dataclass(eq=False, repr=False)
class FolderSettings:
    """Which images are used, and how they become pixels and labels."""

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

    def __post_init__(self) -> None:
        self.exclude = EXCLUDE | self.exclude
