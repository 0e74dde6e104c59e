"""experiment=auto on machines that are not here."""

import logging

import pytest
import torch

from artart.config.cli import compose_config
from artart.config.schema import check
from artart.io import memory
from artart.training import auto

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """`machine(bytes, device)`: one of that memory."""

    def machine(size: float | None, device: torch.device = CPU) -> None:
        monkeypatch.setattr(memory, "total", lambda _: size)
        monkeypatch.setattr(auto, "device_of", lambda _: device)

    return machine


def chosen(*words: str, launched: dict | None = None) -> tuple[dict, list[str]]:
    cfg = compose_config("train", words)
    check(cfg)
    cfg.trainer.update(launched or {})
    return auto.choose(cfg, words)


@pytest.mark.parametrize(
    ("device", "size", "num_images", "experiment", "batch_size"),
    [
        (CPU, 16e9, 5000, "diffusion_cpu", 16),
        (CPU, 1e9, 5000, "diffusion_cpu", 8),
        (CPU, None, 100, "diffusion_cpu", 16),
        (GPU, 80e9, 5000, "art_256", 128),
        (GPU, 11e9, 5000, "art_256", 64),
        (GPU, 8e9, 5000, "art", 32),
        (GPU, 80e9, 500, "art", 32),
        (GPU, 1e9, 5000, "diffusion_cpu", 8),
    ],
)
def test_words_for_choose_by_device_memory_and_number(machine, device, size, num_images, experiment, batch_size):
    machine(size)
    assert auto.words_for(device, num_images)[:2] == [f"experiment={experiment}", f"data.batch_size={batch_size}"]


@pytest.mark.parametrize(
    ("num_images", "epochs"), [(5000, 20), (2000, 40), (2001, 40), (40_000, 2), (10**6, 1), (50, 60)]
)
def test_words_for_show_few_images_more_often(machine, num_images, epochs):
    machine(16e9)
    assert f"trainer.max_epochs={epochs}" in auto.words_for(CPU, num_images)


@pytest.mark.slow
@pytest.mark.parametrize("size", [80e9, 11e9, 8e9, 1e9])
@pytest.mark.parametrize("num_images", [50, 10**6])
def test_words_for_compose(machine, size, num_images):
    machine(size)
    for device in (CPU, GPU):
        cfg = compose_config("train", auto.words_for(device, num_images))
        check(cfg)
        assert cfg.callbacks.grid.every_n_epochs % cfg.trainer.check_val_every_n_epoch == 0
        assert cfg.trainer.max_epochs % cfg.trainer.check_val_every_n_epoch == 0  # the last is validated


@pytest.mark.slow
def test_choose_lets_words_of_the_user_win(machine):
    machine(16e9)
    words = ("experiment=auto", "trainer.max_epochs=3", "image_size=16", "model=unet_small", "callbacks.grid=null")
    cfg, named = chosen(*words)
    assert (cfg.trainer.max_epochs, cfg.image_size, cfg.data.batch_size, cfg.callbacks.grid) == (3, 16, 16, None)
    assert named[0] == "experiment=diffusion_cpu"
    assert named[-4:] == list(words[1:])


@pytest.mark.parametrize("words", [["experiment=denoise"], ["experiment=auto", "experiment=denoise"], []])
def test_choose_leaves_other_experiments(machine, words):
    machine(16e9)
    cfg = compose_config("train", words)
    assert auto.choose(cfg, words) == (cfg, words)


@pytest.mark.slow
def test_choose_keeps_the_number_of_processes(machine):
    machine(16e9)
    cfg, _ = chosen("experiment=auto", "trainer=ddp", launched={"devices": 2, "num_nodes": 3})
    assert (cfg.trainer.devices, cfg.trainer.num_nodes) == (2, 3)


@pytest.mark.slow
def test_choose_says_what_and_that_few_images_need_another_start(machine, art_folder, caplog):
    machine(80e9, GPU)
    with caplog.at_level(logging.INFO):
        chosen("experiment=auto", f"data.root={art_folder}")
    what, how, few = caplog.messages
    assert what == (
        "experiment=auto: experiment=art image_size=128 data.batch_size=32 trainer.max_epochs=60, for 12 images and a "
        "GPU with 80.0 GB of memory"
    )
    assert how.startswith("to choose otherwise, ")
    assert few.startswith("12 images are few: better fine-tune ")
    assert f"experiment=finetune init_from=CHECKPOINT data.root={art_folder}" in few


@pytest.mark.slow
def test_choose_asks_for_no_other_start_where_there_is_one(machine, art_folder, tmp_path, caplog):
    machine(16e9)
    (tmp_path / "best.ckpt").touch()
    chosen("experiment=auto", f"data.root={art_folder}", f"init_from={tmp_path / 'best.ckpt'}")
    chosen("experiment=auto", "data.num_demo_images=100")
    assert "few" not in caplog.text
