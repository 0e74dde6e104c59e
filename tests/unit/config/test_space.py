import pytest

from artart import ArtError
from artart.config.space import Parameter, parameters

CONFIG = {
    "monitor": "val/psnr",
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]},
    "data": {"batch_size": 8},
    "loss": {"gamma": 0.1},
}


def test_dotted_and_nested_keys_are_the_same():
    lr = {"low": 1e-4, "high": 1e-2, "log": True}
    expected = [Parameter("optimizer.lr", (), 1e-4, 1e-2, True)]
    assert parameters({"optimizer.lr": lr}, CONFIG, []) == expected
    assert parameters({"optimizer": {"lr": lr}}, CONFIG, []) == expected


def test_null_removes_a_range_of_an_option():
    space = {"optimizer.lr": {"low": 0.1, "high": 1}, "loss.gamma": {"low": 0, "high": 1}, "loss": {"gamma": None}}
    assert [one.key for one in parameters(space, CONFIG, [])] == ["optimizer.lr"]


def test_whole_ends_are_whole_numbers_unless_the_setting_is_not():
    space = {"data.batch_size": {"low": 1, "high": 8, "step": 2}, "loss.gamma": {"low": 0, "high": 1}}
    assert [one.is_int for one in parameters(space, CONFIG, [])] == [True, False]


def test_choices_are_words_of_the_command_line():
    (choice,) = parameters({"optimizer.betas": {"choices": [[0.0, 0.9], None, True, "a b", "adam"]}}, CONFIG, [])
    assert choice.choices == ("[0.0, 0.9]", "null", "true", '"a b"', "adam")


@pytest.mark.parametrize(
    ("key", "node", "message"),
    [
        ("optimizr.lr", {"low": 1, "high": 2}, "no such key; did you mean optimizer.lr?"),
        ("optimizer.lr", 5, "optimizer.lr=5: needs {low: ..., high: ...} or {choices: [...]}"),
        ("optimizer.lr", {"low": 1}, "needs {low: ..., high: ...}"),
        ("optimizer.lr", {"min": 1, "max": 2}, "sweep.space.optimizer.lr.min=1: no such key; a setting needs {low"),
        ("optimizer.lr", {"low": 1, "high": 2, "lag": 1}, "space.optimizer.lr.lag=1: no such key; it takes low, high"),
        ("optimizer.lr", {"low": "a", "high": 2}, "sweep.space.optimizer.lr.low=a: must be a number"),
        ("optimizer.lr", {"low": 2, "high": 2}, "low=2: must be below high=2"),
        ("optimizer.lr", {"low": 0, "high": float("inf")}, "both finite"),
        ("optimizer.lr", {"low": 0, "high": 1, "log": True}, "low=0: must be above 0 with log=true"),
        ("optimizer.lr", {"low": 1, "high": 2, "log": 1}, "log=1: must be true or false"),
        ("optimizer.lr", {"low": 1, "high": 2, "step": 3}, "step=3: must be above 0 and at most high - low"),
        ("optimizer.lr", {"low": 1, "high": 2, "log": True, "step": 1}, "without log; or leave it out"),
        ("optimizer.lr", {"choices": [1]}, "choices=[1]: needs two or more different values"),
        ("optimizer.lr", {"choices": [1, 1]}, "needs two or more different values"),
        ("optimizer.lr", {"choices": 1}, "choices=1: must be a list"),
        ("optimizer.lr", {"choices": [1, 2], "low": 1}, "low: has no effect beside choices; leave it out"),
        ("monitor", {"choices": ["a", "b"]}, "sweep.space.monitor: is the same in all trials"),
        ("optimizer.lr", None, "sweep.space: is empty; name settings with their ranges: sweep.space={optimizer.lr"),
    ],
)
def test_mistakes_in_the_space_are_one_line_with_key_value_and_remedy(key, node, message):
    with pytest.raises(ArtError) as error:
        parameters({key: node}, CONFIG, [])
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == (2 if "min" in message else 1)


def test_a_drawn_setting_must_not_be_set_as_well():
    with pytest.raises(ArtError, match=r"optimizer.lr=0.1: is drawn by sweep.space; leave it out"):
        parameters({"optimizer.lr": {"low": 1, "high": 2}}, CONFIG, ["optimizer.lr=0.1"])


def test_a_loss_that_is_drawn_cannot_be_the_score():
    with pytest.raises(ArtError, match="monitor=val/loss: cannot compare trials whose loss differs"):
        parameters({"loss.gamma": {"low": 1, "high": 2}}, CONFIG | {"monitor": "val/loss"}, [])
