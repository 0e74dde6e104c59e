"""python -m artart.evaluate: how good a network's images are, and whether they are memorized."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig
from rich import get_console

from artart import ArtError
from artart.config.build import CONF_DIR, build
from artart.config.cli import cli, handle_errors
from artart.config.schema import check
from artart.io.terminal import relative_to_cwd

if TYPE_CHECKING:
    from artart.checkpoints.load import Loaded
    from artart.data.datamodule import ArtDataModule

log = logging.getLogger(__name__)

NOT_FROM_A_FILE = ("_target_", "cache_dir", "num_workers")  # where to write, and how much to burden this machine


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="evaluate")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Load network and art, measure what the network was trained for, write metrics.json and report.html."""
    config = check(cfg)

    from artart.io.files import output_folder

    default = Path(f"outputs/evaluations/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    with output_folder(config["out"], default) as out, reserved(out):
        if (out / "metrics.json").exists():
            raise ArtError(f"out={out}: holds metrics.json already; name another folder")
        if config["data"]["root"] is not None and out.resolve() == Path(config["data"]["root"]).resolve():
            raise ArtError(f"out={out}: is the folder of your images, which is only read; name another")
        evaluate(config, out)


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Make a folder, if it is missing, and keep other evaluations out of it; if nothing is written, it is removed.

    The lock is the system's, which frees it however the process ends.

    Raises:
        ArtError: if another process is evaluating there.
    """
    from artart.io.files import remove_empty

    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtError(f"out={folder}: another process is evaluating there; name another folder") from None
        except OSError as error:  # a file system without locks; files are not replaced there either
            log.debug("%s: not locked: %s", folder, error)
        try:
            yield
        finally:
            remove_empty(missing)
    finally:
        os.close(descriptor)


def evaluate(config: Mapping[str, Any], out: Path) -> None:
    """Load network and art, measure, write into a folder, tell.

    Raises:
        ArtError: if a setting makes no sense, or the art is not here.
    """
    from artart.checkpoints.load import load
    from artart.evaluation import reconstruction, report, samples
    from artart.generation.sample import described, guidance_of
    from artart.io.files import sha256

    source = Path(config["checkpoint"])
    loaded = load(source, config["trusted_classes"], config["device"])
    data = held_out_data(loaded, config["data"], source)
    measures = samples if loaded.objective.mode == "sample" else reconstruction
    facts: dict[str, object] = {"checkpoint": source.name, "checkpoint_sha256": sha256(source)}
    guidance = guidance_of(config, loaded)
    facts |= measures.prepare(loaded, config)
    facts |= {"data": "demo art" if data.folder is None else data.folder.root.name, "image_size": data.image_size}
    data.load()
    if data.facts["sha256"] != loaded.facts["data"].get("sha256"):
        log.warning(
            "data.root=%s: not the images and the split that %s was trained with: memorization can only be found of "
            "what "
            "was trained on, and some of that may be held out here",
            *(relative_to_cwd(data.folder.root) if data.folder else "null", source.name),
        )
    if measures is samples:
        facts |= {"seed": config["seed"], **described(config)}
        evaluation = samples.measure(loaded, build(config, "sampler"), guidance, data, config, facts)
    else:
        evaluation = reconstruction.measure(loaded, data, config, facts)
    metrics, page = report.write(evaluation, out, f"{source.parent.parent.name}, {source.stem}", facts)
    for table in evaluation.tables:
        get_console().print(table.for_terminal())
    log.info("figures: %s", relative_to_cwd(metrics))
    log.info("to look at: %s", relative_to_cwd(page))


def held_out_data(loaded: "Loaded", given: Mapping[str, Any], source: Path) -> "ArtDataModule":
    """The art that the network was trained on and that was held out, or the same of another folder.

    Raises:
        ArtError: if it is not here, or if nothing was held out.
    """
    from artart.checkpoints.validate import printable
    from artart.data.datamodule import ArtDataModule

    settings = {key: value for key, value in loaded.config["data"].items() if key not in NOT_FROM_A_FILE}
    settings |= {"image_size": loaded.config["image_size"], "labels": list(loaded.label_names)}
    settings |= {key: value for key, value in given.items() if value is not None}
    if (root := settings.get("root")) is not None and not os.path.isdir(root):  # noqa: PTH112 - which raises nothing
        raise ArtError(
            f"data.root: {printable(root)}, on which {source} was trained, is not here; name the folder: data.root=DIR"
        )
    if (metadata := settings.get("metadata")) is not None and not os.path.isfile(metadata):  # noqa: PTH113
        raise ArtError(
            f"data.metadata: {printable(metadata)}, with which {source} was trained, is not here; put it there again"
        )
    if "root" not in settings:
        raise ArtError(
            f"data.root=null: {source} does not say on which images it was trained; name them: data.root=DIR"
        )
    try:
        data = ArtDataModule(**settings)
    except TypeError as error:
        raise ArtError(f"{source}: its settings of data are not artart's ({printable(error)})") from None
    if not data.val_is_held_out:
        raise ArtError(f"{source}: was trained on all images (data.val_fraction=0), so none can judge it")
    return data


def run() -> None:
    cli(main, "evaluate")


if __name__ == "__main__":
    run()
