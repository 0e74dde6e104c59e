from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision
from PIL import Image
from torch import nn
from torch.testing import assert_close

from artart.data.datamodule import ArtDataModule
from artart.data.dataset import ImageSet
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Heun, Step
from artart.diffusion.sampling import sample_images
from artart.diffusion.schedule import Flow
from artart.io.images import Batch, to_model
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum
from artart.training.callbacks.ema import EMA
from artart.training.callbacks.grid import ReconstructionGrid, SampleGrid

S = 8


def drawn(every_n_epochs: int, max_epochs: int, check_val_every_n_epoch: int) -> list[int]:
    """The finished epochs after which a run of that shape draws a grid."""
    callback = ReconstructionGrid("unused", every_n_epochs)
    state = {"max_epochs": max_epochs, "max_steps": -1, "global_step": 0, "should_stop": False}
    trainer = SimpleNamespace(check_val_every_n_epoch=check_val_every_n_epoch, **state)
    validated = range(check_val_every_n_epoch, max_epochs + 1, check_val_every_n_epoch)
    return [epoch for epoch in validated if callback._due(epoch, trainer)]


@pytest.mark.parametrize(
    ("every_n_epochs", "max_epochs", "check_val_every_n_epoch", "epochs"),
    [
        (10, 25, 1, [1, 10, 20, 25]),
        (10, 20, 1, [1, 10, 20]),
        (1, 3, 1, [1, 2, 3]),
        (10, 24, 4, [4, 12, 20, 24]),  # at the first validation after epochs 1, 10 and 20
        (5, 30, 10, [10, 20, 30]),
    ],
)
def test_grids_come_after_the_first_every_nth_and_the_last_epoch(
    every_n_epochs, max_epochs, check_val_every_n_epoch, epochs
):
    assert drawn(every_n_epochs, max_epochs, check_val_every_n_epoch) == epochs


# --- SampleGrid

NUM_STEPS = 5


class Calls(list):
    """Stands for `sample_steps`: each step tells seed, label and number, as red, green and blue in hundredths."""

    def __call__(self, net, process, sampler, y, seeds, guidance, given=None, towards=None):
        labels = y[:, -1].tolist()
        self.append((net, sampler, labels, list(seeds), guidance, net.training))
        for step in range(1, NUM_STEPS + 1):
            colours = torch.tensor([[seed, label, step] for seed, label in zip(seeds, labels, strict=True)])
            yield Step(colours[:, :, None, None].expand(-1, 3, S, S) / 100, torch.full((len(y), 3, S, S), -1.0))


OBJECTIVE = Diffusion(WeightedSum({"mse": 1.0}, mse=MSE("model")), Flow(), lambda num, _: torch.full((num,), 0.5))


@pytest.fixture
def calls(monkeypatch) -> Calls:
    calls = Calls()
    for module in ("artart.diffusion.sampling", "artart.training.callbacks.grid"):
        monkeypatch.setattr(f"{module}.sample_steps", calls)
    return calls


def decoded(samples: torch.Tensor) -> list[list[int]]:
    """Seed, label and step of each sample."""
    assert_close(samples, samples[:, :, :1, :1].expand_as(samples))
    return (samples[:, :, 0, 0] * 100).round().int().tolist()


def data_of(labels: list[int] | list[list[int]], val_ids: list[int]) -> ArtDataModule:
    """Image k is of the grey k."""
    data = ArtDataModule(image_size=S, batch_size=4)
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, S, S).contiguous()
    ids = torch.arange(len(labels))
    names = [str(k) for k in ids.tolist()]
    data.images = ImageSet(pixels, ids, torch.tensor(labels).reshape(len(labels), -1), names, names)
    data.val_ids = val_ids
    data.train_ids = sorted(set(ids.tolist()) - set(val_ids))
    return data


