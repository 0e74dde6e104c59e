"""python -m artart.generate: a checkpoint makes images, from noise or from images."""

import logging
from datetime import datetime
from pathlib import Path

import hydra
from omegaconf import DictConfig

from artart.config.build import CONF_DIR, build
from artart.config.cli import cli, handle_errors
from artart.config.commands import check_mode
from artart.config.schema import check

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="generate")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Load a network and write what it makes in a mode that it was trained for."""
    config = check(cfg)

    from artart.generation.files import show, write
    from artart.generation.source import guidance_for, open_source
    from artart.io.files import output_folder
    from artart.io.terminal import relative_to_cwd

    trust = {key: config[key] for key in ("trusted_classes", "device")}
    source = open_source(Path(config["checkpoint"]), **trust)
    mode = config["mode"] or source.modes[0]
    source.check_mode(mode)
    check_mode(config, mode, source.modes)
    settings = {key: config[key] for key in ("num_images", "label", "seed", "seeds", "strength", "batch_size")}
    settings |= {key: config[key] for key in ("save_trajectory", "side_by_side")}
    settings |= {key: config[key] and Path(config[key]) for key in ("input", "mask")}
    with output_folder(config["out"], Path(f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")) as out:
        guidance = guidance_for(source.loaded, **config["guidance"], **trust)
        written = write(source, out, mode, build(config, "sampler"), guidance, **settings)
    first = relative_to_cwd(written[0])
    others = f"{len(written)} files in {relative_to_cwd(out)}: {written[0].name} ..."
    log.info("%s", first if len(written) == 1 else others)
    if config["show"]:
        show(written[0])


def run() -> None:
    cli(main, "generate")


if __name__ == "__main__":
    run()
