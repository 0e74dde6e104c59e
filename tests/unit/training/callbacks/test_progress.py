"""The time left counts samples."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from artart.diffusion.samplers import Heun, Step
from artart.training.callbacks import grid as callbacks
from artart.training.callbacks import progress
from artart.training.callbacks.grid import SampleGrid
from artart.training.callbacks.progress import RunProgress, SamplingCallback


class Draws(SamplingCallback):
    def sampling_left(self, trainer, module):
        return 100.0


@pytest.fixture
def run(monkeypatch):
    """A run of 30 steps, 10 of them done in 20 s of the clock, in which `clock` adds seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    callback = RunProgress()
    callback.bar, callback.started, callback.first_step, callback.step, callback.total = (
        progress.progress_bar(),
        0.0,
        0,
        10,
        30,
    )
    now[0] = 20.0
    return callback, SimpleNamespace(callbacks=[callback, Draws()]), now


def test_time_left_takes_a_sample_step_for_an_image_until_it_is_measured(run):
    callback, trainer, _ = run
    assert callback._time_left(trainer, None, images_per_second=10.0) == "0:00:50"  # 20 steps of 2 s and 100 / 10


def test_time_left_measures_samples(run):
    callback, trainer, now = run
    with trainer.callbacks[1].bar(trainer, "samples", 50) as on_step:
        on_step(Step(torch.zeros(50, 3, 1, 1), torch.zeros(50, 3, 1, 1)))
        (_, task) = callback.bar.tasks[0], callback.bar.tasks[-1]
        assert (task.completed, task.total) == (50, 50)
        now[0] += 25.0
    assert not callback.bar.tasks
    assert callback._time_left(trainer, None, images_per_second=10.0) == "0:01:30"  # 40 s and 100 of 0.5 s


def test_samples_need_no_bar():
    with Draws().bar(SimpleNamespace(callbacks=[]), "samples", 1) as on_step:
        on_step(None)


@pytest.mark.parametrize(
    ("epoch", "max_epochs", "grids"), [(0, 25, 4), (5, 25, 3), (20, 25, 1), (25, 25, 0), (0, 20, 3), (0, 1, 1)]
)
def test_sampling_left_counts_the_grids_to_come(epoch, max_epochs, grids, monkeypatch):
    grid = SampleGrid("unused", Heun(5), every_n_epochs=10, num_images=6)
    preview = Mock(return_value=SimpleNamespace(y=torch.zeros(4, 1)))
    monkeypatch.setattr(callbacks, "preview", preview)
    trainer = SimpleNamespace(current_epoch=epoch, max_epochs=max_epochs, datamodule=None, callbacks=[])
    for _ in range(2):  # as for each log line
        assert grid.sampling_left(trainer, SimpleNamespace(net=nn.Identity(), images_seen=0)) == grids * (4 * 3 + 1) * 5
    preview.assert_called_once_with(None, 1)
