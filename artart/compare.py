"""python -m artart.compare RUN...: runs side by side, as a table and a page."""

import logging

from omegaconf import DictConfig
from rich import get_console

from artart.config.cli import command
from artart.config.paths import absolute
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("compare")
def run(cfg: DictConfig) -> None:
    """Print the table and write compare.html into a new folder."""
    config = check(cfg)

    from artart.evaluation.comparison import groups_of, page, reasons, table, verdict
    from artart.evaluation.runs import read_runs
    from artart.io.files import output_folder, write_new
    from artart.io.terminal import relative_to_cwd

    groups = groups_of(read_runs([absolute(folder) for folder in config["runs"]]))
    for one in (table(groups), reasons(groups)):
        if one.rows:
            get_console().print(one.for_terminal())
    for sentence in verdict(groups):
        log.info("%s", sentence)
    with output_folder(config["out"], "comparisons") as folder:
        log.info("page: %s", relative_to_cwd(write_new(folder / "compare.html", page(groups))))


if __name__ == "__main__":
    run()
