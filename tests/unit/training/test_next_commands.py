import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from artart.training import next_commands as modules
from artart.training.next_commands import next_commands
from tests.unit.test_docs import problem

OWN = "experiment=auto data.root=FOLDER_OF_YOUR_ART"


def commands(mode: str, root: str | None, run_dir: Path, one_step: bool = False, num_val: int = 50) -> list[str]:
    config = {"data": {"root": root}, "run_dir": str(run_dir)}
    data = SimpleNamespace(val_is_held_out=num_val > 0, val_ids=[*range(num_val)])
    objective = SimpleNamespace(mode=mode, one_step=one_step)
    run = SimpleNamespace(cfg=OmegaConf.create(config), objective=objective, data=data)
    return [command for command, _ in next_commands(run, run_dir / "checkpoints" / "best.ckpt")]


@pytest.mark.parametrize(
    ("mode", "root", "trainings"),
    [
        ("reconstruct", None, ["experiment=quickstart_diffusion", OWN]),
        ("sample", None, [OWN]),
        ("reconstruct", "/my art", ["experiment=auto data.root='/my art'"]),
        ("sample", "/my art", []),
    ],
)
def test_next_commands_lead_to_images_of_ones_own(mode, root, trainings, tmp_path):
    found = [command for command in commands(mode, root, tmp_path) if "artart.train" in command]
    assert found == [f"artart.train {one}" for one in trainings]


@pytest.mark.parametrize(
    ("mode", "num_val", "is_named"),
    [("sample", 20, True), ("sample", 19, False), ("reconstruct", 19, True), ("reconstruct", 0, False)],
)
def test_next_commands_judge_where_enough_images_are_held_out(mode, num_val, is_named, tmp_path):
    found = commands(mode, None, tmp_path, num_val=num_val)
    assert any(command.startswith("artart.evaluate") for command in found) is is_named


def test_next_commands_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *_, last = commands("sample", None, tmp_path / "my run")
    assert first.startswith("artart.generate checkpoint='my run/checkpoints/best.ckpt' ")
    assert last.startswith("tensorboard.main --logdir 'my run' ")


@pytest.mark.parametrize(
    ("mode", "one_step", "has_trajectory"),
    [("reconstruct", False, False), ("sample", False, True), ("sample", True, False)],
)
def test_next_commands_have_settings_that_exist_and_fit(mode, one_step, has_trajectory, tmp_path):
    found = commands(mode, None, tmp_path, one_step)
    assert [wrong for command in found if (wrong := problem(shlex.split(command)))] == []
    assert ("save_trajectory=true" in found[0]) is has_trajectory


def test_python_is_named_by_its_path_only_if_it_is_another(monkeypatch, caplog):
    monkeypatch.setattr(modules, "next_commands", lambda *_: [("artart.train", "")])
    monkeypatch.setattr("sys.executable", "/My/Python.exe")
    for found, normcase, shown in (
        ("/my/PYTHON.EXE", str.lower, "python"),  # as on Windows
        ("/my/PYTHON.EXE", str, "/My/Python.exe"),
        (None, str, "/My/Python.exe"),
    ):
        monkeypatch.setattr(modules.shutil, "which", lambda _, found=found: found)
        monkeypatch.setattr(modules.os.path, "normcase", normcase)
        caplog.clear()
        with caplog.at_level("INFO"):
            modules.log_next_commands(None, None)
        assert caplog.messages[-1] == f"  {shown} -m artart.train"
