import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from artart.features.alexnet import features_of
from artart.metrics.distances import kernel_distance
from artart.training.callbacks import memorization
from artart.training.callbacks.checkpoints import EpochCheckpoint
from artart.training.callbacks.memorization import MemorizationMonitor

FEW_STEPS = ("objective=diffusion", "loss=mse_diffusion", "callbacks.grid=null", "sampler.num_steps=2")
HALF = ("data.num_demo_images=60", "data.val_fraction=0.5", "trainer.max_epochs=4")
EVERY_2 = ("callbacks.memorization.every_n_images=64", "callbacks.memorization.num_images=20")  # of 32 an epoch


@pytest.fixture
def result(train, tmp_path):
    """What a run says at its end."""

    def result(*options):
        assert train(*FEW_STEPS, *HALF, *EVERY_2, "run_dir=run", *options) == 0
        return json.loads((tmp_path / "run" / "result.json").read_text())

    return result


@pytest.fixture
def copier(monkeypatch):
    """Samples are the first training images."""
    monkeypatch.setattr(MemorizationMonitor, "_samples", lambda self, module, data: data.pixels_of(data.train_ids[:20]))


@pytest.mark.slow
def test_a_network_of_a_few_steps_memorizes_nothing(result, capsys):
    last = result()["last"]
    assert max(last["memorization/rate"], last["memorization/rate_ratio"]) <= 0.1
    assert last["memorization/rate_third"] == 0.0
    message = [line for line in capsys.readouterr().out.splitlines() if "memorization/rate" in line]
    assert [line.split(":")[0] for line in message] == ["epoch 2", "epoch 4"]


@pytest.mark.slow
def test_near_duplicates_are_reported_and_the_training_resumes(result, copier):
    found = result()
    assert {found["last"][f"memorization/rate{name}"] for name in ("", "_ratio", "_third")} == {1.0}
    assert found["epochs"] == 4


@pytest.mark.slow
def test_near_duplicates_stop_the_training_on_request(result, copier, capsys):
    assert result("callbacks.memorization.stop_above=0.5")["epochs"] == 2
    assert "callbacks.memorization.stop_above=0.5: training stops after epoch 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_share_that_may_be_chance_does_not_stop_it(result, copier):
    assert result("callbacks.memorization.stop_above=0.9")["epochs"] == 4  # all of 20: at least 0.84


@pytest.mark.slow
def test_a_test_waits_until_enough_images_were_seen_since_the_last(result, capsys):
    """Validations after 8, 16, 24 and 32 of 32 images an epoch."""
    result(
        "data.batch_size=8",
        "+trainer.val_check_interval=1",
        "trainer.max_epochs=2",
        "callbacks.memorization.every_n_images=24",
    )
    message = [line for line in capsys.readouterr().out.splitlines() if "memorization/rate" in line]
    assert [line.split(":")[0] for line in message] == ["epoch 1", "epoch 2"]  # after 24 and 48


@pytest.mark.slow
def test_a_run_that_is_too_short_for_a_test_says_so(result, capsys):
    result("callbacks.memorization.every_n_images=1000")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "callbacks.memorization" in line]
    assert re.fullmatch(r"callbacks.memorization: no test: this run sees \d+ images, .*every_n_images=1000", line)


@pytest.mark.slow
def test_samples_are_the_same_each_time(result, monkeypatch):
    drawn = []
    original = MemorizationMonitor._samples

    def samples(self, module, data):
        drawn.append((original(self, module, data), original(self, module, data)))
        return drawn[-1][0]

    monkeypatch.setattr(MemorizationMonitor, "_samples", samples)
    result("trainer.max_epochs=2")
    ((one, other),) = drawn
    assert torch.equal(one, other)
    assert one.shape == (20, 3, 16, 16)
    assert one.dtype == torch.uint8


