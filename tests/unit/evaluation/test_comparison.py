"""Runs side by side, of folders that runs leave: finished, running, failed and damaged ones."""

import io
import json
import re
import shutil
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

import artart.compare
from artart import ArtError
from artart.evaluation.comparison import grids_of, groups_of, page, reasons, table, verdict
from artart.evaluation.runs import names_of, read_run, read_runs

BASE = {"data": {"root": None, "batch_size": 32}, "image_size": 16}


def a_run(
    folder: Path,
    score: float | None = 0.5,
    seed: int = 0,
    lr: float = 0.001,
    monitor: str = "val/loss",
    mode: str = "min",
    **result: Any,
) -> Path:
    """The folder of a run; without a score one that has not finished."""
    own = {"optimizer": {"lr": lr}, "seed": seed, "run_dir": str(folder), "monitor": monitor, "mode": mode}
    config = {**BASE, **own}
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={lr}", f"seed={seed}"]))
    if score is not None:
        content = {"best": {monitor: score, "epoch": 3}, "images_seen": 640, "seconds": 90.0, **result}
        (folder / "result.json").write_text(json.dumps(content))
    return folder


def column(name: str, groups) -> list[str]:
    shown = table(groups)
    return [row[shown.header.index(name)] for row in shown.rows]


def test_seeds_are_one_group_with_mean_and_spread(tmp_path):
    for seed, score in enumerate((0.2, 0.4)):
        a_run(tmp_path / f"a{seed}", score, seed)
    a_run(tmp_path / "b", 0.1, lr=0.01)
    groups = groups_of(read_runs([tmp_path]))
    assert column("run", groups) == ["b", "a0, a1"], "the best first"
    assert column("command line", groups) == ["optimizer.lr=0.01", "optimizer.lr=0.001"]
    assert column("val/loss", groups) == ["0.1", "0.3 ± 0.14 (2 seeds)"]
    assert [group.settings for group in groups] == [{"optimizer.lr": "0.01"}, {"optimizer.lr": "0.001"}]
    assert column("images", groups) == ["640", "640"]
    assert column("time", groups) == ["1.5 min", "1.5 min"]
    assert "parameters" not in table(groups).header, "nobody has any"


def test_the_greatest_is_best_where_that_is_the_mode(tmp_path):
    for name, score in (("a", 20.0), ("b", 30.0)):
        a_run(tmp_path / name, score, lr=score, mode="max")
    assert column("run", groups_of(read_runs([tmp_path]))) == ["b", "a"]


def runs_with_three_monitors(tmp_path: Path, **last: dict[str, float]) -> Path:
    for name, monitor, score in (("gan", "val/swd", 0.02), ("diff", "val/mse", 0.1), ("rec", "val/psnr", 20.0)):
        for end, better in (("", 0), ("_better", 1)):
            mode = "max" if name == "rec" else "min"
            better_score = score * (1 + better if name == "rec" else 1 - better / 2)
            a_run(tmp_path / (name + end), better_score, lr=better, monitor=monitor, mode=mode, last=last.get(name, {}))
    return tmp_path


def test_runs_with_different_monitors_have_no_best_of_all(tmp_path):
    groups = groups_of(read_runs([runs_with_three_monitors(tmp_path)]))
    assert column("run", groups) == ["diff_better", "diff", "rec_better", "rec", "gan_better", "gan"]
    assert column("score", groups)[2:5] == ["val/psnr 40", "val/psnr 20", "val/swd 0.01"]
    assert re.match("Monitors differ.*python -m artart.evaluate", verdict(groups)[1])
    assert b"Best" not in page(groups)


def test_runs_with_different_monitors_are_ordered_by_a_kid_of_all(tmp_path):
    kids = {"gan": (0.02, 0.001), "diff": (0.01, 0.01), "rec": (0.03, 0.03)}  # the first that all have counts
    last = {name: {"samples/kid_alexnet": a, "samples/kid_no_memorization": b} for name, (a, b) in kids.items()}
    running = a_run(tmp_path / "running", None, lr=9, monitor="val/mse")
    (running / "metrics.csv").write_text("step,val/mse\n1,0.001\n")
    groups = groups_of(read_runs([runs_with_three_monitors(tmp_path, **last)]))
    assert [name[:3] for name in column("run", groups)] == ["dif", "dif", "gan", "gan", "rec", "rec", "run"]
    assert column("samples/kid_alexnet", groups) == ["0.01", "0.01", "0.02", "0.02", "0.03", "0.03", ""]
    assert verdict(groups)[1].startswith("Best KID (samples/kid_alexnet): diff")