def which(images: torch.Tensor) -> list[int]:
    """The numbers of real images."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.fixture
def rows_of(calls: Calls):
    return lambda data, **options: drawn_rows(calls, data, **options)


def drawn_rows(calls: Calls, data: ArtDataModule, **options):
    calls.clear()
    module = SimpleNamespace(objective=OBJECTIVE, net=nn.Linear(1, 1), device=torch.device("cpu"))
    sampler = Heun(NUM_STEPS)
    callback = SampleGrid("unused", sampler, **options)
    batch = Batch(torch.zeros(1, 3, S, S), torch.zeros(1, 1, dtype=torch.long))
    return callback.rows(SimpleNamespace(datamodule=data, callbacks=[]), module, batch), [*calls], sampler


def test_samples_have_all_labels_of_the_real_images_beside_them(rows_of):
    labels = [[k % 2, k] for k in range(8)]
    (*rows, _), _, _ = rows_of(data_of(labels, [2, 3]), num_images=6)
    assert [which(row[:3]) for row in rows] == [[2, 0, 4], [6, 2, 0], [3, 1, 5], [7, 3, 1]]
    assert [[label for _, label, _ in decoded(row[3:])] for row in rows] == [which(row[:3]) for row in rows]


FOUR_CLASSES = [0, 1, 2, 3] * 5
HELD_OUT = [8, 9, 10, 11, 16, 17, 18]  # of class 3 only one


def test_a_row_of_samples_has_a_class_real_images_and_what_the_seeds_make_of_it(rows_of):
    (*rows, trajectory), calls, sampler = rows_of(data_of(FOUR_CLASSES, HELD_OUT), num_images=5, guidance=2.5)
    assert [row.shape for row in [*rows, trajectory]] == [(5, 3, S, S)] * 5
    assert [which(row[:3]) for row in rows] == [[8, 16, 0], [9, 17, 1], [10, 18, 2], [11, 3, 7]]  # held-out ones first
    assert [decoded(row[3:]) for row in rows] == [
        [[2 * label, label, NUM_STEPS], [2 * label + 1, label, NUM_STEPS]] for label in range(4)
    ]
    assert decoded(trajectory) == [[0, 0, step] for step in (1, 2, 3, 4, 5)]
    assert all(call[1] is sampler and call[4] == Guidance(2.5) for call in calls)


def test_the_last_row_shows_the_first_sample_from_noise_to_image(rows_of):
    (*_, trajectory), *_ = rows_of(data_of(FOUR_CLASSES, HELD_OUT), num_images=4)
    assert [step for _, _, step in decoded(trajectory)] == [1, 2, 4, 5]
    (*_, trajectory), *_ = rows_of(data_of(FOUR_CLASSES, HELD_OUT), num_images=8)  # more than there are steps
    assert [step for _, _, step in decoded(trajectory)] == [1, 2, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_samples_in_chunks_are_the_same(batch_size, rows_of):
    rows, calls, _ = rows_of(data_of(FOUR_CLASSES, HELD_OUT), num_images=5, batch_size=batch_size)
    whole, *_ = rows_of(data_of(FOUR_CLASSES, HELD_OUT), num_images=5)
    assert_close(rows, whole, rtol=0, atol=0)
    assert max(len(labels) for _, _, labels, *_ in calls) == min(batch_size, 8)
    seeds = [seed for _, _, _, seeds, *_ in calls[:-1] for seed in seeds]
    assert seeds == list(range(8))  # the last call is for the trajectory


def test_no_more_than_20_classes_are_shown_the_most_frequent_ones(rows_of):
    labels = [*range(30), *range(10, 30)]
    (*rows, trajectory), _, _ = rows_of(data_of(labels, [0, 12, 31]), num_images=2)
    assert [which(row[:1])[0] % 20 + 10 * (which(row[:1])[0] < 10) for row in rows][:3] == [10, 11, 12]
    assert [decoded(row[1:])[0][1] for row in rows] == list(range(10, 30))
    assert len(trajectory) == 2


def test_images_without_classes_fill_four_rows(rows_of):
    (*rows, _), calls, _ = rows_of(data_of([0] * 20, [5, 6, 7]), num_images=4)
    assert [which(row[:2]) for row in rows] == [[5, 6], [7, 0], [1, 2], [3, 4]]
    assert [[seed for seed, _, _ in decoded(row[2:])] for row in rows] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert calls[0][2] == [0] * 8  # the label of no class, where there are none


def test_two_classes_fill_two_rows_each(rows_of):
    (*rows, _), *_ = rows_of(data_of([0, 1] * 5, [4]), num_images=4)
    assert [which(row[:2]) for row in rows] == [[4, 0], [2, 6], [1, 3], [5, 7]]
    assert [decoded(row[2:])[0][1] for row in rows] == [0, 0, 1, 1]


def test_a_class_with_few_images_begins_again(rows_of, calls):
    (*rows, _), *_ = rows_of(data_of([0, 0, 0, 0, 1, 2, 3, 3], [7]), num_images=6)
    assert [which(row[:3]) for row in rows] == [[0, 1, 2], [4, 4, 4], [5, 5, 5], [7, 6, 7]]


# --- with and without the average


class Net(nn.Linear):
    channels, image_size, num_classes = 3, S, 4


def finished_epoch(tmp_path: Path, callbacks, images_seen: int = 12, drawn_after: int = 2):
    """What stands in the folder after epoch 2, and the module that drew it."""
    module = nn.Module()
    module.net, module.objective, module.device = Net(1, 1), OBJECTIVE, torch.device("cpu")
    module.train()
    trainer = Mock(
        datamodule=data_of(FOUR_CLASSES, HELD_OUT),
        current_epoch=1, global_step=7, callbacks=callbacks, loggers=[],
        precision_plugin=Precision(),
    )  # fmt: skip
    module.images_seen = images_seen
    callback = SampleGrid(tmp_path, Heun(NUM_STEPS), num_images=4)
    callback.drawn_after = drawn_after
    callback.on_train_epoch_end(trainer, module)
    return sorted(path.name for path in tmp_path.iterdir()), module


def test_a_second_grid_shows_what_the_weights_do_without_their_average(tmp_path, calls):
    names, module = finished_epoch(tmp_path, [EMA()])
    assert names == ["epoch_0002_raw.png"]
    assert not any(training for *_, training in calls)
    assert module.training and module.net.training
    assert Image.open(tmp_path / names[0]).size == (4 * (S + 2) + 2, 5 * (S + 2) + 2)


@pytest.mark.parametrize(
    ("callbacks", "images_seen", "drawn_after"),
    [
        ([], 12, 2),  # there is no average
        ([EMA()], 100_000, 2),  # many have been seen
        ([EMA()], 12, 1),  # after this epoch nothing was to be drawn
    ],
)
def test_without_a_reason_there_is_no_second_grid(tmp_path, callbacks, images_seen, drawn_after, calls):
    names, _ = finished_epoch(tmp_path, callbacks, images_seen, drawn_after)
    assert names == []
    assert calls == []


@pytest.mark.slow
def test_images_are_drawn_in_the_precision_of_training(train, monkeypatch):
    """For grids, with and without the average, and to look for copies."""
    seen = []

    def spied(*arguments, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return sample_images(*arguments, **options)

    for module in ("grid", "memorization"):
        monkeypatch.setattr(f"artart.training.callbacks.{module}.sample_images", spied)
    data = ("data.num_demo_images=60", "data.val_fraction=0.5", "callbacks.memorization.every_n_images=20")
    options = (
        "objective=diffusion",
        "loss=mse_diffusion",
        "sampler.num_steps=1",
        "callbacks.memorization.num_images=20",
    )
    assert train(*options, *data, "trainer.max_epochs=1", "trainer.precision=bf16-mixed") == 0
    assert seen == [True] * 3


def test_a_run_draws_both_and_the_real_images_stay(diffusion_run):
    folder = diffusion_run / "samples"
    names = [f"epoch_000{k}{kind}.png" for k in (1, 2, 3) for kind in ("", "_raw")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    grids = {name: np.asarray(Image.open(folder / name)) for name in names}
    first = grids["epoch_0001.png"]
    assert first.shape == (6 * 18 + 2, 8 * 18 + 2, 3)  # 5 classes of 16 px and the trajectory, 4 real and 4 sampled
    for grid in grids.values():
        assert (grid[: 5 * 18, : 4 * 18] == first[: 5 * 18, : 4 * 18]).all()
    assert (grids["epoch_0001.png"] != grids["epoch_0003.png"]).any()
    assert (grids["epoch_0003.png"] != grids["epoch_0003_raw.png"]).any()
    real = to_model(torch.tensor(first[2:18, 2:18]).permute(2, 0, 1))
    assert real.std() > 0.05  # an image, not the noise of the right


@pytest.mark.slow
def test_a_run_without_an_average_draws_one(train):
    assert train("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=1", "trainer.max_epochs=1",
                 "~callbacks.ema", "callbacks.grid.num_images=3", "run_dir=run") == 0  # fmt: skip
    (grid,) = Path("run/samples").iterdir()
    assert grid.name == "epoch_0001.png"
    assert Image.open(grid).size == (3 * 18 + 2, 6 * 18 + 2)
