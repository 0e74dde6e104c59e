import pytest
from omegaconf import OmegaConf

from artart import ArtError
from artart.config.paths import make_paths_absolute


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs: the older with best.ckpt and last.ckpt, the newer with last.ckpt; and one without a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for place in ("01/a/checkpoints/best.ckpt", "01/a/checkpoints/last.ckpt", "02/b/checkpoints/last.ckpt", "03/c/x"):
        path = tmp_path / "outputs" / "runs" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "outputs" / "runs"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("checkpoint", "latest", "02/b/checkpoints/last.ckpt"),
        ("checkpoint", "outputs/runs/01/a", "01/a/checkpoints/best.ckpt"),
        ("init_from", "outputs/runs/02/b", "02/b/checkpoints/last.ckpt"),
        ("resume", "outputs/runs/01/a", "01/a/checkpoints/last.ckpt"),
        ("checkpoint", "outputs/runs/01/a/checkpoints/last.ckpt", "01/a/checkpoints/last.ckpt"),
    ],
)
def test_make_paths_absolute_finds_the_checkpoint_of_a_run(runs, key, value, found):
    cfg = OmegaConf.create({key: value})
    make_paths_absolute(cfg)
    assert cfg[key] == str(runs / found)


def test_make_paths_absolute_names_a_folder_without_checkpoint(runs):
    cfg = OmegaConf.create({"checkpoint": "outputs/runs/03/c"})
    with pytest.raises(ArtError, match=r"checkpoint=outputs/runs/03/c: this folder has no checkpoints/best\.ckpt"):
        make_paths_absolute(cfg)


def test_make_paths_absolute_names_the_first_stage_of_a_run_that_has_no_more(runs):
    (runs / "03/c/first_stage/checkpoints").mkdir(parents=True)
    (runs / "03/c/first_stage/checkpoints/last.ckpt").touch()
    line = r"first stage, which is outputs/runs/03/c/first_stage; continue it by resume=auto run_dir=outputs/runs/03/c$"
    with pytest.raises(ArtError, match=line):
        make_paths_absolute(OmegaConf.create({"checkpoint": "outputs/runs/03/c"}))


@pytest.mark.parametrize("value", ["x" * 300, "resume"])
def test_make_paths_absolute_takes_a_name_that_does_not_exist(runs, tmp_path, value):
    cfg = OmegaConf.create({"checkpoint": value})
    make_paths_absolute(cfg)
    assert cfg.checkpoint == str(tmp_path / value)


def test_make_paths_absolute_says_that_there_is_no_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtError, match="checkpoint=latest: there is no run with a checkpoint under outputs/runs"):
        make_paths_absolute(OmegaConf.create({"checkpoint": "latest"}))
