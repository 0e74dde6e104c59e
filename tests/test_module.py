import torch
from lightning.pytorch import LightningModule
from torch import nn

from artart.images import Batch
from artart.losses import MSE, WeightedSum
from artart.module import ArtModule
from artart.objectives import Reconstruction


def module(seed: int = 0, epoch: int = 0, monkeypatch=None) -> ArtModule:
    objective = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))
    made = ArtModule(nn.Conv2d(3, 3, 1), objective, None, None, {"seed": seed})
    if monkeypatch:
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
    return made


def test_what_is_drawn_for_a_batch_depends_on_seed_epoch_and_batch_alone(monkeypatch):
    def first(seed: int, epoch: int, batch_idx: int) -> float:
        generator = module(seed, epoch, monkeypatch)._generator(batch_idx)
        return torch.rand(1, generator=generator).item()

    places = [(seed, epoch, batch_idx) for seed in (0, 1, 2) for epoch in (0, 1, 2) for batch_idx in (0, 1, 2)]
    values = [first(*place) for place in places]
    assert len(set(values)) == len(places)  # (1, 0, 0) is neither (0, 1, 0) nor (0, 0, 1)
    torch.rand(3)
    assert [first(*place) for place in places] == values


def test_training_hands_that_generator_to_the_objective(monkeypatch):
    made, handed = module(3, 5, monkeypatch), []
    made.objective = lambda net, batch, generator: (
        handed.append(generator) or {"loss": torch.ones(2, requires_grad=True)}
    )
    monkeypatch.setattr(made, "log", lambda *args, **options: None)
    made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 7)
    wanted = module(3, 5, monkeypatch)._generator(7)
    assert torch.equal(handed[0].get_state(), wanted.get_state())


def test_means_are_of_the_pictures_that_have_a_value(monkeypatch):
    logged, made = {}, module()
    monkeypatch.setattr(made, "log", lambda name, value, batch_size: logged.update({name: (value.item(), batch_size)}))
    made._log({"val/mse": torch.tensor([1.0, 2.0, 3.0]), "noise/mse_r0.05": torch.tensor([4.0])})
    assert logged == {"val/mse": (2.0, 3), "noise/mse_r0.05": (4.0, 1)}
