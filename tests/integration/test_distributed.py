"""Several processes train as one would."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.testing import assert_close

from artart import ArtError
from artart.training import distributed
from tests.forking import Process, command

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
SETTINGS = (
    "image_size=16", "data.num_demo_images=60", "data.random_flip=true", "callbacks.grid.every_n_epochs=2",
    "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "scheduler.warmup_steps=2",
)  # fmt: skip
DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2")


ADVERSARIAL = (
    "image_size=16", "data.num_demo_images=60", "model=autoencoder", "loss=hybrid_adversarial",
    "loss.weights.perceptual=0", "optimizer=adamw", "scheduler=cosine", "trainer.gradient_clip_val=0.5",
    "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.grid=null",
)  # fmt: skip


TWO = ("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4", "run_dir=two")  # of 8 together


@pytest.fixture
def start(forking, tmp_path) -> Callable[..., Process]:
    """Start `python -m artart.train`, with variables of the environment."""

    def start(*words: str, output: str, **environment: str) -> Process:
        importable = os.pathsep.join(map(str, (ROOT, TESTS)))
        return forking.start(
            train_here, *words, output=tmp_path / output, folder=tmp_path, PYTHONPATH=importable, **environment
        )

    return start


def train_here(*words: str) -> None:
    sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
    command("artart.train", *words)


@pytest.fixture
def ranks(start, tmp_path) -> Callable[..., tuple[list[int], list[str]]]:
    """Exit codes and outputs of two processes of a training, with the variables that torchrun sets."""

    def ranks(*words: str, num_machines: int = 1) -> tuple[list[int], list[str]]:
        here = 2 // num_machines
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(find_free_network_port()), "WORLD_SIZE": "2",
                  "LOCAL_WORLD_SIZE": str(here), "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
        places = [
            {"RANK": str(rank), "LOCAL_RANK": str(rank % here), "GROUP_RANK": str(rank // here)} for rank in range(2)
        ]
        started = [start(*words, output=f"output_{rank}", **common, **place) for rank, place in enumerate(places)]
        codes = [process.wait() for process in started]
        outputs = [tmp_path / f"output_{rank}" for rank in range(2)]
        return codes, [output.read_text() for output in outputs]

    return ranks


def load(path: str) -> dict:
    return torch.load(path, weights_only=True)


def trouble(prefix: str = "") -> tuple[str, ...]:
    """SIGTERM within the third step of each process, after which they take one more."""
    settings = {"_target_": "test_resume.Trouble", "event": "SIGTERM", "place": "within", "step": 3}
    return (
        *(f"+{prefix}callbacks.a.{key}={value}" for key, value in settings.items()),
        "trusted_classes=[test_resume.Trouble]",
    )


@pytest.mark.distributed
def test_two_processes_that_were_stopped_end_as_one_process(train, start, ranks):
    """Order, flips, noise, times and dropped labels are those of the whole batch; sums are taken in another order.

    The command starts new processes; those that resume are forked. The optimizer is SGD: Adam magnifies rounding.
    """
    words = (*SETTINGS, *DIFFUSION, "optimizer=sgd")
    assert train(*words, "run_dir=one") == 0
    code = start(*words, *TWO, "trainer.devices=2", *trouble(), output="said", OMP_NUM_THREADS="1").wait()
    said = Path("said").read_text()
    assert code == 143, said
    assert said.count("stopped by SIGTERM in epoch 1/2; to resume, repeat the command") == 1  # the first speaks for all
    assert "Traceback" not in said
    assert load("two/checkpoints/last.ckpt")["global_step"] == 4
    codes, outputs = ranks(*words, *TWO, "trainer.devices=2", "resume=auto")
    assert codes == [0, 0], outputs
    assert "".join(outputs).count("epoch 2/2  step 12") == 1

    wanted, ours = load("one/checkpoints/last.ckpt"), load("two/checkpoints/last.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert_close(ours[part], wanted[part], atol=1e-5, rtol=1e-5)
    assert_close(ours["metrics"], wanted["metrics"], atol=1e-5, rtol=1e-5)
    assert ours["images_seen"] == wanted["images_seen"] == 96
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("one", "two")]
    assert [result["num_processes"] for result in results] == [1, 2]
    assert results[1]["resumed_at_step"] == 4
    assert sorted(path.name for path in Path("two").glob("*.log")) == ["train.log", "train_rank_1.log"]
    assert "epoch 2/2  step 12" in Path("two/train_rank_1.log").read_text()
    assert len(list(Path("two/tensorboard").glob("events*"))) == 3  # of the first process: stopped, resumed, the end


@pytest.mark.distributed
def test_a_step_of_two_processes_waits_for_nothing(train, ranks):
    spy = ("+callbacks.spy._target_=benchmarks.host_waits.Spy", "trusted_classes=[benchmarks.host_waits.Spy]")
    many = ("data.num_demo_images=120", "trainer.log_every_n_steps=99")
    codes, outputs = ranks(*SETTINGS, *DIFFUSION, *TWO, *spy, *many)
    assert codes == [0, 0], outputs
    found = [json.loads(Path(f"found_{rank}.json").read_text()) for rank in range(2)]
    assert [sorted(one["waits"].items()) for one in found] == [[], []]


@pytest.mark.distributed
def test_a_loss_that_is_no_number_in_one_process_stops_both_and_spoils_no_checkpoint(train, ranks):
    """Before a checkpoint they tell each other their losses."""
    spoil = (
        "+callbacks.spoil._target_=test_train.SpoilBatch",
        "+callbacks.spoil.rank=1",
        "+callbacks.spoil.batch_idx=3",
    )
    often = ("trusted_classes=[test_train.SpoilBatch]", "callbacks.last.train_time_interval=1e-9")
    codes, outputs = ranks(*SETTINGS, *DIFFUSION, *TWO, *spoil, *often)
    assert codes == [1, 1], outputs
    assert ["train/loss=nan at step 3, epoch 1: training stopped" in said for said in outputs] == [True, True]
    saved = load("two/checkpoints/last.ckpt")
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["current_model_state"].values())


@pytest.mark.distributed
def test_a_discriminator_is_trained_by_two_processes_as_by_one(train, ranks):
    assert train(*ADVERSARIAL, "run_dir=one") == 0
    codes, outputs = ranks(*ADVERSARIAL, *TWO)
    assert codes == [0, 0], outputs
    wanted, ours = load("one/checkpoints/last.ckpt"), load("two/checkpoints/last.ckpt")
    assert_close(ours["state_dict"], wanted["state_dict"], atol=5e-5, rtol=0)  # of 12 steps of 1e-3
    assert_close(ours["metrics"], wanted["metrics"], atol=1e-5, rtol=1e-5)


@pytest.mark.distributed
def test_two_processes_train_on_latents_as_one(latent, train, ranks):
    """Each normalises them by itself. SGD, since AdamW makes steps of a gradient that is nothing but rounding."""
    words = (*SETTINGS, *latent, "optimizer=sgd")
    assert train(*words, "run_dir=one") == 0
    codes, outputs = ranks(*words, *TWO)
    assert codes == [0, 0], outputs
    wanted, ours = load("one/checkpoints/last.ckpt"), load("two/checkpoints/last.ckpt")
    assert_close(ours["first_stage"]["moments"], wanted["first_stage"]["moments"], rtol=0, atol=0)
    for part in ("state_dict", "current_model_state", "metrics"):
        assert_close(ours[part], wanted[part], atol=1e-5, rtol=1e-5)


@pytest.mark.distributed
def test_two_processes_train_on_captions_as_one(train, ranks):
    """Which caption is drawn of an image, and which words are dropped, are those of the whole batch."""
    words = (*SETTINGS, *DIFFUSION, "data.captions=auto", "optimizer=sgd", "optimizer.lr=0.1")
    assert train(*words, "run_dir=one") == 0
    codes, outputs = ranks(*words, *TWO)
    assert codes == [0, 0], outputs
    wanted, ours = load("one/checkpoints/last.ckpt"), load("two/checkpoints/last.ckpt")
    assert_close(ours["state_dict"], wanted["state_dict"], atol=1e-5, rtol=1e-5)
    assert ours["text"] == wanted["text"]


@pytest.mark.distributed
def test_two_processes_train_both_stages_as_one_process(train, ranks):
    """Stopped in the first stage. Sums in another order change latents by a rounding to float16."""
    own = (
        "experiment=autoencoder",
        "regularizer.std=0.5",
        "model.model_channels=16",
        "model.channel_mult=[1]",
        "loss=mse",
    )
    first = [f"first_stage_settings.{word}" for word in (*own, "trainer.max_epochs=2")]
    both = (*SETTINGS, *DIFFUSION, "model=unet_tiny", "model.model_channels=16", "first_stage=auto", *first)
    assert train(*both, "first_stage_settings.data.batch_size=8", "run_dir=one") == 0
    two = (*both, *TWO, "first_stage_settings.data.batch_size=4")
    codes, outputs = ranks(*two, *trouble("first_stage_settings."))
    assert codes == [143, 143], outputs
    message = "in stage 1 of 2, epoch 1/2; to resume, repeat the command with resume=auto run_dir=two"
    assert "".join(outputs).count(message) == 1
    codes, outputs = ranks(*two, "resume=auto")
    assert codes == [0, 0], outputs
    said = "".join(outputs)
    assert said.count("stage 1 of 2: done") == said.count("stage 2 of 2, epoch 2/2  step 12") == 1

    for run, tolerance in (("first_stage/", 1e-5), ("", 1e-3)):
        wanted, ours = (load(f"{folder}/{run}checkpoints/last.ckpt") for folder in ("one", "two"))
        assert_close(ours["state_dict"], wanted["state_dict"], atol=tolerance, rtol=tolerance)
        assert_close(ours["metrics"], wanted["metrics"], atol=tolerance, rtol=tolerance)
    for folder in ("two", "two/first_stage"):
        assert sorted(path.name for path in Path(folder).glob("*.log")) == ["train.log", "train_rank_1.log"]
    assert "stage 2 of 2, epoch 2/2  step 12" in Path("two/train_rank_1.log").read_text()
    assert Path("two/train.log").read_text().count("stage 2 of 2, epoch 2/2  step 12") == 1


@pytest.mark.distributed
def test_two_machines_of_one_process_each_share_a_folder(train, ranks):
    """Both on this one; they meet over the network."""
    codes, outputs = ranks(*SETTINGS, *DIFFUSION, "trainer.max_epochs=1", *TWO, "run_dir=null", num_machines=2)
    assert codes == [0, 0], outputs
    (run_dir,) = Path("outputs/runs").glob("*/*")
    assert json.loads((run_dir / "result.json").read_text())["num_processes"] == 2
    assert sorted(path.name for path in run_dir.glob("*.log")) == ["train.log", "train_rank_1.log"]
    assert sorted("done in" in text for text in outputs) == [False, True]


def trainer(**settings) -> dict:
    return {"devices": 1, "num_nodes": 1, "strategy": "auto", "accelerator": "cpu"} | settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"devices": 2}, "trainer.strategy=auto: 2 processes need trainer=ddp"),
        ({"devices": 2, "num_nodes": 3, "strategy": "ddp"}, "trainer.num_nodes=3: .*torchrun --nnodes=3 on each"),
    ],
)
def test_settings_that_contradict_each_other_are_reported_in_one_line(settings, sentence):
    with pytest.raises(ArtError, match=sentence):
        distributed.launch(trainer(**settings))


def test_one_process_starts_no_other():
    settings = trainer(devices="auto", strategy="ddp")
    distributed.launch(settings)
    assert (settings["devices"], settings["num_nodes"]) == (1, 1)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.broadcast_from_rank_zero(lambda: 3) == 3
    with distributed.rank_zero_first():
        pass


@pytest.fixture
def torchrun(monkeypatch):
    """The second of two processes on the second of three machines."""
    places = {"RANK": 3, "WORLD_SIZE": 6, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 29500}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("devices", ["auto", 2])
def test_torchrun_says_how_many_there_are(torchrun, devices):
    settings = trainer(devices=devices, strategy="ddp")
    distributed.launch(settings)
    assert (settings["devices"], settings["num_nodes"]) == (2, 3)
    assert (distributed.rank(), distributed.world_size()) == (3, 6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"devices": "auto"}, "trainer.strategy=auto: 6 processes need trainer=ddp"),
        ({"devices": 1}, "trainer.strategy=auto: 6 processes need trainer=ddp"),
        ({"devices": 4, "strategy": "ddp"}, "trainer.devices=4: torchrun has started 2 processes here; leave it out"),
    ],
)
def test_what_torchrun_does_not_agree_with_is_reported_in_one_line(torchrun, settings, sentence):
    with pytest.raises(ArtError, match=sentence):
        distributed.launch(trainer(**settings))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LOCAL_RANK", "0", "LOCAL_RANK=0: set without a number RANK; start one process, or several by torchrun"),
        ("SLURM_STEP_NUM_TASKS", "2", "SLURM_STEP_NUM_TASKS=2: srun has started 2 processes; start one process, or"),
        ("OMPI_COMM_WORLD_SIZE", "4", "OMPI_COMM_WORLD_SIZE=4: mpirun has started 4 processes; "),
    ],
)
def test_launchers_that_would_train_several_runs_are_refused(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    with pytest.raises(ArtError, match=f"^{sentence}"):
        distributed.launch(trainer())


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_torchrun_started_by_a_launcher_is_one_run(torchrun, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    distributed.launch(trainer(devices="auto", strategy="ddp"))


@pytest.mark.slow
def test_the_jobs_of_a_sweep_have_one_process_each(train, capsys):
    assert train("-m", "seed=0,1", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2") == 1
    assert "trainer.devices=2: each job of a sweep has one process" in capsys.readouterr().err


def test_each_process_needs_an_image_to_validate_on():
    from artart.config.compatibility import check_num_images

    config = {"monitor": "val/psnr"}

    check_num_images(config, num_train=2, num_val=2, num_processes=2)
    check_num_images(config, num_train=2, num_val=0, num_processes=2)  # none is held out: a preview
    with pytest.raises(ArtError, match=r"data.val_fraction: holds out 1 images, and each of 2 processes needs one"):
        check_num_images(config, num_train=2, num_val=1, num_processes=2)
    with pytest.raises(ArtError, match=r"trainer.devices: 3 processes have 2 images to train on"):
        check_num_images(config, num_train=2, num_val=0, num_processes=3)
