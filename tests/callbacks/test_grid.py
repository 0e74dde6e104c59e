from types import SimpleNamespace

import pytest

from artart.callbacks.grid import SampleGrid


def drawn(every_n_epochs: int, max_epochs: int, check_val_every_n_epoch: int) -> list[int]:
    """The finished epochs after which a run of that shape draws a grid."""
    callback = SampleGrid("unused", every_n_epochs)
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
