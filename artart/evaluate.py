"""python -m artart.evaluate: how good a network's images are, and whether they are memorized."""

import logging
from datetime import datetime
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich import get_console

from artart.config.build import CONF_DIR, build
from artart.config.cli import cli, handle_errors
from artart.config.schema import check

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="evaluate")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Load network and art, measure what the network was trained for, write metrics.json and report.html."""
    config = check(cfg)

    from artart.evaluation import reconstruction, report, samples
    from artart.evaluation.held_out import held_out_data, load_held_out
    from artart.generation.plan import Sampling
    from artart.generation.source import guidance_for, open_source
    from artart.io.files import output_folder
    from artart.io.terminal import relative_to_cwd

    default = Path(f"outputs/evaluations/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    trust = {key: config[key] for key in ("trusted_classes", "device")}
    with output_folder(config["out"], default) as out, report.reserved(out):
        report.check_folder(out, config["data"]["root"])
        loaded, path, sha256 = source = open_source(Path(config["checkpoint"]), **trust)
        data = held_out_data(loaded, path, **config["data"])
        facts: dict[str, object] = {"checkpoint": path.name, "checkpoint_sha256": sha256}
        guidance = guidance_for(loaded, **config["guidance"], **trust)
        if loaded.objective.mode == "sample":
            num_images, seed = config["num_images"], config["seed"]
            how = Sampling(build(config, "sampler"), guidance, config["batch_size"])
            facts |= samples.prepare(source.device, num_images, **config["metrics"])
            facts |= {**load_held_out(data, loaded, path), "seed": seed, **how.details}
            draw = partial(samples.draw, loaded, path, *how, seed)
            made = samples.measure(loaded, data, facts, draw, num_images, **config["metrics"])
        else:
            weights = config["metrics"]["weights"]
            facts |= reconstruction.prepare(source.device, weights)
            facts |= load_held_out(data, loaded, path)
            made = reconstruction.measure(loaded, path, data, facts, config["batch_size"], weights)
        metrics, page = report.write(made, out, f"{path.parent.parent.name}, {path.stem}", facts)
        for table in made.tables:
            get_console().print(table.for_terminal())
        log.info("figures: %s", relative_to_cwd(metrics))
        log.info("to look at: %s", relative_to_cwd(page))


def run() -> None:
    cli(main, "evaluate")


if __name__ == "__main__":
    run()