@pytest.mark.parametrize("of_reconstructions", [False, True])
def test_a_kid_of_an_evaluation_orders_runs_unless_it_is_of_reconstructions(tmp_path, of_reconstructions):
    for name, monitor, kid in (("gan", "val/swd", 0.2), ("rec", "val/psnr", 0.1)):
        folder = a_run(tmp_path / name, monitor=monitor, mode="max" if name == "rec" else "min")
        more = {"psnr": {"mean": 20.0}} if name == "rec" and of_reconstructions else {}
        judge(folder, tmp_path / "judged" / name, kid_alexnet={"value": kid, "low": None, "high": None}, **more)
    groups = groups_of(read_runs([tmp_path]))
    ends = ("", " of reconstructions" * of_reconstructions)
    assert sorted(column("KID of an evaluation", groups)) == ["0.1000" + ends[1], "0.2000"]
    assert verdict(groups)[1].startswith("Monitors differ" if of_reconstructions else "Best KID (kid_alexnet): rec")


def test_settings_differ_as_those_of_readable_runs_do(tmp_path):
    for number, lr in enumerate((0.1, 0.2)):
        folder = a_run(tmp_path / str(number), 0.1, lr=lr)
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={lr}", "image_size=16"]))
    a_run(tmp_path / "2").joinpath(".hydra", "config.yaml").write_text("a: [")
    (tmp_path / ".jobs").mkdir()
    job = [3, ["optimizer.lr=0.3", "image_size=16", "data.root=x"], None, 0.1, "failed: data.root=x: is no folder"]
    (tmp_path / ".jobs" / "3.json").write_text(json.dumps(job))
    groups = {group.runs[0].name: group for group in groups_of(read_runs([tmp_path]))}
    of_lr = {name: group.settings for name, group in groups.items()}
    assert of_lr == {name: {"optimizer.lr": lr} for name, lr in zip("0123", ("0.1", "0.2", "", "0.3"), strict=True)}
    assert [groups[name].words for name in "03"] == ["optimizer.lr=0.1", "data.root=x optimizer.lr=0.3"]


@pytest.mark.parametrize("content", ["[]", '{"best": null, "last": null}', '{"best": [], "last": 3}', "3", "{"])
def test_damaged_files_are_read_as_far_as_they_go(tmp_path, content):
    folder = a_run(tmp_path / "0")
    (folder / "result.json").write_text(content)
    (folder / "metrics.csv").write_text("val/loss,step\n0.5,1\n0.25")
    (folder / "samples").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "samples" / "epoch_0001.png")
    whole = (folder / "samples" / "epoch_0001.png").read_bytes()
    for epoch, damaged in (("2", b"no image"), ("3", whole[:60]), ("4", b""), ("1-2", whole)):
        (folder / "samples" / f"epoch_000{epoch}.png").write_bytes(damaged)
    (tmp_path / ".jobs").mkdir()
    for number, job in enumerate(("[0]", '[1, null, 0, 0, "failed"]', "{}", "[]")):
        (tmp_path / ".jobs" / f"{number}.json").write_text(job)
    assert b"epoch 1<" in page(groups_of(read_runs([tmp_path])))
    assert [name for name, _ in grids_of(folder)] == ["epoch 1"]


@pytest.mark.parametrize("name", [".hydra/config.yaml", "events.out.tfevents.1", "checkpoints/best.ckpt"])
def test_a_file_that_cannot_be_opened_does_not_end_the_comparison(tmp_path, monkeypatch, name):
    judge(
        run := a_run(tmp_path / "a", None), tmp_path / "judged", kid_alexnet={"value": 0.1, "low": None, "high": None}
    )
    (run / "events.out.tfevents.1").write_bytes(b"")
    a_run(tmp_path / "b")
    of = Path.open

    def refuse(path, *mode, **options):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return of(path, *mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_text", lambda path, encoding=None: refuse(path, encoding=encoding).read())
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(path, "rb").read())
    assert [run.name for run in read_runs([tmp_path])] == ["a", "b"]


def test_jobs_without_a_score_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 11):
        a_run(tmp_path / str(number), None, lr=number)
    assert column("run", groups_of(read_runs([tmp_path]))) == ["2", "10", "11"]


