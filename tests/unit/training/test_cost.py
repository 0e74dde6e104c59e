"""Memory and time of a run, before it begins."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from artart import ArtError
from artart.diffusion.schedule import Flow
from artart.io import memory
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.objectives.distillation import Distillation, DistributionMatching
from artart.objectives.losses import MSE, WeightedSum
from artart.objectives.reconstruction import Reconstruction
from artart.training import cost as cost_module
from artart.training.cost import BEYOND_SAVED, STATE, Cost, check, in_words, measure

CPU = torch.device("cpu")


@pytest.fixture
def net():
    return ConvDiffusionModel(image_size=16)


@pytest.fixture
def objective():
    return Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))


def config(batch_size: int = 4, precision: str = "32-true") -> dict:
    trainer = {"max_epochs": 2, "max_steps": -1, "devices": 1, "num_nodes": 1, "accumulate_grad_batches": 1}
    trainer |= {"precision": precision, "accelerator": "cpu", "limit_train_batches": None}
    return {"data": {"batch_size": batch_size}, "trainer": trainer}


def test_measure_counts_what_a_linear_layer_saves(objective):
    class Net(torch.nn.Linear):
        channels, image_size, num_classes = 3, 16, 0

        def forward(self, x):
            return super().forward(x)

    cost = measure(Net(16, 16), objective, 2, CPU)
    image = 3 * 16 * 16 * 4
    assert cost.per_image == pytest.approx(BEYOND_SAVED * 3 * image, rel=0.4)  # input, output and their difference
    assert cost.fixed == pytest.approx(4 * 4 * (16 * 16 + 16), abs=100)  # gradient, two moments, average


def test_a_network_that_a_loss_trains_is_counted_where_a_step_holds_most():
    class Sampler(torch.nn.Conv2d):
        channels, image_size, num_classes = 3, 16, 0

        def forward(self, x, t, y):
            return super().forward(x)

    net, loss = Sampler(3, 3, 3, padding=1), DistributionMatching()
    loss.begin_with(net)
    costs = [measure(net, Distillation(loss, Flow(), num_steps=k), 2, CPU) for k in (1, 2)]
    assert costs[0].fixed == pytest.approx(2 * STATE * sum(one.numel() for one in net.parameters()), abs=100)
    calls = [cost.per_image / costs[0].per_image for cost in costs]
    assert calls == pytest.approx([1, 4 / 3], rel=0.2)  # of samples, the discriminator, and regression


def test_measure_changes_neither_network_nor_random_numbers(net, objective):
    before, state = deepcopy(net.state_dict()), torch.get_rng_state()
    measure(net, objective, 8, CPU)
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_fastest_of_a_few_steps_is_the_time_of_an_image(net, objective, monkeypatch):
    times = iter([9.0, 9.0, 0.8, 0.1, 0.4, 0.6, 0.2, 0.5])  # 2 and 4 images, their memory; then 4; then the batch of 8
    monkeypatch.setattr(cost_module, "_step", lambda *_: (0, next(times)))
    monkeypatch.setattr(cost_module, "MAX_REPEATS", 3)
    assert measure(net, objective, 8, CPU).seconds == 0.2 / 8


@pytest.mark.slow
def test_check_refuses_a_batch_that_memory_does_not_hold(net, objective, monkeypatch):
    needed = measure(net, objective, 64, CPU).bytes(64)
    monkeypatch.setattr(memory, "available", lambda _: int(needed * 2))
    check(config(64), net, objective, 100, CPU)
    monkeypatch.setattr(memory, "available", lambda _: int(needed * 0.9))
    with pytest.raises(ArtError, match=r"^data.batch_size=64: a step takes .* are free; set data.batch_size=[345]\d,"):
        check(config(64), net, objective, 100, CPU)
    check(config(64), net, objective, 2, CPU)  # fewer images than a batch


def test_check_counts_what_was_free_before_it_measured(net, objective, monkeypatch):
    free, measure = [2**40], cost_module.measure

    def keep(*arguments):
        free.append(0)  # as torch keeps memory
        return measure(*arguments)

    monkeypatch.setattr(cost_module, "measure", keep)
    monkeypatch.setattr(memory, "available", lambda _: free[-1])
    check(config(), net, objective, 100, CPU)
    assert free == [2**40, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "about 3.3 min"),
        ({"limit_train_batches": 3}, "about 24 s"),
        ({"limit_train_batches": 0.2}, "about 40 s"),
        ({"max_steps": 10}, "about 40 s"),
        ({"max_steps": 10, "accumulate_grad_batches": 2}, "about 80 s"),
    ],
)
def test_the_time_is_that_of_the_steps_a_run_takes(net, objective, monkeypatch, caplog, settings, words):
    """Of 100 images, in batches of 4, in 2 epochs; an image takes a second."""
    monkeypatch.setattr(cost_module, "measure", lambda *_: Cost(0.0, 1.0, 1.0))
    own = config()
    with caplog.at_level("INFO"):
        check({**own, "trainer": own["trainer"] | settings}, net, objective, 100, CPU)
    assert caplog.messages[-1].endswith(f"the run {words}; samples extra")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)]
)
def test_steps_are_measured_in_the_precision_of_training(net, objective, precision, dtype):
    seen = set()
    net.register_forward_hook(
        lambda module, inputs, output: seen.add(
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        )
    )
    check(config(precision=precision), net, objective, 100, CPU)
    assert seen == {dtype}


def test_available_is_the_least_of_machine_and_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available(CPU) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    (tmp_path / "memory.current").write_text("1000")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("max")
    assert memory.available(CPU) == 2000 * 1024
    (tmp_path / "memory.max").write_text("5000")
    assert memory.available(CPU) == 5000 - 1000 + 500


def test_total_is_the_least_of_machine_and_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.total(CPU) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    assert memory.total(CPU) == 9000 * 1024
    (tmp_path / "memory.max").write_text("max")
    assert memory.total(CPU) == 9000 * 1024
    (tmp_path / "memory.max").write_text("5000")
    assert memory.total(CPU) == 5000


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "about 1 s"), (80, "about 80 s"), (200, "about 3.3 min"), (5400, "about 1.5 h")]
)
def test_durations_are_rounded(seconds, words):
    assert in_words(seconds) == words
