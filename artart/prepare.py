"""python -m artart.prepare: reads a folder of images once, reports what is usable, and fills the cache for training."""

import logging

import hydra
from omegaconf import DictConfig
from rich import get_console

from artart import ArtError
from artart.config.build import CONF_DIR, build, overrides
from artart.config.cli import cli, handle_errors
from artart.config.schema import check
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="prepare")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Read the folder; write rejected.csv, excluded.csv and report.json; show the report."""
    config = check(cfg)
    if config["data"]["root"] is None:
        raise ArtError("data.root=null: name the folder to prepare: data.root=DIR")

    from artart.data.dataset import check_usable
    from artart.data.index import write_unused
    from artart.data.labels import CLASS
    from artart.data.report import make_report, tables
    from artart.io.files import write_json
    from artart.training.run_dir import claim_run_dir, plan
    from artart.training.run_files import open_log, save_settings

    planned = plan(cfg)
    data = build(config, "data")
    folder = data.folder
    kinds = {column: "classes" if column == CLASS else f"labels of {column}" for column in folder.label_names}
    labels = ", ".join(f"{len(names)} {kinds[column]}" for column, names in folder.label_names.items())
    log.info("%d files below %s, %s", len(folder.files), relative_to_cwd(folder.root), labels)
    run_dir = claim_run_dir(cfg, planned)
    cfg.run_dir = str(run_dir)
    entries = folder.read().entries
    save_settings(cfg, overrides())
    open_log(cfg, "prepare.log")
    write_unused(entries, folder.root, run_dir)
    report = make_report(folder, entries, data.val_fraction)
    write_json(run_dir / "report.json", report)
    for table in tables(report):
        get_console().print(table)
    try:
        check_usable(entries, folder, data.max_rejected_fraction)
    except ArtError as error:
        log.warning("training would refuse this folder: %s", error)
    alike, sides = report["near_duplicates"], report["split"]
    if alike["groups"]:
        log.info("%(images)d images are near-duplicates; the split divides none of their %(groups)d groups", alike)
    log.info("with data.val_fraction=%s: %d for training, %d for validation", data.val_fraction, *sides.values())
    log.info("report: %s", relative_to_cwd(run_dir / "report.json"))
    log.info("every file: %s", relative_to_cwd(folder.cache / "index.csv"))


def run() -> None:
    cli(main, "prepare")


if __name__ == "__main__":
    run()
