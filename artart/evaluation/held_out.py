"""The data of a network's training."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.config.build import select_or_none
from artart.config.paths import read_settings
from artart.data.datamodule import ArtDataModule
from artart.data.decode import MAX_PIXELS
from artart.io.terminal import printable, relative_to_cwd

log = logging.getLogger(__name__)

NOT_FROM_A_FILE = ("_target_", "cache_dir", "num_workers")  # these concern this machine
MAX_DEMO_BYTES = 2**32  # of the demo art that a file may ask for
PLACES: dict[str, tuple[Callable[[str], bool], str]] = {  # os.path raises no error on odd names from a file
    "root": (os.path.isdir, "on which {} was trained, is not here; name the folder: data.root=DIR"),
    "metadata": (os.path.isfile, "with which {} was trained, is not here; name it: data.metadata=FILE"),
    "opt_out": (os.path.isfile, "with which {} was trained, is not here; name it: data.opt_out=FILE"),
}


def held_out_data(loaded: Loaded, **places: Any) -> ArtDataModule:
    """`training_data` with held-out images. Raises ArtError also if there are none."""
    data = training_data(loaded, **places)
    if not data.val_is_held_out:
        raise ArtError(f"{loaded.path}: was trained on all images (data.val_fraction=0), so none can judge it")
    return data


def training_data(loaded: Loaded, **places: Any) -> ArtDataModule:
    """The data of a network's training, not read yet.

    `places`: settings of this machine, as in conf/evaluate.yaml; root, metadata and opt_out name images, table and list
    if they have moved. What only a checkpoint names is not read: it may come from anyone. Its run must name it too, or
    the caller.

    Raises ArtError if they are not here or must be named.
    """
    settings = {key: value for key, value in loaded.config["data"].items() if key not in NOT_FROM_A_FILE}
    settings |= {"image_size": loaded.config["image_size"], "labels": list(loaded.label_names)}
    asked = settings.get("max_pixels", MAX_PIXELS)
    if select_or_none(_settings_of_run(loaded.path), "data.max_pixels") != asked:  # a file alone must not fill memory
        settings["max_pixels"] = min(asked, MAX_PIXELS)
    settings |= {key: value for key, value in places.items() if value is not None}
    if "root" not in settings:
        raise ArtError(
            f"data.root=null: {loaded.path} does not say on which images it was trained; name them: data.root=DIR"
        )
    for key in PLACES:
        if (path := settings.get(key)) is not None:
            _check_place(key, path, loaded.path, is_given=places.get(key) is not None)
    num_demo = settings.get("num_demo_images", 0)
    if settings["root"] is None and num_demo * 3 * settings["image_size"] ** 2 > MAX_DEMO_BYTES:
        raise ArtError(f"{loaded.path}: its {num_demo} images of demo art are more than memory holds")
    try:
        data = ArtDataModule(**settings)
    except TypeError as error:
        raise ArtError(f"{loaded.path}: its settings of data are not artart's ({printable(error)})") from None
    if loaded.text is not None:
        data.text.vocabulary = loaded.text
    return data


def _check_place(key: str, path: str, checkpoint: Path, is_given: bool) -> None:
    """Raise ArtError if a folder or table is not here, or only the checkpoint names it."""
    is_here, words = PLACES[key]
    if not is_here(path):
        raise ArtError(f"data.{key}: {printable(path)}, {words.format(checkpoint)}")
    if is_given:
        return
    if select_or_none(_settings_of_run(checkpoint), f"data.{key}") != path:
        raise ArtError(
            f"data.{key}: {checkpoint} names {printable(path)}, and it does not lie in the folder of a run that does; "
            f"if that is what it was trained with: data.{key}={printable(path)}"
        )


def _settings_of_run(checkpoint: Path) -> dict[str, Any]:
    """Those of the run in whose folder a checkpoint lies; empty if it lies elsewhere."""
    with suppress(ArtError, OSError):
        return read_settings(checkpoint.resolve().parent.parent)
    return {}


def load_images(data: ArtDataModule, loaded: Loaded, kind: str) -> dict[str, object]:
    """Read the data and describe them; warn if they differ from those of the training.

    `kind` of images, in words: what they are read for.

    Raises ArtError if they cannot be used.
    """
    log.info("%s images: those of %s", kind, relative_to_cwd(data.folder.root) if data.folder else "demo art")
    data.load()
    if data.facts["sha256"] != loaded.facts["data"].get("sha256"):
        log.warning(
            "data.root=%s: differs from the images and the split that %s was trained with: memorization of other "
            "training images cannot be found, and some held-out images may have been trained on",
            *(relative_to_cwd(data.folder.root) if data.folder else "null", loaded.path.name),
        )
    name = "demo art" if data.folder is None else data.folder.root.name
    return {"data": name, "image_size": data.image_size}
