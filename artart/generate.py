"""python -m artart.generate: a checkpoint makes images, from noise or from images."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import CONF_DIR, build, format_value, join_words
from artart.config.cli import cli, handle_errors
from artart.config.schema import check

log = logging.getLogger(__name__)

MODES = {"reconstruct": ("reconstruct",), "sample": ("sample", "img2img", "inpaint", "interpolate")}  # by training
OWN_KEYS = {  # of which modes a key is
    "input": ("reconstruct", "img2img", "inpaint"),
    "side_by_side": ("reconstruct",),
    "save_trajectory": ("sample",),
    "strength": ("img2img",),
    "mask": ("inpaint",),
    "seeds": ("interpolate",),
}
NEEDED = {"input": "FILE_OR_FOLDER", "mask": "FILE", "seeds": "[1,2]"}


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="generate")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Load the network and let it do what it was trained for."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.generation.img2img import img2img
    from artart.generation.interpolate import interpolate
    from artart.generation.reconstruct import reconstruct
    from artart.generation.sample import sample
    from artart.io.files import output_folder, sha256
    from artart.io.terminal import relative_to_cwd

    source = Path(config["checkpoint"])
    loaded = load(source, config["trusted_classes"], config["device"])
    mode, able = config["mode"] or loaded.objective.mode, MODES[loaded.objective.mode]
    if mode not in able:
        raise ArtError(f"mode={mode}: {source} was not trained for that; it can do mode={join_words(able)}")
    check_mode(config, mode, able)
    if config["label"] is None:
        config["label"] = "all" if mode == "sample" else "none"
    settings = {"mode": mode, "checkpoint": source.name, "checkpoint_sha256": sha256(source)}
    with output_folder(config["out"], Path(f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")) as out:
        if mode == "reconstruct":
            written = list(reconstruct(loaded, config, out, settings))
        else:
            paint = {"sample": sample, "img2img": img2img, "inpaint": img2img, "interpolate": interpolate}[mode]
            written = paint(loaded, build(config, "sampler"), config, out, settings)
    log.info(
        "%s",
        relative_to_cwd(written[0])
        if len(written) == 1
        else f"{len(written)} files in {relative_to_cwd(out)}: {written[0].name} ...",
    )
    if config["show"]:
        show(written[0])


def check_mode(config: Mapping[str, Any], mode: str, able: Sequence[str]) -> None:
    """Raises ArtError if a key is missing that a mode needs, or given that is another's of those that it is `able`."""
    for key, modes in OWN_KEYS.items():
        value = config[key]
        if mode in modes and key in NEEDED and value is None:
            raise ArtError(f"{key}: needs a value: {key}={NEEDED[key]}")
        if mode not in modes and value not in (None, False):
            others = "".join(f", or mode={join_words(fit)}" for fit in [[one for one in modes if one in able]] if fit)
            raise ArtError(f"{key}={format_value(value)}: mode={mode} does not take it; leave it out{others}")
    if mode == "inpaint" and Path(config["input"]).is_dir():
        raise ArtError(f"input={config['input']}: mode=inpaint takes one image, not a folder")


def show(path: Path) -> None:
    """Open an image in the desktop's viewer."""
    from PIL import Image

    log.info("showing %s", path)
    with Image.open(path) as image:
        image.show()


def run() -> None:
    cli(main, "generate")


if __name__ == "__main__":
    run()