def test_every_kind_of_run_has_its_status(tmp_path):
    sweep = tmp_path / "sweep"
    for k in range(8):
        a_run(sweep / str(k), 0.1 * k, lr=0.1 + k)
    a_run(sweep / "8", None, lr=8)
    a_run(sweep / "9", None, lr=9)
    a_run(sweep / "10", None, lr=10)
    (sweep / ".jobs").mkdir()
    (sweep / ".jobs" / "9.json").write_text(json.dumps([9, ["optimizer.lr=9"], None, 3.0, "failed: NaN in the loss"]))
    (sweep / ".jobs" / "11.json").write_text(json.dumps([11, ["image_size=0"], None, 0.1, "failed: image_size=0"]))
    (sweep / "12" / ".hydra").mkdir(parents=True)
    (sweep / "12" / ".hydra" / "config.yaml").write_text("a: [")
    (sweep / "0" / "result.json").write_text("{")
    with FileLock(sweep / "8" / ".hydra" / "lock"):
        groups = groups_of(read_runs([sweep]))
    status = dict(zip(column("run", groups), column("status", groups), strict=True))
    assert [status[str(k)] for k in (1, 8, 9, 10, 11)] == [*("finished", "running", "failed", "unfinished", "failed")]
    assert (status["0"], status["12"], len(status)) == ("unfinished", "unreadable", 13)
    why = dict(reasons(groups).rows)
    assert (why["9"], why["11"], len(why)) == ("failed: NaN in the loss", "failed: image_size=0", 3)
    assert why["12"].startswith("unreadable: ")
    assert b"failed: NaN in the loss" in page(groups)


@pytest.mark.parametrize("logger", [TensorBoardLogger, CSVLogger])
def test_curves_are_those_that_were_logged(tmp_path, logger):
    folder = a_run(tmp_path / "a")
    written = logger(tmp_path / "a", name="", version="logs")
    for step in range(5):
        written.log_metrics({"val/loss": 1 / (1 + step), "train/loss": 2.0}, step)
    written.finalize("success")
    found = read_run(folder).curves()
    assert found["val/loss"] == [(step, pytest.approx(1 / (1 + step))) for step in range(5)]
    assert found["train/loss"] == [(step, 2.0) for step in range(5)]
    for file in folder.rglob("events.out*"):
        file.write_bytes(file.read_bytes()[:-7])
        assert len(read_run(folder).curves()["train/loss"]) == 4, "a line that is being written is left out"


@pytest.mark.parametrize(("mode", "best"), [("min", "0.25"), ("max", "0.5")])
def test_unfinished_runs_have_the_best_score_so_far(tmp_path, mode, best):
    folder = a_run(tmp_path / "a", None, mode=mode)
    (folder / "metrics.csv").write_text("val/loss,step\n0.5,1\n0.25,2\n0.375,3\nnan,4\n")
    assert column("val/loss", groups_of(read_runs([tmp_path]))) == [f"{best} so far"]


@pytest.mark.parametrize(
    ("ended", "status"), [("ok", "finished"), ("pruned", "pruned"), ("failed: NaN", "failed: NaN")]
)
def test_a_trial_with_a_result_ended_as_its_sweep_says(tmp_path, ended, status):
    a_run(tmp_path / "0")
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "0.json").write_text(json.dumps([0, [], 0.5, 1.0, ended]))
    assert read_run(tmp_path / "0").status == status


def test_a_first_stage_and_files_that_were_set_aside_are_no_runs(tmp_path):
    folder = a_run(tmp_path / "0", None)
    stage = a_run(folder / "first_stage", None, monitor="val/psnr")
    for place, value in ((folder, 0.5), (stage, 0.1), (folder / "set_aside_2026", 0.01)):
        place.mkdir(exist_ok=True)
        (place / "metrics.csv").write_text(f"step,val/loss\n1,{value}\n")
    for place in (tmp_path / ".jobs", tmp_path / "set_aside_2026" / ".jobs"):
        place.mkdir(parents=True)
    (tmp_path / "set_aside_2026" / ".jobs" / "1.json").write_text(json.dumps([1, [], None, 1.0, "failed: NaN"]))
    (run,) = read_runs([tmp_path])
    assert (run.folder, run.score, run.result["last"]) == (folder, 0.5, {"val/loss": 0.5})
    assert [run.folder for run in read_runs([stage])] == [stage], "it is named"