def test_samples_have_the_labels_of_training_images_in_their_proportions(monkeypatch):
    """A label of each image is its number: 80 of one class and 20 of another."""
    train_ids, drawn = [*range(100, 180), *range(200, 220)], []

    def sample_images(net, process, sampler, y, seeds, *_, on_step):
        drawn.append((y, seeds))
        return iter([torch.zeros(len(y), 3, 8, 8)])

    monkeypatch.setattr(memorization, "sample_images", sample_images)
    monkeypatch.setattr(MemorizationMonitor, "bar", lambda *_: nullcontext())
    monitor = MemorizationMonitor(SimpleNamespace(num_steps=2), num_images=2000)
    data = SimpleNamespace(train_ids=train_ids, y_of=lambda ids: torch.tensor(ids).view(-1, 1))
    module = SimpleNamespace(net=None, objective=None, trainer=None, device=torch.device("cpu"))
    monitor._samples(module, data)
    monitor._samples(module, data)
    (y, seeds), again = drawn
    assert seeds == again[1] == range(2000)
    assert torch.equal(y, again[0])
    assert set(y.flatten().tolist()) == set(train_ids)
    assert (y >= 200).float().mean().item() == pytest.approx(0.2, abs=0.03)


@pytest.mark.slow
def test_too_few_held_out_images_are_reported_once(train, capsys, tmp_path):
    assert train(*FEW_STEPS, *EVERY_2, "run_dir=run") == 0
    printed = capsys.readouterr().out
    assert printed.count("callbacks.memorization: no test: 3 images are held out, and it needs 20") == 1
    assert "memorization/rate" not in (tmp_path / "run" / "result.json").read_text()


def test_a_network_that_is_meant_to_copy_is_not_tested(train, capsys):
    sampler = "{_target_:artart.diffusion.samplers.DDIM,num_steps:2}"
    override = (
        "+callbacks.memorization={_target_:artart.training.callbacks.memorization.MemorizationMonitor,sampler:"
        + sampler
        + "}"
    )
    assert train(override) == 2
    assert "callbacks.memorization: is not for objective=reconstruction" in capsys.readouterr().err


BY_KID_NO_MEMORIZATION = ("monitor=samples/kid_no_memorization", "mode=min")


@pytest.mark.slow
def test_the_kernel_distance_is_that_of_evaluation(result, alexnet_weights, monkeypatch):
    seen = {}
    original = MemorizationMonitor._samples

    def samples(self, module, data):
        seen["samples"], seen["held_out"] = original(self, module, data), data.pixels_of(data.val_ids)
        return seen["samples"]

    monkeypatch.setattr(MemorizationMonitor, "_samples", samples)
    found = result("trainer.max_epochs=2", f"callbacks.memorization.weights={alexnet_weights}", *BY_KID_NO_MEMORIZATION)
    features = [features_of(seen[name], str(alexnet_weights), torch.device("cpu")) for name in ("samples", "held_out")]
    assert found["last"]["samples/kid_alexnet"] == pytest.approx(kernel_distance(*features).value, rel=1e-4)
    assert (
        found["last"]["samples/kid_no_memorization"]
        == found["last"]["samples/kid_alexnet"]
        == found["best"]["samples/kid_no_memorization"]
    )


@pytest.mark.slow
def test_a_checkpoint_that_near_duplicates_is_never_the_best(result, alexnet_weights, monkeypatch):
    """Near-duplicates of training images have the lowest distance of all."""
    original = MemorizationMonitor._samples

    def samples(self, module, data):
        override = module.trainer.current_epoch > 1
        return data.pixels_of(data.train_ids[:20]) if override else original(self, module, data)

    monkeypatch.setattr(MemorizationMonitor, "_samples", samples)
    found = result(f"callbacks.memorization.weights={alexnet_weights}", *BY_KID_NO_MEMORIZATION)
    assert found["best"]["epoch"] == 2  # the tests are after 2 and 4
    assert found["last"]["samples/kid_alexnet"] < found["best"]["samples/kid_no_memorization"]
    assert "samples/kid_no_memorization" not in found["last"]  # infinite


