"""The data of a network's training, with the held-out images."""

import logging
import os
from collections.abc import Callable

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.checkpoints.validate import printable
from artart.data.datamodule import ArtDataModule
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

NOT_FROM_A_FILE = ("_target_", "cache_dir", "num_workers")  # these concern this machine


def held_out_data(
    loaded: Loaded,
    root: str | None = None,
    metadata: str | None = None,
    cache_dir: str | None = None,
    num_workers: int | None = None,
) -> ArtDataModule:
    """The data of a network's training, not read yet; `root` and `metadata` name them if they have moved.

    Raises ArtError if they are not here, or if nothing was held out.
    """
    given = {"root": root, "metadata": metadata, "cache_dir": cache_dir, "num_workers": num_workers}
    settings = {key: value for key, value in loaded.config["data"].items() if key not in NOT_FROM_A_FILE}
    settings |= {"image_size": loaded.config["image_size"], "labels": list(loaded.label_names)}
    settings |= {key: value for key, value in given.items() if value is not None}
    if "root" not in settings:
        raise ArtError(
            f"data.root=null: {loaded.path} does not say on which images it was trained; name them: data.root=DIR"
        )
    places: dict[str, tuple[Callable[[str], bool], str]] = {  # os.path raises no error on odd names from a file
        "root": (os.path.isdir, "on which {} was trained, is not here; name the folder: data.root=DIR"),
        "metadata": (os.path.isfile, "with which {} was trained, is not here; put it there again"),
    }
    for key, (is_here, words) in places.items():
        if (path := settings.get(key)) is not None and not is_here(path):
            raise ArtError(f"data.{key}: {printable(path)}, {words.format(loaded.path)}")
    try:
        data = ArtDataModule(**settings)
    except TypeError as error:
        raise ArtError(f"{loaded.path}: its settings of data are not artart's ({printable(error)})") from None
    if not data.val_is_held_out:
        raise ArtError(f"{loaded.path}: was trained on all images (data.val_fraction=0), so none can judge it")
    return data


def load_held_out(data: ArtDataModule, loaded: Loaded) -> dict[str, object]:
    """Read the data and describe them; warn if they differ from those of the training.

    Raises ArtError if they cannot be used.
    """
    data.load()
    if data.facts["sha256"] != loaded.facts["data"].get("sha256"):
        log.warning(
            "data.root=%s: differs from the images and the split that %s was trained with: memorization of other "
            "training images cannot be found, and some held-out images may have been trained on",
            *(relative_to_cwd(data.folder.root) if data.folder else "null", loaded.path.name),
        )
    name = "demo art" if data.folder is None else data.folder.root.name
    return {"data": name, "image_size": data.image_size}
