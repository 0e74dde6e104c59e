"""python -m artart.export: a checkpoint becomes one file to share: weights and what they are, without paths."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import CONF_DIR, join_words, select_or_none
from artart.config.cli import cli, handle_errors
from artart.config.commands import PATHS
from artart.config.schema import check, literals

if TYPE_CHECKING:
    from artart.checkpoints.load import Loaded

log = logging.getLogger(__name__)

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # what format=onnx needs
OF_CONFIG = ("image_size", "model", "objective", "loss")  # what the network is rebuilt from
OF_DATA = ("resize_mode", "random_flip", "val_fraction", "labels", "min_per_label")
FILTERS = "loss.perceptual.weights"


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="export")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Load the network, say what belongs to it, write both as one file."""
    config = check(cfg)
    source, kind = Path(config["checkpoint"]), config["format"]
    if config["out"] is not None:
        check_out(Path(config["out"]), kind)
    if kind == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise ArtError(f"format=onnx: needs {join_words(missing, 'and')}: pip install 'artart[export]'")

    from rich.filesize import decimal

    from artart.checkpoints import onnx
    from artart.checkpoints.load import load
    from artart.io import files, weights
    from artart.io.terminal import relative_to_cwd
    from artart.training.result import TRY

    loaded = load(source, config["trusted_classes"])
    facts = to_share(loaded)
    if kind == "onnx":
        content, difference = onnx.model_of(loaded, facts)
    out = Path(config["out"]) if config["out"] is not None else new_place(source, kind)
    if kind == "safetensors":
        is_new = weights.save_shared(out, loaded.net.state_dict(), facts)
    else:
        is_new = files.create(out, content)
    if not is_new:  # another process was faster
        raise taken(out)
    size = decimal(out.stat().st_size)
    if kind == "safetensors":
        log.info("%s, %s", relative_to_cwd(out), size)
        log.info(
            "try next\n  python -m artart.generate checkpoint=%s %s", relative_to_cwd(out), TRY[loaded.objective.mode]
        )
    else:
        log.info("%s, %s; greatest difference to torch %.1g", relative_to_cwd(out), size, difference)


def check_out(out: Path, kind: str) -> None:
    """Raises ArtError if the file to write has not the suffix of its format, or is there."""
    if out.suffix.lower() != f".{kind}":
        raise ArtError(f"out={out}: format={kind} needs a name that ends in .{kind}")
    if out.exists():
        raise taken(out)


def taken(out: Path) -> ArtError:
    """What to say when the file to write is there."""
    return ArtError(f"out={out}: is there already and is not replaced; name another file")


def new_place(source: Path, kind: str) -> Path:
    """A file named after the checkpoint and its run, in a new folder outputs/exports/<date>/<time>."""
    from artart.io.files import new_folder, numbered

    run = [source.parent.parent.name] if source.parent.name == "checkpoints" else []
    folder = new_folder(Path(f"outputs/exports/{datetime.now():%Y-%m-%d/%H-%M-%S}"))
    return next(numbered(folder / f"{'_'.join([*run, source.stem])}.{kind}"))  # which shortens it, if it must be


def to_share(loaded: "Loaded") -> dict[str, Any]:
    """What belongs to the weights of a checkpoint, fit for JSON: no path, nothing of the machine it was made on."""
    config = loaded.config
    shared = {key: config[key] for key in OF_CONFIG} | {"data": _chosen(config["data"], OF_DATA)}
    if select_or_none(shared, FILTERS) not in (None, *literals(PATHS[FILTERS])):
        perceptual = {**shared["loss"]["perceptual"], "weights": "auto"}
        shared["loss"] = {**shared["loss"], "perceptual": perceptual}
    metrics = {name: value for name, value in loaded.facts["metrics"].items() if math.isfinite(value)}
    facts = _without_paths(loaded.facts)
    return {**facts, "metrics": metrics, "config": _without_paths(shared), "labels": loaded.label_names}


def _chosen(node: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: node[key] for key in keys if key in node}


def _without_paths(node: Any) -> Any:
    """Nested plain data without the texts that hold a path separator; what they were values of goes with them."""
    if isinstance(node, Mapping):
        return {key: _without_paths(value) for key, value in node.items() if not (_is_path(key) or _is_path(value))}
    if isinstance(node, (list, tuple)):
        return [_without_paths(value) for value in node if not _is_path(value)]
    return node


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def run() -> None:
    cli(main, "export")


if __name__ == "__main__":
    run()
