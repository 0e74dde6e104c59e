"""Weights & Biases, offline, and MLflow, in a folder; skipped where the package is missing."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from artart.training.loggers import log_settings
from artart.training.trackers import ContinuedMLFlowLogger, check_packages

RUN = ("trainer.max_epochs=1", "callbacks.grid.every_n_epochs=1", "run_dir=run")
RESUMED = ("trainer.max_epochs=2", *RUN[1:], "resume=auto")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("logger", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
@pytest.mark.parametrize("spec", [None, ModuleSpec("a folder of that name", None)])
def test_a_missing_package_is_named_before_any_work(train, monkeypatch, capsys, logger, package, spec):
    find = importlib.util.find_spec
    monkeypatch.setattr("artart.training.trackers.find_spec", lambda name: spec if name == package else find(name))
    assert train(f"logger=[tensorboard,{logger}]", *RUN) == 2
    line = f"logger.{logger}: needs the library {package}; install it: pip install 'artart[{package}]'\n"
    assert capsys.readouterr().err == line
    assert not Path("run", "checkpoints").exists()


def test_loggers_of_others_need_nothing():
    check_packages({"csv": {"_target_": "artart.training.loggers.ContinuedCSVLogger"}, "tensorboard": None})


@pytest.mark.slow
def test_without_a_key_weights_and_biases_says_so_in_a_line(train, capsys):
    pytest.importorskip("wandb")
    assert train("logger=wandb", *RUN) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("logger=wandb: No API key configured")
    assert error.endswith("; call wandb login, or logger.wandb.offline=true")


@pytest.mark.slow
def test_weights_and_biases_has_grids_and_settings_and_a_resumed_run_has_the_same_id(train):
    pytest.importorskip("wandb")
    assert train("logger=[wandb,tensorboard]", "logger.wandb.offline=true", *RUN) == 0
    (folder,) = Path("run/wandb").glob("offline-run-*")
    (image,) = folder.glob("files/media/images/samples_*.png")
    assert image.read_bytes() == Path("run/samples/epoch_0001.png").read_bytes()
    name = Path("run/wandb/run_id").read_text()
    content = (folder / f"run-{name}.wandb").read_bytes()
    assert all(word in content for word in (b"model._target_", b"val/psnr", b"trainer/global_step"))
    assert train("logger=[wandb,tensorboard]", "logger.wandb.offline=true", *RESUMED) == 0
    folders = [path.name.rpartition("-")[2] for path in Path("run/wandb").glob("offline-run-*")]
    assert folders == [name, name]
    assert len([*Path("run/wandb").glob("offline-run-*/files/media/images/samples_*.png")]) == 2
    assert not any(path.name == "wandb" for path in Path.cwd().iterdir())


@pytest.mark.slow
def test_runs_of_one_process_are_runs_of_their_own(train):
    pytest.importorskip("wandb")
    words = ("logger=wandb", "logger.wandb.offline=true", RUN[0], "callbacks.grid=null")
    for name in ("one", "two"):
        assert train(*words, f"run_dir={name}") == 0
        assert len([*Path(name, "wandb").glob("offline-run-*/*.wandb")]) == 1


def test_processes_but_the_first_give_mlflow_no_settings(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_settings([ContinuedMLFlowLogger.__new__(ContinuedMLFlowLogger)], {"seed": 1})  # made so without the package


@pytest.mark.slow
def test_mlflow_has_grids_and_settings_and_a_resumed_run_continues(train):
    mlflow = pytest.importorskip("mlflow")
    assert train("logger=mlflow", *RUN) == 0
    client = mlflow.tracking.MlflowClient(f"file:{Path('run/mlruns').absolute()}")
    name = Path("run/mlruns/run_id").read_text()
    of_run = client.get_run(name)
    assert of_run.info.status == "FINISHED"
    assert of_run.data.params["trainer.max_epochs"] == "1"
    assert of_run.data.params["model._target_"].startswith("artart.models.")
    (image,) = Path("run/mlruns").glob("*/*/artifacts/samples/*.png")
    assert image.read_bytes() == Path("run/samples/epoch_0001.png").read_bytes()
    assert train("logger=mlflow", *RESUMED) == 0
    assert [one.info.run_id for one in client.search_runs([of_run.info.experiment_id])] == [name]
    steps = [one.step for one in client.get_metric_history(name, "val/psnr")]
    assert len(steps) == 2
    assert steps[0] < steps[1]
    assert client.get_run(name).data.params["trainer.max_epochs"] == "1"
    assert len([*Path("run/mlruns").glob("*/*/artifacts/samples/*.png")]) == 2
    assert not any(path.name == "mlruns" for path in Path.cwd().iterdir())
    assert not Path("home/.config/mlflow").exists()
