"""Between two log lines the host does not wait for the device; counted on the CPU."""

import json
from pathlib import Path

import pytest

from benchmarks import host_waits

FEW = "data.num_demo_images=60"  # 13 batches: those that are counted, and two more


@pytest.mark.slow
@pytest.mark.parametrize("name", host_waits.SETTINGS)
def test_a_step_waits_for_nothing(name, train):
    spy = ("+callbacks.spy._target_=benchmarks.host_waits.Spy", "trusted_classes=[benchmarks.host_waits.Spy]")
    assert train(*host_waits.COMMON, FEW, *host_waits.SETTINGS[name], *spy) == 0
    found = json.loads(Path("found_0.json").read_text())
    assert found["operators"] > 100
    assert sorted(found["waits"].items()) == []


@pytest.mark.slow
def test_a_step_of_distillation_waits_for_nothing(train, distillation):
    spy = ("+callbacks.spy._target_=benchmarks.host_waits.Spy", "trusted_classes=[benchmarks.host_waits.Spy]")
    assert train(*distillation, *host_waits.COMMON, "objective.guidance=2", *spy) == 0
    found = json.loads(Path("found_0.json").read_text())
    assert found["operators"] > 100
    assert sorted(found["waits"].items()) == []


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["reconstruction", "diffusion", "autoencoder, adversarial, clipping", "diffusion, captions"]
)
def test_a_step_on_a_gpu_waits_for_nothing(name, train):
    """Copies between host and device are counted too."""
    spy = ("+callbacks.spy._target_=benchmarks.host_waits.Spy", "trusted_classes=[benchmarks.host_waits.Spy]")
    assert train(*host_waits.COMMON, *host_waits.SETTINGS[name], "trainer.accelerator=gpu", *spy) == 0
    assert sorted(json.loads(Path("found_0.json").read_text())["waits"].items()) == []
