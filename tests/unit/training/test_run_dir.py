"""Which folder a run writes into, and which it leaves alone."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.training import resume, rewind, run_dir, run_files
from artart.training.loggers import ContinuedCSVLogger, cut_back, files

SETTINGS = {"image_size": 16, "seed": 0, "data": {"root": None}, "trainer": {"max_epochs": 4, "max_steps": -1}}


def config(run_dir: Path | str | None = None, resume: Path | str | None = None) -> DictConfig:
    paths = {"run_dir": run_dir and str(run_dir), "resume": resume and str(resume)}
    return OmegaConf.create({**SETTINGS, **paths})


def make_run(folder: Path, *checkpoints: str) -> Path:
    """What artart.train leaves of a run that was stopped."""
    for name in (".hydra", "checkpoints", "samples"):
        (folder / name).mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config()))
    (folder / ".hydra" / "lock").touch()
    (folder / "train.log").write_text("a line\n")
    for name in checkpoints:
        (folder / "checkpoints" / f"{name}.ckpt").write_text(name)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty working directory; locks and handlers are given back."""
    handlers = list(logging.getLogger().handlers)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.getLogger().handlers[:] = handlers
    while run_dir._locks:
        run_dir._locks.pop().release()


def refusal(cfg: DictConfig) -> str:
    """Why `plan` refuses; it has written nothing."""
    before = contents(Path.cwd())
    with pytest.raises(ArtError) as error:
        run_dir.plan(cfg)
    assert contents(Path.cwd()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def spoil(run: Path, how: str) -> None:
    """Take away one of the signs of a run."""
    settings = run / ".hydra" / "config.yaml"
    if how == "another program's settings":
        settings.write_text("model: mine\n")
    elif how == "no settings":
        settings.unlink()
    elif how == "no log":
        (run / "train.log").unlink()
    elif how == "checkpoints is a link":
        shutil.move(run / "checkpoints", "elsewhere")
        (run / "checkpoints").symlink_to(Path.cwd() / "elsewhere")
    else:
        (run / "checkpoints").rename(run / "Downloads")
        (run / "checkpoints").mkdir()


@pytest.mark.parametrize(
    "how", ["another program's settings", "no settings", "no log", "checkpoints is a link", "another folder"]
)
def test_a_checkpoint_resumes_only_in_the_folder_of_its_run(how):
    run = make_run(Path("run"), "last")
    (run / "result.json").write_text('{"mine": 1}')
    spoil(run, how)
    file = next(run.glob("*/last.ckpt"))
    message = refusal(config(resume=file))
    assert message.startswith(f"resume={file}: ")
    assert message.endswith("; name a new folder to resume in: run_dir=DIR")
    assert run_dir.plan(config("new", file)) == run_dir.Plan(Path("new"), file)


def test_a_link_to_a_checkpoint_resumes_in_the_folder_of_its_run(home):
    run = make_run(home / "run", "epoch_0001", "last")
    Path("last.ckpt").symlink_to(run / "checkpoints" / "epoch_0001.ckpt")
    assert run_dir.plan(config(resume="last.ckpt")) == run_dir.Plan(run, run / "checkpoints" / "epoch_0001.ckpt")


@pytest.mark.parametrize("asked", [None, "auto"])
@pytest.mark.parametrize(
    "name", ["train.log", "result.json", "notes.txt", ".hydra/config.yaml", "samples/epoch_0001.png", ".hidden"]
)
def test_a_new_run_does_not_mix_with_files_of_others(name, asked):
    path = Path("mine", name)
    path.parent.mkdir(parents=True)
    path.write_text("mine: 1\n")
    assert refusal(config("mine", asked)).endswith("; name a new folder")


def test_a_result_without_checkpoints_is_not_replaced():
    (make_run(Path("run")) / "result.json").write_text(json.dumps({"epochs": 1, "steps": 4}))
    assert "holds a run or a result already" in refusal(config("run"))


@pytest.mark.parametrize("asked", [None, "auto"])
@pytest.mark.parametrize("kind", ["missing", "empty", "only a lock", "of a run that saved nothing"])
def test_a_new_run_begins_where_nothing_is_in_the_way(kind, asked):
    if kind == "of a run that saved nothing":
        make_run(Path("new"))
    elif kind != "missing":
        Path("new").mkdir()
    if kind == "only a lock":
        Path("new/.hydra").mkdir()
        Path("new/.hydra/lock").touch()
    cfg = config("new", asked)
    planned = run_dir.plan(cfg)
    assert planned == run_dir.Plan(Path("new"))
    assert run_dir.claim_run_dir(cfg, planned) == Path("new")


@pytest.mark.parametrize("name", ["samples", "train.log", ".hydra/lock", "tensorboard"])
@pytest.mark.parametrize("asked", [None, "auto", "file"])
def test_links_that_lead_out_of_a_run_are_not_followed(name, asked):
    run = make_run(Path("run"), *["last"] * (asked is not None))
    target = Path("elsewhere").absolute()
    if name in ("samples", "tensorboard"):
        target.mkdir()
        shutil.rmtree(run / name, ignore_errors=True)
    else:
        target.write_text("precious")
        (run / name).unlink()
    (run / name).symlink_to(target)
    cfg = config(resume="run/checkpoints/last.ckpt") if asked == "file" else config("run", asked)
    assert f"{run / name} is a link that leads out of the run's folder" in refusal(cfg)


def test_links_within_a_run_are_allowed():
    run = make_run(Path("run"), "last")
    (run / "checkpoints" / "mine.ckpt").symlink_to("last.ckpt")
    assert run_dir.plan(config("run", "auto")).checkpoint == run / "checkpoints" / "last.ckpt"


def test_a_lock_is_neither_emptied_nor_followed():
    run = make_run(Path("run"), "last")
    lock = run / ".hydra" / "lock"
    lock.write_text("precious")
    cfg = config("run", "auto")
    run_dir.claim_run_dir(cfg, run_dir.plan(cfg))
    assert lock.read_text() == "precious"
    lock.rename("precious.txt")
    lock.symlink_to(Path("precious.txt").absolute())
    run_dir._locks.pop().release()
    with pytest.raises(OSError, match="symbolic links"):
        run_dir._lock(run)
    assert Path("precious.txt").read_text() == "precious"


NEIGHBOURS = {
    "no YAML": (".hydra/config.yaml", b"a: [\n"),
    "odd YAML": (".hydra/config.yaml", b"a: !!int ''\n"),
    "no text": (".hydra/config.yaml", b"\xff\xfe\xfa"),
    "a list": (".hydra/config.yaml", b"- 1\n"),
    "nothing": (".hydra/config.yaml", b""),
    "deep": (".hydra/config.yaml", b"[" * 5000),
    "no JSON": ("result.json", b"{"),
    "a JSON list": ("result.json", b"[]"),
    "wrong types": ("result.json", b'{"epochs": "many", "steps": [1]}'),
    "no log": ("train.log", None),
    "no settings": (".hydra/config.yaml", None),
    "unreadable": (".hydra/config.yaml", 0),
    "unreadable folder": ("checkpoints", 0),
    "unwritable lock": (".hydra/lock", 0o444),
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_a_broken_run_is_passed_over_with_a_line(kind, home, caplog, as_nobody):
    name, how = NEIGHBOURS[kind]
    good = make_run(home / "outputs/runs/2020-01-01/10-00-00", "last")
    bad = make_run(home / "outputs/runs/2020-01-01/11-00-00", "last")
    place = bad / name
    if isinstance(how, int):
        place.chmod(how)
    elif how is None:
        place.unlink()
    else:
        place.write_bytes(how)
    os.utime(good / "checkpoints" / "last.ckpt", (1, 1))  # so the other comes first
    for path in (home, *home.parents[:2]):
        path.chmod(0o755)
    (good / ".hydra" / "lock").chmod(0o666)
    with caplog.at_level(logging.INFO), as_nobody():
        assert run_dir.plan(config(resume="auto")) == run_dir.Plan(good, good / "checkpoints" / "last.ckpt")
    if isinstance(how, int):
        place.chmod(0o755)
    (line,) = [one.getMessage() for one in caplog.records if one.name == run_dir.__name__]  # of no other thread
    assert line.startswith("resume=auto: skipped: ")
    assert str(bad) in line
    assert "\n" not in line


def test_a_folder_in_which_another_run_began_and_ended_meanwhile_is_left_alone(home):
    cfg = config("new")
    planned = run_dir.plan(cfg)
    make_run(home / "new", "last")
    before = contents(home)
    with pytest.raises(ArtError, match="holds a run or a result already"):
        run_dir.claim_run_dir(cfg, planned)
    assert contents(home) == before


@pytest.mark.parametrize("asked", ["auto", "file"])
def test_a_run_that_resumes_is_locked_before_its_checkpoint_is_read(home, asked):
    run = make_run(home / "run", "last")
    cfg = config(run, "auto") if asked == "auto" else config(resume=run / "checkpoints" / "last.ckpt")
    run_dir.plan(cfg)
    with pytest.raises(Timeout):
        FileLock(run / ".hydra" / "lock", timeout=0).acquire()


def test_plan_passes_over_a_run_that_another_process_resumes(home, caplog):
    live = make_run(home / "outputs/runs/2020-01-01/11-00-00", "last")
    with FileLock(live / ".hydra" / "lock"), caplog.at_level(logging.WARNING):
        assert run_dir.plan(config(resume="auto")) == run_dir.Plan()
    (line,) = caplog.messages
    assert line.startswith(f"resume=auto: skipped: run_dir={live}: another process is writing there")


def test_settings_with_interpolations_are_only_compared(home):
    bad = make_run(home / "outputs/runs/2020-01-01/11-00-00", "last")
    (bad / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config()) + "more: ${oops:${\n")
    assert run_dir.plan(config(resume="auto")) == run_dir.Plan()


def test_the_newest_is_that_of_the_newest_checkpoint(home):
    for number, name in enumerate(("12-00-00-10", "12-00-00-2", "12-00-00")):
        run = make_run(home / "outputs/runs/2020-01-01" / name, "last", "previous")
        os.utime(run / "checkpoints" / "last.ckpt", (number, number))
    assert run_dir.plan(config(resume="auto")).run_dir == run


@pytest.mark.parametrize("is_named", [True, False])
def test_a_run_that_lost_its_last_checkpoint_resumes_from_the_one_before(home, is_named):
    run = make_run(home / "outputs/runs/2020-01-01/10-00-00", "best", "previous")
    planned = run_dir.plan(config(run if is_named else None, "auto"))
    assert planned == run_dir.Plan(run, run / "checkpoints" / "previous.ckpt")


def test_what_was_logged_before_there_was_a_log_stands_in_it_in_order():
    cfg = config("new")
    logging.getLogger().setLevel(logging.INFO)
    run_files.keep_log_lines()
    planned = run_dir.plan(cfg)
    logging.getLogger("artart").info("first")
    run_dir.claim_run_dir(cfg, planned)
    assert sorted(path.name for path in Path("new").rglob("*")) == [".hydra", "lock"]
    run_files.open_log(cfg)
    logging.getLogger("artart").info("second")
    assert [line.split()[-1] for line in Path("new/train.log").read_text().splitlines()] == ["first", "new", "second"]


def test_open_log_also_serves_a_process_that_has_not_planned(home):
    """Of several processes only the first plans."""
    (home / "new").mkdir()
    run_files.open_log(config("new"), "train_rank_1.log")
    logging.getLogger("artart").warning("a line")
    assert Path("new/train_rank_1.log").read_text().endswith(" WARNING a line\n")


@pytest.fixture
def loggers(home):
    """A run's own, and files of theirs and of others."""
    own = [TensorBoardLogger(home / "run", "", "tensorboard"), CSVLogger(home / "run", "", "csv")]
    for folder in ("tensorboard", "csv", "others"):
        (home / "run" / folder).mkdir(parents=True)
        for name in ("events.out.tfevents.1", "events.out.tfevents.2"):
            (home / "run" / folder / name).write_text("0123456789")
        (home / "run" / folder / "metrics.csv").write_text("step\n0\n1\n2\n")
    return own


def test_only_the_curves_of_the_runs_own_loggers_are_cut_back(home, loggers):
    run, before = home / "run", contents(home)
    folders = ("tensorboard", "csv", "others")
    kept = {f"{folder}/{name}": 1 for folder in folders for name in ("events.out.tfevents.1", "metrics.csv")}
    cut_back(loggers, run, kept)
    changed = before | {
        run / "tensorboard" / "events.out.tfevents.1": b"0",
        run / "csv" / "metrics.csv": b"step\n0\n",
    }
    del changed[run / "tensorboard" / "events.out.tfevents.2"]  # not there yet when the checkpoint was written
    assert contents(home) == changed


def test_curves_that_the_checkpoint_does_not_know_are_left_alone(home, loggers):
    """Of a logger that the run did not have until now."""
    before = contents(home)
    cut_back(loggers, home / "run", {"tensorboard/events.out.tfevents.1": 10, "tensorboard/events.out.tfevents.2": 10})
    assert contents(home) == before


def test_curves_behind_a_link_are_left_alone(home, loggers):
    run = home / "run"
    (run / "tensorboard").rename(home / "elsewhere")
    (run / "tensorboard").symlink_to(home / "elsewhere")
    (run / "csv" / "metrics.csv").rename(home / "table")
    (run / "csv" / "metrics.csv").symlink_to(home / "table")
    before = contents(home)
    cut_back(loggers, run, {"tensorboard/events.out.tfevents.1": 1, "csv/metrics.csv": 1})
    assert contents(home) == before
    assert files(loggers, run) == []


def test_a_checkpoint_chooses_no_folder_to_be_copied(home, loggers, monkeypatch):
    run = make_run(home / "run2", "epoch_0001", "last")
    shutil.copytree(home / "run", run, dirs_exist_ok=True)
    own = [TensorBoardLogger(run, "", "tensorboard")]
    monkeypatch.setattr(rewind, "_step", lambda path: 2 if path.stem == "last" else 1)
    asked = {"others/x": 1, "tensorboard/events.out.tfevents.1": 9}
    before = resume.ResumeState(run / "checkpoints" / "epoch_0001.ckpt", 1, 1, {}, asked, False, {})
    rewind.prepare_run_dir(run, before, own)
    (aside,) = run.glob("set_aside_*")
    assert {path.name for path in aside.iterdir()} == {"checkpoints", "tensorboard"}


def test_cut_back_leaves_hard_links_to_curves_as_they_are(home, loggers):
    events = home / "run" / "tensorboard" / "events.out.tfevents.1"
    (home / "copy").hardlink_to(events)
    cut_back(loggers, home / "run", {"tensorboard/events.out.tfevents.1": 3})
    assert (events.read_text(), (home / "copy").read_text()) == ("012", "0123456789")


@pytest.mark.parametrize("content", [b"mine", b"a,b\n1,2\n", b"\xff\xfe"])
def test_csv_logger_refuses_a_table_of_others(home, content):
    logger = ContinuedCSVLogger(home / "run", "", "csv")
    table = home / "run" / "csv" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_bytes(content)
    with pytest.raises(ArtError, match=r"metrics.csv: is not a table of a run; move it away$"):
        logger.log_metrics({"a": 1.0}, 0)
    assert table.read_bytes() == content


def test_csv_logger_continues_an_empty_table(home):
    logger = ContinuedCSVLogger(home / "run", "", "csv")
    table = home / "run" / "csv" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.touch()
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    assert table.read_text().splitlines()[0] == "a,step"


def test_files_of_later_epochs_have_numbers(home, loggers, monkeypatch):
    run = make_run(home / "run2", "epoch_0001", "last")
    for name in ("epoch_0001", "epoch_0002", "epoch_\u00b2", "epoch_x"):
        (run / "samples" / f"{name}.png").touch()
    monkeypatch.setattr(rewind, "_step", lambda path: 2 if path.stem == "last" else 1)
    before = resume.ResumeState(run / "checkpoints" / "epoch_0001.ckpt", 1, 1, {}, {}, False, {})
    rewind.prepare_run_dir(run, before, [])
    assert sorted(path.stem for path in run.glob("samples/*")) == ["epoch_0001", "epoch_x", "epoch_\u00b2"]
