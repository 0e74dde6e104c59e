from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from artart.io.images import Batch
from artart.objectives.losses import MSE, WeightedSum
from artart.objectives.reconstruction import Reconstruction
from artart.training.module import ArtModule


@pytest.fixture
def module(monkeypatch):
    def module(seed: int = 0, epoch: int = 0, rank: int = 0, world_size: int = 1) -> ArtModule:
        objective = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        monkeypatch.setattr(LightningModule, "trainer", SimpleNamespace(global_rank=rank, world_size=world_size))
        made = ArtModule(nn.Conv2d(3, 3, 1), objective, None, None, {"seed": seed}, {"class": []})
        monkeypatch.setattr(made, "log", lambda *args, **options: None)
        return made

    return module


def drawn(made: ArtModule, batch_idx: int) -> tuple[float, float]:
    """What an objective draws for a batch, and what a network does."""
    draws = []

    def objective(net, batch, generator, rank, world_size):
        draws.append((torch.rand(1, generator=generator).item(), torch.rand(1).item()))
        return {"loss": torch.ones(2, requires_grad=True)}

    made.objective = objective
    made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), batch_idx)
    return draws[0]


@pytest.mark.parametrize("by", [0, 1], ids=["objective", "network"])
def test_what_is_drawn_for_a_batch_depends_on_seed_epoch_and_batch_alone(module, by):
    places = [(seed, epoch, batch_idx) for seed in (0, 1, 2) for epoch in (0, 1, 2) for batch_idx in (0, 1, 2)]
    values = [drawn(module(seed, epoch), batch_idx)[by] for seed, epoch, batch_idx in places]
    assert len(set(values)) == len(places)  # (1, 0, 0) is neither (0, 1, 0) nor (0, 0, 1)
    torch.rand(3)
    assert [drawn(module(seed, epoch), batch_idx)[by] for seed, epoch, batch_idx in places] == values


def test_processes_share_what_is_drawn_for_a_step_but_not_their_drop_out(module):
    draws = [drawn(module(rank=rank, world_size=3), 5) for rank in range(3)]
    assert len({shared for shared, _ in draws}) == 1
    assert len({own for _, own in draws}) == 3
    assert draws[0] == drawn(module(), 5)


def test_images_seen_are_those_of_all_processes(module):
    made = module(rank=1, world_size=3)
    made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 0)
    made.training_step(Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1)), 1)
    assert made.images_seen == 9


def test_means_of_validation_are_over_the_images_that_have_a_value_in_all_processes(module, monkeypatch):
    logged, made = {}, module()
    monkeypatch.setattr(made, "log", lambda name, value: logged.update({name: value.item()}))
    others = torch.tensor([[10.0, 2.0], [0.0, 0.0], [5.0, 1.0]])  # sums and numbers
    made.trainer.strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor + others)
    made.trainer.datamodule = SimpleNamespace(val_is_held_out=True)
    made.on_validation_epoch_start()
    for values in ([1.0, 2.0], [3.0]):
        of_batch = {"val/mse": torch.tensor(values), "noise/a": torch.zeros(0), "noise/b": torch.zeros(0)}
        made.objective = SimpleNamespace(measure=lambda net, batch, of_batch=of_batch: of_batch)
        made.validation_step(None, 0)
    made.on_validation_epoch_end()
    assert logged == {"val/mse": pytest.approx(16 / 5), "noise/b": 5.0}