def test_a_network_that_copies_is_not_the_best(tmp_path):
    copies = {"samples/kid_alexnet": 0.0004, "memorization/rate": 0.99}  # kid_no_memorization is infinite
    fine = {"samples/kid_alexnet": 0.002, "samples/kid_no_memorization": 0.002, "memorization/rate": 0.01}
    for name, last in (("copies", copies), ("fine", fine)):
        a_run(tmp_path / name, last["samples/kid_alexnet"], lr=len(name), monitor="samples/kid_alexnet", last=last)
    groups = groups_of(read_runs([tmp_path]))
    assert verdict(groups)[1:] == ["Best samples/kid_alexnet: fine, optimizer.lr=4."]
    judge(tmp_path / "fine", tmp_path / "judged", memorization={"has_memorized": True})
    judge(tmp_path / "copies", tmp_path / "judged_too", memorization={"has_memorized": False})
    groups = groups_of(read_runs([tmp_path]))
    assert [group.has_memorized for group in groups] == [False, True], "an evaluation counts more"
    own = a_run(tmp_path / "own", 0.001, monitor="samples/kid_no_memorization", last=copies)
    assert not read_runs([own])[0].has_memorized, "its best is of before"
    (alone,) = groups_of(read_runs([tmp_path / "fine", tmp_path / "judged"]))
    assert "copies of training images" in verdict([alone])[2]


def test_evaluations_of_seeds_have_mean_and_spread(tmp_path):
    for seed, kid in enumerate((0.002, 0.004)):
        run = a_run(tmp_path / str(seed), seed=seed)
        judge(run, tmp_path / "judged" / str(seed), kid_alexnet={"value": kid, "low": kid / 2, "high": 2 * kid})
    assert column("KID of an evaluation", groups_of(read_runs([tmp_path]))) == ["0.0030 ± 0.0014 (2 seeds)"]


def test_runs_on_other_images_are_said_to_be(tmp_path):
    for size in (16, 32):
        file = a_run(tmp_path / str(size)) / ".hydra" / "config.yaml"
        file.write_text(file.read_text().replace("image_size: 16", f"image_size: {size}"))
    assert "held-out images differ (image_size)" in verdict(groups_of(read_runs([tmp_path])))[-1]


def judge(run: Path, folder: Path, checkpoint: str = "best.ckpt", **metrics: Any) -> None:
    """Leave what an evaluation of a checkpoint leaves, and the checkpoint unless it is there."""
    (file := run / "checkpoints" / checkpoint).parent.mkdir(exist_ok=True)
    if not file.exists():
        file.write_text(str(file))
    folder.mkdir(parents=True)
    facts = {"checkpoint": checkpoint, "checkpoint_sha256": sha256(file.read_bytes()).hexdigest()}
    (folder / "metrics.json").write_text(json.dumps({**facts, **metrics}))


def test_an_evaluation_of_an_early_checkpoint_below_a_folder_is_found(tmp_path, caplog):
    kid = {"value": 0.0123, "low": 0.011, "high": 0.0139}
    judge(run := a_run(tmp_path / "run"), tmp_path / "judged" / "today", kid_alexnet=kid)
    for epoch in range(6):
        (run / "checkpoints" / f"epoch_000{epoch}.ckpt").write_text(str(epoch))
    assert read_runs([run, tmp_path / "judged"])[0].evaluation["kid_alexnet"] == kid
    assert not caplog.messages
    (run / "checkpoints" / "best.ckpt").write_text("another")
    assert not read_runs([run, tmp_path / "judged"])[0].evaluation
    (line,) = caplog.messages
    assert line.endswith(f"evaluations: {tmp_path}/judged/today")


def test_an_evaluation_belongs_to_the_run_of_its_checkpoint(tmp_path):
    for name in ("a", "b"):
        folder = a_run(tmp_path / name, 0.5, lr=ord(name))
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_bytes(name.encode())
    (tmp_path / "judged").mkdir()
    kid = {"value": 0.0123, "low": 0.011, "high": 0.0139}
    content = {
        "checkpoint": "last.ckpt",
        "checkpoint_sha256": sha256(b"b").hexdigest(),
        "kid_alexnet": kid,
        "memorization": {"rate": {"value": 0.25}},
    }
    (tmp_path / "judged" / "metrics.json").write_text(json.dumps(content))
    groups = groups_of(read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "judged"]))
    judged = dict(zip(column("run", groups), column("KID of an evaluation", groups), strict=True))
    assert judged == {"a": "", "b": "0.0123 (0.0110 to 0.0139)"}
    assert sorted(column("near-duplicates", groups)) == ["", "25.0%"]
    content["kid_dinov2"] = content.pop("kid_alexnet")
    (tmp_path / "judged" / "metrics.json").write_text(json.dumps(content))
    groups = groups_of(read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "judged"]))
    assert sorted(column("KID of an evaluation", groups)) == ["", "0.0123 (0.0110 to 0.0139) dinov2"]


