"""python -m artart.generate: a checkpoint makes pictures, from noise or from pictures."""

import logging
from datetime import datetime
from pathlib import Path

import hydra
from omegaconf import DictConfig

from artart import ArtError
from artart.checks import check
from artart.cli import cli, told
from artart.config import CONF_DIR, build

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="generate")
@told
def main(cfg: DictConfig) -> None:
    """Load the network and let it do what it was trained for."""
    config = check(cfg)

    from artart import checkpoint
    from artart.reconstruct import reconstruct
    from artart.sample import sample
    from artart.storage import sha256
    from artart.terminal import near

    source = Path(config["checkpoint"])
    loaded = checkpoint.load(source, config["allow"], config["device"])
    mode = config["mode"] or loaded.objective.mode
    if mode != loaded.objective.mode:
        raise ArtError(f"mode={mode}: {source} was not trained for that; it can do mode={loaded.objective.mode}")
    if mode == "sample" and config["input"] is not None:
        raise ArtError(f"input={config['input']}: mode=sample begins with noise; leave it out")
    out = Path(config["out"] or f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    if out.exists() and not out.is_dir():
        raise ArtError(f"out={out}: is a file; name a folder")
    settings = {"mode": mode, "checkpoint": source.name, "checkpoint_sha256": sha256(source)}
    if mode == "sample":
        written = sample(loaded, build(config, "sampler"), config, out, settings)
    else:
        written = list(reconstruct(loaded, config, out, settings))
    log.info(
        "%s", near(written[0]) if len(written) == 1 else f"{len(written)} files in {near(out)}: {written[0].name} ..."
    )
    if config["show"]:
        show(written[0])


def show(path: Path) -> None:
    """Open a picture in the desktop's viewer."""
    from PIL import Image

    log.info("showing %s", path)
    with Image.open(path) as image:
        image.show()


def run() -> None:
    cli(main, "generate")


if __name__ == "__main__":
    run()
