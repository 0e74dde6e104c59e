from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from torch import nn
from torch.optim import Adam, Rprop

from artart.io.images import Batch
from artart.objectives.adversarial import AdversarialSum, PatchDiscriminator
from artart.objectives.losses import MSE, WeightedSum
from artart.objectives.reconstruction import Reconstruction
from artart.training.module import ArtModule, is_fused, optimizer_for, set_fused


@pytest.fixture
def module(monkeypatch):
    def module(seed: int = 0, epoch: int = 0, rank: int = 0, world_size: int = 1, objective=None) -> ArtModule:
        trainer = SimpleNamespace(global_rank=rank, world_size=world_size, global_step=3, estimated_stepping_batches=12,
                                  is_last_batch=False, log_every_n_steps=20)  # fmt: skip
        objective = objective or Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))
        config = {"seed": seed, "trainer": {"max_steps": -1}}
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        monkeypatch.setattr(LightningModule, "trainer", trainer)
        made = ArtModule(nn.Conv2d(3, 3, 1), objective, Adam, None, config, {"class": []})
        monkeypatch.setattr(made, "log", lambda *args, **options: None)
        return made

    return module


def drawn(made: ArtModule, batch_idx: int) -> tuple[float, float]:
    """What an objective draws for a batch, and what a network does."""
    draws = []

    def objective(net, batch, generator, rank, world_size, progress):
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


def test_losses_are_means_since_the_last_log_line_also_across_epochs(module, monkeypatch):
    made, logged = module(), []
    monkeypatch.setattr(made, "log", lambda name, value, **options: logged.append(value.item()))
    for step, loss in enumerate((1.0, 2.0, 6.0, 5.0)):
        made.trainer.global_step, made.trainer.log_every_n_steps = step, 3
        made.trainer.is_last_batch = step == 0  # of an epoch of one step
        losses = {"loss": torch.full((2,), loss, requires_grad=True)}
        made.objective = lambda net, batch, *rest, losses=losses: losses
        made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 0)
    assert logged == [1.0, 3.0], "the end of an epoch is no log line"


def test_a_loss_that_ends_between_log_lines_does_not_lower_its_mean(module, monkeypatch):
    made, logged = module(), {}
    monkeypatch.setattr(made, "log", lambda name, value, **options: logged.update({name: value.item()}))
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2))
    for step, names in enumerate((["loss", "regression"], ["loss"], ["loss"])):
        vars(made.trainer).update({"global_step": step, "log_every_n_steps": 3, "is_last_batch": False})
        losses = {name: torch.full((2,), step + 1.0, requires_grad=True) for name in names}
        made.objective = lambda *_, losses=losses: losses
        made.training_step(batch, 0)
    assert logged == {"train/loss": 2.5}


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


def test_training_step_passes_the_share_of_steps_that_are_done(module):
    made, seen = module(), []
    losses = {"loss": torch.ones(2, requires_grad=True)}
    made.objective = lambda net, batch, generator, rank, world_size, progress: seen.append(progress) or losses
    made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 0)
    assert seen == [3 / 12]


def test_discriminator_has_a_learning_rate_and_a_gradient_norm_of_its_own(module):
    weights = {"mse": 1.0, "adversarial": 0.5}
    loss = AdversarialSum(weights, PatchDiscriminator(16), lr_scale=0.5, mse=MSE("model"))
    made = module(objective=Reconstruction(loss))
    made.trainer.gradient_clip_val, made.trainer.gradient_clip_algorithm = 1.0, "norm"
    made.trainer.precision_plugin = Precision()
    optimizer = optimizer_for(made.optimizer, made.net, loss)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-4]
    assert {name.partition(".")[0] for name in made.state_dict()} == {"net", "discriminator"}
    for parameter in made.net.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    for parameter in loss.discriminator.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    made.configure_gradient_clipping(optimizer, 1.0, "norm")
    assert made.net.bias.grad.tolist() == pytest.approx([0.01] * 3)
    gradients = [parameter.grad for parameter in loss.discriminator.parameters()]
    assert nn.utils.get_total_norm(gradients).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("settings", [{"log_every_n_steps": 5}, {"is_last_batch": True}, {"global_step": 11}])
def test_the_mean_loss_since_the_last_log_line_is_logged(module, monkeypatch, settings):
    """Three of 12 steps are done: the fourth is not logged, the fifth is, in a run that was resumed between them."""
    made, resumed, logged = module(), module(), dict[str, float]()
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2))
    values = iter([torch.tensor([1.0, 3.0]), torch.tensor([5.0, 9.0])])
    for one in (made, resumed):
        one.objective = lambda *_: {"loss": next(values).requires_grad_()}
        monkeypatch.setattr(one, "log", lambda name, value, **_: logged.update({name: value.item()}))
    made.training_step(batch, 0)
    assert not logged
    resumed.summed, resumed.num_summed = {name: float(one) for name, one in made.summed.items()}, made.num_summed
    vars(resumed.trainer).update({"global_step": 4} | settings)
    resumed.training_step(batch, 0)
    assert logged == {"train/loss": 4.5}


def test_batches_of_one_step_count_for_one_log_line(module, monkeypatch):
    """Of accumulated gradients: the step that is logged has two batches, and so has the one after it."""
    made, logged = module(), []
    losses = iter([1.0, 3.0, 10.0, 20.0])
    made.objective = lambda *_: {"loss": torch.full((2,), next(losses), requires_grad=True)}
    monkeypatch.setattr(made, "log", lambda name, value, **_: logged.append(value.item()))
    for step in (0, 0, 1, 1):
        vars(made.trainer).update({"global_step": step, "log_every_n_steps": 1})
        made.training_step(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2)), 0)
    assert logged == [1.0, 2.0, 10.0, 15.0]


def test_optimizers_are_fused_where_they_can_be_unless_the_user_says_otherwise():
    assert [is_fused(Adam, can_fuse) for can_fuse in (True, False)] == [True, None]
    assert [is_fused(partial(Adam, fused=False), can_fuse) for can_fuse in (True, False)] == [False, False]
    assert is_fused(Rprop, can_fuse=True) is None  # which has no such kernel
    states = [{"param_groups": [{"lr": 1.0, "fused": True}, {"lr": 2.0}]}]
    set_fused(states, None)
    assert states == [{"param_groups": [{"lr": 1.0, "fused": None}, {"lr": 2.0}]}]


@pytest.mark.parametrize(
    ("device", "precision", "can_fuse"),
    [("cuda", "32-true", True), ("cuda", "bf16-mixed", True), ("cuda", "16-mixed", False), ("cpu", "32-true", False)],
)
def test_optimizers_can_be_fused_on_cuda_but_not_with_scaled_gradients(module, device, precision, can_fuse):
    made = module()
    made.trainer.strategy, made.trainer.precision = SimpleNamespace(root_device=torch.device(device)), precision
    assert made._can_fuse is can_fuse