@pytest.mark.slow
def test_grids_have_a_slider_and_the_last_is_shown(tmp_path):
    folder = a_run(tmp_path / "a")
    (folder / "samples").mkdir()
    for epoch in range(1, 31):
        for end in ("", "_raw"):
            Image.new("RGB", (900, 600), (8 * epoch, 0, 0)).save(folder / "samples" / f"epoch_{epoch:04}{end}.png")
    text = page(groups_of(read_runs([tmp_path]))).decode()
    figures = re.findall(r"<figure( hidden)?>.*?<figcaption>epoch (\d+)<", text)
    assert 4 < len(figures) <= 8
    assert figures[-1] == ("", "30")
    assert all(hidden for hidden, _ in figures[:-1])


def test_a_grid_of_many_rows_keeps_its_width(tmp_path):
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (274, 716)).save(tmp_path / "samples" / "epoch_0001.png")
    ((_, content),) = grids_of(tmp_path)
    assert Image.open(io.BytesIO(content)).size == (274, 716)


def test_command_repeats_the_run(tmp_path):
    folder = a_run(tmp_path / "a")
    words = ["data.root='/my art'", "seed=3", "run_dir='x'", "resume='auto'", "loss.weights={a: 1}"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    assert read_run(folder).command == "python -m artart.train 'data.root=/my art' seed=3 'loss.weights={a: 1}'"


def test_a_run_without_words_has_a_command(tmp_path):
    (a_run(tmp_path / "a") / ".hydra" / "overrides.yaml").write_text("[]")
    assert "python -m artart.train</td>" in page(groups_of(read_runs([tmp_path]))).decode()


def test_grids_are_in_the_order_of_epochs(tmp_path):
    (tmp_path / "samples").mkdir()
    for epoch in (9999, 10000, 998):
        Image.new("RGB", (8, 8)).save(tmp_path / "samples" / f"epoch_{epoch:04}.png")
    assert [name for name, _ in grids_of(tmp_path)] == ["epoch 998", "epoch 9999", "epoch 10000"]


def test_names_begin_where_folders_part(tmp_path):
    runs = [read_run(a_run(tmp_path / day / "12-00-00")) for day in ("monday", "tuesday")]
    assert names_of(runs) == ["monday/12-00-00", "tuesday/12-00-00"]
    assert names_of(runs[:1]) == ["12-00-00"]


@pytest.mark.slow
def test_two_hundred_runs_take_seconds_and_a_bounded_page(tmp_path):
    common, runs = tmp_path / "common", tmp_path / "runs"
    logger = TensorBoardLogger(common, name="", version="logs")
    for step in range(100):
        logger.log_metrics({"val/loss": step, "train/loss": step}, step)
    logger.finalize("success")
    (common / "samples").mkdir()
    Image.effect_noise((640, 640), 50).convert("RGB").save(common / "samples" / "epoch_0001.png")
    for k in range(200):
        shutil.copytree(common, a_run(runs / str(k), k / 200, seed=k % 4, lr=k // 4), dirs_exist_ok=True)
    start = time.process_time()
    text = page(groups_of(read_runs([runs])))
    assert time.process_time() - start < 10
    assert len(text) < 5_000_000


def test_compare_prints_a_table_and_writes_a_page(call, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a_run(Path("runs/a b"))
    a_run(Path("runs/c"), 0.25, lr=0.1)
    assert call(artart.compare, "runs/a b", "runs/c", "out=side by side") == 0
    out = capsys.readouterr().out
    assert "optimizer.lr=0.1" in out
    assert out.endswith("page: side by side/compare.html\n")
    assert "0.25" in Path("side by side/compare.html").read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "runs: {}/nowhere is no folder; name folders of runs or sweeps\n"),
        (["."], "runs: there is no run in {}; name folders of runs or sweeps\n"),
        ([], "runs: needs a value: runs=...\n"),
    ],
)
def test_what_is_no_run_is_reported_in_a_line(call, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert call(artart.compare, *words) == 2
    assert capsys.readouterr().err == line.format(tmp_path)
    assert not Path("outputs").exists()


def test_read_runs_refuses_what_is_no_folder(tmp_path):
    (file := tmp_path / "a.txt").touch()
    with pytest.raises(ArtError, match="is no folder"):
        read_runs([file])
