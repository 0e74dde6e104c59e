import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from artart.training.callbacks.ema import EMA

SMALL_DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "callbacks.grid=null")


def left_after(ema: EMA, first: int, last: int, images_per_step: int) -> float:
    """What is left of the average between two counts of images seen."""
    left = 1.0
    for seen in range(first + images_per_step, last + 1, images_per_step):
        left *= ema.decay_at(seen, images_per_step)
    return left


@pytest.mark.parametrize("images_per_step", [1, 8, 100])
def test_after_a_half_life_half_is_left(images_per_step):
    ema = EMA(half_life_fraction=0.05, max_half_life=800)
    first = 100_000  # far beyond the warm-up
    assert left_after(ema, first, first + 800, images_per_step) == pytest.approx(0.5)


def test_at_first_the_half_life_is_a_share_of_what_was_seen():
    """d ln(left) = -ln 2 dn / (f n), so from n to 2 n a share of 2^(-ln 2 / f) is left."""
    ema = EMA(half_life_fraction=0.5, max_half_life=10**9)
    assert left_after(ema, 10_000, 20_000, 1) == pytest.approx(
        2 ** (-torch.log(torch.tensor(2.0)).item() / 0.5), rel=1e-3
    )
    assert ema.decay_at(64, 32) == pytest.approx(0.5)  # a half-life of 32 images


def test_the_batch_size_makes_no_difference_in_the_end():
    ema = EMA()
    assert left_after(ema, 64_000, 70_400, 64) == pytest.approx(left_after(ema, 64_000, 70_400, 8), rel=0.05)


def test_buffers_of_batch_normalization_are_averaged():
    """A step of 8 images with a half-life of 4 leaves a quarter of the average."""
    net, ema, seen = nn.BatchNorm2d(2), EMA(half_life_fraction=1.0, max_half_life=4), torch.tensor([10.0, -20.0])
    net.device, net.images_seen = torch.device("cpu"), 0
    ema._average_model = AveragedModel(net, use_buffers=True)
    ema.on_train_start(None, net)
    for step in (1, 2):
        net(step * seen.view(1, 2, 1, 1).expand(8, 2, 4, 4))
        net.num_batches_tracked.fill_(1 + 100 * (step - 1))
        net.images_seen += 8
        ema.on_train_batch_end(SimpleNamespace(global_step=step), net)
    average = ema._average_model.module
    assert_close(average.running_mean, 0.25 * 0.1 * seen + 0.75 * (0.9 * 0.1 + 0.1 * 2) * seen)
    assert average.num_batches_tracked == 0.25 * 1 + 0.75 * 101


# --- in a run


class Recorder(Callback):
    """Notes the weights of every step, and those that validation sees."""

    trained: list[dict] = []  # noqa: RUF012
    validated: list[dict] = []  # noqa: RUF012

    def setup(self, trainer, pl_module, stage):
        self.trained.clear()
        self.validated.clear()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.validated.append({name: value.clone() for name, value in pl_module.state_dict().items()})


@pytest.fixture
def importable(monkeypatch):
    """Hydra builds the callbacks above by their names."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def load(path: str | Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_a_checkpoint_holds_the_average_and_the_weights_beside_it(train, importable):
    """Recomputed from the weights of each step: 4 steps of 8 images in each of 2 epochs."""
    fraction = 0.9
    options = (f"callbacks.ema.half_life_fraction={fraction}", "callbacks.ema.max_half_life=40", "optimizer.lr=0.01")
    spy = (f"+callbacks.spy._target_={__name__}.Recorder", f"trusted_classes=[{__name__}.Recorder]")
    assert train(*SMALL_DIFFUSION, *options, *spy, "run_dir=run") == 0
    assert len(Recorder.trained) == 8
    average, averages = dict(Recorder.trained[0]), []
    for step, weights in enumerate(Recorder.trained, start=1):
        decay = 0.5 ** (8 / min(fraction * 8 * step, 40)) if step > 1 else 0.0
        average = {name: decay * average[name] + (1 - decay) * value for name, value in weights.items()}
        averages.append(average)
    last = load("run/checkpoints/last.ckpt")
    assert_close(last["state_dict"], averages[-1])
    assert_close(last["current_model_state"], Recorder.trained[-1], rtol=0, atol=0)
    assert_close(Recorder.validated[0], averages[3])
    assert_close(Recorder.validated[-1], averages[-1])
    name = "net.enc3.0.weight"
    assert (last["state_dict"][name] - last["current_model_state"][name]).abs().max() > 1e-3


@pytest.mark.slow
def test_with_gradients_of_two_batches_a_step_is_of_all_their_images(train, importable):
    options = ("callbacks.ema.half_life_fraction=0.9", "callbacks.ema.max_half_life=20",
               "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")  # fmt: skip
    spy = (f"+callbacks.spy._target_={__name__}.Recorder", f"trusted_classes=[{__name__}.Recorder]")
    assert train(*SMALL_DIFFUSION, *options, *spy, "run_dir=run") == 0
    first, second = Recorder.trained[1], Recorder.trained[3]  # after 16 and 32 images
    decay = 0.5 ** (16 / 20)
    wanted = {name: decay * first[name] + (1 - decay) * second[name] for name in first}
    assert_close(load("run/checkpoints/last.ckpt")["state_dict"], wanted)


@pytest.mark.slow
def test_an_average_is_not_given_up_without_a_word(train, capsys):
    assert train(*SMALL_DIFFUSION, "trainer.max_epochs=1", "run_dir=run") == 0
    resume = "resume=run/checkpoints/last.ckpt"
    assert train(*SMALL_DIFFUSION, "trainer.max_epochs=2", "callbacks.ema=null", resume) == 2
    assert "callbacks.ema=null: " in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
