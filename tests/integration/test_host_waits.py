"""Between two log lines the host does not wait for the device; counted on the CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import host_waits

FEW = "data.num_demo_images=60"  # 13 batches: those that are counted, and two more
SPY = ("+callbacks.spy._target_=benchmarks.host_waits.Spy", "trusted_classes=[benchmarks.host_waits.Spy]")


@pytest.fixture
def counted(train, monkeypatch) -> Callable[..., dict[str, Any]]:
    """What is counted in a training; no plain loop is timed after it."""
    monkeypatch.setattr(host_waits, "plain_loop", lambda trainer: [0.0, 1.0])

    def counted(*words: str) -> dict[str, Any]:
        smaller = ("model.channel_mult=[1,2]",) * ("model=unet_tiny" in words)
        assert train(*words, *smaller, *SPY) == 0
        return json.loads(Path("found_0.json").read_text())

    return counted


@pytest.mark.slow
@pytest.mark.parametrize("name", host_waits.SETTINGS)
def test_a_step_waits_for_nothing(name, counted):
    found = counted(*host_waits.COMMON, FEW, *host_waits.SETTINGS[name])
    assert found["operators"] > 100
    assert sorted(found["waits"].items()) == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", host_waits.SETTINGS)
def test_a_step_on_a_gpu_waits_for_nothing(name, train):
    """Copies between host and device are counted too."""
    assert train(*host_waits.COMMON, *host_waits.SETTINGS[name], "trainer.accelerator=gpu", *SPY) == 0
    assert sorted(json.loads(Path("found_0.json").read_text())["waits"].items()) == []