@pytest.mark.slow
@pytest.mark.parametrize(("num_near_duplicates", "is_not_memorized"), [(0, True), (20, False)])
def test_samples_that_near_duplicate_have_no_finite_metric(
    result, alexnet_weights, monkeypatch, num_near_duplicates, is_not_memorized
):
    original = MemorizationMonitor._samples

    def samples(self, module, data):
        return torch.cat(
            [
                data.pixels_of(data.train_ids[:num_near_duplicates]),
                original(self, module, data)[num_near_duplicates:],
            ]
        )

    monkeypatch.setattr(MemorizationMonitor, "_samples", samples)
    last = result(f"callbacks.memorization.weights={alexnet_weights}", *BY_KID_NO_MEMORIZATION)["last"]
    assert last["memorization/rate"] >= num_near_duplicates / 20
    assert ("samples/kid_no_memorization" in last) is is_not_memorized


def test_a_monitored_metric_of_samples_needs_alexnet(train, capsys):
    assert train(*FEW_STEPS, *BY_KID_NO_MEMORIZATION) == 2
    assert (
        capsys.readouterr().err
        == "monitor=samples/kid_no_memorization: needs AlexNet; set callbacks.memorization.weights=auto\n"
    )


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_reported_before_any_work(train, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert train(*FEW_STEPS, "callbacks.memorization.weights=empty", "run_dir=run") == 2
    assert capsys.readouterr().err.startswith(f"callbacks.memorization.weights={tmp_path}/empty: no AlexNet ")
    assert not (tmp_path / "run").exists()


def test_the_best_is_never_one_without_a_monitored_metric(train, tmp_path):
    """Of NaN or infinite ones Lightning would keep the first."""
    best = EpochCheckpoint(tmp_path, "best", save_top_k=1, monitor="score")
    judged = [best.check_monitor_top_k(None, torch.tensor(value)) for value in (math.inf, math.nan, 1.0)]
    assert judged == [False, False, True]


def test_a_score_of_weights_before_a_resume_makes_no_best(tmp_path):
    (before, after), score = (EpochCheckpoint(tmp_path, "best", save_top_k=1, monitor="m") for _ in range(2)), 0.5
    before.checked = torch.tensor(score)
    after.load_state_dict(before.state_dict())
    assert [after.check_monitor_top_k(None, torch.tensor(value)) for value in (score, 0.4)] == [False, True]


@pytest.mark.slow
def test_a_run_whose_samples_are_all_near_duplicates_has_no_best(result, copier, alexnet_weights, tmp_path):
    found = result(f"callbacks.memorization.weights={alexnet_weights}", *BY_KID_NO_MEMORIZATION)
    assert found["best"] == {}
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_the_monitored_metric_of_samples_needs_enough_held_out_images(train, alexnet_weights, capsys):
    weights = f"callbacks.memorization.weights={alexnet_weights}"
    assert train(*FEW_STEPS, *BY_KID_NO_MEMORIZATION, weights) == 2
    assert "3 images are held out, and a test of memorization needs 20" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("callbacks.memorization.every_n_images=1000",),
            "every callbacks.memorization.every_n_images=1000 images, and this run ",
        ),
        (
            ("data.val_fraction=0",),
            "monitor=samples/kid_no_memorization: needs held-out images; set data.val_fraction=0.1",
        ),
    ],
)
def test_a_monitored_metric_that_no_test_would_measure_is_refused(train, alexnet_weights, capsys, options, sentence):
    weights = f"callbacks.memorization.weights={alexnet_weights}"
    assert train(*FEW_STEPS, *HALF, *BY_KID_NO_MEMORIZATION, weights, *options) == 2
    assert sentence in capsys.readouterr().err


def test_what_was_measured_survives_a_stop():
    first, second = MemorizationMonitor(None, weights="auto"), MemorizationMonitor(None, weights="auto")
    first.kid_no_memorization, first.tested_at = 0.25, 64
    second.load_state_dict(first.state_dict())
    assert (second.kid_no_memorization, second.tested_at) == (0.25, 64)
