"""python -m artart.prepare: a folder of images is read once, judged, and ready to be trained on."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig
from rich import get_console
from rich.table import Table
from rich.text import Text

from artart import ArtError
from artart.config.build import CONF_DIR, build, overrides
from artart.config.cli import cli, handle_errors
from artart.config.schema import check
from artart.io.terminal import relative_to_cwd

if TYPE_CHECKING:
    from artart.data.datamodule import ArtDataModule
    from artart.data.index import Entry

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="prepare")
@handle_errors
def main(cfg: DictConfig) -> None:
    """Find, read and judge the files; write rejected.csv, excluded.csv and report.json; say what came out."""
    config = check(cfg)
    if config["data"]["root"] is None:
        raise ArtError("data.root=null: name the folder to prepare: data.root=DIR")

    from artart.data.dataset import judge
    from artart.data.index import write_unused
    from artart.data.labels import CLASS
    from artart.io.files import write_json
    from artart.training.run_dir import claim_run_dir, open_log, plan, save_settings

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
    content = report(data, entries)
    write_json(run_dir / "report.json", content)
    for table in tables(content):
        get_console().print(table)
    try:
        judge(entries, folder, data.max_rejected_fraction, run_dir)
    except ArtError as error:
        log.warning("training would refuse this folder: %s", error)
    alike, sides = content["near_duplicates"], content["split"]
    if alike["groups"]:
        log.info("%(images)d images look like others; none of their %(groups)d groups is divided by the split", alike)
    log.info("with data.val_fraction=%s: %d for training, %d for validation", data.val_fraction, *sides.values())
    log.info("report: %s", relative_to_cwd(run_dir / "report.json"))
    log.info("every file: %s", relative_to_cwd(folder.cache / "index.csv"))


def report(data: "ArtDataModule", entries: "Sequence[Entry]") -> dict[str, Any]:
    """What was found, as plain data."""
    from artart.data.index import counts
    from artart.data.labels import NO_CLASS
    from artart.data.split import split

    folder = data.folder
    assert folder is not None
    used = [entry for entry in entries if entry.status == "ok"]
    groups = [entry.group for entry in used]
    held_out = split([entry.facts.sha256 for entry in used], groups, data.val_fraction)
    shared = [size for size in Counter(groups).values() if size > 1]
    names = sorted({entry.class_name for entry in entries})
    table = folder.metadata
    return {
        "root": str(folder.root),
        "index": str(folder.cache / "index.csv"),
        "counts": counts(entries),
        "reasons": {
            status: dict(Counter(entry.kind for entry in entries if entry.status == status).most_common())
            for status in ("rejected", "excluded")
        },
        "classes": {name or NO_CLASS: counts([one for one in entries if one.class_name == name]) for name in names},
        "near_duplicates": {"groups": len(shared), "images": sum(shared)},
        "split": {"train": len(used) - len(held_out), "val": len(held_out)},
        "metadata": table and {"only_in_file": table.only_in_file, "only_in_folder": len(table.only_in_folder)},
    }


def tables(content: Mapping[str, Any]) -> list[Table]:
    """The report for the terminal: counts by class, then the reasons."""
    classes, reasons = Table("class"), Table("status", "reason")
    for name in content["counts"]:
        classes.add_column(name, justify="right")
    for name, row in {**content["classes"], "all": content["counts"]}.items():
        classes.add_row(Text(name), *map(str, row.values()))
    reasons.add_column("files", justify="right")
    for status, kinds in content["reasons"].items():
        for kind, number in kinds.items():
            reasons.add_row(status, Text(kind), str(number))
    return [classes, reasons] if reasons.row_count else [classes]


def run() -> None:
    cli(main, "prepare")


if __name__ == "__main__":
    run()
