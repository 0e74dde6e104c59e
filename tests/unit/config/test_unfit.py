import logging

import pytest

from artart import ArtError
from artart.config.build import compose
from artart.config.schema import check


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["experiment=quickstart", "callbacks=none"], ["callbacks.grid", "callbacks.checkpoints"]),
        (["experiment=quickstart", "loss=mse"], ["loss.perceptual"]),
        (["experiment=diffusion", "optimizer=sgd"], ["optimizer.betas"]),
        (["experiment=diffusion", "scheduler=constant"], ["scheduler.warmup_steps"]),
        (["experiment=diffusion_128", "model=conv_diffusion"], ["model.dropout", "model.patch_size"]),
        (["experiment=diffusion", "model=unet_small"], []),
    ],
)
def test_check_leaves_out_what_an_experiment_sets_for_other_options(words, left_out, caplog):
    with caplog.at_level(logging.INFO):
        check(compose("train", words))
    named = " ".join(record.message for record in caplog.records if "left out" in record.message)
    assert all(key in named for key in left_out)
    assert bool(named) == bool(left_out)


def test_check_refuses_a_key_that_no_option_has(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer: {beta: 1}\n")
    cfg = compose("train", ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    with pytest.raises(ArtError, match=r"^optimizer\.beta=1: torch.optim.Adam has no such argument"):
        check(cfg)
