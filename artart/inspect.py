"""python -m artart.inspect FILE: print the content of a checkpoint as YAML."""

import sys
from pathlib import Path
from typing import Any

import yaml
from rich.filesize import decimal

from artart import ArtError
from artart.checkpoints.load import read
from artart.checkpoints.validate import finished_epochs
from artart.config.build import select_or_none
from artart.io import files

HELP = "python -m artart.inspect FILE: print the content of a checkpoint as YAML\n"


def describe(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data. Raises ArtError if the file cannot be used."""
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


def run() -> None:
    """Print what `describe` finds. Exit codes: 0; 2 for a mistake in the call or an unusable file."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.stdout.write(HELP)
        sys.exit(0 if {"-h", "--help"} & set(sys.argv[1:]) else 2)
    try:
        described = describe(Path(sys.argv[1]))
    except ArtError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run()
