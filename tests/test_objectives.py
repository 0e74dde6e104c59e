import torch
from torch import nn
from torch.testing import assert_close

from artart.images import Batch
from artart.losses import MSE, WeightedSum
from artart.objectives import Reconstruction

B, S = 2, 8


def batch() -> Batch:
    return Batch(torch.rand(B, 3, S, S) * 2 - 1, torch.zeros(B, dtype=torch.long))


class Halve(nn.Module):
    def forward(self, x):
        return x / 2


def test_it_judges_what_the_network_makes_of_a_picture():
    objective, given = Reconstruction(WeightedSum({"mse": 3.0}, mse=MSE("model"))), batch()
    error = (given.x0 / 2).square().mean(dim=(1, 2, 3))
    assert_close(objective(Halve(), given), {"loss": 3 * error, "mse": error})


def test_measuring_adds_psnr():
    objective, given = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model"))), batch()
    measured = objective.measure(Halve(), given)
    assert_close(measured["psnr"], 10 * torch.log10(4 / measured["mse"]))


def test_it_names_what_is_logged():
    objective = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))
    assert objective.metrics == ["train/loss", "train/mse", "val/loss", "val/mse", "val/psnr"]
    assert {f"val/{name}" for name in objective.measure(Halve(), batch())} < set(objective.metrics)


def test_a_grid_shows_inputs_above_outputs():
    given = batch()
    inputs, outputs = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE())).draw(Halve(), given)
    assert_close(inputs, given.x0)
    assert_close(outputs, given.x0 / 2)
