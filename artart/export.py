"""python -m artart.export: write a checkpoint to share: weights and their description, without paths."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import join_words
from artart.config.cli import command
from artart.config.commands import arguments_of
from artart.config.schema import check
from artart.io.files import dated

if TYPE_CHECKING:
    from artart.checkpoints.load import Loaded

log = logging.getLogger(__name__)

NUM_SAMPLES = 16  # that format=hub shows
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # what format=onnx needs


@command("export")
def run(cfg: DictConfig) -> None:
    """Load a network and write it with its facts to one new file, or a new folder."""
    config = check(cfg)
    source, kind = Path(config["checkpoint"]), config["format"]
    out = Path(config["out"]) if config["out"] else dated("exports")
    taken = ArtError(f"out={out}: exists and is not replaced; name another")
    if config["out"] is not None and kind != "hub" and out.suffix.lower() != f".{kind}":
        raise ArtError(f"out={out}: format={kind} needs a name that ends in .{kind}")
    if config["out"] is not None and out.exists():
        raise taken
    if kind == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise ArtError(f"format=onnx: needs {join_words(missing, 'and')}: pip install 'artart[export]'")

    from rich.filesize import decimal

    from artart.checkpoints import onnx, safetensors
    from artart.checkpoints.load import load
    from artart.io import files, weights
    from artart.io.terminal import pasteable, relative_to_cwd

    loaded = load(source, config["trusted_classes"])
    if kind == "hub":
        _write_folder(loaded, config, out)
        return
    facts, note = safetensors.to_share(loaded), ""
    if kind == "onnx":
        content, difference = onnx.model_of(loaded, facts)
        note = f"; greatest difference to torch {difference:.1g}"
    if config["out"] is None:
        out = next(files.numbered(files.new_folder(out) / safetensors.file_name(source, kind)))  # perhaps shortened
    is_onnx = kind == "onnx"
    if not (files.create(out, content) if is_onnx else weights.save_shared(out, safetensors.weights_of(loaded), facts)):
        raise taken  # by another process
    written = relative_to_cwd(out)
    log.info("%s, %s%s", written, decimal(out.stat().st_size), note)
    if not is_onnx:
        command = f"checkpoint={pasteable(out)} {arguments_of(loaded.objective.mode, loaded.objective.one_step)}"
        log.info("try next\n  python -m artart.generate %s", command)


def _write_folder(loaded: "Loaded", config: dict[str, Any], out: Path) -> None:
    """format=hub."""
    from artart.evaluation import cards
    from artart.evaluation.held_out import load_images, training_data
    from artart.generation.model import Model
    from artart.io.files import new_folder
    from artart.io.terminal import pasteable, relative_to_cwd

    metrics = cards.read_evaluation(config["evaluation"], loaded)
    data = training_data(loaded, **config["data"])
    load_images(data, loaded, "training")
    samples: Any = Model(loaded).sample(NUM_SAMPLES, output_type="pt") if loaded.objective.mode == "sample" else None
    out = new_folder(out)
    for warning in cards.write(out, loaded, data, config["licence"] or "unknown", metrics, samples):
        log.warning("%s", warning)
    log.info("%s\ntry next\n  hf upload USER/NAME %s", relative_to_cwd(out), pasteable(out))


if __name__ == "__main__":
    run()
