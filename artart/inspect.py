"""python -m artart.inspect FILE...: print the content of checkpoints and the origin of images, as YAML or JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.filesize import decimal

from artart import ArtError
from artart.config.build import select_or_none
from artart.config.cli import command
from artart.config.paths import checkpoint_of
from artart.config.schema import check
from artart.io import files
from artart.io.terminal import escaped


@command("inspect")
def run(cfg: DictConfig) -> None:
    """Print what `describe` and `describe_image` find."""
    config = check(cfg)

    from artart.generation.inspection import describe_image, is_image
    from artart.generation.registry import entries_of

    paths = [checkpoint_of("files", name) for name in config["files"]]
    if missing := [path for path in paths if not path.is_file()]:
        raise ArtError(f"files: {missing[0]} is no file; name images, checkpoints, or the folder of a run")
    images = {path for path in paths if is_image(path)}
    registry = entries_of(config["registry"]) if images else None
    found = (describe_image(path, registry) if path in images else describe(path) for path in paths)
    if config["json"]:
        sys.stdout.write(json.dumps([*found], indent=2, default=str) + "\n")
        return
    for k, one in enumerate(found):
        sys.stdout.write("---\n" * (k > 0) + escaped(yaml.safe_dump(one, sort_keys=False, allow_unicode=True)))


def describe(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data. Raises ArtError if the file cannot be used."""
    from artart.checkpoints.load import read
    from artart.checkpoints.validate import finished_epochs

    try:
        content = read(path)
    except ArtError as error:
        raise ArtError(f"files: no image that artart reads, and no checkpoint: {error}") from None
    weights = [value for name, value in content["state_dict"].items() if name.startswith("net.")]
    return {
        "file": str(path),
        "size": decimal(path.stat().st_size),
        "sha256": files.sha256(path),
        "written by": f"artart {select_or_none(content, 'artart.version')}",
        "epochs": finished_epochs(content),
        "steps": content["global_step"],
        "images seen": content.get("images_seen"),
        "metrics": content.get("metrics"),
        "numbers in the network": sum(value.numel() for value in weights),
        "averaged": "current_model_state" in content,
        "first stage": select_or_none(content, "first_stage.model"),
        "labels": content["labels"],
        "data": content.get("data"),
        "config": content["config"],
    }


if __name__ == "__main__":
    run()
