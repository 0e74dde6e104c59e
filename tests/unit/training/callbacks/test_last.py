import os
import signal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from artart.training.callbacks import last
from artart.training.callbacks.last import LastCheckpoint
from artart.training.callbacks.stopping import LastEpoch

STEPS = 4  # of an epoch


class Line(LightningModule):
    """The smallest network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.net(batch).square().mean()

    def validation_step(self, batch, _):
        self.net(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Clock(Callback):
    """A clock by which a step and a validation take a number of seconds; notes each save."""

    def __init__(self, step: float, validation: float, stop_in_validation: int = -1) -> None:
        self.step, self.validation, self.stop_in_validation = step, validation, stop_in_validation
        self.now, self.num_validated = 1000.0, 0
        self.saves: list[tuple[int, str]] = []

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_end(self, *_):
        self.now += self.step

    def on_validation_batch_start(self, trainer, *_):
        if trainer.global_step == self.stop_in_validation:
            self.stop_in_validation = -1
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation_batch_end(self, *_):
        self.num_validated += 1

    def on_validation_end(self, *_):
        self.now += self.validation

    def on_save_checkpoint(self, trainer, *_):
        self.saves.append((trainer.global_step, "before validation" if trainer.validating else "after epoch"))


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Trains by a clock, and returns the saves."""

    def fit(clock: Clock, epochs: int, *others: Callback, **trainer) -> list[tuple[int, str]]:
        monkeypatch.setattr(last, "time", clock)
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        callbacks = [clock, *others, LastCheckpoint(tmp_path)]
        settings = {"max_epochs": epochs, "accelerator": "cpu", "num_sanity_val_steps": 0, **quiet, **trainer}
        images = torch.zeros(STEPS, 1)
        Trainer(default_root_dir=tmp_path, callbacks=callbacks, **settings).fit(
            Line(), DataLoader(images), DataLoader(images)
        )
        return clock.saves

    return fit


BEFORE, AFTER = "before validation", "after epoch"


@pytest.mark.parametrize(
    ("step", "validation", "epochs", "settings", "wanted"),
    [
        (1, 0, 20, {}, [(4, BEFORE), (64, BEFORE), (80, AFTER)]),
        (1, 0, 20, {"limit_val_batches": 0}, [(60, AFTER), (80, AFTER)]),
        (30, 1, 3, {}, [(4, BEFORE), (8, BEFORE), (12, BEFORE), (12, AFTER)]),
        (1, 100, 2, {}, [(4, BEFORE), (4, AFTER), (8, BEFORE), (8, AFTER)]),
    ],
    ids=["short epochs", "no validation", "long epochs", "long validations"],
)
def test_last_checkpoint_is_saved_once_a_minute_before_long_validations_and_at_the_end(
    fit, step, validation, epochs, settings, wanted
):
    assert fit(Clock(step, validation), epochs, **settings) == wanted


def test_last_checkpoint_is_saved_where_training_is_ended(fit):
    assert fit(Clock(1, 0), 9, LastEpoch(10)) == [(4, BEFORE), (10, AFTER)]


def test_ctrl_c_in_a_validation_that_was_not_saved_waits_for_its_end_and_saves(fit):
    clock = Clock(1, 0, stop_in_validation=2 * STEPS)
    with pytest.raises(SystemExit):
        fit(clock, 9)
    assert clock.saves == [(STEPS, BEFORE), (2 * STEPS, AFTER)]
    assert clock.num_validated == 2 * STEPS


def test_ctrl_c_in_a_validation_that_was_saved_stops_at_once(fit):
    clock = Clock(1, 0, stop_in_validation=STEPS)
    with pytest.raises(SystemExit):
        fit(clock, 9)
    assert clock.saves == [(STEPS, BEFORE)]
    assert clock.num_validated == 0
