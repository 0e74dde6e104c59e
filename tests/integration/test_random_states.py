"""Checkpoints whose state of training is changed at random: resumed, or refused in a line.

`RANDOM_STATES=2000` in the environment tries so many, `RANDOM_SEED` others.
"""

import os
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from artart import ArtError
from artart.checkpoints.load import read
from artart.training.resume import load_resume_state

NUM = int(os.environ.get("RANDOM_STATES", 300))
SEED = int(os.environ.get("RANDOM_SEED", 0))
OPTIONS = (
    *("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "callbacks.grid=null"),
    *("model=vit", "model.hidden_size=8", "model.depth=1", "model.num_heads=1"),  # a file of kilobytes
)
MAX_RESUMED = 4  # of those that are accepted
PARTS = (
    "loops",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "ArtDataModule",
    "epoch",
    "global_step",
    "averaging_state",
)
VALUES = (
    *(None, True, -1, 0, 1, 10**30, 0.5, float("nan"), float("inf"), "", "a", "\x1b[2J", [], [1], {}, {"a": 1}, {1: 2}),
    *(torch.zeros(()), torch.zeros(2, 3), torch.full((), float("nan")), (1, 2), [None], {"state": {}}, b"bytes"),
)


def places(node: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every part of nested data."""
    yield above
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*above, key))


def change(content: dict[str, Any], place: tuple[Any, ...], chance: random.Random) -> None:
    """Replace, remove or double one part."""
    *way, key = place
    node: Any = content
    for one in way:
        node = node[one]
    kind = chance.random()
    if kind < 0.7 or not isinstance(node, dict):
        node[key] = chance.choice(VALUES)
    elif kind < 0.85:
        del node[key]
    else:
        node[f"{key}_more"] = node[key]


@pytest.mark.slow
def test_random_states_are_resumed_or_refused_in_a_line(train, tmp_path, capsys):
    assert train(*OPTIONS, "run_dir=run") == 0
    good = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    good["optimizer_states"][0]["state"] = dict([*good["optimizer_states"][0]["state"].items()][:2])
    known = read(Path("run/checkpoints/last.ckpt"))
    config = known["config"] | {"trainer": known["config"]["trainer"] | {"max_epochs": 4}}
    torch.save(good, tmp_path / "good.ckpt")
    load_resume_state(tmp_path / "good.ckpt", config, known["labels"])
    chance, wrong, accepted = random.Random(SEED), list[str](), list[Path]()
    everywhere = [place for part in PARTS if part in good for place in places(good[part], (part,))]
    for number in range(NUM):
        content = {**good, **{part: deepcopy(good[part]) for part in PARTS if part in good}}
        change(content, place := chance.choice(everywhere), chance)
        torch.save(content, path := tmp_path / f"{number}.ckpt")
        try:
            load_resume_state(path, config, known["labels"])
            accepted.append(path)
        except ArtError as error:
            if "\n" in str(error) or "\x1b" in str(error):
                wrong.append(f"{place}: {error}")
        except Exception as error:  # noqa: BLE001 - what a user would see as a traceback
            wrong.append(f"{place}: {error!r}")
    assert not wrong, f"{len(wrong)} of {NUM}:\n" + "\n".join(wrong[:40])
    assert 0 < len(accepted) < NUM
    for path in chance.sample(accepted, min(MAX_RESUMED, len(accepted))):
        code = train(*OPTIONS, "trainer.max_epochs=4", f"resume={path}", f"run_dir={path.stem}")
        output = "".join(capsys.readouterr())
        assert code in (0, 1, 2), path
        assert "Traceback" not in output, output
