"""python -m artart.inspect CHECKPOINT: print the content of a checkpoint as YAML."""

import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.filesize import decimal

from artart.config.build import select_or_none
from artart.config.cli import command
from artart.config.schema import check
from artart.io import files
from artart.io.terminal import escaped


@command("inspect")
def run(cfg: DictConfig) -> None:
    """Print what `describe` finds."""
    described = describe(Path(check(cfg)["checkpoint"]))
    sys.stdout.write(escaped(yaml.safe_dump(described, sort_keys=False, allow_unicode=True)))


def describe(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data. Raises ArtError if the file cannot be used."""
    from artart.checkpoints.load import read
    from artart.checkpoints.validate import finished_epochs

    content = read(path)
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
