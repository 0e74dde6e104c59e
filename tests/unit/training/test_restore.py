"""The state of an optimizer is tried on the meta device before a run resumes."""

import pytest
import torch

from artart.config.build import as_dict, build
from artart.config.cli import compose_config
from artart.training import restore


def test_an_optimizer_that_cannot_step_on_meta_tensors_is_not_tried(monkeypatch):
    config = as_dict(compose_config("train", ["image_size=16", "loss=mse", "run_dir=run"]))
    net, loss = build(config, "model"), build(config, "loss")
    content = {"optimizer_states": [{"state": {}, "param_groups": []}], "lr_schedulers": [{}]}
    with pytest.raises(ValueError, match="parameter groups"):
        restore._check_optimizer(content, config, net, loss)

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(torch.optim.Adam, "step", refuse)
    restore._check_optimizer(content, config, net, loss)
