"""python -m artart.evaluate: measure the quality of a network's images, and test them for memorization."""

import logging
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich import get_console

from artart.config.build import build
from artart.config.cli import command
from artart.config.commands import check_sampling
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("evaluate")
def run(cfg: DictConfig) -> None:
    """Load network and art, measure what the network was trained for, write metrics.json and report.html."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.evaluation import reconstruction, report, samples
    from artart.evaluation.features import extractor_or_none
    from artart.evaluation.held_out import held_out_data, load_images
    from artart.generation.plan import guidance_for, sampling_for
    from artart.io.files import output_folder
    from artart.io.terminal import relative_to_cwd

    with output_folder(config["out"], "evaluations") as out:
        report.check_free(out, config["data"]["root"])
        loaded = load(Path(config["checkpoint"]), config["trusted_classes"], config["device"], config["precision"])
        check_sampling(config, loaded.objective.one_step, loaded.objective.num_steps)
        data = held_out_data(loaded, **config["data"])
        facts: dict[str, object] = {"checkpoint": loaded.path.name, "checkpoint_sha256": loaded.sha256}
        guidance = guidance_for(loaded, **config["guidance"])
        how = sampling_for(loaded, build(config, "sampler"), guidance, config["batch_size"])
        num_images, seed, can_sample = config["num_images"], config["seed"], loaded.objective.mode == "sample"
        if can_sample:
            samples.check(num_images)
        features, weights = (config["metrics"][key] for key in ("features", "weights"))
        extractor, origin = extractor_or_none(features, weights, loaded.objective.mode, loaded.device)
        facts |= origin | load_images(data, loaded, "held-out")
        if can_sample:
            facts |= {"seed": seed, "network_precision": loaded.precision, **how.details}
            draw = partial(samples.draw, loaded, how.sampler, how.guidance, how.batch_size, seed)
            made = samples.measure(loaded, data, facts, draw, num_images, extractor)
        else:
            made = reconstruction.measure(loaded, data, facts, config["batch_size"], extractor)
        figures, page = report.write(made, out, f"{loaded.path.parent.parent.name}, {loaded.path.stem}", facts)
        for sentence in made.verdict:
            log.info("%s", sentence)
        for table in made.tables:
            get_console().print(table.for_terminal())
        log.info("figures: %s", relative_to_cwd(figures))
        log.info("to look at: %s", relative_to_cwd(page))


if __name__ == "__main__":
    run()
