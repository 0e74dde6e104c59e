"""python -m artart.prepare: reads a folder of images once, reports what is usable, and fills the cache for training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from rich import get_console

from artart import ArtError
from artart.config.build import build, overrides
from artart.config.cli import command
from artart.config.schema import check
from artart.io.terminal import relative_to_cwd
from artart.training.run_files import keep_log_lines, open_log, save_settings

log = logging.getLogger(__name__)


@command("prepare")
def run(cfg: DictConfig) -> None:
    """Read the folder; write rejected.csv, excluded.csv and report.json and report.html; show the report."""
    keep_log_lines()
    config = check(cfg)
    if config["data"]["root"] is None:
        raise ArtError("data.root=null: name the folder to prepare: data.root=DIR")

    from artart.data.labels import CLASS
    from artart.data.page import page
    from artart.data.report import make_report
    from artart.io.files import write_json, write_new
    from artart.training.run_dir import claim_run_dir, plan

    planned = plan(cfg)
    data = build(config, "data")
    folder = data.folder
    kinds = {column: "classes" if column == CLASS else f"labels of {column}" for column in folder.label_names}
    labels = ", ".join(f"{len(names)} {kinds[column]}" for column, names in folder.label_names.items())
    log.info("%d files below %s, %s", len(folder.found.images), relative_to_cwd(folder.root), labels)
    _ = data.text.captions  # raises, before anything is written
    refusal = ""
    try:
        data.load()
    except ArtError as error:
        if not data.entries:
            raise
        refusal = str(error)
    run_dir = claim_run_dir(cfg, planned)
    cfg.run_dir = str(run_dir)
    save_settings(cfg, overrides())
    open_log(cfg, "prepare.log")
    data.list_unused(run_dir)
    report = make_report(data, refusal)
    write_json(run_dir / "report.json", report)
    write_new(run_dir / "report.html", page(report, data))
    _show(report, data.entries)
    log.info("report: %s", relative_to_cwd(run_dir / "report.html"))
    log.info("every file: %s", relative_to_cwd(folder.cache / "index.csv"))


def _show(report: Mapping[str, Any], entries: Sequence[Any]) -> None:
    """Print a report and the reason, if there is one, why training would refuse the folder."""
    from artart.data.report import tables

    for table in tables(report, entries):
        get_console().print(table.for_terminal())
    if ignored := ", ".join(f"{number} {kind}" for kind, number in report["ignored"].items()):
        log.info("files that are no images: %s", ignored)
    if (alike := report["near_duplicates"])["groups"]:
        log.info("%(images)d images are near-duplicates; the split divides none of their %(groups)d groups", alike)
    if report["refusal"]:
        log.warning("training would refuse this folder: %s", report["refusal"])


if __name__ == "__main__":
    run()
